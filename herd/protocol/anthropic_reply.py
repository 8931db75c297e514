"""Replies of the Anthropic dialect: events as whole messages, or one by one as the events of a stream."""

import json
from collections.abc import Iterable
from typing import Any

from herd.errors import HerdError
from herd.protocol import replies
from herd.protocol.replies import collect, describe, finished, prompt_tokens
from herd.protocol.types import (
    Called,
    Delta,
    Event,
    Failed,
    Finished,
    ProtocolError,
    Reasoned,
    Request,
    Started,
    ToolCall,
    Usage,
)

ERROR_TYPES = {**replies.ERROR_TYPES, 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessageStream:
    """The events of a message: its start, content blocks one after another, why it stopped with the usage, its end."""

    def __init__(self, request: Request, id: str, *_: Any) -> None:
        self.request, self.id = request, id
        self.block = -1  # the index of the last content block
        self.open: str | None = None  # that block's type, if it may go on
        self.finished: Finished | None = None

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The stream's events for one event, none to a few."""
        match event:
            case Started(prompt_tokens, cached_tokens):
                message = _message(self.request, self.id, [], Usage(prompt_tokens, 0, cached_tokens), None)
                return [{"type": "message_start", "message": message}, {"type": "ping"}]
            case Delta(text=text) if text:
                start = self._start({"type": "text", "text": ""}, goes_on=True)
                return [*start, self._delta({"type": "text_delta", "text": text})]
            case Reasoned(text=text, signature=signature) if text or signature:
                told = self._start({"type": "thinking", "thinking": "", "signature": ""}, goes_on=True)
                if text:
                    told.append(self._delta({"type": "thinking_delta", "thinking": text}))
                if signature:
                    told += [self._delta({"type": "signature_delta", "signature": signature}), self._stop()]
                return told
            case Called(call=call):
                start = self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
                delta = self._delta({"type": "input_json_delta", "partial_json": call.arguments})
                return [*start, delta, self._stop()]
            case Finished():
                self.finished = event
                return [self._stop()] if self.open else []
            case Usage():
                why = _why(self.request, self.finished, event)
                return [
                    {"type": "message_delta", "delta": why, "usage": _usage(event)},
                    {"type": "message_stop"},
                ]
            case Failed():
                return [encode_error(event)]
        return []

    def _start(self, block: dict[str, Any], *, goes_on: bool = False) -> list[dict[str, Any]]:
        if goes_on and self.open == block["type"]:
            return []
        before = [self._stop()] if self.open else []
        self.open = block["type"] if goes_on else None
        self.block += 1
        return [*before, {"type": "content_block_start", "index": self.block, "content_block": block}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.block, "delta": delta}

    def _stop(self) -> dict[str, Any]:
        self.open = None
        return {"type": "content_block_stop", "index": self.block}


def encode_message(request: Request, events: Iterable[Event], id: str, *_: Any) -> dict[str, Any]:
    """The whole message. Raises ValueError if the events are not those of a complete reply."""
    said, usage = collect(events)
    content: list[dict[str, Any]] = []
    for event in said[0]:
        last: dict[str, Any] = content[-1] if content else {"type": None}
        match event:
            case Delta(text=text) if text:
                if last["type"] != "text":
                    content.append(last := {"type": "text", "text": ""})
                last["text"] += text
            case Reasoned(text=text, signature=signature) if text or signature:
                if last["type"] != "thinking" or last["signature"]:
                    content.append(last := {"type": "thinking", "thinking": "", "signature": ""})
                last["thinking"] += text
                last["signature"] = signature
            case Called(call=call):
                content.append(encode_call(call))
    return _message(request, id, content, usage, finished(said[0]))


def encode_count(events: Iterable[Event]) -> dict[str, int]:
    """How many tokens the prompt has. Raises ValueError if no event says so."""
    return {"input_tokens": prompt_tokens(events)}


def encode_error(error: HerdError | Failed, request_id: str | None = None) -> dict[str, Any]:
    """The error body of the dialect."""
    kind, message = describe(error, ERROR_TYPES, "api_error")
    details: dict[str, Any] = {"error_code": error.code}
    if isinstance(error, ProtocolError) and error.param == "thread":  # so told, clients send all of it
        details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    told = {"type": kind, "message": message, "details": details}
    return {"type": "error", "error": told, "request_id": request_id}


def _message(
    request: Request, id: str, content: list[dict[str, Any]], usage: Usage, finished: Finished | None
) -> dict[str, Any]:
    head = {"id": id, "type": "message", "role": "assistant", "model": request.route, "content": content}
    return {**head, **_why(request, finished, usage), "usage": {**_usage(usage), "service_tier": "standard"}}


def _why(request: Request, finished: Finished | None, usage: Usage) -> dict[str, Any]:
    """Why it stopped; what ended before max_tokens without being done is called so, never complete."""
    if finished is None:
        return {"stop_reason": None, "stop_sequence": None}
    reason = "stop_sequence" if finished.stop is not None else _REASONS.get(finished.reason)
    if reason is None:
        limit = request.sampling.max_tokens
        context = limit is not None and not usage.estimated and usage.completion_tokens < limit
        reason = "model_context_window_exceeded" if context else "max_tokens"
    return {"stop_reason": reason, "stop_sequence": finished.stop}


def _usage(event: Usage) -> dict[str, Any]:
    """Input tokens are those that no cache held or was given."""
    return {
        "input_tokens": event.prompt_tokens - event.cached_tokens - event.written_tokens,
        "cache_creation_input_tokens": event.written_tokens,
        "cache_read_input_tokens": event.cached_tokens,
        "output_tokens": event.completion_tokens,
        "output_tokens_details": {"thinking_tokens": event.reasoning_tokens},
    }


def encode_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
