"""Reading a request's JSON body: bounded while it is read, and refused with a reason when it is not JSON."""

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from herd.errors import HerdError
from herd.nearest import nearest
from herd.protocol import ProtocolError
from herd.protocol.fields import Field
from herd.server.settings import MAX_BODY

BODY_SECONDS = 30.0
LEAVING = 3  # rounds of the loop after which a client is known to have left that did so behind its request
LONG_BODY = 128 * 1024
MAX_DROPPED = 16 * MAX_BODY
MAX_DEPTH = 64
NUMBER = (int, float)
MAX_INT = 2**63 - 1
T = TypeVar("T")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read(request: Request) -> bytes:
    """The body. Raises HerdError 413 if it is over MAX_BODY, 408 if it is slow, 415 if it is compressed; ClientDisconnect
    if nobody waits for an answer.

    A body that is somewhat too large is read to its end and dropped, since a client that is still sending when the
    connection closes sees a reset instead of the answer.
    """
    refuse_encoded(request)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MAX_DROPPED:
        raise _too_large()
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_DROPPED:
                    break
                if size <= MAX_BODY:
                    body += chunk
    except TimeoutError:
        message = f"the body did not come within {BODY_SECONDS:g} seconds"
        raise HerdError(message, status=408, code="request_timeout") from None
    if size > MAX_BODY:
        raise _too_large()
    for _ in range(LEAVING):
        await asyncio.sleep(0)
    if await request.is_disconnected():
        raise ClientDisconnect
    return bytes(body)


def refuse_encoded(request: Request) -> None:
    """Raises HerdError 415 for a body that is not sent as it is: a small one may unpack to any size."""
    for encoding in ",".join(request.headers.getlist("content-encoding")).split(","):
        if encoding.strip().lower() not in ("", "identity"):
            message = f"the body has the Content-Encoding {encoding.strip()!r:.40}: send it as it is, without that header"
            raise HerdError(message, status=415, code="unsupported_encoding")


async def read_as(
    request: Request, decode: Callable[[dict[str, Any]], T], admit: Callable[[], None] = lambda: None
) -> T:
    """What `decode` makes of the JSON object in the body. Raises HerdError 400, 413 or 415, and what `decode` raises.

    `admit` may raise before the body is looked at. A long body is decoded in a thread: it can take a second, in which
    other replies go on.
    """
    data = await _read_json(request)
    admit()
    if len(data) < LONG_BODY:
        return decode(parse_object(data))
    return await asyncio.to_thread(lambda: decode(parse_object(data)))


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises HerdError 400, 413 or 415."""
    return await read_as(request, lambda value: value)


async def _read_json(request: Request) -> bytes:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HerdError("send the header Content-Type: application/json", code="wrong_content_type")
    return await read(request)


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object as RFC 8259 has it: UTF-8, finite numbers, whole characters, at most MAX_DEPTH levels."""
    try:
        value = json.loads(
            body.decode(), parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _bad(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _bad(f"the body is not JSON: {error}") from None
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = (part for v in level for part in (v.values() if isinstance(v, dict) else v))
        level = [part for part in inner if isinstance(part, dict | list | _TooLarge)]
        if any(isinstance(part, _TooLarge) for part in level):
            raise _too_large_number(value)
    if level:
        raise _bad(f"the body is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(value, dict):
        raise _bad("the body must be a JSON object")
    if _SURROGATE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _bad("the body has half a surrogate pair, which is no character") from None
    return value


class Fields:
    """A dependency: the body as an object that has these fields, each of its type or null, and all of `need`.

    Null is as good as absent, except with `nulls`. Raises ProtocolError naming the field, and the nearest known one for
    an unknown one.
    """

    def __init__(self, *need: str, nulls: bool = False, **types: type | tuple[type, ...]) -> None:
        self.need, self.nulls, self.types = need, nulls, types

    async def __call__(self, request: Request) -> dict[str, Any]:
        given = await read_object(request)
        for name, value in given.items():
            if name not in self.types:
                near = nearest(name[:100], self.types)
                hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(self.types)}"
                raise ProtocolError(f"unknown field {name!r:.100}{hint}", name, "unknown_field")
            wrong_bool = isinstance(value, bool) and self.types[name] is not bool
            if value is not None and (wrong_bool or not isinstance(value, self.types[name])):
                raise ProtocolError(f"{name} has the wrong type", name)
        for name in self.need:
            if given.get(name) is None:
                raise ProtocolError(f"{name} is missing", name)
        return {name: value for name, value in given.items() if self.nulls or value is not None}

    @property
    def description(self) -> dict[str, Any]:
        types = {str: "string", int: "integer", dict: "object", list: "array", NUMBER: "number"}
        return _body({name: {"type": [types[kind], "null"]} for name, kind in self.types.items()}, self.need)


def described(table: Mapping[str, Field], *need: str) -> dict[str, Any]:
    """A dialect's body for OpenAPI: the names of its fields, and how each is treated."""
    return {
        "requestBody": _body({name: {"description": field.treatment} for name, field in table.items()}, need)
    }


def _body(properties: dict[str, Any], need: tuple[str, ...]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(need),
        "additionalProperties": False,
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`; else ProtocolError."""
    if value not in choices:
        raise ProtocolError(f"{name} must be one of {', '.join(choices)}", name)
    return str(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class _TooLarge(str):
    """A number, as it was written."""


def _integer(text: str) -> int | _TooLarge:
    value = int(text) if len(text) <= 20 else MAX_INT + 1
    return value if -MAX_INT - 1 <= value <= MAX_INT else _TooLarge(text)


def _finite(text: str) -> float | _TooLarge:
    value = float(text)
    return value if math.isfinite(value) else _TooLarge(text)


def _too_large_number(whole: Any) -> ProtocolError:
    """The error for the first number that is too large: it names the field behind which that stands, alone or in lists."""
    level: list[tuple[str | None, Any]] = [(None, whole)]
    while not (found := [(name, part) for name, part in level if isinstance(part, _TooLarge)]):
        level = [
            (own, inner)
            for name, part in level
            if isinstance(part, dict | list)
            for own, inner in (part.items() if isinstance(part, dict) else ((name, one) for one in part))
        ]
    name, text = found[0]
    name = name[:100] if name and name.isprintable() else None
    message = f"{text:.40} is too large a number"
    return ProtocolError(f"{name}: {message}" if name else message, name, "invalid_json")


def _bad(message: str) -> HerdError:
    return HerdError(message, code="invalid_json")


def _too_large() -> HerdError:
    return HerdError(f"the body is over {MAX_BODY >> 20} MiB", status=413, code="body_too_large")
