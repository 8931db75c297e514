"""What goes wrong, as the dialect's error body; nothing that a caller sends becomes a 5xx or a traceback."""

import logging
import math
from collections.abc import Mapping
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from herd.errors import HerdError
from herd.gateway.provider import UpstreamError
from herd.protocol import Failed, ProtocolError, anthropic, openai

log = logging.getLogger("herd.server")

T = TypeVar("T")
NO_HEADERS: Mapping[str, str] = {}
CODES = {404: "not_found", 405: "method_not_allowed"}  # of errors that Starlette raises


def not_found(message: str) -> HerdError:
    return HerdError(message, status=404, code="not_found")


def found(value: T | None, kind: str, id: str) -> T:
    """`value`, unless there is none. Raises HerdError 404."""
    if not value:
        raise not_found(f"no {kind} {id!r:.100}")
    return value


def failure(event: Failed) -> HerdError:
    """The error to raise for a reply that failed before anything of it was sent."""
    return UpstreamError.of(event)


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request, or an error that comes before its route, is of Anthropic's dialect."""
    path: str = scope["path"]
    if path == "/v1/models" or path.startswith("/v1/models/"):  # both dialects have these
        return any(name == b"anthropic-version" for name, _ in scope["headers"])
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def response(error: HerdError, scope: Scope, headers: Mapping[str, str] = NO_HEADERS) -> JSONResponse:
    """The error as the dialect of the request's path has it, with these headers and its own."""
    id = scope.get("state", {}).get("request_id")
    content = anthropic.encode_error(error, id) if speaks_anthropic(scope) else openai.encode_error(error)
    own = dict(headers)
    if error.status == 401:
        own["WWW-Authenticate"] = "Bearer"
    if error.status == 415:  # of a body's encoding: what is taken instead
        own["Accept-Encoding"] = "identity"
    if error.code == "budget_exhausted":  # no wait helps: the SDKs of both dialects do not retry then
        own["X-Should-Retry"] = "false"
    elif error.retry_after or error.status == 429:
        own["Retry-After"] = str(math.ceil(error.retry_after or 1))
    return JSONResponse(content, error.status, own)


def install(app: FastAPI) -> None:
    """Answer every exception of a route with an error body."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, HerdError)
        if error.code in ("store", "store_unavailable"):  # the driver's words name the database's address
            log.warning("%s", error)
            plain = str(error).partition(" (")[0]
            error = HerdError(plain, status=error.status, code=error.code)
        return response(error, request.scope)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status, message = error.status_code, str(error.detail)
        if status == 404:
            message = f"no page or route {request.url.path!r:.200}"
        elif status == 405:
            message = f"{request.method} is not a method of {request.url.path!r:.200}"
        code = CODES.get(status, "invalid_request")
        answer = response(HerdError(message, status=status, code=code), request.scope)
        answer.headers.update(error.headers or {})
        return answer

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return response(ProtocolError(f"{name}: {first['msg']}", name), request.scope)

    app.add_exception_handler(HerdError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
