"""From canonical requests to the reply over HTTP: what the routes of every dialect share."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from herd.protocol import Event, Failed, ProtocolError, Usage
from herd.protocol import Request as Canonical
from herd.server import body
from herd.server.errors import failure
from herd.server.replies import Replies, Reply
from herd.server.state import state
from herd.server.stream import ClientGone, EventStream, unless_gone

T = TypeVar("T")
CLIENT_GONE = 499  # nobody reads it; it is for the log and the metrics
MAX_CONVERSATION = 128
TOGETHER = 16  # requests of one batch that the engine has at a time, so that a batch cannot fill its queue
USED = [field.name for field in fields(Usage)]


class Codec(Protocol):
    def encode(self, event: Event) -> list[dict[str, Any]]: ...


async def asked_of(request: Request, decode: Callable[[dict[str, Any]], T]) -> T:
    """What the body asks for. Raises as `body.read_as`, and HerdError 429 if there is no place for a reply.

    That is said at once: an overload must cost little.
    """
    here = state(request)
    return await body.read_as(request, decode, lambda: here.engines.engine.admit(here.keys.name or ""))


async def answer(
    request: Request,
    requests: Sequence[Canonical],
    encode: Callable[..., dict[str, Any]],
    stream: Callable[..., Codec] | None = None,
    *,
    prefix: str | None = None,
    named: bool = False,
) -> Response:
    """Answer the requests as one reply: choice c of request r is choice r · n + c.

    `stream(request, id, created, fingerprint)` makes the codec of a stream, `encode` takes the events second and gives
    the whole reply. `named`: the dialect names its events, and does not end them with "[DONE]".
    """
    replies, key = state(request).replies, state(request).keys.name
    batch = [replies.begin(one, conversation(request, one, key), key, prefix) for one in requests]
    return await send(request, batch, encode, stream, named=named, last=None if named else "[DONE]")


async def send(
    request: Request,
    batch: Sequence[Reply],
    encode: Callable[..., dict[str, Any]],
    stream: Callable[..., Codec] | None = None,
    *,
    named: bool = False,
    last: str | None = None,
) -> Response:
    """Replies that have begun, as `answer` sends them; `last`: what ends a stream."""
    replies, first = state(request).replies, batch[0]
    whole = replace(first.request, n=len(batch) * first.request.n)
    about = (first.id, int(first.created), f"fp_{first.target.digest[:12]}")
    try:
        if stream and whole.stream:
            events = _together(replies, batch)
            # An error before the first event still gets its own status.
            begun: Event = await unless_gone(request.receive, anext(events))
            if isinstance(begun, Failed):
                raise failure(begun)
            chunks = _chunks(begun, events, stream(whole, *about), last)
            return EventStream(chunks, named=named)
        collected = await unless_gone(request.receive, _collect(replies, batch))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(encode(whole, collected, *about))


async def _together(replies: Replies, batch: Sequence[Reply]) -> AsyncGenerator[Event, None]:
    """The events of all replies as they come, their usage summed at the end; a failure of one is the last event."""
    if len(batch) == 1:
        async with aclosing(replies.events(batch[0])) as events:
            async for event in events:
                yield event
        return
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    waiting = iter(enumerate(batch))

    async def work() -> None:
        try:
            for place, reply in waiting:
                async with aclosing(replies.events(reply)) as events:
                    async for event in events:
                        index = getattr(event, "index", None)
                        moved = {} if index is None else {"index": place * reply.request.n + index}
                        queue.put_nowait(replace(event, **moved))
        finally:
            queue.put_nowait(None)

    workers = [asyncio.ensure_future(work()) for _ in range(min(TOGETHER, len(batch)))]
    used, left = [], len(workers)
    try:
        while left:
            match one := await queue.get():
                case None:
                    left -= 1
                case Usage():
                    used.append(one)
                case _:
                    yield one
                    if isinstance(one, Failed):
                        return
        for worker in workers:
            worker.result()
        yield Usage(*(sum(getattr(one, name) for one in used) for name in USED))
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


async def _collect(replies: Replies, batch: Sequence[Reply]) -> list[Event]:
    """All events of a reply. Raises HerdError if it failed, so that nothing truncated is called complete."""
    async with aclosing(_together(replies, batch)) as events:
        collected = [event async for event in events]
    if isinstance(collected[-1], Failed):
        raise failure(collected[-1])
    return collected


async def _chunks(
    first: Event, events: AsyncGenerator[Event, None], codec: Codec, last: str | None
) -> AsyncGenerator[dict[str, Any] | str, None]:
    """Chunks of the dialect and `last` at the end; after a failure an error event and nothing else."""
    async with aclosing(events):
        for chunk in codec.encode(first):
            yield chunk
        async for event in events:
            for chunk in codec.encode(event):
                yield chunk
            if isinstance(event, Failed):
                return
    if last:
        yield last


def conversation(request: Request, canonical: Canonical, key: str | None) -> str:
    """X-Herd-Conversation, else a hash of the key and the messages through the first user message."""
    named = request.headers.get("x-herd-conversation")
    if named is not None:
        if not named.isascii() or not named.isprintable() or not 0 < len(named) <= MAX_CONVERSATION:
            message = f"X-Herd-Conversation must be 1 to {MAX_CONVERSATION} printable ASCII characters"
            raise ProtocolError(message, "X-Herd-Conversation")
        return named
    opening: list[Any] = [key, None if canonical.kind == "chat" else canonical.prompt]
    for said in canonical.messages:
        opening.append(said.to_json())
        if said.role == "user":
            break
    return "auto-" + hashlib.sha256(json.dumps(opening).encode()).hexdigest()[:32]
