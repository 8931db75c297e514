"""A running Herd server, as the command line sees it: plain HTTP, standard library only."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from herd.errors import HerdError
from herd.server.settings import Settings

BUSY, PATIENCE = (429, 503), 600.0


class Server:
    """The server at HERD_HOST and HERD_PORT, called with HERD_API_KEY."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.url
        self.headers = {"Content-Type": "application/json"}
        if settings.api_key:
            self.headers["Authorization"] = f"Bearer {settings.api_key}"

    @classmethod
    def running(cls) -> Server | None:
        """The server if one answers as Herd does within five seconds, else None."""
        server = cls(Settings.from_environment())
        try:
            server.call("GET", "/api/status", timeout=5)
        except HerdError as error:
            if error.code == "unreachable":
                return None
            raise
        return server

    def call(self, method: str, path: str, body: Any = None, timeout: float = 30) -> Any:
        """One request, and the JSON that answers it, if any. Raises HerdError with the server's own words."""
        data = None if body is None else json.dumps(body).encode()
        with self._open(Request(self.url + path, data, self.headers, method=method), timeout) as response:
            try:
                return None if response.status == 204 else json.load(response)
            except (ValueError, HTTPException, OSError):
                raise HerdError(f"{self.url} does not answer as Herd does", code="unreachable") from None

    def download(self, path: str, file: IO[bytes]) -> Message:
        """The body of a GET into a file; the headers. Raises HerdError, also if the body breaks off."""
        with self._open(Request(self.url + path, None, self.headers), 3600) as response:
            while True:
                try:
                    chunk = response.read(1 << 16)
                except (HTTPException, OSError) as error:
                    said = f"the server went away in the middle: {error}"
                    raise HerdError(said, code="unreachable") from None
                if not chunk:
                    return response.headers
                file.write(chunk)

    def upload(self, path: str, file: IO[bytes], size: int) -> Any:
        """POST `size` bytes of a file as they are read; the JSON that answers. Raises HerdError."""
        headers = {**self.headers, "Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._open(Request(self.url + path, file, headers), 3600) as response:
            return json.load(response)

    def post(self, path: str, body: Any, timeout: float = 3600) -> tuple[int, Message, Any]:
        """Status, headers and JSON of the answer, whatever its status. Raises HerdError if none comes.

        A busy server is asked again for PATIENCE seconds.
        """
        end = time.monotonic() + PATIENCE
        while True:
            status, headers, answer = self._post(path, body, timeout)
            if status not in BUSY or time.monotonic() > end:
                return status, headers, answer
            wait = headers.get("Retry-After", "")
            time.sleep(min(float(wait) if wait.isdecimal() else 1.0, 30.0))

    def _post(self, path: str, body: Any, timeout: float) -> tuple[int, Message, Any]:
        request = Request(self.url + path, json.dumps(body).encode(), self.headers)
        try:
            response = urlopen(request, timeout=timeout)
        except HTTPError as error:
            response = error
        except (OSError, HTTPException) as error:
            raise self._gone(error) from None
        with response:
            try:
                return response.status or 0, response.headers, json.load(response)
            except (ValueError, HTTPException, OSError) as error:
                raise self._gone(error) from None

    def chat(self, body: dict[str, Any], headers: dict[str, str]) -> Generator[str, None, None]:
        """Stream a chat completion; yields text. Closing the iterator stops the generation."""
        data = json.dumps({**body, "stream": True}).encode()
        request = Request(self.url + "/v1/chat/completions", data, self.headers | headers)
        finished = False
        with self._open(request, 600) as response, suppress(OSError, HTTPException):
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise HerdError(event["error"]["message"])
                for choice in event["choices"]:
                    finished = finished or choice.get("finish_reason") is not None
                    yield choice["delta"].get("content") or ""
        if not finished:
            raise HerdError("the server went away in the middle of the reply", code="unreachable")

    def _open(self, request: Request, timeout: float) -> HTTPResponse:
        try:
            return self._urlopen(request, timeout)
        except HTTPError as error:
            try:
                message = json.load(error)["error"]["message"]
            except (ValueError, KeyError, TypeError, HTTPException, OSError):
                message = f"the server answered {error.code} {error.reason}"
            hint = " (set HERD_API_KEY to the server's key)" if error.code == 401 else ""
            raise HerdError(f"{message}{hint}", status=error.code) from None
        except (OSError, HTTPException) as error:
            raise self._gone(error) from None

    def _urlopen(self, request: Request, timeout: float) -> HTTPResponse:
        response: HTTPResponse = urlopen(request, timeout=timeout)
        return response

    def _gone(self, error: Exception) -> HerdError:
        return HerdError(f"no server at {self.url} ({getattr(error, 'reason', error)})", code="unreachable")


@contextmanager
def api(*, write: bool = False) -> Iterator[Server]:
    """The running server; without one its API in this process, which holds the home's lock if it is to `write`."""
    if server := Server.running():
        yield server
        return
    from herd.cli.local import local

    with local(write=write) as here:
        yield here


def ask(method: str, path: str, body: Any = None) -> Any:
    """One call of the API, as `Server.call`; other than a GET it writes."""
    with api(write=method != "GET") as server:
        return server.call(method, path, body)


def reload() -> bool:
    """Let a running server serve what the registry says now; whether there is one."""
    server = Server.running()
    if server:
        server.call("POST", "/api/reload")
    return server is not None
