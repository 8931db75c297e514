"""From canonical requests to the reply over HTTP: what the routes of every dialect share."""

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from herd.gateway.gateway import Gateway
from herd.gateway.provider import Chunk
from herd.gateway.reply import Item, Reply
from herd.protocol import Dialect, Event, Failed, ProtocolError, Usage
from herd.protocol import Request as Canonical
from herd.server import body
from herd.server.errors import failure
from herd.server.state import principal, state
from herd.server.stream import ClientGone, EventStream, unless_gone
from herd.server.together import together

T = TypeVar("T")
CLIENT_GONE = 499  # nobody reads it; it is for the log and the metrics
MAX_CONVERSATION = 128
DONE = b"data: [DONE]"


class Codec(Protocol):
    def encode(self, event: Event) -> list[dict[str, Any]]: ...


async def asked_of(
    request: Request, decode: Callable[[dict[str, Any]], T], *, queues: bool = True
) -> tuple[T, dict[str, Any]]:
    """What the body asks for, and the body. Raises as `body.read_as`, and HerdError 429 if there is no place for a reply.

    Where all routes lead to the engine, that is said at once: an overload must cost little. `queues`: there will be a
    reply, and not only a count.
    """
    here, key = state(request), principal(request).name

    def admit() -> None:
        if queues and not here.gateway.reaches_out:
            here.engines.engine.admission.admit(key or "")

    return await body.read_as(request, lambda given: (decode(given), given), admit)


async def answer(
    request: Request,
    requests: Sequence[Canonical],
    encode: Callable[..., dict[str, Any]],
    stream: Callable[..., Codec] | None = None,
    *,
    dialect: Dialect,
    given: dict[str, Any],
    prefix: str | None = None,
    named: bool = False,
) -> Response:
    """Answer the requests as one reply: choice c of request r is choice r · n + c.

    `stream(request, id, created, fingerprint)` makes the codec of a stream, `encode` takes the events second and gives
    the whole reply. `given`: the body, for providers that speak the dialect too. `named`: the dialect names its events,
    and does not end them with "[DONE]".
    """
    gateway, who = state(request).gateway, principal(request)
    batch = [
        gateway.begin(
            one,
            principal=who,
            conversation=conversation(request, one, who.name),
            dialect=dialect,
            body=given if len(requests) == 1 else None,
            prefix=prefix,
        )
        for one in requests
    ]
    return await send(request, batch, encode, stream, named=named, last=None if named else "[DONE]")


async def count(
    request: Request, asked: Canonical, encode: Callable[[list[Event]], dict[str, Any]], prefix: str
) -> Response:
    """How many tokens the prompt has. Nothing is generated, so nothing is stored."""
    reply = state(request).gateway.begin(asked, principal=principal(request), prefix=prefix)
    return await send(request, [reply], lambda _, events, *__: encode(events))


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
    gateway, first = state(request).gateway, batch[0]
    whole = replace(first.request, n=len(batch) * first.request.n)
    items = gateway.events(first) if len(batch) == 1 else _together(gateway, batch)
    try:
        if stream and whole.stream:
            # An error before the first event still gets its own status.
            begun: Item = await unless_gone(request.receive, anext(items))
            if isinstance(begun, Failed):
                raise failure(begun)
            chunks = _chunks(begun, items, stream(whole, *_about(first)), last)
            return EventStream(chunks, named=named, headers=_headers(first))
        collected = await unless_gone(request.receive, _collect(items))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    if said := [item.data for item in collected if isinstance(item, Chunk)]:
        return Response(b"".join(said), headers=_headers(first), media_type="application/json")
    return JSONResponse(encode(whole, collected, *_about(first)), headers=_headers(first))


def _about(reply: Reply) -> tuple[str, int, str]:
    return reply.id, int(reply.created), f"fp_{reply.target.digest[:12]}"


def _headers(reply: Reply) -> dict[str, str]:
    """Which generation it is, who answers, at which attempt, and without regard to which fields."""
    found = {
        "X-Herd-Generation": reply.id,
        "X-Herd-Target": reply.target.name,
        "X-Herd-Attempts": str(reply.attempts),
    }
    return found | ({"X-Herd-Dropped": ", ".join(reply.dropped)} if reply.dropped else {})


async def _together(gateway: Gateway, batch: Sequence[Reply]) -> AsyncGenerator[Item, None]:
    """The events of all replies as they come, their usage summed at the end; a failure of one is the last event."""
    used = []
    async with aclosing(together([gateway.events(reply) for reply in batch])) as events:
        async for place, event in events:
            if isinstance(event, Usage):
                used.append(event)
                continue
            index = getattr(event, "index", None)
            moved = {} if index is None else {"index": place * batch[place].request.n + index}
            yield replace(event, **moved)
            if isinstance(event, Failed):
                return
    yield Usage.total(used)


async def _collect(items: AsyncGenerator[Item, None]) -> list[Item]:
    """All of a reply. Raises HerdError if it failed, so that nothing truncated is called complete."""
    async with aclosing(items):
        collected = [item async for item in items]
    if isinstance(collected[-1], Failed):
        raise failure(collected[-1])
    return collected


async def _chunks(
    first: Item, items: AsyncGenerator[Item, None], codec: Codec, last: str | None
) -> AsyncGenerator[dict[str, Any] | str | bytes, None]:
    """Chunks of the dialect and `last` at the end; after a failure an error event and nothing else."""
    async with aclosing(items):
        item: Item | None = first
        while item is not None:
            if isinstance(item, Chunk):
                if item.data and not item.data.startswith(DONE):
                    yield item.data
            else:
                for chunk in codec.encode(item):
                    yield chunk
                if isinstance(item, Failed):
                    return
            item = await anext(items, None)
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
