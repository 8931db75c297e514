"""The OpenAI dialect under /v1: models, chat completions, completions, embeddings."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

import herd.protocol.openai as dialect
from herd.protocol import Event
from herd.protocol import Request as Canonical
from herd.server import anthropic, body
from herd.server.answer import answer, asked_of
from herd.server.errors import speaks_anthropic
from herd.server.state import principal, state

router = APIRouter(prefix="/v1")


@router.get("/models")
def models(
    request: Request,
    limit: str | None = None,
    after_id: str | None = None,
    before_id: str | None = None,
    lifecycle: Annotated[tuple[str, ...], Query(alias="lifecycle[]")] = (),
) -> JSONResponse:
    """What the key may ask for: routes, targets, models here and those that providers list.

    All of it at once, except for requests with the header anthropic-version: these get it in pages, as they ask.
    """
    who, found = principal(request), state(request).gateway.models()
    mine = [(name, made) for name, made in sorted(found.items()) if who.may(f"use:{name}")]
    listed, more = [_model(*one) for one in mine], False
    if speaks_anthropic(request.scope):
        listed, more = anthropic.page(listed, limit, after_id, before_id, lifecycle)
    return JSONResponse(dialect.encode_models(listed, more))


@router.get("/models/{name:path}")
def model(request: Request, name: str) -> JSONResponse:
    gateway = state(request).gateway
    gateway.route(name, principal(request))
    (only,) = dialect.encode_models([_model(name, gateway.models().get(name, 0.0))])["data"]
    return JSONResponse(only)


def _model(name: str, made: float) -> dict[str, Any]:
    return {"id": name, "created": int(made)}


@router.post("/chat/completions", openapi_extra=body.described(dialect.FIELDS["chat"], "model", "messages"))
async def chat_completions(request: Request) -> Response:
    asked, given = await asked_of(request, dialect.decode_chat)
    return await answer(
        request, [asked], dialect.encode_completion, dialect.CompletionStream, dialect="chat", given=given
    )


@router.post("/completions", openapi_extra=body.described(dialect.FIELDS["completion"], "model", "prompt"))
async def completions(request: Request) -> Response:
    asked, given = await asked_of(request, dialect.decode_completion)
    return await answer(
        request, asked, dialect.encode_completion, dialect.CompletionStream, dialect="completion", given=given
    )


@router.post("/embeddings", openapi_extra=body.described(dialect.FIELDS["embedding"], "model", "input"))
async def embeddings(request: Request) -> Response:
    asked, given = await asked_of(request, dialect.decode_embeddings)

    def encode(whole: Canonical, events: Iterable[Event], *_: Any) -> dict[str, Any]:
        return dialect.encode_embeddings(
            whole.route, events, binary=asked.base64, dimensions=asked.dimensions
        )

    return await answer(request, [asked.request], encode, dialect="embedding", given=given)
