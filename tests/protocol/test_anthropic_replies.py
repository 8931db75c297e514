"""Replies of the Anthropic dialect, read back by the anthropic package's own types."""

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from herd.errors import HerdError
from herd.protocol import Called, Delta, Event, Failed, Finished, Request, Sampling, Started, ToolCall, Usage
from herd.protocol.anthropic import MessageStream, encode_count, encode_error, encode_message

REQUEST = Request("cria", "chat", sampling=Sampling(max_tokens=10))
CALL = ToolCall("toolu_1", "weather", '{"city": "Lima"}')
TEXT: list[Event] = [
    Started(12, 4), Delta(0, "Hi", (5,)), Delta(0, "", (6,)), Delta(0, " 🦙", (7,)), Finished(0, "stop"), Usage(12, 3, 4),
]  # fmt: skip
TOOLS: list[Event] = [
    Started(12), Delta(0, "I look."), Called(0, CALL), Called(0, ToolCall("toolu_2", "time", "{}")),
    Finished(0, "tool_calls"), Usage(12, 9),
]  # fmt: skip
RAW: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def whole(events: list[Event]) -> Message:
    encoded = json.dumps(encode_message(REQUEST, events, "msg_1"), allow_nan=False)
    return Message.model_validate_json(encoded, strict=True)


def stream(events: list[Event]) -> list[dict[str, Any]]:
    codec = MessageStream(REQUEST, "msg_1")
    raw = [json.loads(json.dumps(e, allow_nan=False)) for event in events for e in codec.encode(event)]
    for event in raw:
        if event["type"] not in ("ping", "error"):
            RAW.validate_json(json.dumps(event), strict=True)
    return raw


def test_a_whole_message() -> None:
    reply = whole(TEXT)
    assert (reply.id, reply.type, reply.role, reply.model) == ("msg_1", "message", "assistant", "cria")
    assert [block.to_dict() for block in reply.content] == [{"type": "text", "text": "Hi 🦙"}]
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (8, 4, 3)
    assert whole([Started(1), Finished(0, "stop"), Usage(1, 0)]).content == []


def test_a_message_with_calls() -> None:
    reply = whole(TOOLS)
    assert [block.type for block in reply.content] == ["text", "tool_use", "tool_use"]
    used = reply.content[1]
    assert used.type == "tool_use"
    assert (used.id, used.name, used.input) == ("toolu_1", "weather", {"city": "Lima"})
    assert reply.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("finished", "tokens", "reason"),
    [
        (Finished(0, "stop"), 3, "end_turn"),
        (Finished(0, "stop", "END"), 3, "stop_sequence"),
        (Finished(0, "length"), 10, "max_tokens"),
        (Finished(0, "length"), 9, "model_context_window_exceeded"),
        (Finished(0, "cancelled"), 10, "max_tokens"),
    ],
)
def test_why_it_stopped(finished: Finished, tokens: int, reason: str) -> None:
    events = [Started(3), Delta(0, "x"), finished, Usage(3, tokens)]
    assert (whole(events).stop_reason, whole(events).stop_sequence) == (reason, finished.stop)
    last = stream(events)[-2]
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": finished.stop}


def test_a_stream_has_the_documented_sequence() -> None:
    raw = stream(TEXT)
    assert [event["type"] for event in raw] == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    start = raw[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["input_tokens"]) == ([], None, 8)
    assert "".join(e["delta"]["text"] for e in raw if e["type"] == "content_block_delta") == "Hi 🦙"
    assert raw[-2]["usage"]["output_tokens"] == 3


def test_blocks_of_a_stream_with_calls_follow_one_another() -> None:
    raw = stream([*TOOLS[:-2], Delta(0, "Done."), *TOOLS[-2:]])
    open_block = None
    blocks: list[str] = []
    for event in raw:
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(blocks)
            open_block = event["index"]
            blocks.append(event["content_block"]["type"])
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    assert open_block is None and blocks == ["text", "tool_use", "tool_use", "text"]
    arguments = [
        e["delta"]["partial_json"] for e in raw if e.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert arguments == [CALL.arguments, "{}"]


@pytest.mark.parametrize("events", [TEXT[:-2], TEXT[:-1], [Started(1), Failed("out of memory")], []])
def test_nothing_truncated_is_called_complete(events: list[Event]) -> None:
    with pytest.raises(ValueError):
        encode_message(REQUEST, events, "msg_1")
    assert "message_stop" not in [event["type"] for event in stream(events)]


def test_counts() -> None:
    assert encode_count([Started(7, 2)]) == encode_count([Usage(7, 0)]) == {"input_tokens": 7}
    with pytest.raises(ValueError):
        encode_count([])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (413, "request_too_large"),
        (429, "rate_limit_error"), (500, "api_error"), (503, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors(status: int, kind: str) -> None:
    body = encode_error(HerdError("no", status=status, code="why"), "req_1")
    told = {"type": kind, "message": "no", "details": {"error_code": "why"}}
    assert body == {"type": "error", "error": told, "request_id": "req_1"}
    (event,) = MessageStream(REQUEST, "msg_1").encode(Failed("no", "x", status))
    assert (event["type"], event["error"]["type"]) == ("error", kind)
