"""The clients of bench/gateway.py, in a process of their own: raw asyncio, one kept connection each.

Reads a JSON object a line (url, key, body, requests, clients), sends that many requests, each client its next one when it has
its answer, and writes a JSON object: seconds for all; for each good reply the milliseconds to its first text and to its end; what
was wrong with the others.
"""

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from upstream import FIRST, LAST


class Client(asyncio.Protocol):
    """One request at a time; `answer` is its time to the first text and to the end, in milliseconds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.answer: asyncio.Future[tuple[float, float]] | None = None

    async def ask(self, request: bytes) -> tuple[float, float]:
        self.data, self.first, self.length = bytearray(), 0.0, -2  # length -2: no head yet; -1: in chunks
        self.answer = asyncio.get_running_loop().create_future()
        self.began = time.perf_counter()
        self.transport.write(request)
        return await asyncio.wait_for(self.answer, 60)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.data += data
        if self.length == -2 and (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            given = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self.length = end + 4 + int(given) if given else -1
        if not self.first and FIRST.encode() in self.data:
            self.first = now
        if self.data.endswith(b"0\r\n\r\n") if self.length == -1 else len(self.data) == self.length:
            self.end(now)

    def end(self, now: float) -> None:
        assert self.answer is not None
        if self.data[9:12] != b"200" or not self.first or LAST.encode() not in self.data:
            self.answer.set_exception(RuntimeError(f"not the upstream's reply: {bytes(self.data[-600:])!r}"))
        else:
            self.answer.set_result((1000 * (self.first - self.began), 1000 * (now - self.began)))

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed before the end"))


async def run(job: dict[str, Any]) -> dict[str, Any]:
    url, body = urlsplit(job["url"]), json.dumps(job["body"]).encode()
    lines = [f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {job['key']}", f"Content-Length: {len(body)}"]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    left, times, wrong = iter(range(job["requests"])), list[tuple[float, float]](), list[str]()
    loop = asyncio.get_running_loop()

    async def client() -> None:
        transport, protocol = await loop.create_connection(Client, url.hostname, url.port)
        for _ in left:
            if transport.is_closing():
                transport, protocol = await loop.create_connection(Client, url.hostname, url.port)
            try:
                times.append(await protocol.ask(request))
            except (RuntimeError, OSError, TimeoutError) as error:
                wrong.append(repr(error))
                transport.close()
        transport.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for _ in range(job["clients"]):
            clients.create_task(client())
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "first": [first for first, _ in times],
        "whole": [whole for _, whole in times],
        "wrong": wrong,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line)))), flush=True)
