"""Replies of OpenAI-dialect providers as events; wire texts as documented by OpenAI, vLLM and DeepSeek."""

import json
import math
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol import (
    Called,
    Delta,
    Embedded,
    Event,
    Finished,
    Reasoned,
    Request,
    Sampling,
    Started,
    ToolCall,
    Usage,
)
from herd.protocol.upstream import ErrorEvent, decode_error
from herd.protocol.upstream_openai import Stream, decode, encode

CHAT = Request("r", "chat", stream=True)
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 5},
}  # fmt: skip


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> str:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more})


def said(*payloads: str, request: Request = CHAT) -> list[Event]:
    stream = Stream(request)
    return [event for payload in payloads for event in stream.feed(None, payload)] + [*stream.end()]


def test_a_stream_with_thoughts_text_and_usage() -> None:
    events = said(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"reasoning": "."}),
        chunk({"content": "Hi"}),
        chunk({"content": " 🦙"}),
        chunk({}, "stop"),
        json.dumps({"choices": [], "usage": USAGE}),
        "[DONE]",
    )
    assert isinstance(events[0], Started)
    assert events[1:] == [
        Reasoned(0, "Hm"), Reasoned(0, "."), Delta(0, "Hi"), Delta(0, " 🦙"), Finished(0, "stop"),
        Usage(9, 12, 4, 0, 5),
    ]  # fmt: skip


def test_parallel_calls_in_pieces() -> None:
    def call(index: int, **function: str) -> Any:
        return {"tool_calls": [{"index": index, "function": function}]}

    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    second = {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}}
    events = said(
        chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
        chunk(call(0, arguments='{"city"')),
        chunk(call(0, arguments=': "Lima"}')),
        chunk({"tool_calls": [second]}),
        chunk({}, "stop"),  # so it ends where one tool had to be called
        "[DONE]",
    )
    assert events[1:-1] == [
        Called(0, ToolCall("call_a", "weather", '{"city": "Lima"}')),
        Called(0, ToolCall("call_b", "time", "{}")),
        Finished(0, "tool_calls"),
    ]
    assert events[-1] == Usage(0, 4, estimated=True)
    # servers that number no call, or name it again and again
    loose = [{"id": "x", "function": {"name": "f", "arguments": a}} for a in ('{"a":', "1}")]
    other = [{"id": "y", "function": {"name": "g", "arguments": "{}"}}]
    events = said(*(chunk({"tool_calls": [c]}) for c in (*loose, *other)), chunk({}, "tool_calls"), "[DONE]")
    assert [e.call for e in events if isinstance(e, Called)] == [
        ToolCall("x", "f", '{"a":1}'),
        ToolCall("y", "g", "{}"),
    ]


def test_the_limit_may_cut_a_call_off() -> None:
    cut = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a": '}}]}
    events = said(chunk({"content": "I call."}), chunk(cut), chunk({}, "length"), "[DONE]")
    assert events[1:-1] == [Delta(0, "I call."), Finished(0, "length")]
    with pytest.raises(ValueError, match="no JSON object"):
        said(chunk(cut), chunk({}, "tool_calls"))


def test_a_refusal_is_no_answer() -> None:
    events = said(chunk({"refusal": "I will not."}), chunk({}, "stop"), "[DONE]")
    assert events[1:3] == [Delta(0, "I will not."), Finished(0, "content_filter")]


def test_a_completions_tokens_that_are_no_text() -> None:
    request = Request("r", "completion", stream=True, sampling=Sampling(logprobs=1))
    tokens = ["bytes: \\xf0\\x9f", "bytes:", "bytes:\\xé", "bytes:\\x4", "bytes:\\\\\\xff"]
    scores = {"tokens": tokens, "token_logprobs": [-1] * 5, "top_logprobs": [{one: -1} for one in tokens]}
    body = {"choices": [{"index": 0, "text": "x", "logprobs": scores, "finish_reason": "stop"}]}
    (read,) = [e.logprobs for e in decode(body, request) if isinstance(e, Delta)]
    assert [one.bytes for one in read] == [b" \xf0\x9f", *(t.encode() for t in tokens[1:4]), b"\\\xff"]
    assert [one.top[0].bytes for one in read] == [one.bytes for one in read]


def test_choices_and_logprobs() -> None:
    request = Request("r", "chat", n=2, stream=True, sampling=Sampling(logprobs=1))
    top = [{"token": "Hi", "logprob": -0.1, "bytes": None}]
    scored = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": top}]}
    choice = {"index": 1, "delta": {"content": "Hi"}, "logprobs": scored, "finish_reason": "stop"}
    events = said(
        chunk({"content": "Yo"}, "length"), json.dumps({"choices": [choice]}), "[DONE]", request=request
    )
    delta = events[3]
    assert isinstance(delta, Delta) and delta.index == 1
    assert [(t.token, t.bytes, t.logprob, t.top[0].bytes) for t in delta.logprobs] == [
        ("Hi", b"Hi", -0.1, b"Hi")
    ]
    assert [e for e in events if isinstance(e, Finished)] == [Finished(0, "length"), Finished(1, "stop")]


def test_logprobs_that_nest_without_end_are_refused_or_cut() -> None:
    item: dict[str, Any] = {"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    for _ in range(400):
        item = {**item, "top_logprobs": [item]}
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [item]}, "finish_reason": "stop"}
    request = Request("r", "chat", stream=True, sampling=Sampling(logprobs=1))
    _, delta, *_ = said(json.dumps({"choices": [choice]}), "[DONE]", request=request)
    assert isinstance(delta, Delta) and delta.logprobs[0].top[0].top == ()


def test_completions() -> None:
    request = Request("r", "completion", prompt="Once", sampling=Sampling(logprobs=1))
    scores = {
        "tokens": [" upon"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{" upon": -0.5}],
        "text_offset": [4],
    }
    body = {
        "choices": [{"index": 0, "text": " upon", "finish_reason": "length", "logprobs": scores}],
        "usage": USAGE,
    }
    _, delta, finished, usage = decode(body, request)
    assert isinstance(delta, Delta) and delta.text == " upon" and delta.logprobs[0].top[0].logprob == -0.5
    assert (finished, usage) == (Finished(0, "length"), Usage(9, 12, 4, 0, 5))


def test_embeddings() -> None:
    request = Request("r", "embedding", prompt="abcdefgh")
    body = {
        "data": [{"index": 0, "embedding": [0.6, -0.8, 0]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert decode(body, request) == (Started(3), Embedded(0, (0.6, -0.8, 0.0)), Usage(3, 0))
    assert decode({"data": body["data"]}, request)[-1] == Usage(2, 0, estimated=True)
    several = Request("r", "embedding", prompt="abcdefgh", more=((1, 2, 3), "x"))
    data = [{"index": i, "embedding": [i]} for i in (2, 0, 1)]
    vectors = tuple(Embedded(i, (float(i),)) for i in range(3))
    assert encode(several, "m")["input"] == ["abcdefgh", [1, 2, 3], "x"]
    assert decode({"data": data}, several) == (Started(6), *vectors, Usage(6, 0, estimated=True))
    for wrong in (data[:2], data * 2, data[:2] * 2, [{**item, "index": 0} for item in data]):
        with pytest.raises(ValueError):
            decode({"data": wrong}, several)
    bad: list[Any] = [[], None, [1], [{"embedding": "AAAA"}], [{"embedding": []}], [{"embedding": [None]}],
                      [{"embedding": [1e999]}], [{"embedding": [10**400]}], body["data"] * 2]  # fmt: skip
    for data in bad:
        with pytest.raises(ValueError):
            decode({"data": data}, request)


def test_a_whole_body() -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm",
        "tool_calls": [call],
        "refusal": None,
    }
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    assert decode(json.dumps(body).encode(), Request("r", "chat")) == (
        Started(9, 4), Reasoned(0, "Hm"), Called(0, ToolCall("x", "f", '{"a": 1}')), Finished(0, "tool_calls"),
        Usage(9, 12, 4, 0, 5),
    )  # fmt: skip


def test_content_in_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    events = said(
        chunk({"content": [thinking]}), chunk({"content": [{"type": "text", "text": "Hi"}]}, "stop"), "[DONE]"
    )
    assert events[1:4] == [Reasoned(0, "Hm"), Delta(0, "Hi"), Finished(0, "stop")]
    deep: Any = "x"
    for _ in range(400):
        deep = [{"type": "thinking", "thinking": deep}]
    for wrong in (deep, [{"type": "audio"}], [5], [{"text": "x"}], [{"type": "text", "text": ["secret"]}]):
        with pytest.raises(ValueError) as caught:
            said(chunk({"content": wrong}))
        assert "secret" not in str(caught.value)


def test_a_usage_that_nobody_asked_for_is_hidden() -> None:
    stream = Stream(CHAT)
    stream.feed(None, chunk({"content": "x"}, "stop", usage=USAGE))
    assert not stream.hidden
    stream.feed(None, json.dumps({"choices": [], "usage": USAGE}))
    assert stream.hidden
    stream.feed(None, "[DONE]")


BROKEN: list[list[str]] = [
    [],
    ["[DONE]"],
    [chunk({"content": "x"})],
    [chunk({"content": "x"}), "[DONE]"],
    [chunk({"content": "x"}, "stop")],  # it may be cut off before its usage
    [json.dumps({"choices": []}), "[DONE]"],
    [json.dumps({"choices": []})] * 3,
    ["{"],
    ["[]"],
    ["null"],
    ['"x"'],
    ["[" * 100_000],
    [json.dumps({"choices": {}})],
    [json.dumps({"choices": [1]})],
    [chunk({"content": 5})],
    [chunk({"content": "x"}, index=1)],
    [chunk({"content": "x"}, index=-1)],
    [chunk({}, "because")],
    [chunk({}, "tool_calls")],
    [chunk({"tool_calls": [{"index": 0, "id": "x", "function": {"arguments": "{}"}}]}), chunk({}, "stop")],
    [chunk({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": "[]"}}]}, "stop")],
    [chunk({"tool_calls": [{"index": 0, "id": i, "function": {"name": "f"}}]}) for i in "xy"],
    [chunk({"content": "x"}, "stop"), chunk({"content": "x"})],
    [chunk({"content": "x"}, "stop"), "[DONE]", "[DONE]"],
    [chunk({"content": "x"}, "stop", usage={"prompt_tokens": -1})],
    [chunk({"content": "x"}, "stop", usage={"prompt_tokens": "9"})],
    [chunk({"content": "x"}, "stop", usage=[1])],
]  # fmt: skip


@pytest.mark.parametrize("payloads", BROKEN, ids=range(len(BROKEN)))
def test_what_is_broken_is_never_a_whole_reply(payloads: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        said(*payloads)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_duplicated_end_does_no_harm() -> None:
    events = said(chunk({"content": "x"}), chunk({}, "stop"), chunk({}, "stop"), "[DONE]")
    assert events[1:3] == [Delta(0, "x"), Finished(0, "stop")] and len(events) == 4


def test_errors_in_a_stream() -> None:
    for payload, status, code in (
        ({"error": {"message": "busy", "type": "overloaded_error", "code": 503}}, 503, "overloaded_error"),
        ({"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}, 429,
         "rate_limit_exceeded"),
        ({"object": "error", "message": "no", "code": 400, "type": "BadRequestError"}, 400, "BadRequestError"),
        ({"error": {"message": "no", "code": "invalid_api_key", "type": "authentication_error"}}, 503, "upstream_key"),
        ({"error": "it broke"}, 502, "upstream_error"),
    ):  # fmt: skip
        with pytest.raises(ErrorEvent) as caught:
            said(chunk({"content": "x"}), json.dumps(payload))
        assert (caught.value.told["status"], caught.value.told["code"]) == (status, code)
    with pytest.raises(ErrorEvent, match="whole"):
        decode({"error": {"message": "a whole one"}}, CHAT)


@pytest.mark.parametrize(
    ("status", "body", "shown", "retryable", "elsewhere"),
    [
        (400, {"error": {"message": "bad x", "type": "invalid_request_error", "param": "x", "code": None}}, 400, False, False),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, 400, False, False),
        (401, {"error": {"message": "no key"}}, 503, False, True),
        (403, {"detail": "no"}, 503, False, True),
        (404, {"error": {"message": "no such model", "code": "model_not_found"}}, 404, False, True),
        (408, None, 504, True, True),
        (413, None, 413, False, False),
        (429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, 429, True, True),
        (429, {"error": {"message": "pay", "type": "insufficient_quota", "code": "insufficient_quota"}}, 503, False, True),
        (500, "<html>", 502, True, True),
        (502, None, 502, True, True),
        (503, {"error": []}, 503, True, True),
        (504, None, 504, True, True),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 503, True, True),
    ],
)  # fmt: skip
def test_error_replies(status: int, body: Any, shown: int, retryable: bool, elsewhere: bool) -> None:
    told = decode_error(status, {}, json.dumps(body).encode())
    assert (told["status"], told["retryable"], told["elsewhere"]) == (shown, retryable, elsewhere)
    assert told["message"] and "\n" not in told["message"] and told["retry_after"] is None
    assert isinstance(told["code"], str)


def test_what_an_error_names() -> None:
    error = {"error": {"message": " bad\nx " + "y" * 5000, "param": "messages[0]", "code": "invalid_value"}}
    told = decode_error(400, {}, json.dumps(error).encode())
    assert told["message"].startswith("bad x yy") and len(told["message"]) <= 500
    assert (told["param"], told["code"]) == ("messages[0]", "invalid_value")


def test_retry_after() -> None:
    def wait(**headers: str) -> Any:
        return decode_error(429, {n.replace("_", "-"): v for n, v in headers.items()}, b"")["retry_after"]

    assert wait(Retry_After="7") == 7.0 and wait(retry_after_ms="1500", retry_after="9") == 1.5
    assert 240 < wait(retry_after=formatdate(time.time() + 300, usegmt=True)) <= 301
    assert wait(retry_after=formatdate(time.time() - 30, usegmt=True)) == wait(retry_after="-3") == 0.0
    assert wait(retry_after="1e9") == 86_400.0
    for odd in ("", "soon", "nan", "inf", "Mon, 99 Foo 2026"):
        assert wait(retry_after=odd) is None


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["stop", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "finish_reason",
                    "usage",
                    "prompt_tokens",
                    "choices",
                    "error",
                    "logprobs",
                    "id",
                    "data",
                    "embedding",
                    "text",
                    "tokens",
                    "token_logprobs",
                    "top_logprobs",
                    "token",
                    "bytes",
                ]
            ),  # fmt: skip
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(JSON, max_size=3), JSON)
def test_any_payload_gives_events_or_one_clear_error(payloads: list[Any], whole: Any) -> None:
    requests = (CHAT, Request("r", "completion", sampling=Sampling(logprobs=1)), Request("r", "embedding"))
    for request in requests:
        for call in (
            lambda r: said(*map(json.dumps, payloads), request=r),
            lambda r: decode(json.dumps(whole), r),
        ):
            try:
                events = call(request)
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                assert isinstance(events[-1], Usage) and not math.isnan(events[-1].prompt_tokens)


def test_half_a_character_is_written_as_one_that_is_missing() -> None:
    """JSON may hold half a surrogate pair; no reply, page or store could be written with it."""
    events = said(
        chunk({"content": "a\ud83d"}), chunk({"content": "b\ud83d\ude00"}), chunk({}, "stop"), "[DONE]"
    )
    assert [event.text for event in events if isinstance(event, Delta)] == ["a\ufffd", "b\U0001f600"]


@pytest.mark.parametrize(
    "given", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": %s}' % ("[" * 99 + "]" * 99)]
)
def test_arguments_that_nobody_could_be_told_are_none(given: str) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": given}}
    with pytest.raises(ValueError, match="no JSON object"):
        said(chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), "[DONE]")


@pytest.mark.parametrize("tokens", [10**8 + 1, 2**40 - 1, 10**30, -1])
def test_a_count_that_none_can_be(tokens: int) -> None:
    """A ledger keeps 64 bits of money, and a table 32 of tokens."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 1}
    with pytest.raises(ValueError, match="that none can be"):
        said(chunk({"content": "a"}, "stop"), chunk(usage=usage), "[DONE]")
