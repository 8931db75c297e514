"""The fixed replies of the fake upstream, in the form that the dialects' own documents give them.

The model "tools" calls the first tool of the request; every other one says the upstream's words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PROMPT_TOKENS = 7
VECTOR = [0.6, 0.8]
MODELS = ["ok", "tools"]
ARGUMENTS = ("", '{"city": ', '"Oslo"}')


@dataclass
class Asked:
    """A request as it came, and the words with which to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    words: tuple[str, ...]

    @property
    def anthropic(self) -> bool:
        return "anthropic-version" in self.headers

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def called(self) -> str | None:
        """The name of the tool that the reply calls."""
        tools = self.body.get("tools")
        if not tools or self.body["model"] != "tools":
            return None
        return str(tools[0]["name"] if self.anthropic else tools[0]["function"]["name"])

    @property
    def choices(self) -> range:
        return range(self.body.get("n") or 1)


def whole(asked: Asked) -> dict[str, Any]:
    match asked.path.rsplit("/", 1)[-1].partition("?")[0]:
        case "models":
            data = [{"id": id, "object": "model", "type": "model", "created": 1700000000} for id in MODELS]
            return {"object": "list", "data": data, "has_more": False}
        case "count_tokens":
            return {"input_tokens": PROMPT_TOKENS}
        case "embeddings":
            return _embeddings(asked)
        case "messages":
            return _message(asked)
    choice: dict[str, Any] = {"text": "".join(asked.words), "finish_reason": "stop"}
    kind = "text_completion"
    if chat := asked.path.endswith("/chat/completions"):
        message: dict[str, Any] = {"role": "assistant", "content": "".join(asked.words)}
        if asked.called:
            function = {"name": asked.called, "arguments": "".join(ARGUMENTS)}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        choice = {"message": message, "finish_reason": "tool_calls" if asked.called else "stop"}
        kind = "chat.completion"
    choices = [{"index": i, "logprobs": None, **choice} for i in asked.choices]
    return {
        "id": "chatcmpl-up" if chat else "cmpl-up",
        **_head(asked, kind),
        "choices": choices,
        "usage": _usage(asked),
    }


def events(asked: Asked) -> list[bytes]:
    """A stream's events, each with its blank line."""
    return _anthropic_events(asked) if asked.anthropic else _openai_events(asked)


def error(asked: Asked, message: str, kind: str = "server_error") -> dict[str, Any]:
    if asked.anthropic:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_up"}
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def event(body: dict[str, Any], anthropic: bool) -> bytes:
    name = f"event: {body['type']}\n" if anthropic else ""
    return f"{name}data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "object": kind,
        "created": 1700000000,
        "model": asked.body["model"],
        "system_fingerprint": "fp_up",
    }


def _usage(asked: Asked) -> dict[str, Any]:
    many = len(asked.words) * len(asked.choices)
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": many,
        "total_tokens": PROMPT_TOKENS + many,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _embeddings(asked: Asked) -> dict[str, Any]:
    inputs = asked.body["input"]
    many = len(inputs) if isinstance(inputs, list) and not isinstance(inputs[0], int) else 1
    data = [{"object": "embedding", "index": i, "embedding": VECTOR} for i in range(many)]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
    return {"object": "list", "data": data, "model": asked.body["model"], "usage": usage}


def _message(asked: Asked) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": "".join(asked.words)}]
    if asked.called:
        arguments = json.loads("".join(ARGUMENTS))
        content.append({"type": "tool_use", "id": "toolu_1", "name": asked.called, "input": arguments})
    return {
        "id": "msg_up",
        "type": "message",
        "role": "assistant",
        "model": asked.body["model"],
        "content": content,
        "stop_reason": "tool_use" if asked.called else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": len(asked.words)},
    }


def _openai_events(asked: Asked) -> list[bytes]:
    chat = asked.path.endswith("/chat/completions")
    counted = (asked.body.get("stream_options") or {}).get("include_usage")
    head = {"id": "chatcmpl-up", **_head(asked, "chat.completion.chunk" if chat else "text_completion")}

    def chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        return event({**head, "choices": choices, **({"usage": usage} if counted else {})}, False)

    def piece(index: int, finish: str | None = None, **delta: Any) -> bytes:
        said = {"delta": delta} if chat else {"text": delta.get("content", "")}
        return chunk([{"index": index, **said, "logprobs": None, "finish_reason": finish}])

    found = [piece(i, role="assistant", content="") for i in asked.choices] if chat else []
    found += [piece(i, content=word) for word in asked.words for i in asked.choices]
    for number, part in enumerate(ARGUMENTS if asked.called else ()):
        about = {"id": "call_1", "type": "function"} if not number else {}
        function = {"arguments": part, **({"name": asked.called} if not number else {})}
        found.append(piece(0, tool_calls=[{"index": 0, **about, "function": function}]))
    found += [piece(i, "tool_calls" if asked.called else "stop") for i in asked.choices]
    return [*found, *([chunk([], _usage(asked))] if counted else []), b"data: [DONE]\n\n"]


def _anthropic_events(asked: Asked) -> list[bytes]:
    said = _message(asked)
    start = {**said, "content": [], "stop_reason": None, "usage": {**said["usage"], "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(said["content"]):
        if block["type"] == "text":
            empty: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": word} for word in asked.words]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ARGUMENTS]
        found.append({"type": "content_block_start", "index": index, "content_block": empty})
        found += [{"type": "ping"}] if index == 0 else []
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": said["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": said["usage"]["output_tokens"]}
    found.append({"type": "message_delta", "delta": delta, "usage": usage})
    found.append({"type": "message_stop"})
    return [event(body, True) for body in found]
