"""`kill -9` of a real server in the midst of votes, as bench/votes.py does it: none that was acknowledged is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "votes.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_under_load_loses_no_acknowledged_vote(database: str) -> None:
    command = [sys.executable, str(BENCH), "--seconds", "0", "--kills", "1", "--clients", "8", "--json"]
    if "://" in database:
        command += ["--database", database]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(BENCH.parents[1]), os.environ.get("PYTHONPATH", ""))),
    }
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stderr[-2000:]
    told = json.loads(found.stdout)
    assert told["missing"] == 0 and told["acknowledged_before_a_kill"] >= 50
