"""Replies of Anthropic-dialect providers as events; wire texts as documented by Anthropic."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol import Called, Delta, Event, Finished, Reasoned, Request, Started, ToolCall, Usage
from herd.protocol.openai import decode_chat
from herd.protocol.upstream import ErrorEvent, decode_error
from herd.protocol.upstream_anthropic import Stream, decode, decode_count, unsupported

CHAT = Request("r", "chat", stream=True)
START = {
    "type": "message_start",
    "message": {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m",
                "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3,
                          "output_tokens": 1}},
}  # fmt: skip
STOP = {"type": "message_stop"}


def block(index: int, block: Any, *deltas: Any) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def ended(reason: str | None, tokens: int = 15, sequence: str | None = None, **usage: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens, **usage}}


def said(*raw: Any, named: bool = True) -> list[Event]:
    stream = Stream(CHAT)
    events = [e for one in raw for e in stream.feed(one["type"] if named else None, json.dumps(one))]
    return [*events, *stream.end()]


TEXT = block(
    0,
    {"type": "text", "text": ""},
    {"type": "text_delta", "text": "Hi"},
    {"type": "text_delta", "text": " 🦙"},
)
THOUGHT = block(
    0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "Hm"},
    {"type": "signature_delta", "signature": "EqQB"},
)  # fmt: skip
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}


def json_delta(text: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": text}


def test_a_format_is_refused_where_the_caller_has_it() -> None:
    body: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    for field, value in (
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"json_object": True}),
        ("structured_outputs", {"regex": "a"}),
    ):
        assert set(unsupported(decode_chat({**body, field: value}))) == {field}


def test_a_stream_with_thoughts_text_calls_and_usage() -> None:
    second = block(1, {"type": "text", "text": "I "}, {"type": "text_delta", "text": "look."})
    call = block(2, USE, json_delta(""), json_delta('{"city": "Li'), json_delta('ma"}'))
    other = block(3, {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}})
    last = ended("tool_use", output_tokens_details={"thinking_tokens": 4})
    events = said(START, {"type": "ping"}, *THOUGHT, *second, *call, *other, {"type": "new"}, last, STOP)
    assert events == [
        Started(28, 5), Reasoned(0, "Hm"), Reasoned(0, "", "EqQB"), Delta(0, "I "), Delta(0, "look."),
        Called(0, ToolCall("toolu_1", "weather", '{"city": "Lima"}')), Called(0, ToolCall("toolu_2", "time", "{}")),
        Finished(0, "tool_calls"), Usage(28, 15, 5, 3, 4),
    ]  # fmt: skip
    assert events == said(START, *THOUGHT, *second, *call, *other, last, STOP, named=False)


@pytest.mark.parametrize(
    ("reason", "sequence", "finished"),
    [
        ("end_turn", None, Finished(0, "stop")),
        ("stop_sequence", "END", Finished(0, "stop", "END")),
        ("max_tokens", None, Finished(0, "length")),
        ("model_context_window_exceeded", None, Finished(0, "length")),
        ("pause_turn", None, Finished(0, "length")),
        ("refusal", None, Finished(0, "content_filter")),
    ],
)
def test_why_it_stopped(reason: str, sequence: str | None, finished: Finished) -> None:
    events = said(START, *TEXT, ended(reason, 15, sequence), STOP)
    assert events[-2:] == [finished, Usage(28, 15, 5, 3)]


def test_later_counts_are_of_the_whole() -> None:
    events = said(START, *TEXT, ended("end_turn", 7, input_tokens=30, cache_read_input_tokens=0), STOP)
    assert events[-1] == Usage(33, 7, 0, 3)


def test_a_usage_that_is_missing_is_guessed() -> None:
    start = {"type": "message_start", "message": {"usage": None}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert said(start, *TEXT, last, STOP)[-1] == Usage(0, 1, estimated=True)


def test_the_limit_may_cut_a_call_off() -> None:
    cut = block(0, USE, json_delta('{"city": "Li'))
    assert said(START, *cut, ended("max_tokens"), STOP)[1:-1] == [Finished(0, "length")]
    with pytest.raises(ValueError, match="no JSON object"):
        said(START, *cut, ended("tool_use"), STOP)


def test_a_whole_message() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hi", "citations": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, None]}},
    ]
    body = {**START["message"], "content": blocks, "stop_reason": "tool_use"}  # type: ignore[dict-item]
    assert decode(json.dumps(body).encode(), CHAT) == (
        Started(28, 5), Reasoned(0, "Hm", "s"), Delta(0, "Hi"), Called(0, ToolCall("t", "f", '{"a": [1, null]}')),
        Finished(0, "tool_calls"), Usage(28, 1, 5, 3),
    )  # fmt: skip
    assert decode_count({"input_tokens": 7}) == (Started(7), Usage(7, 0))


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [START],
        [START, *TEXT],
        [START, *TEXT, ended("end_turn")],
        [START, *TEXT[:-1], ended("end_turn"), STOP],
        [START, *TEXT, STOP],
        [START, *TEXT, ended(None), STOP],
        [*TEXT, ended("end_turn"), STOP],
        [START, START, *TEXT, ended("end_turn"), STOP],
        [START, *TEXT, *TEXT, ended("end_turn"), STOP],
        [START, TEXT[0], *TEXT, ended("end_turn"), STOP],
        [START, *TEXT, TEXT[1], ended("end_turn"), STOP],
        [START, *TEXT, TEXT[-1], ended("end_turn"), STOP],
        [START, *TEXT, ended("end_turn"), STOP, STOP],
        [START, *TEXT, ended("because"), STOP],
        [START, *TEXT, ended("tool_use"), STOP],
        [START, *TEXT, ended("end_turn", -1), STOP],
        [START, *TEXT, {"type": "message_delta", "delta": None}, STOP],
        [START, *block(0, {"type": "tool_use", "id": 5, "name": "f"}), ended("tool_use"), STOP],
        [START, *block(0, {"type": "tool_use", "id": "x", "name": ""}), ended("tool_use"), STOP],
        [START, *block(0, {"type": "text"}, {"type": "text_delta"}), ended("end_turn"), STOP],
    ],
    ids=range(21),
)
def test_what_is_broken_is_never_a_whole_reply(raw: list[Any]) -> None:
    with pytest.raises(ValueError) as caught:
        said(*raw)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_errors() -> None:
    error = {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
        "request_id": "r",
    }
    for call in (lambda: said(START, *TEXT[:2], error), lambda: decode(error, CHAT)):
        with pytest.raises(ErrorEvent, match="Overloaded") as caught:
            call()
        assert (caught.value.told["status"], caught.value.told["retryable"]) == (503, True)
    told = decode_error(
        400, {}, json.dumps({**error, "error": {"type": "invalid_request_error", "message": "x"}}).encode()
    )
    assert (told["status"], told["code"], told["retryable"]) == (400, "invalid_request_error", False)
    spent = {"type": "error", "error": {"type": "billing_error", "message": "credit"}}
    told = decode_error(402, {}, json.dumps(spent).encode())
    assert (told["status"], told["retryable"], told["elsewhere"]) == (503, False, True)


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["end_turn", "text", "tool_use", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "index",
                    "message",
                    "content_block",
                    "delta",
                    "usage",
                    "text",
                    "input",
                    "id",
                    "name",
                    "stop_reason",
                    "content",
                    "output_tokens",
                    "input_tokens",
                ]
            ),  # fmt: skip
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KINDS = st.sampled_from([None, "error", *(one["type"] for one in (START, *TEXT, ended("end_turn"), STOP))])


@given(st.lists(st.tuples(KINDS, JSON), max_size=4), JSON, st.booleans())
def test_any_payload_gives_events_or_one_clear_error(
    payloads: list[tuple[str | None, Any]], whole: Any, begun: bool
) -> None:
    def stream() -> list[Event]:
        reader = Stream(CHAT)
        begin = [reader.feed(None, START)] if begun else []
        return [
            e
            for made in [*begin, *(reader.feed(n, json.dumps(p)) for n, p in payloads), reader.end()]
            for e in made
        ]

    for call in (stream, lambda: decode(json.dumps(whole), CHAT)):
        try:
            events = call()
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(events[-1], Usage)
