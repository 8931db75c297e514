"""A server under test: `herd serve` in a process and a home of its own, raw HTTP to it, and what it takes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

HUNG = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Reply:
    """status 0: no whole answer came (`body` says why). seconds: from the connection to the last byte."""

    status: int
    body: bytes
    seconds: float

    @property
    def hung(self) -> bool:
        return self.status == 0 and self.body == b"hung"


class Server:
    """Started on entering, ended on leaving; `restart` keeps its home."""

    def __init__(self, home: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="herd-abuse-")
        self.home = home or Path(self._folder.name) / "home"
        self.log = Path(self._folder.name) / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])

    def __enter__(self) -> Self:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
        command = [sys.executable, "-m", "herd", "serve", "--home", str(self.home), "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=clean, stdout=subprocess.DEVNULL, stderr=self.log.open("w")
        )
        end = time.monotonic() + 120
        while self.status("/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    def get(self, path: str) -> Reply:
        return asyncio.run(send(self.port, request("GET", path), patience=20))

    def status(self, path: str) -> int:
        return self.get(path).status

    def engine(self) -> dict[str, Any]:
        """What the engine says of itself: running, waiting."""
        found: dict[str, Any] = json.loads(self.get("/api/status").body)["engine"]
        return found

    def processes(self) -> dict[str, int]:
        """The server and its engine: process ids."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        engine = next(
            (int(c) for c in children if b"engine" in Path(f"/proc/{c}/cmdline").read_bytes()), None
        )
        return {"server": self.process.pid} | ({"engine": engine} if engine else {})

    def memory(self) -> dict[str, float]:
        """MiB that each process holds in memory."""
        return {name: _resident(pid) / 1024 for name, pid in self.processes().items()}

    def refusals(self, status: int, since: int) -> list[float]:
        """Milliseconds, as the server measured them, of its answers with this status after `since` bytes of its log."""
        with open(self.log, "rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        return [float(ms) for ms in re.findall(rf" {status} (\d+) ms ", text)]


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def request(method: str, path: str, body: bytes | Mapping[str, Any] | None = None, **headers: str) -> bytes:
    """One HTTP/1.1 request; a mapping is sent as JSON."""
    content = json.dumps(body).encode() if isinstance(body, Mapping) else body or b""
    lines = {"Host": "localhost", "Connection": "close"}
    if body is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return head.encode("latin-1") + b"\r\n" + content


async def send(port: int, raw: bytes, patience: float = HUNG) -> Reply:
    """Send bytes on a connection of their own and read to the end."""
    began = time.perf_counter()
    answer = b""
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                try:
                    writer.write(raw)
                    await writer.drain()
                except ConnectionError:
                    pass  # refused before all was read: the answer may be there all the same
                while piece := await reader.read(1 << 16):
                    answer += piece
            finally:
                writer.transport.abort()
    except TimeoutError:
        return Reply(0, b"hung", time.perf_counter() - began)
    except OSError as error:
        if not answer.startswith(b"HTTP/1.1 "):
            return Reply(0, type(error).__name__.encode(), time.perf_counter() - began)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
    return Reply(status, body if status else b"no answer", time.perf_counter() - began)


class Kept:
    """Connections that are kept, as the SDKs keep theirs. They cost little: their process shares the server's CPUs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[socket.socket] = []
        self.busy = selectors.DefaultSelector()

    def ask(self, raw: bytes) -> None:
        """Send a request without "Connection: close" whose answer has a Content-Length."""
        connection = self.free.pop() if self.free else socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(raw)
        self.busy.register(connection, selectors.EVENT_READ, bytearray())

    def answers(self) -> Iterator[tuple[int, bytes]]:
        """Status and body of those that have come; status 0 of connections that have closed instead."""
        for key, _ in self.busy.select(0):
            connection, answer = cast(socket.socket, key.fileobj), key.data
            try:
                piece = connection.recv(1 << 16)
            except OSError:
                piece = b""
            answer += piece
            head, end, body = answer.partition(b"\r\n\r\n")
            whole = end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
            if whole or not piece:
                self.busy.unregister(connection)
                if whole:
                    self.free.append(connection)
                yield (int(head[9:12]), bytes(body)) if whole else (0, b"closed")

    def close(self) -> None:
        """All of them; what is not answered is dropped."""
        for connection in [
            *self.free,
            *(cast(socket.socket, key.fileobj) for key in self.busy.get_map().values()),
        ]:
            connection.close()
        self.busy.close()


def probe(port: int) -> None:
    """Another user, until standard input closes: a short reply and a look at /health ten times a second."""
    body = {"model": "cria", "prompt": "Once upon a time", "max_tokens": 4}
    seen: dict[str, list[tuple[int, float]]] = {"reply": [], "health": []}
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.wait(0.1):
        for name, raw in (
            ("reply", request("POST", "/v1/completions", body)),
            ("health", request("GET", "/health")),
        ):
            reply = asyncio.run(send(port, raw))
            seen[name].append((reply.status, reply.seconds))
    print(json.dumps(seen))


if __name__ == "__main__":
    probe(int(sys.argv[1]))
