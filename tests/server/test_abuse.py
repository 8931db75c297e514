"""The abuse bench, a tenth of everything: no 5xx, no hang, no place kept, no growth. Its latencies are for docs/reliability.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_under_abuse_neither_fails_nor_hangs_nor_grows() -> None:
    command = [sys.executable, "bench/abuse.py", "--quick"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout + done.stderr
