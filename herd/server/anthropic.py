"""The Anthropic dialect under /v1/messages."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

import herd.protocol.anthropic as dialect
from herd.server import body
from herd.server.answer import answer, asked_of, count

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
    asked, _ = await asked_of(request, dialect.decode_count, queues=False)
    return await count(request, asked, dialect.encode_count, "msg_")
