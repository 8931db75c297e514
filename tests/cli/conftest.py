"""A Hugging Face hub of one's own, on this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "1234567890abcdef1234567890abcdef12345678"


@dataclass
class Hub:
    """`files` of the one repository `repo`. A file in `cut` breaks off at its middle the first time."""

    repo: str = "someone/Tiny-Llama"
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (file, its Range header) of each GET
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        if path.startswith(f"api/models/{self.hub.repo}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.hub.files.items()
            ]
            self.answer(200, json.dumps(tree).encode())
        elif path.startswith(f"api/models/{self.hub.repo}"):
            names = [{"rfilename": name} for name in self.hub.files]
            self.answer(200, json.dumps({"id": self.hub.repo, "sha": COMMIT, "siblings": names}).encode())
        elif path.startswith(f"{self.hub.repo}/resolve/"):
            self.file(path.split("/", 4)[4], body)
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def file(self, name: str, body: bool) -> None:
        if name not in self.hub.files:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = self.hub.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, wanted = 200, self.headers.get("Range")
        if body:
            self.hub.asked.append((name, wanted))
        if wanted:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        if body and name in self.hub.cut:
            self.hub.cut.remove(name)
            self.answer(status, data, headers, send=len(data) // 2)
            self.close_connection = True
        else:
            self.answer(status, data, headers, send=len(data) if body else 0)

    def answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, send: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:send])


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with serving(type("Bound", (Handler,), {"hub": hub})) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A Hugging Face directory of a real, very small Llama with random weights and a tokenizer."""
    import torch

    from herd.model import hf
    from herd.model.tokenizer import train_bpe

    from ..tiny import tiny_config, tiny_llama

    tokenizer = train_bpe(["the quick brown fox jumps over the lazy dog " * 9], 300)
    directory = tmp_path / "tiny"
    model = tiny_llama(tiny_config(tokenizer, max_positions=64))
    hf.save(model, directory, tokenizer=tokenizer, dtype=torch.float32)
    return directory


@pytest.fixture(params=["alone", "served"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with the targets of none; "served": a server, which holds its lock, answers for it."""
    import uvicorn

    from herd.cli.local import NoEngine
    from herd.registry import Registry
    from herd.registry.home import lock
    from herd.server.app import create_app
    from herd.server.engines import Engines
    from herd.server.serve import config
    from herd.server.settings import Settings

    monkeypatch.setattr("herd.registry.registry.BUNDLED", tmp_path / "nothing-bundled")
    home = tmp_path / "home"
    monkeypatch.setenv("HERD_HOME", str(home))
    monkeypatch.setenv("HERD_PORT", "9")  # nobody listens there
    for name in (
        "HERD_HOST",
        "HERD_API_KEY",
        "HERD_DATABASE_URL",
        "HERD_CONFIG",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    if request.param == "alone":
        yield home
        return
    with lock(home), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("HERD_PORT", str(port))
        engines = Engines(NoEngine(), Registry(home))  # type: ignore[arg-type]
        server = uvicorn.Server(config(create_app(Settings(home=home, port=port), engines)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield home
        server.should_exit = True
        thread.join(10)


Herd = Callable[..., Any]


@pytest.fixture
def herd(home: Path, capsys: pytest.CaptureFixture[str]) -> Herd:
    """Run a command: what it prints as JSON; with another `status` than 0, what it says of the error."""
    from herd.cli import run

    def call(*args: str, status: int = 0) -> Any:
        got = run([*args, *(["--json"] if status == 0 else [])])
        out, err = capsys.readouterr()
        assert got == status, err
        return json.loads(out) if status == 0 else err

    return call
