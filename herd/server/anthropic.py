"""The Anthropic dialect under /v1/messages, and its pages of /v1/models."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

import herd.protocol.anthropic as dialect
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.answer import answer, asked_of, count

MOST, USUAL = 1000, "20"  # models of a page
STAGES = ("active", "deprecated", "retired")
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


def page(
    models: list[dict[str, Any]],
    limit: str | None,
    after_id: str | None,
    before_id: str | None,
    lifecycle: tuple[str, ...],
) -> tuple[list[dict[str, Any]], bool]:
    """Those of the models, which are all active, that GET /v1/models is asked for, and whether more follow that way.

    Raises ProtocolError naming the parameter.
    """
    limit = USUAL if limit is None else limit
    size = int(limit) if limit.isascii() and limit.isdecimal() and len(limit) <= 4 else 0
    if not 1 <= size <= MOST:
        raise ProtocolError(f"limit must be a whole number from 1 to {MOST}", "limit")
    if after_id is not None and before_id is not None:
        raise ProtocolError("before_id cannot be combined with after_id", "before_id")
    if unknown := [stage for stage in lifecycle if stage not in STAGES]:
        message = f"lifecycle has {unknown[0]!r:.100}, which is none of {', '.join(STAGES)}"
        raise ProtocolError(message, "lifecycle")
    shown = models if not lifecycle or "active" in lifecycle else []
    ids = [model["id"] for model in shown]
    for name, id in (("after_id", after_id), ("before_id", before_id)):
        if id is not None and id not in ids:
            raise ProtocolError(f"{name} names {id!r:.100}, which is not in this list", name)
    if before_id is not None:
        end = ids.index(before_id)
        return shown[max(end - size, 0) : end], end > size
    start = 0 if after_id is None else ids.index(after_id) + 1
    return shown[start : start + size], len(shown) > start + size
