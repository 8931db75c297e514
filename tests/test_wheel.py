"""What is published works by itself: a wheel, a fresh environment, an empty folder, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
OFFLINE = """
import socket

def refuse(self, address, real=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        raise OSError(f"this test has no network: {address}")
    return real(self, address)

socket.socket.connect = refuse
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left in the work tree by another build gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "herd", source / "herd", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("openherd-*.whl"))


def test_the_wheel_holds_model_pages_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "herd/bundled/models/cria/1/config.json",
        "herd/bundled/models/cria/1/tokenizer.json",
        "herd/web/index.html",
        "herd/py.typed",
    ):
        assert wanted in names
    assert any(name.startswith("herd/bundled/targets/") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
    assert wheel.stat().st_size < 40e6
    kernels = [name for name in names if name.startswith("herd/engine/kernels/libherd_")]
    assert bool(kernels) != wheel.name.endswith("-none-any.whl"), wheel.name
    assert "-py3-none-" in wheel.name


def test_herd_up_from_the_wheel_alone(wheel: Path, tmp_path: Path, start_herd: Any) -> None:
    fresh, empty = tmp_path / "fresh", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
    python = fresh / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    packages = next(fresh.glob("lib/python3.*/site-packages"))
    # The dependencies are lent by the running environment instead of fetched again. A folder named in a .pth
    # file does not have its own .pth files read, so an editable install of Herd there stays out.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "sitecustomize.py").write_text(OFFLINE)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HERD_", "PYTHON"))}
    env |= {"HERD_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [str(python), "-c", "import herd; print(herd.__file__)"],
        env=env,
        cwd=empty,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(fresh), found

    url = start_herd([str(fresh / "bin" / "herd"), "up"], env, empty)
    body = {"model": "cria", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 20}
    request = Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as response:
        reply = json.load(response)
    assert reply["choices"][0]["message"]["content"].strip()
    assert reply["usage"]["completion_tokens"] >= 1
    with urlopen(url + "/", timeout=60) as page:
        assert b"<html" in page.read().lower()
    assert not list(empty.iterdir())
