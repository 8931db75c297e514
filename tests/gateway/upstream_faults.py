"""What a provider can do to its caller, well and badly: the good reply, and every fault by its name."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

from .upstream_replies import Asked, error, event, events, whole

Fault = Callable[["Wire"], Awaitable[None]]


class Wire:
    """One reply under way."""

    def __init__(self, asked: Asked, url: str, interval: float, writer: asyncio.StreamWriter) -> None:
        self.asked, self.url, self.interval, self.writer = asked, url, interval, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, **headers: Any) -> None:
        """Names are written with "_" for "-"."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def start(self, kind: str = "text/event-stream") -> None:
        """The head of a body that comes in pieces."""
        await self.head(200, Content_Type=kind, Transfer_Encoding="chunked")

    async def piece(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def json(self, body: Any, status: int = 200, **headers: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(
            status, **({"Content_Type": "application/json", "Content_Length": len(data)} | headers)
        )
        await self.send(data)

    def good(self) -> tuple[bytes, str]:
        """The body of a good reply, and its type."""
        if self.asked.stream:
            return b"".join(events(self.asked)), "text/event-stream"
        return json.dumps(whole(self.asked), ensure_ascii=False).encode(), "application/json"

    async def half(self) -> None:
        """The first half of a good reply, its head included."""
        if self.asked.stream:
            await self.start()
            said = events(self.asked)
            for data in said[: len(said) // 2 + 1]:
                await self.piece(data)
        else:
            data = json.dumps(whole(self.asked)).encode()
            await self.head(200, Content_Type="application/json", Content_Length=len(data))
            await self.send(data[: len(data) // 2])

    async def altered(self, change: Callable[[list[bytes]], list[bytes]], body: Any) -> None:
        """A good stream's events after `change`, or `body`, as a reply that seems good."""
        if not self.asked.stream:
            return await self.json(body)
        await self.start()
        for data in change(events(self.asked)):
            await self.piece(data)
        await self.end()

    @property
    def secret(self) -> str:
        return self.asked.headers.get("authorization") or self.asked.headers.get("x-api-key", "")


async def ok(wire: Wire) -> None:
    if not wire.asked.stream:
        return await wire.json(whole(wire.asked))
    await wire.start()
    for data in events(wire.asked):
        await wire.piece(data)
        if wire.interval:
            await asyncio.sleep(wire.interval)
    await wire.end()


# Replies that are good, but hard to read


async def split(wire: Wire) -> None:
    """Three bytes at a time: characters, lines and events are cut."""
    data, kind = wire.good()
    await wire.start(kind)
    for at in range(0, len(data), 3):
        await wire.piece(data[at : at + 3])
        await asyncio.sleep(0)
    await wire.end()


async def slow(wire: Wire) -> None:
    """A body with pauses."""
    wire.interval = 0.02
    if wire.asked.stream:
        return await ok(wire)
    await wire.half()
    await asyncio.sleep(0.1)
    data = json.dumps(whole(wire.asked)).encode()
    await wire.send(data[len(data) // 2 :])


async def no_usage(wire: Wire) -> None:
    body = {k: v for k, v in whole(wire.asked).items() if k != "usage"}
    await wire.altered(lambda said: [data for data in said if b'"total_tokens"' not in data], body)


async def comments(wire: Wire) -> None:
    """Signs of life between the events."""
    await wire.altered(
        lambda said: [part for data in said for part in (b": alive\n\n", data)], whole(wire.asked)
    )


async def carriage(wire: Wire) -> None:
    """Lines that end as HTTP's do."""
    await wire.altered(lambda said: [data.replace(b"\n", b"\r\n") for data in said], whole(wire.asked))


# Faults of the connection


async def silent(wire: Wire) -> None:
    await asyncio.sleep(3600)


async def slow_head(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await wire.send(b"a")
        await asyncio.sleep(0.02)


async def stall(wire: Wire) -> None:
    await wire.half()
    await asyncio.sleep(3600)


async def closed(wire: Wire) -> None:
    wire.writer.close()


async def cut(wire: Wire) -> None:
    """The end comes in the middle, and nothing says so."""
    await wire.half()
    wire.writer.close()


async def reset(wire: Wire) -> None:
    await wire.half()
    await asyncio.sleep(0.02)  # what was sent arrives
    await reset_at_once(wire)


async def reset_at_once(wire: Wire) -> None:
    linger = struct.pack("ii", 1, 0)
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wire.writer.transport.abort()


async def not_http(wire: Wire) -> None:
    await wire.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    wire.writer.close()


async def long_header(wire: Wire) -> None:
    await wire.head(200, X_Long="a" * 2**20)


async def endless_headers(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await wire.send(b"X-More: yes\r\n" * 100)


async def bad_chunk(wire: Wire) -> None:
    if wire.asked.stream:
        await wire.half()
    else:
        await wire.start("application/json")
    await asyncio.sleep(0.02)  # it comes apart from the head
    await wire.send(b"no size\r\n")
    wire.writer.close()


async def short_length(wire: Wire) -> None:
    """Content-Length says less than is sent."""
    data, kind = wire.good()
    await wire.head(200, Content_Type=kind, Content_Length=len(data) // 2)
    await wire.send(data)


async def long_length(wire: Wire) -> None:
    """Content-Length says more than is sent."""
    data, kind = wire.good()
    await wire.head(200, Content_Type=kind, Content_Length=len(data) + 100)
    await wire.send(data)
    wire.writer.close()


# Faults of what is said


async def truncated(wire: Wire) -> None:
    """HTTP ends well, the reply does not."""
    data = json.dumps(whole(wire.asked)).encode()
    await wire.altered(lambda said: said[: len(said) // 2], data[: len(data) // 2])


async def no_end(wire: Wire) -> None:
    """All but the sign that the reply is complete."""
    lost = ("stop_reason", "content") if wire.asked.anthropic else ("choices",)
    body = {k: v for k, v in whole(wire.asked).items() if k not in lost}
    await wire.altered(lambda said: [data for data in said[:-2] if b"message_delta" not in data], body)


async def malformed(wire: Wire) -> None:
    await wire.altered(
        lambda said: [*said[:3], said[3].replace(b"}", b"", 1), *said[4:]], b'{"id": "x", "choices": [}'
    )


async def half_character(wire: Wire) -> None:
    await wire.altered(
        lambda said: [data.replace("ä".encode(), b"\xc3") for data in said], b'{"content": "\xc3"}'
    )


async def deep(wire: Wire) -> None:
    nested = b'{"choices": ' + b"[" * 100_000
    await wire.altered(lambda said: [said[0], b"data: " + nested + b"\n\n"], nested)


async def html(wire: Wire) -> None:
    page = b"<html>It works!</html>"
    await wire.head(200, Content_Type="text/html", Content_Length=len(page))
    await wire.send(page)


async def other_kind(wire: Wire) -> None:
    """Whole where a stream was asked for, and the other way round."""
    wire.asked.body["stream"] = not wire.asked.stream
    await ok(wire)


async def zipped(wire: Wire) -> None:
    data, kind = wire.good()
    await wire.json(gzip.compress(data), Content_Type=kind, Content_Encoding="gzip")


async def empty(wire: Wire) -> None:
    """No choice, no content: nothing."""
    body = {k: [] if k in ("choices", "data") else v for k, v in whole(wire.asked).items() if k != "content"}
    if wire.asked.anthropic:
        return await wire.altered(lambda said: [said[0], said[-1]], body)
    nothing = event({"id": "x", "object": "chat.completion.chunk", "choices": []}, False)
    await wire.altered(lambda said: [nothing, said[-1]], body)


async def nothing(wire: Wire) -> None:
    await wire.altered(lambda said: [], b"")


async def twice(wire: Wire) -> None:
    body = json.dumps(whole(wire.asked)).encode()
    await wire.altered(lambda said: [part for data in said for part in (data, data)], body + body)


async def lingers(wire: Wire) -> None:
    """All is said, and the connection stays as it is."""
    data, kind = wire.good()
    await wire.start(kind)
    await wire.piece(data)
    await asyncio.sleep(3600)


async def endless(wire: Wire) -> None:
    """A reply that goes on for ever: words, or the blanks between JSON's."""
    if wire.asked.stream:
        await wire.half()
    else:
        await wire.start("application/json")
    more = events(wire.asked)[3] if wire.asked.stream else b" " * 65536
    while True:
        await wire.piece(more)
        await asyncio.sleep(0)


async def endless_event(wire: Wire) -> None:
    await wire.start("text/event-stream" if wire.asked.stream else "application/json")
    await wire.piece(b'data: {"')
    while True:
        await wire.piece(b"a" * 65536)
        await asyncio.sleep(0)


# Errors that are said


def status(code: int, kind: str = "server_error", **headers: Any) -> Fault:
    async def fault(wire: Wire) -> None:
        given = {name: value() if callable(value) else value for name, value in headers.items()}
        await wire.json(error(wire.asked, f"the upstream says {code}", kind), code, **given)

    return fault


async def redirect(wire: Wire) -> None:
    await wire.head(307, Location=f"{wire.url}/elsewhere", Content_Length=0)


async def error_page(wire: Wire) -> None:
    page = b"<html>502 Bad Gateway</html>"
    await wire.head(502, Content_Type="text/html", Content_Length=len(page))
    await wire.send(page)


async def error_endless(wire: Wire) -> None:
    await wire.head(500, Content_Type="application/json", Transfer_Encoding="chunked")
    while True:
        await wire.piece(b"a" * 65536)
        await asyncio.sleep(0)


async def error_stall(wire: Wire) -> None:
    await wire.head(500, Content_Type="application/json", Content_Length=100)
    await asyncio.sleep(3600)


async def error_in_body(wire: Wire) -> None:
    """An error under a status of success; in a stream after the first words."""
    body = error(wire.asked, "the upstream fails in the middle", "overloaded_error")
    said_so = event(body, wire.asked.anthropic)
    await wire.altered(lambda said: [*said[:4], said_so], body)


async def echo(wire: Wire) -> None:
    """The key, in an error's message."""
    await wire.json(
        error(wire.asked, f"{'x' * 480} wrong key {wire.secret}, {wire.secret}", "authentication_error"), 401
    )


async def echo_in_body(wire: Wire) -> None:
    body = error(wire.asked, f"wrong key {wire.secret}", "authentication_error")
    said_so = event(body, wire.asked.anthropic)
    await wire.altered(lambda said: [*said[:4], said_so], body)


async def echo_in_text(wire: Wire) -> None:
    wire.asked.words = ("Your key", f" is {wire.secret}.")
    await ok(wire)


FAULTS: dict[str, Fault] = {
    name: fault
    for name, fault in list(globals().items())
    if asyncio.iscoroutinefunction(fault) and fault.__module__ == __name__
}
FAULTS |= {str(code): status(code) for code in (403, 408, 409, 500, 502, 503, 504, 529)}
FAULTS |= {
    "400": status(400, "invalid_request_error"),
    "401": status(401, "authentication_error"),
    "404": status(404, "not_found_error"),
    "413": status(413, "request_too_large"),
    "422": status(422, "invalid_request_error"),
    "429": status(429, "rate_limit_error"),
    "429 seconds": status(429, "rate_limit_error", Retry_After=2),
    "429 ms": status(429, "rate_limit_error", Retry_After_Ms=1500, Retry_After=2),
    "429 date": status(
        429, "rate_limit_error", Retry_After=lambda: formatdate(time.time() + 30, usegmt=True)
    ),
    "429 nonsense": status(429, "rate_limit_error", Retry_After="soon"),
    "429 for ever": status(429, "rate_limit_error", Retry_After="1e308"),
    "quota": status(429, "insufficient_quota"),
}
