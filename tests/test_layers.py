"""What a gateway without models loads: no torch, at run time as on paper (import-linter checks the paper)."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = [
    "protocol",
    "registry",
    "store",
    "evidence",
    "gateway",
    "gateway.gateway",
    "arena.ballots",
    "arena.board",
    "server",
    "server.app",
    "engine.client",
    "cli",
]


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_room_loads_without_torch(room: str) -> None:
    code = (
        f"import sys, herd.{room}\n"
        "heavy = {'torch', 'tokenizers', 'safetensors', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
