"""Connections: how many, how long they may stall, and the errors of HTTP itself, in the form of all others."""

import asyncio
import json
import resource
import socket
import sys

import h11
from uvicorn.protocols.http import h11_impl

from herd.errors import HerdError
from herd.protocol.openai import encode_error
from herd.server.guard import HEADER_BYTES, new_request_id

MAX_CONNECTIONS = 4096
IDLE = 75  # seconds that a connection may rest between requests; most clients give up sooner
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


class Connection(h11_impl.H11Protocol):
    """uvicorn's HTTP/1.1 with limits: one connection too many gets a 503, and a peer that stalls is dropped.

    A reader that takes nothing for STALL seconds loses its connection, and so what was being made for it ends.
    """

    most, stall = MAX_CONNECTIONS, STALL
    _waiting: asyncio.TimerHandle | None = None  # for the rest of a request's headers
    _unread: asyncio.TimerHandle | None = None  # for a reader

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # paused as soon as the system's own buffer is full
        if (own := transport.get_extra_info("socket")) is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if len(self.connections) > self.most:
            self._refuse(503, "too many connections; try again later", "too_many_connections")
        else:
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._await_headers()

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

    def send_400_response(self, msg: str) -> None:
        """For bytes that are no request. h11 says in its error which status they deserve."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        if status == 431:
            message, code = f"the request's headers are over {HEADER_BYTES >> 10} KiB", "headers_too_large"
        else:
            message, code = f"not an HTTP request: {error}", "invalid_http"
        self._refuse(status, message, code)

    def _await_headers(self) -> None:
        """A request's headers have their time to come; so has the rest of a body that nobody will read any more."""
        theirs = self.conn.their_state
        waiting = theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.cycle.response_complete)
        if not waiting and self._waiting:
            self._waiting.cancel()
            self._waiting = None
        elif waiting and self._waiting is None:
            self._waiting = self.loop.call_later(self.stall, self._headers_late)

    def _headers_late(self) -> None:
        if not self.transport.is_closing():
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
        body = json.dumps(encode_error(HerdError(message, status=status, code=code))).encode()
        headers = [
            ("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close"),
            ("X-Request-Id", new_request_id()), *[("Retry-After", "1")] * (status == 503),
        ]  # fmt: skip
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = self.conn.send(h11.Response(status_code=status, headers=headers))
            parts = (head, self.conn.send(h11.Data(data=body)), self.conn.send(h11.EndOfMessage()))
            self.transport.write(b"".join(part or b"" for part in parts))
        if self.cycle and not self.cycle.response_complete:  # a body that is no HTTP, behind good headers
            self.cycle.disconnected = True  # its answer was given: what the application says goes nowhere
            self.cycle.message_event.set()
        self.transport.close()
        self._watch(self.transport.get_write_buffer_size())
