"""The OpenAI dialect under /v1: models, chat completions, completions."""

import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import herd.protocol.openai as dialect
from herd.protocol import Event, Failed, ProtocolError
from herd.protocol import Request as Canonical
from herd.registry import Target
from herd.server import body
from herd.server.errors import failure
from herd.server.replies import Replies, Reply
from herd.server.state import state
from herd.server.stream import ClientGone, EventStream, unless_gone

router = APIRouter(prefix="/v1")
CLIENT_GONE = 499  # nobody reads it; it is for the log and the metrics
MAX_CONVERSATION = 128


@router.get("/models")
def models(request: Request) -> JSONResponse:
    return JSONResponse(dialect.encode_models([_model(t) for t in state(request).registry.targets()]))


@router.get("/models/{name}")
def model(request: Request, name: str) -> JSONResponse:
    (only,) = dialect.encode_models([_model(state(request).registry.target(name))])["data"]
    return JSONResponse(only)


def _model(target: Target) -> dict[str, Any]:
    return {"id": target.name, "created": int(target.model.created or 0)}


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    canonical = dialect.decode_chat(await body.read_object(request))
    return await _answer(request, canonical, dialect.ChatStream, dialect.encode_chat)


@router.post("/completions")
async def completions(request: Request) -> Response:
    canonical = dialect.decode_completion(await body.read_object(request))
    return await _answer(request, canonical, dialect.CompletionStream, dialect.encode_completion)


async def _answer(
    request: Request, canonical: Canonical, stream: Callable[..., Any], encode: Callable[..., dict[str, Any]]
) -> Response:
    replies, key = state(request).replies, state(request).keys.name
    reply = replies.begin(canonical, _conversation(request, canonical, key), key)
    created = int(reply.created)
    try:
        if canonical.stream:
            events = replies.events(reply)
            # An error before the first event still gets its own status.
            first: Event = await unless_gone(request.receive, anext(events))
            if isinstance(first, Failed):
                raise failure(first)
            return EventStream(_chunks(first, events, stream(reply.request, reply.id, created)))
        collected = await unless_gone(request.receive, _collect(replies, reply))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(encode(reply.request, collected, reply.id, created))


async def _collect(replies: Replies, reply: Reply) -> list[Event]:
    """All events of a reply. Raises HerdError if it failed, so that nothing truncated is called complete."""
    async with aclosing(replies.events(reply)) as events:
        collected = [event async for event in events]
    if isinstance(collected[-1], Failed):
        raise failure(collected[-1])
    return collected


async def _chunks(
    first: Event, events: AsyncGenerator[Event, None], codec: Any
) -> AsyncGenerator[dict[str, Any] | str, None]:
    """Chunks of the dialect; after a failure an error event and nothing else, else "[DONE]" at the end."""
    async with aclosing(events):
        for chunk in codec.encode(first):
            yield chunk
        async for event in events:
            for chunk in codec.encode(event):
                yield chunk
            if isinstance(event, Failed):
                return
    yield "[DONE]"


def _conversation(request: Request, canonical: Canonical, key: str | None) -> str:
    """X-Herd-Conversation, else a hash of the key and the messages through the first user message."""
    named = request.headers.get("x-herd-conversation")
    if named is not None:
        if not named.isascii() or not named.isprintable() or not 0 < len(named) <= MAX_CONVERSATION:
            message = f"X-Herd-Conversation must be 1 to {MAX_CONVERSATION} printable ASCII characters"
            raise ProtocolError(message, "X-Herd-Conversation")
        return named
    opening: list[Any] = [key, canonical.prompt if canonical.kind == "completion" else None]
    for said in canonical.messages:
        opening.append(said.to_json())
        if said.role == "user":
            break
    return "auto-" + hashlib.sha256(json.dumps(opening).encode()).hexdigest()[:32]
