"""A provider that is none: both dialects with fixed replies, whole and streamed, and every fault that a provider can have.

The name of the model says what happens ("ok", "reset", …: see FAULTS), or `script`: the faults of the next requests. As a
program it is the mock behind the benchmarks: `python -m tests.gateway.upstream --port 9000 --tokens 64`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .upstream_faults import FAULTS, Wire, ok
from .upstream_replies import Asked

TEXT = ("Hällo", " wörld", " 🐑", ".")


class Upstream:
    """`seen`: the requests; `gone`: when, by the monotonic clock, callers went away in the middle of a reply; `left` is
    set then; `live`: replies under way; `connections`: how many were made."""

    def __init__(
        self, words: tuple[str, ...] = TEXT, interval: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.words, self.interval, self.tls = words, interval, tls
        self.script: deque[str] = deque()
        self.seen: list[Asked] = []
        self.gone: list[float] = []
        self.left = asyncio.Event()
        self.live = self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connected, host, port, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            first = await reader.read(1)
            while first:
                first = await self._answer(first, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Answer one request; gives the first byte of the next, b"" if there is none."""
        lines = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if k}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, headers, json.loads(data) if data else {}, self.words)
        self.seen.append(asked)
        name = self.script.popleft() if self.script else str(asked.body.get("model", "ok"))
        after = asyncio.ensure_future(reader.read(1))  # which ends when the caller goes away
        reply = asyncio.ensure_future(FAULTS.get(name, ok)(Wire(asked, self.url, self.interval, writer)))
        self.live += 1
        try:
            await asyncio.wait((after, reply), return_when=asyncio.FIRST_COMPLETED)
            self.live -= 1
            if reply.done() and not isinstance(reply.exception(), ConnectionError):
                reply.result()
            else:
                self.gone.append(time.monotonic())
                self.left.set()
                return b""
            return b"" if writer.is_closing() else await after
        finally:
            for task in (after, reply):
                task.cancel()
            await asyncio.gather(after, reply, return_exceptions=True)


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[Upstream]:
    upstream = Upstream(**more)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(
        description="Both dialects, with fixed replies; the model's name may be a fault."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=4, help="words of a reply")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds from one event to the next")
    asked = parser.parse_args()
    upstream = Upstream(tuple(" word" for _ in range(asked.tokens)), asked.interval)
    upstream.seen = deque(maxlen=1)  # type: ignore[assignment]
    await upstream.start(asked.host, asked.port)
    print(upstream.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
