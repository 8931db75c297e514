"""The Anthropic dialect under /v1/messages."""

from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import herd.protocol.anthropic as dialect
from herd.protocol import Event, Failed
from herd.server import body
from herd.server.answer import CLIENT_GONE, answer, asked_of
from herd.server.errors import failure
from herd.server.state import state
from herd.server.stream import ClientGone, unless_gone

router = APIRouter(prefix="/v1/messages")


@router.post("", openapi_extra=body.described(dialect.FIELDS["message"], "model", "messages", "max_tokens"))
async def messages(request: Request) -> Response:
    asked = await asked_of(request, dialect.decode_message)
    return await answer(
        request, [asked], dialect.encode_message, dialect.MessageStream, prefix="msg_", named=True
    )


@router.post("/count_tokens", openapi_extra=body.described(dialect.FIELDS["count"], "model", "messages"))
async def count_tokens(request: Request) -> Response:
    """Nothing is generated, so nothing is stored."""
    here = state(request)
    asked = await body.read_as(request, dialect.decode_count)
    reply = here.replies.begin(asked, None, here.keys.name, "msg_")

    async def counted() -> list[Event]:
        async with here.engines.hold(asked.route, reply.target) as key:
            salt = reply.key or ""
            async with aclosing(here.engines.engine.generate(key, reply.request, salt=salt)) as events:
                return [event async for event in events]

    try:
        events = await unless_gone(request.receive, counted())
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    for event in events:
        if isinstance(event, Failed):
            raise failure(event)
    return JSONResponse(dialect.encode_count(events))
