"""The OpenAI dialect under /v1: models, chat completions, completions, embeddings."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import herd.protocol.openai as dialect
from herd.protocol import Event
from herd.protocol import Request as Canonical
from herd.registry import Target
from herd.server import body
from herd.server.answer import answer, asked_of
from herd.server.state import state

router = APIRouter(prefix="/v1")


@router.get("/models")
def models(request: Request) -> JSONResponse:
    return JSONResponse(dialect.encode_models([_model(t) for t in state(request).registry.targets()]))


@router.get("/models/{name}")
def model(request: Request, name: str) -> JSONResponse:
    (only,) = dialect.encode_models([_model(state(request).registry.target(name))])["data"]
    return JSONResponse(only)


def _model(target: Target) -> dict[str, Any]:
    return {"id": target.name, "created": int(target.model.created or 0)}


@router.post("/chat/completions", openapi_extra=body.described(dialect.FIELDS["chat"], "model", "messages"))
async def chat_completions(request: Request) -> Response:
    asked = await asked_of(request, dialect.decode_chat)
    return await answer(request, [asked], dialect.encode_chat, dialect.ChatStream)


@router.post("/completions", openapi_extra=body.described(dialect.FIELDS["completion"], "model", "prompt"))
async def completions(request: Request) -> Response:
    asked = await asked_of(request, dialect.decode_completion)
    return await answer(request, asked, dialect.encode_completion, dialect.CompletionStream)


@router.post("/embeddings", openapi_extra=body.described(dialect.FIELDS["embedding"], "model", "input"))
async def embeddings(request: Request) -> Response:
    asked = await asked_of(request, dialect.decode_embeddings)

    def encode(whole: Canonical, events: Iterable[Event], *_: Any) -> dict[str, Any]:
        return dialect.encode_embeddings(
            whole.route, events, binary=asked.base64, dimensions=asked.dimensions
        )

    return await answer(request, asked.requests, encode)
