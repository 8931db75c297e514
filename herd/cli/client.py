"""A running Herd server, as the command line sees it: plain HTTP, standard library only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

from herd.errors import HerdError
from herd.server.settings import Settings


class Server:
    """The server at HERD_HOST and HERD_PORT, called with HERD_API_KEY."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.url
        self.headers = {"Content-Type": "application/json"}
        if settings.api_key:
            self.headers["Authorization"] = f"Bearer {settings.api_key}"

    @classmethod
    def running(cls) -> Server | None:
        """The server if one answers as Herd does within a second, else None."""
        server = cls(Settings.from_environment())
        try:
            server.call("GET", "/api/status", timeout=1)
        except HerdError as error:
            if error.code == "unreachable":
                return None
            raise
        return server

    def call(self, method: str, path: str, body: Any = None, timeout: float = 30) -> Any:
        """One request, JSON to JSON. Raises HerdError with the server's own words."""
        with self._open(method, path, body, timeout) as response:
            try:
                return json.load(response)
            except (ValueError, HTTPException, OSError):
                raise HerdError(f"{self.url} does not answer as Herd does", code="unreachable") from None

    def chat(self, body: dict[str, Any], headers: dict[str, str]) -> Generator[str, None, None]:
        """Stream a chat completion; yields text. Closing the iterator stops the generation."""
        body = {**body, "stream": True}
        with self._open("POST", "/v1/chat/completions", body, 600, headers) as response:
            finished = False
            for line in _lines(response):
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise HerdError(event["error"]["message"])
                for choice in event["choices"]:
                    finished = finished or choice.get("finish_reason") is not None
                    yield choice["delta"].get("content") or ""
            if not finished:
                raise HerdError("the server went away in the middle of the reply", code="unreachable")

    def _open(
        self, method: str, path: str, body: Any, timeout: float, headers: dict[str, str] | None = None
    ) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {**self.headers, **(headers or {})}, method=method
        )
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
            return response
        except urllib.error.HTTPError as error:
            raise HerdError(_message(error), status=error.code) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise HerdError(f"no server at {self.url} ({reason})", code="unreachable") from None


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    """The lines until the end, or until the connection breaks: what is missing then is the caller's to notice."""
    try:
        yield from response
    except (OSError, HTTPException):
        return


def _message(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError, HTTPException, OSError):
        return f"the server answered {error.code} {error.reason}"
    if error.code == 401:
        return f"{message} (set HERD_API_KEY to the server's key)"
    return message
