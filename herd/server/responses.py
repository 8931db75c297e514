"""The Responses dialect under /v1/responses: made while the caller waits or in the background, stored, continued."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

import herd.protocol.responses as dialect
from herd.errors import HerdError
from herd.gateway.keys import Principal
from herd.gateway.reply import generation
from herd.protocol import Event, Message, ProtocolError
from herd.protocol import Request as Canonical
from herd.protocol.fields import MAX_MESSAGES
from herd.server import body
from herd.server.answer import asked_of, conversation, count, send
from herd.server.errors import not_found
from herd.server.state import State, principal, state
from herd.server.stream import EventStream

router = APIRouter(prefix="/v1/responses")
ITEM = re.compile(r"[a-z]+_([0-9a-f]{32})(?:_\w+)?")  # its response's id is in an item's
Stored = tuple[dict[str, Any] | None, str | None]  # a response's row, and its status if it has not ended
Decode = Callable[[dict[str, Any]], dialect.Asked]
Include = Annotated[tuple[str, ...], Query(alias="include[]", max_length=16)]


@router.post("", openapi_extra=body.described(dialect.FIELDS["response"], "model"))
async def create(request: Request) -> Response:
    here, who = state(request), principal(request)
    asked, before, past = await _asked(request, dialect.decode_response)
    canonical = asked.after(past)
    talk = conversation(request, canonical, who.name)
    if before and "x-herd-conversation" not in request.headers:
        talk = before["conversation"]
    reply = here.gateway.begin(
        canonical, principal=who, conversation=talk, dialect="responses", prefix="resp_"
    )
    kept = asked.kept(reply.request, len(past))
    if canonical.store:
        reply.response = kept
    if asked.background:
        await here.gateway.background.run(reply)
        if canonical.stream:
            return _stream(here, reply.id)
        return JSONResponse(dialect.encode_stored(generation(reply), "queued"))

    def stream(whole: Canonical, id: str, *_: Any) -> dialect.ResponseStream:
        return dialect.ResponseStream(id, reply.created, kept["shown"], lambda: reply.ended_at)

    def encode(whole: Canonical, events: list[Event], id: str, *_: Any) -> dict[str, Any]:
        made = stream(whole, id)
        for event in events:
            made.encode(event)
        assert made.response is not None
        return made.response

    return await send(request, [reply], encode, stream, named=True, last="[DONE]")


@router.post("/input_tokens", openapi_extra=body.described(dialect.FIELDS["count"], "model"))
async def input_tokens(request: Request) -> Response:
    asked, _, past = await _asked(request, dialect.decode_count, queues=False)
    return await count(request, asked.after(past), dialect.encode_count, "resp_")


@router.post("/compact", include_in_schema=False)
def compact() -> None:
    """What it would give cannot be had here. Without this it would be called a wrong method of a response's."""
    message = "this server has no /v1/responses/compact: send the items as they are, or previous_response_id"
    raise not_found(message)


@router.get("/{id}")
async def retrieve(
    request: Request,
    id: str,
    include: Include = (),
    stream: bool = False,
    starting_after: int | None = None,
) -> Response:
    """A response as it is now; with `stream` the events of one in the background, after the one of that number."""
    _check(include)
    if starting_after is not None and not stream:
        raise ProtocolError('starting_after needs "stream": true', "starting_after")
    row, status = await _found(request, id)
    if stream:
        return _stream(state(request), id, -1 if starting_after is None else starting_after)
    return JSONResponse(dialect.encode_stored(row, status))


@router.delete("/{id}")
async def delete(request: Request, id: str) -> dict[str, Any]:
    """Forget the text of a response; what continues it keeps its own."""
    await _ended(request, id)
    here = state(request)
    here.gateway.background.forget(id)
    await asyncio.to_thread(here.store.forget, id)
    return {"id": id, "object": "response", "deleted": True}


@router.post("/{id}/cancel")
async def cancel(request: Request, id: str) -> JSONResponse:
    """Stop a response in the background; one that has ended stays as it is."""
    row = await _ended(request, id)
    if not row["response"]["background"]:
        raise ProtocolError("only a response with background: true can be cancelled", "id")
    return JSONResponse(dialect.encode_stored(row))


@router.get("/{id}/input_items")
async def input_items(
    request: Request,
    id: str,
    include: Include = (),
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """The items that the response was asked with, not those of the responses before it."""
    _check(include)
    row, _ = await _found(request, id)
    items = dialect.encode_items(row)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ProtocolError(f"after names {after!r:.100}, which is no item of this response", "after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": page, **ends, "has_more": len(items) > limit}


def _stream(here: State, id: str, after: int = -1) -> EventStream:
    """The events of a response in the background. It goes on, however many read it or leave."""
    told = here.gateway.background.told(id)
    if told is None:
        message = (
            "stream: the events of this response are not there: it was not begun in the background with stream,"
            " or ended long ago, or its server has started again since; fetch it without stream"
        )
        raise ProtocolError(message, "stream", "events_not_kept")
    reply = told.reply
    assert reply.response is not None
    codec = dialect.ResponseStream(id, reply.created, reply.response["shown"], lambda: reply.ended_at)

    def new(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in made if one["sequence_number"] > after]

    async def events() -> AsyncGenerator[dict[str, Any] | str | bytes, None]:
        for one in new(codec.queued()):
            yield one
        async with aclosing(told.read()) as read:
            async for event in read:
                for one in new(codec.encode(event)):
                    yield one
        yield "[DONE]"

    return EventStream(events(), named=True, headers={"X-Herd-Generation": id})


async def _asked(
    request: Request, decode: Decode, *, queues: bool = True
) -> tuple[dialect.Asked, dict[str, Any] | None, tuple[Message, ...]]:
    """What the body asks for, the generation that it continues, and that one's messages. `queues` as for `asked_of`."""
    here, who = state(request), principal(request)
    asked, given = await asked_of(
        request, lambda given: None if _refers(given) else decode(given), queues=queues
    )
    if asked is None:
        asked = await asyncio.to_thread(_resolved, here, who, given, decode)
    before = await _previous(request, asked.previous)
    return asked, before, dialect.history(before) if before else ()


def _refers(given: dict[str, Any]) -> bool:
    items = given.get("input")
    return isinstance(items, list) and any(_is_reference(item) for item in items[:MAX_MESSAGES])


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


def _resolved(here: State, who: Principal, given: dict[str, Any], decode: Decode) -> dialect.Asked:
    """Decode a body with references to items of stored responses: each stands for the whole item."""
    found: dict[str, dict[str, Any]] = {}

    def item(where: str, reference: dict[str, Any]) -> dict[str, Any]:
        id = reference.get("id")
        if reference.keys() != {"type", "id"} or not isinstance(id, str):
            raise ProtocolError(f"{where} must have a type and an id, which is text", where)
        if id not in found and (match := ITEM.fullmatch(id)):
            row = here.store.get_generation(f"resp_{match[1]}")
            if row is not None and _readable(who, row):
                items = [*dialect.encode_stored(row)["output"], *dialect.encode_items(row)]
                found.update({one["id"]: one for one in items})
        if id not in found:
            message = f"{where}.id: the item_reference names {id!r:.100}, which is not stored here"
            raise ProtocolError(message, f"{where}.id", "item_not_found")
        return found[id]

    items = [
        item(f"input[{i}]", one) if i < MAX_MESSAGES and _is_reference(one) else one
        for i, one in enumerate(given["input"])
    ]
    return decode({**given, "input": items})


async def _previous(request: Request, id: str | None) -> dict[str, Any] | None:
    """The generation to be continued. Raises ProtocolError naming it."""
    if id is None:
        return None
    field, code = "previous_response_id", "previous_response_not_found"
    try:
        row, status = await _found(request, id)
    except HerdError as error:
        if error.status != 404:
            raise
        message = f"{field} names {id!r:.100}, which is not stored here"
        raise ProtocolError(message, field, code) from None
    if status:
        raise ProtocolError(f"{field} names {id!r:.100}, which has not ended", field, "response_not_ended")
    return row


async def _found(request: Request, id: str) -> tuple[dict[str, Any], str | None]:
    """The caller's response of this id, and its status if it has not ended. Raises HerdError 404."""
    here, who = state(request), principal(request)
    if reply := here.gateway.background.get(id):
        found: Stored = generation(reply), "in_progress" if reply.started else "queued"
    else:
        found = await asyncio.to_thread(_stored, here, id)
    row, status = found
    if row is None or not _readable(who, row):
        raise not_found(f"no stored response {id!r:.100}")
    return row, status


def _stored(here: State, id: str) -> Stored:
    """As the store has it, where it may also be one that another server makes."""
    pending = here.store.get_background(id)  # read first: it stays until the generation is there
    if row := here.store.get_generation(id):
        return row, None
    return pending, "in_progress"


async def _ended(request: Request, id: str) -> dict[str, Any]:
    """The generation, which is stopped first if it is still being made."""
    await _found(request, id)  # the caller's own
    await state(request).gateway.background.cancel(id)
    row, status = await _found(request, id)
    if status:
        message = f"{id!r:.100} is being made by another server; it can be stopped there"
        raise HerdError(message, status=409, code="response_not_ended")
    return row


def _readable(who: Principal, row: dict[str, Any]) -> bool:
    return row["response"] is not None and row["key"] == who.name


def _check(include: tuple[str, ...]) -> None:
    """What a stored response has, it shows: what may be included needs no more than to be known."""
    for name in include:
        if name not in dialect.INCLUDES:
            message = f"include[] {name!r:.100} is not supported; known: {', '.join(dialect.INCLUDES)}"
            raise ProtocolError(message, "include[]", "unsupported_field")
