"""Replies of the OpenAI dialect: events as whole responses, or one by one as the chunks of a stream."""

import base64
import codecs
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from herd.errors import HerdError
from herd.protocol.replies import ERROR_TYPES, collect, describe, finished
from herd.protocol.types import (
    Called,
    Delta,
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    ProtocolError,
    Reasoned,
    Request,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)

LOWEST = -9999.0  # JSON has no infinity


class CompletionStream:
    """The chunks of a chat completion: the role, deltas, whole tool calls, finish reasons, and the usage if it was
    asked for; or of a text completion, where a prompt to be echoed comes as the first delta of its choice.

    `fingerprint`: of what answers, the same as long as it is the same.
    """

    def __init__(self, request: Request, id: str, created: int, fingerprint: str | None = None) -> None:
        self.request, self.chat = request, request.kind == "chat"
        self.head = _head(request, id, created, fingerprint, ".chunk")
        self.calls: Counter[int] = Counter()
        self.offsets: defaultdict[int, _Offsets] = defaultdict(_Offsets)

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The chunks for one event, none to a few."""
        match event:
            case Started() if self.chat:
                first = {"role": "assistant", "content": None if self.request.tools else "", "refusal": None}
                return [self._chunk(index, first) for index in range(self.request.n)]
            case Delta(index, text, logprobs=logprobs) if text or logprobs:
                scores = _logprobs(self.request, logprobs, self.offsets[index]) if logprobs else None
                return [self._chunk(index, {"content": text}, scores)]
            case Reasoned(index, text) if text and self.chat:
                return [self._chunk(index, {"reasoning_content": text})]
            case Called(index, call) if self.chat:
                told = {"index": self.calls[index], **encode_call(call)}
                self.calls[index] += 1
                return [self._chunk(index, {"tool_calls": [told]})]
            case Finished(index, reason):
                return [self._chunk(index, {}, finish=_finish(reason))]
            case Usage() if self.request.include_usage:
                return [{**self.head, "choices": [], "usage": _usage(event)}]
            case Failed():
                return [encode_error(event)]
        return []

    def _chunk(
        self, index: int, delta: dict[str, Any], scores: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        said = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, "logprobs": scores, **said, "finish_reason": finish}
        # When the usage is asked for, it is null in every chunk but the last.
        return {**self.head, "choices": [choice], **({"usage": None} if self.request.include_usage else {})}


def encode_completion(
    request: Request, events: Iterable[Event], id: str, created: int, fingerprint: str | None = None
) -> dict[str, Any]:
    """The whole chat or text completion. Raises ValueError if the events are not those of a complete reply."""
    said, usage = collect(events)
    choices = [{"index": index, **_choice(request, said[index])} for index in range(request.n)]
    return {**_head(request, id, created, fingerprint), "choices": choices, "usage": _usage(usage)}


def _choice(request: Request, said: list[Event]) -> dict[str, Any]:
    deltas = [event for event in said if isinstance(event, Delta)]
    thoughts = [event.text for event in said if isinstance(event, Reasoned)]
    calls = [encode_call(event.call) for event in said if isinstance(event, Called)]
    logprobs = [item for delta in deltas for item in delta.logprobs]
    scores = None if request.sampling.logprobs is None else _logprobs(request, logprobs, _Offsets())
    text = "".join(delta.text for delta in deltas)
    whole: dict[str, Any] = {"text": text}
    if request.kind == "chat":
        thought = {"reasoning_content": "".join(thoughts)} if thoughts else {}
        called = {"tool_calls": calls} if calls else {}
        content = text or (None if calls else "")
        whole = {"message": {"role": "assistant", "content": content, "refusal": None, **thought, **called}}
    return {**whole, "logprobs": scores, "finish_reason": _finish(finished(said).reason)}


def encode_embeddings(
    route: str, events: Iterable[Event], *, binary: bool = False, dimensions: int | None = None
) -> dict[str, Any]:
    """The vectors in the order of the inputs; `binary`: little-endian floats of 32 bits as base64.

    Raises ProtocolError if they are not of `dimensions` numbers, ValueError if the reply failed or is not complete.
    """
    said, used = collect(events)
    data = []
    for index in sorted(said):
        for vector in [event.vector for event in said[index] if isinstance(event, Embedded)]:
            if dimensions not in (None, len(vector)):
                message = f"dimensions must be {len(vector)}, as this model's vectors are, or left out"
                raise ProtocolError(message, "dimensions", "unsupported_field")
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if binary else None
            data.append({"object": "embedding", "index": index, "embedding": packed or list(vector)})
    usage = {"prompt_tokens": used.prompt_tokens, "total_tokens": used.prompt_tokens}
    return {"object": "list", "data": data, "model": route, "usage": usage}


def encode_error(error: HerdError | Failed) -> dict[str, Any]:
    """The error body of the dialect."""
    kind, message = describe(error, ERROR_TYPES, "server_error")
    param = getattr(error, "param", None)
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


LAST = 253_402_300_799  # the end of the year 9999, in unix seconds


def encode_models(routes: Iterable[Mapping[str, Any]], more: bool = False) -> dict[str, Any]:
    """The list of models, for clients of OpenAI and of Anthropic; each of `routes` has "id" and "created" (unix seconds).

    `more`: they are a page, and not the last.
    """
    models = [_model(r["id"], r["created"]) for r in routes]
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    return {"object": "list", "data": models, "has_more": more, "first_id": first, "last_id": last}


def _model(id: str, created: int) -> dict[str, Any]:
    seconds = min(max(created, 0), LAST)  # a provider may say anything
    made = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    anthropic = {"type": "model", "display_name": id, "created_at": made, "lifecycle": "active"}
    return {"id": id, "object": "model", "created": created, "owned_by": "herd", **anthropic}


def _head(
    request: Request, id: str, created: int, fingerprint: str | None, chunk: str = ""
) -> dict[str, Any]:
    kind = f"chat.completion{chunk}" if request.kind == "chat" else "text_completion"
    head = {"id": id, "object": kind, "created": created, "model": request.route}
    tier = {"service_tier": "default"} if "service_tier" in request.labels else {}
    return {**head, **tier, "system_fingerprint": fingerprint}


def encode_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _finish(reason: FinishReason) -> str:
    """The dialect knows no "cancelled" or "error": what was cut short is called so, never complete."""
    return reason if reason in ("stop", "tool_calls", "content_filter") else "length"


def _usage(event: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": event.cached_tokens,
            "cache_write_tokens": event.written_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": event.reasoning_tokens},
    }


class _Offsets:
    """At which character of a completion's text each token begins; one in which a character goes on, at that one."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def next(self, token: bytes) -> int:
        at = self._at
        self._at += len(self._decoder.decode(token))
        return at


def _logprobs(request: Request, items: Sequence[TokenLogprob], offsets: _Offsets) -> dict[str, Any]:
    if request.kind == "chat":
        return {"content": [chat_logprob(item) for item in items], "refusal": None}
    # Nothing predicted a prompt's first token.
    scored = [item if item.top or item.logprob != LOWEST else None for item in items]
    return {
        "tokens": [_spelled(item) for item in items],
        "token_logprobs": [item and max(item.logprob, LOWEST) for item in scored],
        "top_logprobs": [
            item and {_spelled(one): max(one.logprob, LOWEST) for one in (*reversed(item.top), item)}
            for item in scored
        ],
        "text_offset": [offsets.next(item.bytes) for item in items],
    }


def _spelled(item: TokenLogprob) -> str:
    """A token's text, or its bytes as OpenAI spells what is no text: as a key it must differ from others that are none."""
    try:
        return item.bytes.decode()
    except UnicodeDecodeError:
        return f"bytes:{str(item.bytes)[2:-1]}"


def chat_logprob(item: TokenLogprob) -> dict[str, Any]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.token, "bytes": list(item.bytes), "logprob": max(item.logprob, LOWEST)}

    return {**one(item), "top_logprobs": [one(other) for other in item.top]}
