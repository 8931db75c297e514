"""HTTP to providers: what is told to them, how much of a reply is taken, and what their failures mean."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from herd.errors import HerdError
from herd.gateway.addresses import Refused, guarded
from herd.gateway.provider import UpstreamError
from herd.gateway.route import ProviderSpec
from herd.gateway.secrets import KINDS, MAX_SECRET, Secrets
from herd.protocol import upstream

MIB = 2**20
ERROR_SECONDS = 5  # for the body of an error
LOOK = 1.0  # seconds
EVENTS = "text/event-stream"
SECRET = {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
OURS = set("host connection content-length content-type transfer-encoding accept accept-encoding".split())
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds and bytes. `wait`: for the head of a reply, and for its first byte; `stall`: for each one after it;
    `grace`: for HTTP to end what the dialect has ended."""

    connect: float = 10
    wait: float = 600
    stall: float = 60
    grace: float = 1
    event: int = 4 * MIB
    reply: int = 64 * MIB
    error: int = 64 * 1024


BOUNDS = Bounds()


class Client:
    """A provider's connections, with its key and headers.

    Follows no redirect, keeps no cookie, heeds no proxy of the environment, and verifies every certificate. `auth`: the
    header of the key, and what stands before the key in it. Raises HerdError for a secret that is not there.
    """

    def __init__(
        self,
        spec: ProviderSpec,
        secrets: Secrets,
        auth: tuple[str, str],
        fixed: Mapping[str, str],
        bounds: Bounds,
    ) -> None:
        self._spec, self._auth, self._fixed, self.secrets, self.bounds = spec, auth, fixed, secrets, bounds
        self._session: aiohttp.ClientSession | None = None
        for name, value in spec.headers.items():
            _check_header(name, value)
        self._headers()

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "herd", **self._fixed}
        for name, value in self._spec.headers.items():
            headers[name] = self.secrets.get(value) if value.startswith(KINDS) else value
        if self._spec.key:
            headers[self._auth[0]] = self._auth[1] + self.secrets.get(self._spec.key)
        return headers

    async def whole(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The JSON body of a reply, without secrets. Raises UpstreamError."""
        async with aclosing(self.pieces(method, url, body, "application/json")) as pieces:
            return self.secrets.clean(b"".join([piece async for piece in pieces]))

    async def pieces(
        self, method: str, url: str, body: Mapping[str, Any] | None, kind: str
    ) -> AsyncGenerator[bytes, None]:
        """The body of a reply of the type `kind`, as it comes. Raises UpstreamError. Closing the iterator closes the
        connection, if the reply is not all read."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        response, problem, size, limit = None, None, 0, self.bounds.wait
        try:
            async with asyncio.timeout(limit):
                response = await self._send(method, url, data, kind)
            if response.status != 200:
                problem = await self._refusal(response)
            elif response.content_type != kind or "Content-Encoding" in response.headers:
                problem = self.secrets.error(f"it did not answer with {kind}", "upstream_malformed")
            while problem is None:
                piece = await _next(response, limit)
                if not piece:
                    break
                size, limit = size + len(piece), self.bounds.stall
                if size > self.bounds.reply:
                    said = f"its reply is longer than {self.bounds.reply:,} bytes"
                    problem = self.secrets.error(said, "upstream_too_long")
                else:
                    yield piece
        except (aiohttp.ClientError, OSError, HerdError) as error:
            problem = self._failure(error)
        finally:
            if response is not None:
                response.close()
        if problem is not None:  # raised here, or an exception that holds our headers would hang on it
            raise problem

    async def _send(self, method: str, url: str, data: bytes | None, kind: str) -> aiohttp.ClientResponse:
        if self._session is None:
            sockets = partial(guarded, private=self._spec.private)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=sockets),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self.bounds.connect),
                auto_decompress=False,
            )
        headers = {**self._headers(), "Accept": kind, "Content-Type": "application/json"}
        request = self._session.request
        return await request(method, URL(url), data=data, headers=headers, allow_redirects=False)

    async def _refusal(self, response: aiohttp.ClientResponse) -> UpstreamError:
        """What a status other than 200 means."""
        status, body = response.status, bytearray()
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(min(self.bounds.stall, ERROR_SECONDS)):
                while len(body) < self.bounds.error and (piece := await _next(response, self.bounds.stall)):
                    body += piece
        if not 400 <= status < 600:
            said = f"it answered with status {status}, which is not followed"
            return self.secrets.error(said, upstream=status)
        clean = self.secrets.clean(bytes(body[: self.bounds.error]))  # before more of it is cut off
        return self.secrets.told(upstream.decode_error(status, response.headers, clean), status)

    def _failure(self, error: Exception) -> UpstreamError:
        match error:
            case aiohttp.ClientConnectorError(os_error=Refused()):
                said = "its address is not one that a provider may have"
                return self.secrets.error(said, "upstream_address")
            case aiohttp.ClientSSLError():
                return self.secrets.error("it has no valid certificate", "upstream_tls")
            case TimeoutError():
                return self.secrets.error("it does not answer in time", "upstream_timeout", 504)
            case aiohttp.ClientConnectorError():
                return self.secrets.error("it cannot be reached", "upstream_unreachable")
            case HerdError():
                return self.secrets.error("its secrets cannot be read", "upstream_secret", 503)
        return self.secrets.error("it broke the connection off, or does not speak HTTP", "upstream_broken")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _next(response: aiohttp.ClientResponse, seconds: float) -> bytes:
    """What comes next of the body, b"" at its end. Raises TimeoutError.

    Looks after the connection now and then: aiohttp leaves a reader waiting if a chunk that came apart from the others
    is malformed.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            async with asyncio.timeout(min(LOOK, end - time.monotonic())):
                return await response.content.readany()
        except TimeoutError:
            connection = response.connection
            if connection is not None and (connection.protocol is None or not connection.protocol.connected):
                raise aiohttp.ClientPayloadError from None
            if time.monotonic() >= end:
                raise


def _check_header(name: str, value: str) -> None:
    why = None
    if not NAME.fullmatch(name) or name.lower() in OURS:
        why = "cannot be set"
    elif name.lower() in SECRET and not value.startswith(KINDS):
        why = 'holds a secret: write it as "env:NAME" or "file:/path"'
    elif not (value.isascii() and value.isprintable() and len(value) <= MAX_SECRET):
        why = "must be one line of printable ASCII characters"
    if why:
        raise HerdError(f"the header {name!r:.200} {why}", code="bad_provider")
