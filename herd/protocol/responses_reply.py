"""Replies of the Responses dialect: events as the stream's events or a whole response, and stored ones as they were."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from herd.protocol.openai_reply import chat_logprob
from herd.protocol.replies import prompt_tokens
from herd.protocol.types import (
    Called,
    Delta,
    Event,
    Failed,
    Finished,
    Image,
    Message,
    Reasoned,
    Started,
    ToolCall,
    Usage,
)
from herd.protocol.upstream import pieces

STATUS = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "content_filter": "incomplete",
    "error": "failed",
}
_NULL = ("error", "incomplete_details", "completed_at", "usage", "max_tool_calls", "prompt", "conversation")


class ResponseStream:
    """The events of one response, numbered. The last one holds the whole response; `response` is it, once it is there.

    shown: the fields of the request that the response repeats. created: unix seconds. clock: what they are at its end.
    """

    def __init__(self, id: str, created: float, shown: Mapping[str, Any], clock: Callable[[], float]) -> None:
        self.id, self.created, self.shown, self._clock = id, created, shown, clock
        self.response: dict[str, Any] | None = None
        self._items: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None  # the message, or the thoughts, being written
        self._number = 0
        self._reason = "error"

    def queued(self) -> list[dict[str, Any]]:
        """The first events of a response in the background, which may have to wait before it is started."""
        return self._begin("queued", "created", "queued")

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The stream's events for one of ours, none to several."""
        match event:
            case Started():
                steps = ("in_progress",) if self._number else ("created", "in_progress")
                return self._begin("in_progress", *steps)
            case Delta(text=text, logprobs=logprobs) if text or logprobs:
                scores = [chat_logprob(item) for item in logprobs]
                opened = self._open(_message)
                self._part()["logprobs"].extend(scores)
                return [*opened, *self._write(text, logprobs=scores)]
            case Reasoned(text=text, signature=signature) if text or signature:
                told = self._open(_reasoning) + (self._write(text) if text else [])
                self._items[-1]["encrypted_content"] = signature or None
                return told + (self._close("completed") if signature else [])
            case Called(call=call):
                return [*self._close("completed"), *self._call(call)]
            case Finished(reason=reason):
                self._reason = reason
                status = "completed" if reason in ("stop", "tool_calls") else "incomplete"
                closed = self._close(status)
                if all(item["type"] == "reasoning" for item in self._items):
                    closed += [*self._open(_message), *self._close(status)]
                return closed
            case Usage():
                return self._end(STATUS.get(self._reason, "cancelled"), usage=_usage(event), why=self._reason)
            case Failed():
                return self._end("failed", error=_error(event.message, event.status))
        return []

    def _event(self, type: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": type, "sequence_number": self._number - 1, **fields}

    def _begin(self, status: str, *steps: str) -> list[dict[str, Any]]:
        begun = _response(self.id, self.created, self.shown, status)
        return [self._event(f"response.{step}", response=begun) for step in steps]

    def _part(self) -> dict[str, Any]:
        assert self._item is not None
        part: dict[str, Any] = self._item["content"][0]
        return part

    def _told(self, type: str, **fields: Any) -> dict[str, Any]:
        """An event about the item that is being written."""
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": len(self._items) - 1, "content_index": 0}
        return self._event(type, **place, **fields)

    def _open(self, make: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
        """The events that begin an item, unless it is one of the kind that is being written."""
        item = make(self.id, len(self._items), "in_progress")
        if self._item is not None and self._item["type"] == item["type"]:
            return []
        closed = self._close("completed")
        added = self._event(
            "response.output_item.added", output_index=len(self._items), item={**item, "content": []}
        )
        self._items.append(item)
        self._item = item
        return [*closed, added, self._told("response.content_part.added", part=copy.deepcopy(self._part()))]

    def _write(self, text: str, **more: Any) -> list[dict[str, Any]]:
        part = self._part()
        part["text"] += text
        return [self._told(f"response.{part['type']}.delta", delta=text, **more)]

    def _close(self, status: str) -> list[dict[str, Any]]:
        if self._item is None:
            return []
        self._item["status"] = status
        part = self._part()
        scores = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
        closed = [
            self._told(f"response.{part['type']}.done", text=part["text"], **scores),
            self._told("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=len(self._items) - 1, item=self._item),
        ]
        self._item = None
        return closed

    def _call(self, call: ToolCall) -> list[dict[str, Any]]:
        item, index = _called(self.id, len(self._items), call), len(self._items)
        self._items.append(item)
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        arguments = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event(f"{arguments}.delta", **place, delta=call.arguments),
            self._event(f"{arguments}.done", **place, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _end(self, status: str, **fields: Any) -> list[dict[str, Any]]:
        if self._item is not None:
            self._item["status"] = "incomplete"
        self.response = _response(
            self.id, self.created, self.shown, status, output=self._items, ended=self._clock(), **fields
        )
        kind = "incomplete" if status == "cancelled" else status  # a stream has no event for the former
        return [self._event(f"response.{kind}", response=self.response)]


def encode_stored(row: Mapping[str, Any], status: str | None = None) -> dict[str, Any]:
    """The response that a generation was. `status`: of one that has not ended, whose row is not whole."""
    id, kept = row["id"], row["response"]
    if status is not None:
        return _response(id, row["created"], kept["shown"], status)
    status, tokens = STATUS.get(row["finish"], "cancelled"), row["tokens"]
    output: list[dict[str, Any]] = []
    calls = [ToolCall.from_json(call) for call in row["calls"] or ()]
    if row.get("reasoning"):
        output.append(_reasoning(id, 0, "completed", row["reasoning"]))
    scores = kept.get("logprobs", [])
    if row["reply"] or scores or (status in ("completed", "incomplete") and not calls):
        shown = "completed" if status == "completed" else "incomplete"
        output.append(_message(id, len(output), shown, row["reply"]))
        output[-1]["content"][0]["logprobs"] = scores
    output += [_called(id, len(output) + i, call) for i, call in enumerate(calls)]
    ended = row["created"] + (row["latency"]["total"] or 0) / 1000
    error = _error(row["error"] or "", kept.get("failed", 500)) if status == "failed" else None
    usage = _usage(Usage(tokens["prompt"] or 0, tokens["completion"] or 0, tokens["cached"] or 0))
    more = {"output": output, "usage": usage, "error": error, "ended": ended, "why": row["finish"]}
    return _response(id, row["created"], kept["shown"], status, **more)


def encode_count(events: Iterable[Event]) -> dict[str, Any]:
    """How many tokens the prompt has. Raises ValueError if no event says so."""
    return {"object": "response.input_tokens", "input_tokens": prompt_tokens(events)}


def encode_items(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The input items of a stored response as they were sent: its own, not those of the responses that it continues."""
    items: list[dict[str, Any]] = []
    hex, kept = row["id"].partition("_")[2], row["response"]
    own = row["request"]["messages"][kept["lead"] + kept["past"] :]
    sent = kept.get("sent") or [None] * len(own)  # older ones have none
    for message, how in zip(map(Message.from_json, own), sent, strict=True):
        id, told = f"{hex}_in{len(items)}", how or {"role": message.role, "parts": None}
        parts = [_part(piece) for piece in _pieces(message, told["parts"])]
        if message.role == "tool":
            output = message.content if told["parts"] is None and not message.images else parts
            answer = {"call_id": message.tool_call_id, "output": output, "status": "completed"}
            items.append({"type": "function_call_output", "id": f"fco_{id}", **answer})
        elif message.role == "assistant":
            if message.reasoning or message.signature:
                items.append(_reasoning(id, 0, "completed", message.reasoning, message.signature))
            if message.content or not message.tool_calls:
                item = _message(id, 0, "completed")
                item["content"] = [{**item["content"][0], "text": part["text"]} for part in parts]
                items.append(item)
        else:
            head = {"type": "message", "id": f"msg_{id}", "status": "completed"}
            items.append({**head, "role": told["role"], "content": parts})
        items += [_called(id, i, call) for i, call in enumerate(message.tool_calls)]
    return items


def _pieces(message: Message, lengths: list[int | None] | None) -> list[str | Image]:
    """The message's texts and images as they were sent: `lengths` of the texts, None for an image. One that has been
    redacted, or has lost an image, is no more so long, and its texts are joined."""
    whole = sum(length or 0 for length in lengths or ()) == len(message.content)
    if not lengths or not whole or lengths.count(None) != len(message.images):
        return pieces(message) or [""]
    found: list[str | Image] = []
    images, at = iter(message.images), 0
    for length in lengths:
        found.append(next(images) if length is None else message.content[at : at + length])
        at += length or 0
    return found


def _part(piece: str | Image) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "input_text", "text": piece}
    return {"type": "input_image", "image_url": piece.url, "detail": piece.detail}


def _response(
    id: str,
    created: float,
    shown: Mapping[str, Any],
    status: str,
    *,
    output: Iterable[Mapping[str, Any]] = (),
    ended: float = 0.0,
    why: str = "length",
    **more: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """`more`: the usage and the error."""
    whole = {
        "id": id,
        "object": "response",
        "created_at": int(created),
        **dict.fromkeys(_NULL),
        **shown,
        "status": status,
        "output": [dict(item) for item in output],
        "service_tier": "default",
        "truncation": "disabled",
        **more,
    }
    if status == "completed":
        whole["completed_at"] = int(ended)
    if status == "incomplete":
        reason = "content_filter" if why == "content_filter" else "max_output_tokens"
        whole["incomplete_details"] = {"reason": reason}
    return whole


def _message(id: str, index: int, status: str, text: str = "") -> dict[str, Any]:
    id = f"msg_{id.removeprefix('resp_')}" + (f"_{index}" if index else "")
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": id, "status": status, "role": "assistant", "content": [part]}


def _reasoning(id: str, index: int, status: str, text: str = "", sealed: str = "") -> dict[str, Any]:
    """`sealed`: by what its provider knows it again."""
    id = f"rs_{id.removeprefix('resp_')}_{index}"
    part = {"type": "reasoning_text", "text": text}
    body = {"summary": [], "content": [part], "encrypted_content": sealed or None}
    return {"type": "reasoning", "id": id, "status": status, **body}


def _called(id: str, index: int, call: ToolCall) -> dict[str, Any]:
    own = {"id": f"fc_{id.removeprefix('resp_')}_{index}", "call_id": call.id, "name": call.name}
    return {"type": "function_call", **own, "arguments": call.arguments, "status": "completed"}


def _usage(event: Usage) -> dict[str, Any]:
    return {
        "input_tokens": event.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": event.cached_tokens,
            "cache_write_tokens": event.written_tokens,
        },
        "output_tokens": event.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": event.reasoning_tokens},
        "total_tokens": event.prompt_tokens + event.completion_tokens,
    }


def _error(message: str, status: int) -> dict[str, Any]:
    code = {429: "rate_limit_exceeded", 400: "invalid_prompt"}.get(status, "server_error")
    return {"code": code, "message": message}
