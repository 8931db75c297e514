"""What the dialects share on the provider's side: its errors, and readers of replies that trust nothing."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any
from uuid import uuid4

from herd.protocol.anthropic_reply import ERROR_TYPES
from herd.protocol.calls import arguments
from herd.protocol.types import (
    Called,
    FinishReason,
    Message,
    ProtocolError,
    Request,
    Sampling,
    Tool,
    ToolCall,
    Usage,
)

MAX_MESSAGE = 500  # characters of a provider's error that are shown
MAX_TOKENS = (
    10**8
)  # of a prompt or a reply: what is more is no count, and its price would pass what a ledger holds
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_WAIT = 86_400.0  # seconds; nobody is left alone for longer
_GONE = {"insufficient_quota", "billing_error", "billing_hard_limit_reached", "credit_balance_too_low"}
_KINDS = {  # of error events, which come without a status
    **{kind: status for status, kind in ERROR_TYPES.items()},
    "invalid_request_error": 400,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
}


class ErrorEvent(ValueError):
    """A reply that ends with an error of the provider; `told` is what `decode_error` makes of it."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["message"])
        self.told = told


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """What an error reply says, in whatever dialect.

    `message`, `code`, `param` (None: no field is named); `status`: what our caller gets if nobody else can answer;
    `retryable`: the same provider may answer later; `elsewhere`: another one may; `retry_after`: seconds, or None.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    error = told.get("error", told) if isinstance(told, dict) else None
    return _error(status, error, retry_after(headers))


def error_event(error: Any, told: Mapping[str, Any]) -> ErrorEvent:
    """`error`: what a body or an event has under that name; `told`: the whole of it."""
    about = error if isinstance(error, dict) else {}
    number = next(
        (n for n in (about.get("code"), about.get("status"), told.get("status")) if type(n) is int), 0
    )
    kinds = (about.get("code"), about.get("type"))
    status = number or next((_KINDS[k] for k in kinds if isinstance(k, str) and k in _KINDS), 500)
    return ErrorEvent(_error(status, error, retry_after(about)))


def _error(status: int, error: Any, wait: float | None) -> dict[str, Any]:
    about = error if isinstance(error, dict) else {"message": error}
    details = about.get("details")
    named = details.get("error_code") if isinstance(details, dict) else None
    codes = [c for c in (about.get("code"), named, about.get("type")) if isinstance(c, str) and c]
    code = (
        "upstream_key" if status in (401, 403) else (*codes, "upstream_error")[0]
    )  # a key is not the caller's
    # One that is wrong or spent is nothing that our caller can mend.
    gone = not _GONE.isdisjoint(codes) or status in (401, 402, 403)
    busy = status in (408, 409, 425, 429) or status >= 500
    ours = 429 if status == 429 else 504 if status in (408, 504) else 503 if status in (503, 529) else 502
    message, param = about.get("message"), about.get("param")
    text = message if isinstance(message, str) and message.strip() else f"it answered with status {status}"
    return {
        "message": " ".join(text[: 2 * MAX_MESSAGE].split())[:MAX_MESSAGE],
        "code": code[:100],
        "param": param[:200] if isinstance(param, str) else None,
        "status": 503 if gone else ours if busy or not 400 <= status < 500 else status,
        "retryable": busy and not gone,
        "elsewhere": busy or gone or status == 404,
        "retry_after": wait,
    }


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds to wait, by "retry-after-ms" or "retry-after": seconds or a date. None if neither says so clearly."""
    given = {name.lower(): str(value) for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        wait: float = _seconds(given.get(name, "")) * unit
        if math.isfinite(wait):
            return min(max(wait, 0.0), MAX_WAIT)
    return None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return math.nan


def read(data: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """A payload as an object, where U+FFFD stands for half a character. Raises ValueError."""
    if isinstance(data, str | bytes):
        try:
            text = data.decode() if isinstance(data, bytes) else data
            data = json.loads(text)
            if _SURROGATE.search(text):  # half a pair could not be written to anybody
                plain = json.dumps(data, ensure_ascii=False).encode("utf-16", "surrogatepass")
                data = json.loads(plain.decode("utf-16", "replace"))
        except (ValueError, RecursionError):
            raise ValueError("the provider sent malformed JSON") from None
    whole: Mapping[str, Any] = part({"reply": data}, "reply", dict)
    return whole


def part(given: Mapping[str, Any], name: str, kind: type[Any], default: Any = None) -> Any:
    """`given[name]`, of type `kind`; `default` if it is null or not there. Raises ValueError."""
    value: Any = given.get(name)
    if value is None and default is not None:
        return default
    if kind is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        # Not what it sent: an error is logged, and what is said to a model is not.
        raise ValueError(f"the provider sent {name!r} as {type(value).__name__}, not as {kind.__name__}")
    return value


def parts(
    given: Mapping[str, Any], name: str, each: str, default: Any = None, kind: type[Any] = dict
) -> list[Any]:
    """The items of the list `given[name]`, of type `kind`; `each`: how one is called. Raises ValueError."""
    return [part({each: item}, each, kind) for item in part(given, name, list, default)]


def count(given: Mapping[str, Any], name: str) -> int:
    """A number of tokens, 0 if it is not said. Raises ValueError."""
    value: int = part(given, name, int, 0)
    if not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"the provider sent a number of tokens, {name!r}, that none can be")
    return value


@dataclass
class Asking:
    """A tool call that comes in pieces."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    def called(self, index: int) -> Called | None:
        """The whole call; None if its arguments are not the JSON text of an object. Raises ValueError."""
        if not self.name:
            raise ValueError("the provider called a tool without a name")
        try:
            text = arguments("".join(self.pieces).strip(), "arguments")
        except ProtocolError:
            return None
        return Called(index, ToolCall(self.id or f"call_{uuid4().hex}", self.name, text))


def ended(reasons: Mapping[str, FinishReason], told: str, calls: Sequence[Called | None]) -> FinishReason:
    """Why a reply ended that made the `calls`: None is one that is no JSON. Raises ValueError."""
    if told not in reasons:
        raise ValueError(f"the provider ended its reply for the reason {told!r:.60}")
    reason = reasons[told]
    if None in calls and (reason != "length" or None in calls[:-1]):  # the limit may cut the last one off
        raise ValueError("the provider called a tool with arguments that are no JSON object")
    if reason == "tool_calls" and not any(calls):
        raise ValueError("the provider ended its reply to call a tool, and called none")
    return reason


def input_tokens(request: Request, characters: int) -> int:
    """About how many tokens there are in what is to be completed or embedded, at so many characters each."""
    inputs = (request.prompt, *request.more)
    return sum(-(-len(one) // characters) if isinstance(one, str) else len(one) for one in inputs)


def prompt_guess(request: Request) -> int:
    """About how many tokens the prompt has: four characters each."""
    if request.kind == "embedding" or not isinstance(request.prompt, str):
        return input_tokens(request, 4)
    said = sum(len(m.content) + sum(len(c.arguments) for c in m.tool_calls) for m in request.messages)
    tools = sum(len(t.name) + len(t.description) + len(json.dumps(t.parameters)) for t in request.tools)
    return -(-(len(request.prompt) + said + tools) // 4)


def guess(request: Request, characters: int) -> Usage:
    return Usage(prompt_guess(request), -(-characters // 4), estimated=True)


def set_sampling(request: Request) -> dict[str, Any]:
    """The fields of the request's sampling that were set, by its caller or its target."""
    set_here = request.explicit | steering(request, Sampling.__dataclass_fields__)
    return {n: getattr(request.sampling, n) for n in Sampling.__dataclass_fields__ if n in set_here}


def steering(request: Request, names: Collection[str]) -> set[str]:
    """Those of the sampling's `names` that are not at their defaults, which any provider may leave out."""
    default = Sampling()
    return {name for name in names if getattr(request.sampling, name) != getattr(default, name)}


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def about(tool: Tool, **schema: Any) -> dict[str, Any]:
    return {**present({"name": tool.name, "description": tool.description or None}), **schema}


def pieces(message: Message) -> list[Any]:
    """The message's content in order: texts (str, none empty) and images."""
    found: list[Any] = []
    at = 0
    for image in sorted(message.images, key=lambda image: image.at):
        found += [message.content[at : image.at], image]
        at = max(at, image.at)
    return [piece for piece in (*found, message.content[at:]) if piece != ""]


def extra(request: Request, own: Sequence[str], whole: bool) -> dict[str, str]:
    """The foreign fields that a provider of the dialects `own` cannot be told, with the reason.

    `whole`: the caller's own body goes to it as it is.
    """
    if request.dialect in own:
        lost = {} if whole else {path for path in request.extra if "[" in path}
        return dict.fromkeys(
            lost, "is passed on only where the target adds nothing to the request: leave it out"
        )
    return dict.fromkeys(request.extra, "is unknown to this target's provider: leave it out")


def put_extra(body: dict[str, Any], request: Request, own: Sequence[str]) -> dict[str, Any]:
    """`body` with the foreign fields of the caller, who speaks the provider's dialect."""
    if request.dialect in own:
        for path, value in request.extra.items():
            *above, name = path.split(".")
            place = body
            for step in above:
                place = place.setdefault(step, {})
            place[name] = value
    return body
