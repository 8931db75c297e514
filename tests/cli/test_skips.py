"""The rule of tests/conftest.py: in CI a skipped test is a failed one, but for want of a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_plain(): pytest.skip("not today")
def test_gpu(): pytest.skip("needs a GPU")
@pytest.mark.skip(reason="never")
def test_marked(): pass
@pytest.mark.xfail
def test_known(): assert False
"""


def outcomes(folder: Path, **env: str) -> str:
    (folder / "test_sample.py").write_text(TESTS)
    conftest = Path(__file__).parents[1] / "conftest.py"
    (folder / "conftest.py").write_text(conftest.read_text())
    base = {name: value for name, value in os.environ.items() if name not in ("CI", "HERD_NO_SKIP")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=base | env, cwd=folder).stdout


@pytest.mark.slow
def test_skips_fail_in_ci(tmp_path: Path) -> None:
    assert "3 skipped, 1 xfailed" in outcomes(tmp_path)
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in outcomes(tmp_path, CI="true")
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in outcomes(tmp_path, HERD_NO_SKIP="1")
