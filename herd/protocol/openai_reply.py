"""Replies of the OpenAI dialect: events as whole responses, or one by one as the chunks of a stream."""

import base64
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from herd.errors import HerdError
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
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class _Stream(ABC):
    """What the two kinds of stream share. `fingerprint`: of what answers, the same as long as it is the same."""

    kind: str

    def __init__(self, request: Request, id: str, created: int, fingerprint: str | None = None) -> None:
        self.request = request
        self.head = _head(request, id, created, self.kind, fingerprint)

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The chunks for one event, none to a few."""
        match event:
            case Usage() if self.request.include_usage:
                return [{**self.head, "choices": [], "usage": _usage(event)}]
            case Failed():
                return [encode_error(event)]
        return [self._chunk(**choice) for choice in self._choices(event)]

    @abstractmethod
    def _choices(self, event: Event) -> list[dict[str, Any]]:
        """What an event says of choices, each as arguments of `_chunk`."""

    def _chunk(self, index: int, finish: str | None = None, **content: Any) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **content, "finish_reason": finish}
        # When the usage is asked for, it is null in every chunk but the last.
        return {**self.head, "choices": [choice], **({"usage": None} if self.request.include_usage else {})}


class ChatStream(_Stream):
    """The chunks of a chat completion: the role, deltas, whole tool calls, finish reasons, and the usage if it was
    asked for."""

    kind = "chat.completion.chunk"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.calls: Counter[int] = Counter()

    def _choices(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Started():
                first = {"role": "assistant", "content": None if self.request.tools else "", "refusal": None}
                return [{"index": index, "delta": first} for index in range(self.request.n)]
            case Delta(index, text, logprobs=logprobs) if text or logprobs:
                scores = _chat_logprobs(logprobs) if logprobs else None
                return [{"index": index, "delta": {"content": text}, "logprobs": scores}]
            case Reasoned(index, text) if text:
                return [{"index": index, "delta": {"reasoning_content": text}}]
            case Called(index, call):
                self.calls[index] += 1
                delta = {"tool_calls": [{"index": self.calls[index] - 1, **encode_call(call)}]}
                return [{"index": index, "delta": delta}]
            case Finished(index, reason):
                return [{"index": index, "delta": {}, "finish": _finish(reason)}]
        return []


class CompletionStream(_Stream):
    """The chunks of a text completion; a prompt to be echoed comes as the first delta of its choice."""

    kind = "text_completion"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.offsets: Counter[int] = Counter()

    def _choices(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Delta(index, text, logprobs=logprobs) if text or logprobs:
                scores = _completion_logprobs(logprobs, self.offsets[index]) if logprobs else None
                self.offsets[index] += sum(len(item.token) for item in logprobs)
                return [{"index": index, "text": text, "logprobs": scores}]
            case Finished(index, reason):
                return [{"index": index, "text": "", "finish": _finish(reason)}]
        return []


def encode_chat(
    request: Request, events: Iterable[Event], id: str, created: int, fingerprint: str | None = None
) -> dict[str, Any]:
    """The whole chat completion. Raises ValueError if the events are not those of a complete reply."""
    head = _head(request, id, created, "chat.completion", fingerprint)
    return _whole(request, events, head, lambda c: {"message": _message(c)}, _chat_logprobs)


def encode_completion(
    request: Request, events: Iterable[Event], id: str, created: int, fingerprint: str | None = None
) -> dict[str, Any]:
    """The whole text completion. Raises ValueError if the events are not those of a complete reply."""
    head = _head(request, id, created, "text_completion", fingerprint)
    return _whole(
        request, events, head, lambda c: {"text": c.text}, lambda scores: _completion_logprobs(scores, 0)
    )


def _whole(
    request: Request,
    events: Iterable[Event],
    head: dict[str, Any],
    said: "Callable[[Choice], dict[str, Any]]",
    scores: Callable[[Iterable[TokenLogprob]], dict[str, Any]],
) -> dict[str, Any]:
    found, usage = _collect(request, events)
    scored = request.sampling.logprobs is not None
    choices = [
        {"index": i, **said(c), "logprobs": scores(c.logprobs) if scored else None, "finish_reason": c.finish}
        for i, c in enumerate(found)
    ]
    return {**head, "choices": choices, "usage": usage}


def encode_embeddings(
    route: str, events: Iterable[Event], *, binary: bool = False, dimensions: int | None = None
) -> dict[str, Any]:
    """The vectors in the order of the inputs; `binary`: little-endian floats of 32 bits as base64.

    Raises ProtocolError if they are not of `dimensions` numbers, ValueError if the reply failed or is not complete.
    """
    vectors, usage = {}, None
    for event in events:
        match event:
            case Embedded(index, vector):
                if dimensions not in (None, len(vector)):
                    message = f"dimensions must be {len(vector)}, as this model's vectors are, or left out"
                    raise ProtocolError(message, "dimensions", "unsupported_field")
                packed = (
                    base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if binary else None
                )
                vectors[index] = packed or list(vector)
            case Usage(prompt_tokens):
                usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
            case Failed(message):
                raise ValueError(f"the reply failed: {message}")
    if usage is None:
        raise ValueError("the reply is not complete")
    data = [{"object": "embedding", "index": i, "embedding": vectors[i]} for i in sorted(vectors)]
    return {"object": "list", "data": data, "model": route, "usage": usage}


def encode_error(error: HerdError | Failed) -> dict[str, Any]:
    """The error body of the dialect."""
    kind = ERROR_TYPES.get(error.status)
    kind = kind or ("invalid_request_error" if error.status < 500 else "server_error")
    message = error.message if isinstance(error, Failed) else str(error)
    param = error.param if isinstance(error, ProtocolError) else None
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def encode_models(routes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The list of models; each of `routes` has "id" and "created" (unix seconds)."""
    models = [{"id": r["id"], "object": "model", "created": r["created"], "owned_by": "herd"} for r in routes]
    return {"object": "list", "data": models}


@dataclass
class Choice:
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


def _collect(request: Request, events: Iterable[Event]) -> tuple[list[Choice], dict[str, Any]]:
    """What came of each choice; and the usage."""
    choices = [Choice() for _ in range(request.n)]
    usage = None
    for event in events:
        match event:
            case Delta(index, text, logprobs=logprobs):
                choices[index].texts.append(text)
                choices[index].logprobs.extend(logprobs)
            case Reasoned(index, text):
                choices[index].thoughts.append(text)
            case Called(index, call):
                choices[index].calls.append(call)
            case Finished(index, reason):
                choices[index].finish = _finish(reason)
            case Usage():
                usage = _usage(event)
            case Failed(message):
                raise ValueError(f"the reply failed: {message}")
    if usage is None or not all(choice.finish for choice in choices):
        raise ValueError("the reply is not complete")
    return choices, usage


def _head(request: Request, id: str, created: int, kind: str, fingerprint: str | None) -> dict[str, Any]:
    head = {"id": id, "object": kind, "created": created, "model": request.route}
    tier = {"service_tier": "default"} if "service_tier" in request.labels else {}
    return {**head, **tier, "system_fingerprint": fingerprint}


def _message(choice: Choice) -> dict[str, Any]:
    said: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text or (None if choice.calls else ""),
        "refusal": None,
    }
    if choice.thoughts:
        said["reasoning_content"] = "".join(choice.thoughts)
    if choice.calls:
        said["tool_calls"] = [encode_call(call) for call in choice.calls]
    return said


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


def _chat_logprobs(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    return {"content": [chat_logprob(item) for item in logprobs], "refusal": None}


def chat_logprob(item: TokenLogprob) -> dict[str, Any]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.token, "bytes": list(item.bytes), "logprob": max(item.logprob, LOWEST)}

    return {**one(item), "top_logprobs": [one(other) for other in item.top]}


def _completion_logprobs(logprobs: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """`offset`: characters of the choice's text before the first of these tokens."""
    items, offsets = list(logprobs), []
    for item in items:
        offsets.append(offset)
        offset += len(item.token)
    return {
        "tokens": [item.token for item in items],
        "token_logprobs": [None if _unscored(item) else max(item.logprob, LOWEST) for item in items],
        "top_logprobs": [
            None
            if _unscored(item)
            else {other.token: max(other.logprob, LOWEST) for other in (*reversed(item.top), item)}
            for item in items
        ],
        "text_offset": offsets,
    }


def _unscored(item: TokenLogprob) -> bool:
    """Whether nothing predicted the token: it is a prompt's first."""
    return item.logprob == LOWEST and not item.top
