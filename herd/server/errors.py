"""What goes wrong, as the dialect's error body; nothing that a caller sends becomes a 5xx or a traceback."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from herd.errors import HerdError
from herd.protocol import Failed, ProtocolError

log = logging.getLogger("herd.server")

# `type` of the OpenAI dialect, by status; the others are "invalid_request_error" below 500, "server_error" above.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A reply that is an error: `status`, and the fields of the body."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_request", param: str | None = None
    ):
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param

    @classmethod
    def of(cls, error: HerdError | ProtocolError | Failed) -> "ApiError":
        message = error.message if isinstance(error, Failed) else str(error)
        param = error.param if isinstance(error, ProtocolError) else None
        return cls(message, status=error.status, code=error.code or "invalid_request", param=param)

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status)
        return JSONResponse(self.body(), self.status, headers)


def install(app: FastAPI) -> None:
    """Answer every exception of a route with an error body."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, HerdError | ProtocolError)
        return ApiError.of(error).response()

    async def api(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no page or route {request.url.path!r:.200}"
        elif error.status_code == 405:
            message = f"{request.method} is not a method of {request.url.path!r:.200}"
        response = ApiError(
            message, status=error.status_code, code=message_code(error.status_code)
        ).response()
        response.headers.update(error.headers or {})
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return ApiError(f"{name}: {first['msg']}", param=name).response()

    for kind, handler in ((HerdError, known), (ProtocolError, known), (ApiError, api)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def message_code(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
