"""The Anthropic dialect under /v1/messages."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

import herd.protocol.anthropic as dialect
from herd.server import body
from herd.server.answer import answer, asked_of, send
from herd.server.state import principal, state

router = APIRouter(prefix="/v1/messages")


@router.post("", openapi_extra=body.described(dialect.FIELDS["message"], "model", "messages", "max_tokens"))
async def messages(request: Request) -> Response:
    asked, given = await asked_of(request, dialect.decode_message)
    return await answer(
        request,
        [asked],
        dialect.encode_message,
        dialect.MessageStream,
        dialect="messages",
        given=given,
        prefix="msg_",
        named=True,
    )


@router.post("/count_tokens", openapi_extra=body.described(dialect.FIELDS["count"], "model", "messages"))
async def count_tokens(request: Request) -> Response:
    """Nothing is generated, so nothing is stored."""
    asked = await body.read_as(request, dialect.decode_count)
    reply = state(request).gateway.begin(asked, principal=principal(request), prefix="msg_")
    return await send(request, [reply], lambda _, events, *__: dialect.encode_count(events))
