"""One server on the bundled model, with a key, as `herd serve` starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

KEY = "key-of-the-tour"


@pytest.fixture(scope="session")
def herd_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tour")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env |= {"HERD_HOME": str(folder / "home"), "HERD_PORT": str(port), "HERD_API_KEY": KEY}
    log = folder / "log"
    command = [sys.executable, "-m", "herd", "serve"]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        yield _ready(process, f"http://127.0.0.1:{port}", log)
        assert process.poll() is None, log.read_text()[-4000:]
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()[-4000:]


def _ready(process: subprocess.Popen[bytes], url: str, log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urlopen(f"{url}/ready", timeout=5).close()
            return url
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"not ready in two minutes:\n{log.read_text()[-4000:]}")
