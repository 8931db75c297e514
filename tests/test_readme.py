"""The README's tour does what it says, and the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def served(tmp_path: Path, start_herd: Any) -> tuple[str, dict[str, str]]:
    """A server on the bundled model, and the environment in which commands find it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env |= {
        "HERD_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    url = start_herd([sys.executable, "-m", "herd", "serve"], env, tmp_path)
    return url, env


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_block_of_the_tour_runs(served: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, env = served
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    for language, code in blocks:
        code = code.replace("http://127.0.0.1:8000", url)
        command = (
            ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        )
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"no output:\n{code}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{code}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_example(script: str, served: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, env = served
    command = [sys.executable, str(ROOT / "examples" / script)]
    env |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, input="a\n", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
