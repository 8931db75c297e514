"""The door: every request passes here first, and every reply leaves with its id and security headers."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from herd.errors import HerdError
from herd.gateway.keys import Keys, Principal
from herd.server import access
from herd.server.errors import response, speaks_anthropic
from herd.server.settings import Settings

log = logging.getLogger("herd.access")

COOKIE = "herd_key"
REPLIES = frozenset(
    f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses", "messages")
)
MAX_HEADERS, HEADER_BYTES = 100, 32 * 1024
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
CORS_HEADERS = frozenset(
    {"authorization", "content-type", "x-api-key", "x-request-id", "x-herd-conversation"}
)
CORS_PREFIXES = ("x-stainless-", "anthropic-")  # what clients add; a browser asks for each by name
CORS_SHOWN = ", ".join(
    "Request-Id X-Request-Id Retry-After X-Herd-Generation X-Herd-Target X-Herd-Dropped X-Herd-Attempts".split()
)


class Door:
    """Request id, Host, Origin, key and its scopes, CORS, security headers, access log: all that needs no body.

    `observe(method, route, status, seconds)` is called once for each request. `full(principal)` is the error where
    there is no place for a reply: an overload must cost little, and what comes behind this door costs most.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        observe: Callable[[str, str, int, float], None],
        full: Callable[[Principal], HerdError | None],
    ) -> None:
        self.settings, self.keys, self.observe, self.full = settings, keys, observe, full

    def answer(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; that is all there is to do about it then.

        For others the scope's state has `request_id`, `headers`, which every reply gets, and `principal`, except where
        no key is needed.
        """
        began = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        id = _request_id(headers.get("x-request-id", ""))
        extra = {**SECURITY_HEADERS, "X-Request-Id": id, **self._cors(headers)}
        if speaks_anthropic(scope):
            extra["Request-Id"] = id
        scope.setdefault("state", {}).update(request_id=id, headers=extra)
        try:
            refused = self._refusal(scope, headers)
        except Exception:
            refused = failed(id)
        if refused is None and scope["method"] != "OPTIONS":
            return None
        answer = response(refused, scope, extra) if refused else Response(status_code=204, headers=extra)
        self.close(scope, answer.status_code, began)
        return answer

    def close(self, scope: Scope, status: int, began: float) -> None:
        """Count a request that has its answer, and put it into the log."""
        seconds, method, path = time.perf_counter() - began, scope["method"], scope["path"]
        route: str = path if path in REPLIES else getattr(scope.get("route"), "path", "unmatched")
        self.note(method, route, status, seconds, scope["state"]["request_id"])

    def note(self, method: str, route: str, status: int, seconds: float, id: str) -> None:
        """The same, of what may not even have been a request."""
        self.observe(method, route, status, seconds)
        level = logging.WARNING if status >= 500 and route != "/ready" else logging.INFO
        log.log(level, "%s %s %d %.0f ms %s", method, route, status, seconds * 1000, id)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> HerdError | None:
        host, path = headers.get("host", ""), scope["path"]
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"])
        if len(scope["headers"]) > MAX_HEADERS or size > HEADER_BYTES:
            message = f"the request has over {MAX_HEADERS} headers, or {HEADER_BYTES >> 10} KiB of them"
            return HerdError(message, status=431, code="headers_too_large")
        if not self.settings.serves_host(host):
            message = f"this server is not {host!r:.100}; to serve that name, set HERD_HOSTS"
            return HerdError(message, status=421, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and not self.settings.allows_origin(origin, host):
            message = f"pages at {origin!r:.100} may not call this server; to let them, set HERD_ORIGINS"
            return HerdError(message, status=403, code="wrong_origin")
        if "\0" in path:
            return HerdError("a path has no NUL byte")
        if access.is_open(scope["method"], path):
            return None
        principal = self._principal(scope, headers)
        if principal is None:
            header = "x-api-key: <key>" if speaks_anthropic(scope) else "Authorization: Bearer <key>"
            message = f"this server asks for a key, one that is known and in force: send the header {header}"
            return HerdError(message, status=401, code="invalid_api_key")
        scope["state"]["principal"] = principal
        if refused := access.refusal(principal, scope["method"], path):
            return refused
        return self.full(principal) if path in REPLIES and scope["method"] == "POST" else None

    def _principal(self, scope: Scope, headers: Mapping[str, str]) -> Principal | None:
        """Whose key the request brings; if it brings none, whom the server lets in without one."""
        scheme, _, word = headers.get("authorization", "").partition(" ")
        given = [word.strip()] if scheme.lower() == "bearer" else []
        given += [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-api-key"]
        for secret in given:
            if found := self.keys.find(secret):
                return found
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie and (found := self.keys.find_cookie(cookie.value)):
            return found
        return None if given else self.keys.find("")

    def _cors(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        origin = headers.get("origin")
        if origin is None or not self.settings.allows_origin(origin, headers.get("host", "")):
            return {}
        asked = headers.get("access-control-request-headers", "").lower().replace(",", " ").split()
        allowed = [name for name in asked if name in CORS_HEADERS or name.startswith(CORS_PREFIXES)]
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
            "Access-Control-Allow-Headers": ", ".join(allowed or sorted(CORS_HEADERS)),
            "Access-Control-Expose-Headers": CORS_SHOWN,
            "Vary": "Origin",
        }


class Guard:
    """ASGI middleware: the door, where the connection has not asked there yet, and errors that nobody has caught."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "request_id" not in scope.get("state", {}) and (refused := self.door.answer(scope)):
            await refused(scope, receive, send)
            return
        began, status, began_reply = time.perf_counter(), 500, False

        async def send_out(message: Message) -> None:
            nonlocal status, began_reply
            if message["type"] == "http.response.start":
                status, began_reply = message["status"], True
                out = MutableHeaders(scope=message)
                for name, value in scope["state"]["headers"].items():
                    out.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_out)
        except ClientDisconnect:  # in the middle of its body: there is nobody to answer
            status = 499
        except Exception:
            error = failed(scope["state"]["request_id"])
            if began_reply:
                raise
            await response(error, scope)(scope, receive, send_out)
        finally:
            self.door.close(scope, status, began)


def failed(id: str) -> HerdError:
    """For the caller of a request that has met an error of ours, which is put into the log."""
    log.exception("request %s failed", id)
    return HerdError(f"an error in Herd; its log has it as {id}", status=500, code="internal_error")


def _request_id(given: str) -> str:
    """The caller's own id if it is a plain word, else a new one."""
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum() and len(given) <= 64
    return given if plain else new_request_id()


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"
