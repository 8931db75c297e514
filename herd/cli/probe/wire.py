"""HTTP that trusts nothing: every request ends by a deadline, every body has a limit, no redirect is followed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from herd.cli.probe.finding import Broken, NoAnswer, Unreachable, quote
from herd.errors import HerdError

MAX_BODY = 16 * 2**20
MAX_LINES = 100_000  # of a stream
MAX_WAIT = 10  # seconds that a Retry-After is obeyed for
JSON = {"Content-Type": "application/json"}
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Answer:
    """`events` of a stream: each its name ("" without one) and its data."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    data: bytes = b""
    events: list[tuple[str, str]] = field(default_factory=list)

    def json(self) -> Any:
        """Raises Broken if the body is not JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            raise Broken(f"{self.status} with a body that is not JSON: {quote(self.data)}") from None

    @property
    def streams(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Wire:
    """One server. `url` may end in /v1 or not; `timeout` is in seconds, for a whole request."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            self.secure, self.host, self.port = parts.scheme == "https", parts.hostname or "", parts.port
        except ValueError:  # a port that is no number
            raise HerdError(f"{url!r} is not an address") from None
        if parts.scheme not in ("http", "https") or not self.host or parts.username:
            raise HerdError(f"{url!r} is not an address; give one like http://127.0.0.1:8000")
        self.address = parts.netloc
        self.root = parts.path.rstrip("/").removesuffix("/v1")
        self.headers, self.timeout = dict(headers), timeout

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """One request and its whole answer; a 429 is tried again once. Raises Broken."""
        answer = self._call(method, path, body, headers)
        if answer.status == 429:
            wait = answer.headers.get("retry-after", "1")
            time.sleep(min(int(wait[:9]), MAX_WAIT) if wait.isdecimal() else 1)
            answer = self._call(method, path, body, headers)
        return answer

    def _call(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        with self.sent(method, path, body, headers) as connection:
            response = _response(connection)
            data = response.read(MAX_BODY + 1)
            Broken.when(len(data) > MAX_BODY, f"the answer is over {MAX_BODY >> 20} MiB")
            if response.length:  # http.client lets a body cut short pass when an amount was asked for
                raise Broken(f"the connection was dropped {response.length:,} bytes before the end")
            return Answer(response.status, _headers(response), data)

    def stream(
        self,
        path: str,
        body: Any,
        headers: Mapping[str, str] = NO_HEADERS,
        stop_after: int | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> Answer:
        """All events of a stream, or the `data` of what is none.

        With `stop_after` only so many, then `then()`, then the connection is dropped.
        """
        with self.sent("POST", path, body, headers) as connection:
            response = _response(connection)
            answer = Answer(response.status, _headers(response))
            if not answer.streams:
                return Answer(answer.status, answer.headers, response.read(MAX_BODY))
            for event in _events(response):
                answer.events.append(event)
                if len(answer.events) == stop_after:
                    then()
                    break
            return answer

    @contextmanager
    def sent(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Iterator[HTTPConnection]:
        """The connection of a request under way. A watchdog cuts it at the deadline, whatever is read then."""
        kind = HTTPSConnection if self.secure else HTTPConnection
        connection, late = kind(self.host, self.port, timeout=self.timeout), threading.Event()
        # http.client forgets its own where the answer ends with the connection.
        sockets: list[socket.socket] = []

        def cut() -> None:
            late.set()
            with suppress(OSError):  # closed meanwhile
                for own in sockets:
                    own.shutdown(socket.SHUT_RDWR)

        watchdog = threading.Timer(self.timeout, cut)
        watchdog.daemon = True
        watchdog.start()
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        given = {**(JSON if data is not None else {}), **self.headers, **headers}
        connected = False
        try:
            connection.connect()
            sockets.append(connection.sock)
            connected = True
            connection.request(method, self.root + path, data, given)
            yield connection
            if late.is_set():  # a cut socket reads as an end
                raise TimeoutError
        except (OSError, HTTPException, Broken) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise NoAnswer(f"no whole answer within {self.timeout:g} s") from None
            if isinstance(error, Broken):
                raise
            what = quote(f"{type(error).__name__} {error}")
            if not connected:
                raise Unreachable(f"cannot connect: {what}") from None
            raise Broken(f"the connection broke: {what}") from None
        finally:
            watchdog.cancel()
            connection.close()


def _response(connection: HTTPConnection) -> HTTPResponse:
    """What answers. Raises Broken for a redirect."""
    response = connection.getresponse()
    place = quote(response.getheader("location") or "nowhere")
    Broken.when(300 <= response.status < 400, f"{response.status}, a redirect to {place}")
    return response


def _headers(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _events(response: HTTPResponse) -> Iterator[tuple[str, str]]:
    """The events of a response, as the standard of server-sent events has them."""
    name, size, lines = "", 0, 0
    data: list[str] = []
    while line := response.readline(MAX_BODY):
        size, lines = size + len(line), lines + 1
        if size > MAX_BODY or lines > MAX_LINES:
            raise Broken(f"the stream is over {MAX_BODY >> 20} MiB or {MAX_LINES:,} lines")
        if not line.endswith(b"\n"):
            break
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Broken(f"a line of the stream is not UTF-8: {quote(line)}") from None
        if not text and data:
            yield name, "\n".join(data)
        if not text:
            name, data = "", []
            continue
        key, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value
        elif key not in ("", "id", "retry"):
            raise Broken(f"a line of the stream is no field of an event: {quote(text)}")
    Broken.when(data, "the stream ends in the middle of an event")
