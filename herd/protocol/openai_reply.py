"""Replies of the OpenAI dialect: events as whole responses, or one by one as the chunks of a stream."""

from collections.abc import Iterable, Mapping
from typing import Any

from herd.errors import HerdError
from herd.protocol.types import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    ProtocolError,
    Request,
    Started,
    TokenLogprob,
    Usage,
)

LOWEST = -9999.0  # JSON has no infinity
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ChatStream:
    """The chunks of a chat completion: the role, deltas, finish reasons, and the usage if it was asked for."""

    def __init__(self, request: Request, id: str, created: int) -> None:
        self.request, self.id, self.created = request, id, created

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The chunks for one event, none to a few."""
        match event:
            case Started():
                delta = {"role": "assistant", "content": "", "refusal": None}
                return [self._chunk(index, delta) for index in range(self.request.n)]
            case Delta(index, text, logprobs=logprobs) if text or logprobs:
                return [self._chunk(index, {"content": text}, logprobs)]
            case Finished(index, reason):
                return [self._chunk(index, {}, finish=_finish(reason))]
            case Usage() if self.request.include_usage:
                return [{**self._head(), "choices": [], "usage": _usage(event)}]
            case Failed():
                return [encode_error(event)]
        return []

    def _head(self) -> dict[str, Any]:
        return _head(self.request, self.id, self.created, "chat.completion.chunk")

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: tuple[TokenLogprob, ...] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        scores = _chat_logprobs(logprobs) if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return {**self._head(), "choices": [choice], **_no_usage(self.request)}


class CompletionStream:
    """The chunks of a text completion; a prompt to be echoed comes as the first delta."""

    def __init__(self, request: Request, id: str, created: int) -> None:
        self.request, self.id, self.created = request, id, created
        self.offsets = dict.fromkeys(range(request.n), 0)

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The chunks for one event, none to a few."""
        match event:
            case Delta(index, text, logprobs=logprobs) if text or logprobs:
                return [self._chunk(index, text, logprobs)]
            case Finished(index, reason):
                return [self._chunk(index, "", finish=_finish(reason))]
            case Usage() if self.request.include_usage:
                return [{**self._head(), "choices": [], "usage": _usage(event)}]
            case Failed():
                return [encode_error(event)]
        return []

    def _head(self) -> dict[str, Any]:
        return _head(self.request, self.id, self.created, "text_completion")

    def _chunk(
        self, index: int, text: str, logprobs: tuple[TokenLogprob, ...] = (), finish: str | None = None
    ) -> dict[str, Any]:
        scores = _completion_logprobs(logprobs, self.offsets[index]) if logprobs else None
        self.offsets[index] += sum(len(item.token) for item in logprobs)
        choice = {"index": index, "text": text, "logprobs": scores, "finish_reason": finish}
        return {**self._head(), "choices": [choice], **_no_usage(self.request)}


def encode_chat(request: Request, events: Iterable[Event], id: str, created: int) -> dict[str, Any]:
    """The whole chat completion. Raises ValueError if the events are not those of a complete reply."""
    choices, usage = _collect(request, events)
    return {
        **_head(request, id, created, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None if request.sampling.logprobs is None else _chat_logprobs(logprobs),
                "finish_reason": finish,
            }
            for index, (text, logprobs, finish) in enumerate(choices)
        ],
        "usage": usage,
    }


def encode_completion(request: Request, events: Iterable[Event], id: str, created: int) -> dict[str, Any]:
    """The whole text completion. Raises ValueError if the events are not those of a complete reply."""
    choices, usage = _collect(request, events)
    return {
        **_head(request, id, created, "text_completion"),
        "choices": [
            {
                "index": index,
                "text": text,
                "logprobs": None if request.sampling.logprobs is None else _completion_logprobs(logprobs, 0),
                "finish_reason": finish,
            }
            for index, (text, logprobs, finish) in enumerate(choices)
        ],
        "usage": usage,
    }


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


Choice = tuple[str, tuple[TokenLogprob, ...], str]


def _collect(request: Request, events: Iterable[Event]) -> tuple[list[Choice], dict[str, Any]]:
    """For each choice its text, logprobs and finish reason; and the usage."""
    texts: list[list[str]] = [[] for _ in range(request.n)]
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
    finish: dict[int, str] = {}
    usage = None
    for event in events:
        if isinstance(event, Delta):
            texts[event.index].append(event.text)
            logprobs[event.index].extend(event.logprobs)
        elif isinstance(event, Finished):
            finish[event.index] = _finish(event.reason)
        elif isinstance(event, Usage):
            usage = _usage(event)
        elif isinstance(event, Failed):
            raise ValueError(f"the reply failed: {event.message}")
    if len(finish) < request.n or usage is None:
        raise ValueError("the reply is not complete")
    return [("".join(texts[i]), tuple(logprobs[i]), finish[i]) for i in range(request.n)], usage


def _head(request: Request, id: str, created: int, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": created, "model": request.route}


def _finish(reason: FinishReason) -> str:
    """The dialect knows no "cancelled" or "error": what was cut short is called so, never complete."""
    return "stop" if reason == "stop" else "length"


def _usage(event: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
    }


def _no_usage(request: Request) -> dict[str, Any]:
    """When the usage is asked for, it is null in every chunk but the last."""
    return {"usage": None} if request.include_usage else {}


def _chat_logprobs(logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.token, "bytes": list(item.bytes), "logprob": max(item.logprob, LOWEST)}

    content = [{**one(item), "top_logprobs": [one(other) for other in item.top]} for item in logprobs]
    return {"content": content, "refusal": None}


def _completion_logprobs(logprobs: Iterable[TokenLogprob], offset: int) -> dict[str, Any]:
    """`offset`: characters of the choice's text before the first of these tokens."""
    items, offsets = list(logprobs), []
    for item in items:
        offsets.append(offset)
        offset += len(item.token)
    return {
        "tokens": [item.token for item in items],
        "token_logprobs": [max(item.logprob, LOWEST) for item in items],
        "top_logprobs": [
            {other.token: max(other.logprob, LOWEST) for other in (*reversed(item.top), item)}
            for item in items
        ],
        "text_offset": offsets,
    }
