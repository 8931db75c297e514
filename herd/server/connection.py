"""Connections: how many, how long they may stall, and the errors of HTTP itself, in the form of all others."""

import asyncio
import json
import resource
import socket
from http import HTTPStatus
from typing import cast

import httptools
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from herd.errors import HerdError
from herd.protocol.openai import encode_error
from herd.server.guard import HEADER_BYTES, Door, new_request_id

MAX_CONNECTIONS = 4096
IDLE = 75  # seconds that a connection may rest between requests; most clients give up sooner
LINGER = 1.0  # seconds for a peer to take the answer to what was no request
STALL = 20.0  # seconds for a request's headers to come, and for a reader to take something of what it is sent
SEND_BUFFER = (
    128 * 1024
)  # bytes a connection; the system would take megabytes, and tell of no progress until a third is read
SPARE = 256  # files that the server itself has open


def max_connections() -> int:
    """What the limit on open files allows, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS + SPARE if hard == resource.RLIM_INFINITY else min(hard, MAX_CONNECTIONS + SPARE)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(soft - SPARE, MAX_CONNECTIONS), 64)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with limits: one connection too many gets a 503, and a peer that stalls is dropped.

    A reader that takes nothing for STALL seconds loses its connection, and so what was being made for it ends. A request
    that is sent before the last one was answered is not read: the connection closes with the answer. What the door
    turns away is answered here, in one write and without a task: under an overload that is nearly everything.
    """

    most, stall = MAX_CONNECTIONS, STALL
    _waiting: asyncio.TimerHandle | None = None  # for the rest of a request's headers
    _unread: asyncio.TimerHandle | None = None  # for a reader
    _deaf = False
    _size = 0  # bytes since there was something of a body, or headers were complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # paused as soon as the system's own buffer is full
        if (own := transport.get_extra_info("socket")) is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if len(self.connections) > self.most:
            self._refuse(503, "too many connections; try again later", "too_many_connections")
            self.transport.close()
        else:
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._size += len(data)
        rest = b""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:  # it is not taken: HTTP/1.1 goes on
            self.parser, rest = httptools.HttpRequestParser(self), data[offer.args[0] :]
        except httptools.HttpParserError as error:
            reason = error.__context__ or error  # what a method below has found
            self._refuse(400, f"not an HTTP request: {reason!s:.200}", "invalid_http")
        if self._size > HEADER_BYTES:
            message = f"the request's headers are over {HEADER_BYTES >> 10} KiB"
            self._refuse(431, message, "headers_too_large")
        self._await_headers()
        if rest:
            self.data_received(rest)

    def on_message_begin(self) -> None:
        if self._running:
            self._deaf, self.cycle.keep_alive = True, False
            raise ValueError("a request before the last one was answered")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._running:  # else it is behind a body, and says nothing to us
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._size = 0
        if [name for name, _ in self.headers].count(b"host") != 1 and self.parser.get_http_version() == "1.1":
            raise ValueError("it must have one Host header")
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # A reader who is behind waits for its answer in a task, where that can be waited for.
        if not self.flow.write_paused and (answer := self._door.answer(cast(Scope, cycle.scope))):
            self._turn_away(cycle, answer)
        else:
            super()._start_asgi_task(cycle, app)

    @property
    def _door(self) -> Door:
        door: Door = cast(FastAPI, self.app).state.door
        return door

    def _turn_away(self, cycle: RequestResponseCycle, answer: Response) -> None:
        head = [b"%s: %s\r\n" % header for header in answer.raw_headers]
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        body = b"" if cycle.scope["method"] == "HEAD" else answer.body
        self.transport.write(b"".join((STATUS_LINE[answer.status_code], *head, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True  # what comes of its body goes nowhere
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_message_complete(self) -> None:
        self.cycle.more_body = False
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._size = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waiting, self._unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch(self.transport.get_write_buffer_size())

    @property
    def _running(self) -> bool:
        """Whether there is a request that has not been answered to its end."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_headers(self) -> None:
        """A request's headers have their time to come; so has the rest of a body that nobody will read any more."""
        if self._deaf:
            return
        # Turned away, and wholly read: the connection rests.
        resting = self.cycle is not None and not (self._running or self.cycle.more_body or self._size)
        if self._running or resting:
            if self._waiting:
                self._waiting.cancel()
                self._waiting = None
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.stall, self._headers_late)

    def _headers_late(self) -> None:
        self._refuse(408, f"no whole request came in {self.stall:g} seconds", "request_timeout")

    def _watch(self, unread: int) -> None:
        """Drop the connection unless fewer than `unread` bytes are left to be sent when the time is over."""

        def late() -> None:
            left = self.transport.get_write_buffer_size()
            if left and left >= unread:
                self.transport.abort()
            elif left:
                self._watch(left)

        if self._unread:
            self._unread.cancel()
        self._unread = self.loop.call_later(self.stall, late)

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer, and drop what still comes: a socket that is closed with something unread takes the answer with it."""
        if self._deaf or self.transport.is_closing():
            return
        if not (self._running and self.cycle.response_started):
            body = json.dumps(encode_error(HerdError(message, status=status, code=code))).encode()
            id = new_request_id()
            if not self._running:  # else the application counts it
                self._door.note("none", "unmatched", status, 0, id)
            lines = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json",
                f"Content-Length: {len(body)}", "Connection: close", f"X-Request-Id: {id}",
                *["Retry-After: 1"] * (status == 503), "\r\n",
            ]  # fmt: skip
            self.transport.write("\r\n".join(lines).encode() + body)
        if self._running:  # a body that is no HTTP, behind good headers
            self.cycle.disconnected = True  # its answer was given: what the application says goes nowhere
            self.cycle.message_event.set()
        self._deaf = True
        self.transport.write_eof()
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(LINGER, self.transport.abort)
