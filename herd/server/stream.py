"""Server-sent events, and work that ends when its client has gone."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody is there to read the reply."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects (then ClientGone is raised).

    Starlette watches for that only in streaming replies. The request's body must have been read.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.wait({task, watch})


class EventStream(Response):
    """`data:` lines from an iterator of JSON values or text, closed when it ends or the client leaves.

    Bytes are whole events and go as they are. `named`: each JSON value's "type" is its event's name.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[dict[str, Any] | str | bytes, None],
        *,
        named: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.events, self.named = events, named
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pump() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self.events) as events:
                async for event in events:
                    body = event if isinstance(event, bytes) else self._encode(event)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await unless_gone(receive, pump())
        except ClientGone:
            pass

    def _encode(self, event: dict[str, Any] | str) -> bytes:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        name = f"event: {event['type']}\n" if self.named and isinstance(event, dict) else ""
        return f"{name}data: {text}\n\n".encode()
