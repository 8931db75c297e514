"""Replies of the Responses dialect: events as the stream's events or a whole response, and stored ones as they were."""

from collections.abc import Iterable, Mapping
from typing import Any

from herd.protocol.types import Called, Delta, Event, Failed, Finished, Started, TokenLogprob, ToolCall, Usage

LOWEST = -9999.0  # JSON has no infinity
STATUS = {"stop": "completed", "tool_calls": "completed", "length": "incomplete", "error": "failed"}
_NULL = ("error", "incomplete_details", "completed_at", "usage", "max_tool_calls", "prompt", "conversation")


class ResponseStream:
    """The events of one response, numbered. The last one holds the whole response; `response` is it, once it is there.

    shown: the fields of the request that the response repeats. created: unix seconds.
    """

    def __init__(self, id: str, created: float, shown: Mapping[str, Any]) -> None:
        self.id, self.created, self.shown = id, created, shown
        self.response: dict[str, Any] | None = None
        self._items: list[dict[str, Any]] = []
        self._text: dict[str, Any] | None = None  # the message that is being written
        self._number = 0
        self._reason = "error"

    def encode(self, event: Event) -> list[dict[str, Any]]:
        """The stream's events for one of ours, none to several."""
        match event:
            case Started():
                begun = self._whole("in_progress")
                return [
                    self._event(f"response.{step}", response=begun) for step in ("created", "in_progress")
                ]
            case Delta(text=text, logprobs=logprobs) if text or logprobs:
                return self._write(text, [_logprob(item) for item in logprobs])
            case Called(call=call):
                return [*self._close("completed"), *self._call(call)]
            case Finished(reason=reason):
                self._reason = reason
                opened = [] if self._items else self._open()
                return [
                    *opened,
                    *self._close("completed" if reason in ("stop", "tool_calls") else "incomplete"),
                ]
            case Usage():
                status = STATUS.get(self._reason, "cancelled")
                usage = _usage(event.prompt_tokens, event.completion_tokens, event.cached_tokens)
                return self._end(status, usage=usage)
            case Failed():
                return self._end("failed", error=_error(event.message, event.status))
        return []

    def _event(self, type: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": type, "sequence_number": self._number - 1, **fields}

    def _part(self, type: str, **fields: Any) -> dict[str, Any]:
        """An event about the message that is being written."""
        assert self._text is not None
        place = {
            "item_id": self._text["id"],
            "output_index": self._items.index(self._text),
            "content_index": 0,
        }
        return self._event(type, **place, **fields)

    def _open(self) -> list[dict[str, Any]]:
        message = _message(self.id, len(self._items), "in_progress")
        added = self._event(
            "response.output_item.added", output_index=len(self._items), item={**message, "content": []}
        )
        self._items.append(message)
        self._text = message
        return [added, self._part("response.content_part.added", part=dict(_text_part()))]

    def _write(self, text: str, logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        opened = self._open() if self._text is None else []
        assert self._text is not None
        part = self._text["content"][0]
        part["text"] += text
        part["logprobs"].extend(logprobs)
        return [*opened, self._part("response.output_text.delta", delta=text, logprobs=logprobs)]

    def _close(self, status: str) -> list[dict[str, Any]]:
        if self._text is None:
            return []
        self._text["status"] = status
        part, index = self._text["content"][0], self._items.index(self._text)
        closed = [
            self._part("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._part("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=index, item=self._text),
        ]
        self._text = None
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
        if self._text is not None:
            self._text["status"] = "incomplete"
        self.response = self._whole(status, output=self._items, **fields)
        kind = "incomplete" if status == "cancelled" else status  # a stream has no event for the former
        return [self._event(f"response.{kind}", response=self.response)]

    def _whole(self, status: str, **fields: Any) -> dict[str, Any]:
        return _response(self.id, self.created, self.shown, status, **fields)


def encode_stored(row: Mapping[str, Any], status: str | None = None) -> dict[str, Any]:
    """The response that a generation was. `status`: of one that has not ended, whose row is not whole."""
    id, kept = row["id"], row["response"]
    if status is not None:
        return _response(id, row["created"], kept["shown"], status)
    status, tokens = STATUS.get(row["finish"], "cancelled"), row["tokens"]
    output: list[dict[str, Any]] = []
    calls = [ToolCall.from_json(call) for call in row["calls"] or ()]
    if row["reply"] or (status in ("completed", "incomplete") and not calls):
        output.append(_message(id, 0, "completed" if status == "completed" else "incomplete", row["reply"]))
    output += [_called(id, len(output) + i, call) for i, call in enumerate(calls)]
    ended = row["created"] + (row["latency"]["total"] or 0) / 1000
    error = _error(row["error"] or "", 500) if status == "failed" else None
    usage = _usage(tokens["prompt"] or 0, tokens["completion"] or 0, tokens["cached"] or 0)
    return _response(
        id, row["created"], kept["shown"], status, output=output, usage=usage, error=error, ended=ended
    )


def encode_items(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The input items of a stored response: its own, not those of the responses that it continues."""
    items: list[dict[str, Any]] = []
    hex, kept = row["id"].partition("_")[2], row["response"]
    for message in row["request"]["messages"][kept["lead"] + kept["past"] :]:
        role, content, calls = message["role"], message["content"], message.get("tool_calls", ())
        id = f"{hex}_in{len(items)}"
        if role == "tool":
            answer = {"call_id": message["tool_call_id"], "output": content, "status": "completed"}
            items.append({"type": "function_call_output", "id": f"fco_{id}", **answer})
        elif role == "assistant" and (content or not calls):
            items.append(_message(id, 0, "completed", content))
        elif role != "assistant":
            part = {"type": "input_text", "text": content}
            items.append(
                {"type": "message", "id": f"msg_{id}", "status": "completed", "role": role, "content": [part]}
            )
        items += [_called(id, i, ToolCall.from_json(call)) for i, call in enumerate(calls)]
    return items


def _response(
    id: str,
    created: float,
    shown: Mapping[str, Any],
    status: str,
    *,
    output: Iterable[Mapping[str, Any]] = (),
    ended: float | None = None,
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    whole = {
        "id": id,
        "object": "response",
        "created_at": int(created),
        **dict.fromkeys(_NULL),
        **shown,
        "status": status,
        "output": [dict(item) for item in output],
        "usage": usage,
        "error": error,
        "service_tier": "default",
        "truncation": "disabled",
    }
    if status == "completed":
        whole["completed_at"] = int(created if ended is None else ended)
    if status == "incomplete":
        whole["incomplete_details"] = {"reason": "max_output_tokens"}
    return whole


def _message(id: str, index: int, status: str, text: str = "") -> dict[str, Any]:
    id = f"msg_{id.removeprefix('resp_')}" + (f"_{index}" if index else "")
    part = {**_text_part(), "text": text}
    return {"type": "message", "id": id, "status": status, "role": "assistant", "content": [part]}


def _text_part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _called(id: str, index: int, call: ToolCall) -> dict[str, Any]:
    own = {"id": f"fc_{id.removeprefix('resp_')}_{index}", "call_id": call.id, "name": call.name}
    return {"type": "function_call", **own, "arguments": call.arguments, "status": "completed"}


def _usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _error(message: str, status: int) -> dict[str, Any]:
    code = {429: "rate_limit_exceeded", 400: "invalid_prompt"}.get(status, "server_error")
    return {"code": code, "message": message}


def _logprob(item: TokenLogprob) -> dict[str, Any]:
    def one(item: TokenLogprob) -> dict[str, Any]:
        return {"token": item.token, "bytes": list(item.bytes), "logprob": max(item.logprob, LOWEST)}

    return {**one(item), "top_logprobs": [one(other) for other in item.top]}
