"""The process: it says in one line why it cannot start, and stops as people expect."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from herd.engine.client import EngineClient
from herd.registry.home import lock
from herd.registry.registry import Registry
from herd.server import serve
from herd.server.app import create_app
from herd.server.engines import Engines
from herd.server.settings import Settings
from herd.store import Store


def herd_up(home: Path, *options: str, verb: str = "up", **env: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    command = [sys.executable, "-m", "herd", verb, "--home", str(home), *options]
    return subprocess.Popen(
        command, env=clean | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_what_is_written_is_sent_at_once() -> None:
    """Without this, the second half of a reply waits 40 ms until its first half is acknowledged."""

    async def accepted() -> int:
        found = asyncio.get_running_loop().create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                own = transport.get_extra_info("socket")
                found.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        listener = serve.bind("127.0.0.1", 0)
        server = await asyncio.get_running_loop().create_server(Accepted, sock=listener)
        with socket.create_connection(listener.getsockname()):
            flag = await asyncio.wait_for(found, 60)
        server.close()
        return int(flag)

    assert asyncio.run(accepted())


def refused(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not out
    assert err.count("\n") == 1 and err.startswith("herd: ")
    return err


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(herd_up(tmp_path, "--port", str(port)))
    assert f"port {port} is in use" in message and "--port" in message


def test_home_of_another_server(tmp_path: Path) -> None:
    with lock(tmp_path):
        assert "another Herd server" in refused(herd_up(tmp_path, "--port", "0"))


def test_open_to_the_network_without_a_key(tmp_path: Path) -> None:
    assert "HERD_API_KEY" in refused(herd_up(tmp_path, "--host", "0.0.0.0"))
    assert "HERD_PORT" in refused(herd_up(tmp_path, HERD_PORT="many"))
    assert "--host" in refused(herd_up(tmp_path, "--host", "203.0.113.7", "--port", "0", HERD_API_KEY="k"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_up_prints_addresses_and_stops_quietly(tmp_path: Path, sent: int) -> None:
    process = herd_up(tmp_path, "--port", "0")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    url = lines[0].split()[-1]
    assert f'base_url="{url}/v1"' in lines[1] and "herd chat" in lines[2]
    assert httpx.get(f"{url}/health", timeout=60).json() == {"status": "ok"}
    assert httpx.get(f"{url}/api/status", timeout=60).status_code == 200
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130) if sent == signal.SIGINT else process.returncode == 0
    assert "Traceback" not in out + err


@pytest.mark.parametrize("later", [0, 0.1, 0.3])
def test_ctrl_c_while_it_starts(tmp_path: Path, wait_for: Any, later: float) -> None:
    process = herd_up(tmp_path, "--port", "0")
    wait_for((tmp_path / "lock").exists)
    time.sleep(later)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in out + err


@contextmanager
def draining(
    home: Path, engine: Any, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, "serve.Server"]]:
    listener = serve.bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    app = create_app(Settings(home=home, port=port), Engines(engine, Registry(home)))
    server = serve.Server(serve.config(app), say, lambda: None)
    server.here = app.state.herd
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}", server
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def stream_while_stopping(url: str, server: "serve.Server", body: dict[str, Any]) -> list[str]:
    lines = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            if line and not lines:
                server.handle_exit(signal.SIGTERM, None)
            lines.append(line)
    return [line.removeprefix("data: ") for line in lines if line]


def test_running_replies_end(home: Path, engine: Any, chat: Callable[..., Any]) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        engine.delay = 0

    engine.words, engine.delay = ("word ",) * 1000, 0.02  # 20 s, unless it is hurried
    with draining(home, engine, say) as (url, server):
        lines = stream_while_stopping(url, server, chat(stream=True))
    assert lines[-1] == "[DONE]" and "finishing 1 repl" in said[-1]


SAY: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 99},
}


@pytest.mark.parametrize("path", SAY)
@pytest.mark.parametrize("stream", [True, False])
def test_every_dialect_drains(
    home: Path, engine: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch, path: str, stream: bool
) -> None:
    monkeypatch.setattr(serve, "DRAIN", 60.0)
    engine.words, engine.delay = ("word ",) * 400, 0.08  # 32 s, unless it is hurried
    body = {"model": "cria", "stream": stream, **SAY[path]}
    with draining(home, engine) as (url, server), ThreadPoolExecutor() as pool:
        reply = pool.submit(httpx.post, f"{url}{path}", json=body, timeout=60)
        wait_for(lambda: engine.running)
        server.handle_exit(signal.SIGTERM, None)
        wait_for(lambda: httpx.get(f"{url}/ready", timeout=60).status_code == 503)
        assert "stopping" in httpx.get(f"{url}/ready", timeout=60).json()["reason"]
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        late = httpx.post(f"{url}{path}", json=body, timeout=60)
        assert late.status_code == 503 and "stopping" in late.text
        engine.delay = 0
        done = reply.result()
    assert done.status_code == 200 and done.text.count("word") >= 400
    ends = {"/v1/messages": "message_stop", "/v1/responses": "response.completed"}
    assert not stream or ends.get(path, "[DONE]") in done.text


@pytest.mark.parametrize("patience", [60.0, 0.1])
def test_the_background_drains_and_what_is_cut_short_is_called_so(
    home: Path, engine: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(serve, "DRAIN", patience)
    engine.words, engine.delay = ("word ",) * (20 if patience > 1 else 10_000), 0.05
    with draining(home, engine) as (url, server):
        body = {"model": "cria", "input": "Hi", "background": True}
        id = httpx.post(f"{url}/v1/responses", json=body, timeout=60).json()["id"]
        wait_for(lambda: engine.running)
        server.handle_exit(signal.SIGTERM, None)
    store = Store.open(home / "herd.db")
    row = store.get_generation(id)
    store.close()
    assert row is not None and row["finish"] == ("stop" if patience > 1 else "error")
    assert (row["reply"] == "word " * 20) == (patience > 1)


def test_replies_that_take_too_long_end_with_an_error(
    home: Path, engine: Any, chat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "DRAIN", 0.2)
    engine.words, engine.delay = ("word ",) * 10_000, 0.02
    with draining(home, engine) as (url, server):
        lines = stream_while_stopping(url, server, chat(stream=True))
    assert "error" in json.loads(lines[-1]) and "[DONE]" not in lines
    assert engine.said < 5000


def test_a_second_signal_stops_at_once(
    home: Path, engine: Any, chat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(serve, "DRAIN", 0.5)
    monkeypatch.setattr("herd.server.serve.os._exit", exits.append)
    engine.words, engine.delay = ("word ",) * 10_000, 0.02
    with draining(home, engine) as (url, server):

        def again() -> None:
            wait_for(lambda: server.should_exit)
            server.handle_exit(signal.SIGINT, None)

        other = threading.Thread(target=again)
        other.start()
        stream_while_stopping(url, server, chat(stream=True))
        other.join()
    assert exits == [130]


def test_the_engine_starts_before_the_server_imports_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Stopping:
        def __init__(self, *_: object) -> None:
            order.append("server")

        async def serve(self, sockets: list[socket.socket]) -> None: ...

    async def spawn(self: EngineClient) -> None:
        order.append("engine")
        raise OSError

    monkeypatch.setattr(serve, "Server", Stopping)
    monkeypatch.setattr(EngineClient, "_spawn", spawn)
    settings = Settings.from_environment(home=tmp_path, port=0)
    serve.serve(settings, say=lambda _: None, started=lambda _: None, access=False)
    assert order == ["engine", "server"]
