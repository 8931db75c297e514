"""Herd's API without a server: the application called in this process, for a command that finds none running."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from email.message import Message
from http.client import HTTPResponse
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request

from herd.cli.client import Server
from herd.errors import HerdError
from herd.registry import Registry
from herd.registry.home import lock
from herd.server.settings import Settings

IN_MEMORY = 16 << 20  # bytes of an answer; more go to a temporary file


class NoEngine:
    """An engine that is never asked: commands change what is kept, and generate nothing."""

    def status(self) -> dict[str, Any]:
        return {"state": "stopped", "running": 0, "waiting": 0, "metrics": {}}

    async def _absent(self, *_: Any) -> None:
        raise HerdError("no server is running; `herd up` starts one", status=503)

    start = load = unload = _absent

    async def close(self) -> None: ...


class Local(Server):
    """Answers as the server does, from the same routes."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        from herd.server.app import create_app
        from herd.server.engines import Engines

        super().__init__(settings)
        self.runner = runner
        self.app = create_app(settings, Engines(NoEngine(), Registry(settings.home)))  # type: ignore[arg-type]

    def _urlopen(self, request: Request, timeout: float) -> HTTPResponse:
        status, headers, body = self.runner.run(self._ask(request))
        if status >= 400:
            raise HTTPError(request.full_url, status, "", cast(Any, {}), cast(IO[bytes], body))
        body.status, body.headers = status, headers
        return cast(HTTPResponse, body)

    async def _ask(self, request: Request) -> tuple[int, Message, Any]:
        """Status, headers and body of one request, as a file."""
        parts = urlsplit(request.full_url)
        status, answered, body = 500, Message(), SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        headers = {"host": parts.netloc, **{name.lower(): value for name, value in request.header_items()}}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.get_method(),
            "scheme": "http", "path": unquote(parts.path), "raw_path": parts.path.encode(), "root_path": "",
            "query_string": parts.query.encode(), "client": None, "server": None,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip

        waiting = [{"type": "http.request", "body": request.data or b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else await asyncio.Future()  # the caller stays to the end

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message.get("headers", ()):
                    answered[name.decode()] = value.decode()
            else:
                body.write(message.get("body", b""))

        await self.app(scope, receive, send)
        body.seek(0)
        return status, answered, body


@contextmanager
def local(*, write: bool) -> Iterator[Local]:
    """The API in this process, which holds the home's lock if it is to `write`. Raises HerdError if another has it."""
    settings = Settings.from_environment()
    with lock(settings.home) if write else nullcontext(), asyncio.Runner() as runner:
        here = Local(settings, runner)
        try:
            yield here
        finally:
            here.app.state.herd.store.close()
