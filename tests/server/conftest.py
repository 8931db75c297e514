"""A server over an engine that is a list of words, in process or behind a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from fastapi.testclient import TestClient

from herd.engine.admission import Admission
from herd.errors import HerdError
from herd.protocol import (
    Called,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)
from herd.registry.registry import Registry
from herd.server.app import create_app
from herd.server.engines import Engines
from herd.server.serve import config
from herd.server.settings import Settings

WORDS = ("Once ", "upon ", "a ", "time.")


class Crowd(Admission):
    """A queue that is full while it is `crowded`."""

    crowded, retry_after = False, 7

    def full(self, salt: str, tokens: int = 0) -> HerdError | None:
        if self.crowded:
            return HerdError(
                "the queue is full; try again later", code="queue_full", status=429, retry_after=7
            )
        return super().full(salt, tokens)


class FakeEngine:
    """The EngineClient's interface. It says `words`, `delay` seconds apart; `break_after` words it dies.

    `script`: what answers a request instead.
    """

    def __init__(self) -> None:
        self.words: tuple[str, ...] = WORDS
        self.script: Callable[[Request], list[Event]] | None = None
        self.calls: tuple[ToolCall, ...] = ()  # made after the words
        self.reason: FinishReason = "stop"
        self.delay = 0.0
        self.break_after: int | None = None
        self.fail: Failed | None = None
        self.admission = Crowd()
        self.load_error: Exception | None = None
        self.may_load = True
        self.weights: str | None = None
        self.takes: dict[str, int] = {}  # bytes of a model, by its name, once it is loaded
        self.loaded: dict[str, tuple[Path, Path | None]] = {}
        self.log: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.salts: list[str] = []
        self.said = 0  # words, of all replies
        self.cancelled: list[int] = []  # what `said` was then
        self.answering: Counter[str] = Counter()  # replies by key
        self.closed = False

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    async def load(self, key: str, model_dir: Path, adapter_dir: Path | None) -> None:
        if self.load_error:
            raise self.load_error
        await asyncio.sleep(self.delay)
        while not self.may_load:
            await asyncio.sleep(0.01)
        self.loaded[key] = (model_dir, adapter_dir)
        self.log.append(("load", key))

    def has(self, key: str) -> bool:
        return key in self.loaded

    async def unload(self, key: str) -> None:
        assert not self.answering[key], "unloaded while it answers"
        del self.loaded[key]
        self.log.append(("unload", key))

    @property
    def running(self) -> int:
        return self.answering.total()

    def status(self) -> dict[str, Any]:
        return {
            "state": "busy" if self.running else "idle",
            "running": self.running,
            "waiting": 0,
            "metrics": {},
            "weights": self.weights,
            "models": {
                key: {"weight_bytes": self.takes[path.parent.name]}
                for key, (path, _) in self.loaded.items()
                if path.parent.name in self.takes
            },
        }

    async def generate(self, key: str, request: Request, *, salt: str) -> AsyncIterator[Event]:
        assert key in self.loaded
        self.requests.append(request)
        self.salts.append(salt)
        if self.fail:
            yield self.fail
            return
        if self.script:
            for event in self.script(request):
                await asyncio.sleep(self.delay)
                yield event
            return
        self.answering[key] += 1
        whole = False
        try:
            yield Started(3, 1)
            for index in range(request.n):
                for i, word in enumerate(self.words):
                    await asyncio.sleep(self.delay)
                    if self.closed:
                        yield Failed("the engine is stopping", "engine_gone", 503)
                        return
                    if i == self.break_after:
                        return
                    self.said += 1
                    yield Delta(index, word, (i,), self._logprobs(request, word, i))
                for call in self.calls:
                    yield Called(index, call)
                yield Finished(index, "tool_calls" if self.calls else self.reason)
            whole = True
            yield Usage(3, len(self.words) * request.n, 1)
        finally:
            self.answering[key] -= 1
            if not whole and self.break_after is None:
                self.cancelled.append(self.said)

    @staticmethod
    def _logprobs(request: Request, word: str, id: int) -> tuple[TokenLogprob, ...]:
        if request.sampling.logprobs is None:
            return ()
        top = tuple(TokenLogprob(f"t{k}", k, b"t", -1.0 - k) for k in range(request.sampling.logprobs))
        return (TokenLogprob(word, id, word.encode(), -0.5, top),)


def write_model(directory: Path, *, seed: int = 0) -> Path:
    """A directory that looks like a model: a config, and one tensor of 8 numbers by hand."""
    directory.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}).encode()
    (directory / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bytes([seed]) * 16
    )
    config = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
              "dtype": "bfloat16"}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "README.md").write_text("# A card\n")
    (directory / "loss.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (directory / "notes.txt").write_text("not a plot")
    return directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the model cria, and a target of its own character; nothing bundled."""
    bundled = tmp_path / "nothing-bundled"
    monkeypatch.setattr("herd.registry.registry.BUNDLED", bundled)
    home = tmp_path / "home"
    Registry(home).add(write_model(tmp_path / "source"), "cria", kind="model", licence="Apache-2.0")
    (home / "targets").mkdir()
    tale = {"model": "cria@1", "adapter": None, "system": "You tell tales.", "sampling": {"temperature": 0.5}}
    (home / "targets" / "tale.json").write_text(json.dumps(tale))
    return home


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


StartClient = Callable[..., TestClient]


@pytest.fixture
def start(home: Path, engine: FakeEngine) -> Iterator[StartClient]:
    """Start the application in process; keyword arguments are settings."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> TestClient:
            made = Settings(home=home, **settings)
            app = create_app(made, Engines(engine, Registry(home)))
            return stack.enter_context(TestClient(app, base_url="http://localhost:8000"))

        yield begin


@pytest.fixture
def client(start: StartClient) -> TestClient:
    return start()


@pytest.fixture
def url(home: Path, engine: FakeEngine) -> Iterator[str]:
    """The address of a real server on a free port, in a thread."""
    with running(home, engine) as address:
        yield address


@contextmanager
def running(home: Path, engine: FakeEngine) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = create_app(Settings(home=home, port=port), Engines(engine, Registry(home)))
    server = uvicorn.Server(config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def chat(text: str = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "cria", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture(name="chat")
def _chat() -> Callable[..., dict[str, Any]]:
    return chat


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for


@pytest.fixture
def api(url: str) -> openai.OpenAI:
    """OpenAI's own client of the server."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
