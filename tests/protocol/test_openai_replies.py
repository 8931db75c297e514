"""Replies of the OpenAI dialect, read back by the openai package's own types."""

import json
from typing import Any

import pytest
from anthropic.types import ModelInfo
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from herd.protocol import (
    Called,
    Delta,
    Event,
    Failed,
    Finished,
    ProtocolError,
    Request,
    Sampling,
    Started,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from herd.protocol.openai import (
    CompletionStream,
    encode_completion,
    encode_error,
    encode_models,
)

HALF = TokenLogprob("\ufffd", 9, b"\xf0\x9f", float("-inf"))
HI = TokenLogprob(
    "Hi", 5, b"Hi", -0.25, (TokenLogprob("Hi", 5, b"Hi", -0.25), TokenLogprob("Yo", 6, b"Yo", -1.5))
)
TWO: list[Event] = [
    Started(12, 4),
    Delta(0, "Hi", (5,)),
    Delta(1, "Yo", (6,)),
    Delta(1, "", (7,)),
    Delta(0, " 🦙", (8, 9)),
    Finished(1, "length"),
    Finished(0, "stop"),
    Usage(12, 5, 4),
]
SCORED: list[Event] = [
    Started(3),
    Delta(0, "Hi", (5,), (HI,)),
    Delta(0, "", (9,), (HALF,)),
    Finished(0, "stop"),
    Usage(3, 2),
]


def chat(**fields: Any) -> Request:
    return Request("cria", "chat", **fields)


def completion(**fields: Any) -> Request:
    return Request("cria", "completion", prompt="Once", **fields)


def wire(value: dict[str, Any]) -> str:
    """As it goes over HTTP: no NaN or infinity."""
    return json.dumps(value, allow_nan=False)


def chunks(stream: CompletionStream, events: list[Event]) -> list[dict[str, Any]]:
    return [json.loads(wire(chunk)) for event in events for chunk in stream.encode(event)]


def test_a_whole_chat_completion() -> None:
    reply = ChatCompletion.model_validate_json(
        wire(encode_completion(chat(n=2), TWO, "chatcmpl-1", 1700)), strict=True
    )
    assert (reply.id, reply.object, reply.created, reply.model) == (
        "chatcmpl-1",
        "chat.completion",
        1700,
        "cria",
    )
    assert [(c.index, c.message.content, c.finish_reason) for c in reply.choices] == [
        (0, "Hi 🦙", "stop"),
        (1, "Yo", "length"),
    ]
    assert all(c.message.role == "assistant" and c.logprobs is None for c in reply.choices)
    usage = reply.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 5, 17)
    assert usage.prompt_tokens_details.cached_tokens == 4


def test_a_chat_stream_is_the_same_reply() -> None:
    raw = chunks(CompletionStream(chat(n=2, stream=True, include_usage=True), "chatcmpl-1", 1700), TWO)
    parsed = [ChatCompletionChunk.model_validate_json(wire(chunk), strict=True) for chunk in raw]
    assert {c.id for c in parsed} == {"chatcmpl-1"} and {c.object for c in parsed} == {
        "chat.completion.chunk"
    }
    for index, text, reason in ((0, "Hi 🦙", "stop"), (1, "Yo", "length")):
        own = [c.choices[0] for c in parsed if c.choices and c.choices[0].index == index]
        assert own[0].delta.role == "assistant" and all(c.delta.role is None for c in own[1:])
        assert "".join(c.delta.content or "" for c in own) == text
        assert [c.finish_reason for c in own] == [None] * (len(own) - 1) + [reason]
    last = parsed[-1]
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == 17
    assert all(chunk["usage"] is None for chunk in raw[:-1])


def test_calls_are_numbered_within_their_choice() -> None:
    tools = (Tool("f"),)
    made = [ToolCall(str(i), "f", f'{{"i": {i}}}') for i in range(3)]
    events: list[Event] = [
        Started(1), Called(1, made[0]), Delta(0, "I call."), Called(0, made[1]), Called(1, made[2]),
        Finished(1, "tool_calls"), Finished(0, "tool_calls"), Usage(1, 9),
    ]  # fmt: skip
    whole = ChatCompletion.model_validate_json(
        wire(encode_completion(chat(n=2, tools=tools), events, "c", 1)), strict=True
    )
    found = [
        (choice.message.content, [call.id for call in choice.message.tool_calls or []], choice.finish_reason)
        for choice in whole.choices
    ]
    assert found == [("I call.", ["1"], "tool_calls"), (None, ["0", "2"], "tool_calls")]
    raw = chunks(CompletionStream(chat(n=2, tools=tools, stream=True), "c", 1), events)
    parsed = [ChatCompletionChunk.model_validate_json(wire(chunk), strict=True) for chunk in raw]
    calls = [(c.choices[0].index, call) for c in parsed for call in c.choices[0].delta.tool_calls or []]
    assert [(index, call.index, call.id) for index, call in calls] == [(1, 0, "0"), (0, 0, "1"), (1, 1, "2")]
    assert [call.function and call.function.arguments for _, call in calls] == [c.arguments for c in made]
    assert [c.choices[0].delta.content for c in parsed[:2]] == [None, None]


def test_usage_comes_in_a_stream_only_when_asked_for() -> None:
    raw = chunks(CompletionStream(chat(n=2, stream=True), "chatcmpl-1", 1700), TWO)
    assert not any("usage" in chunk for chunk in raw) and all(chunk["choices"] for chunk in raw)


def test_logprobs_of_chat() -> None:
    request = chat(sampling=Sampling(logprobs=2))
    reply = ChatCompletion.model_validate_json(wire(encode_completion(request, SCORED, "c", 1)), strict=True)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    first, half = logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("Hi", [72, 105], -0.25)
    assert [(t.token, t.logprob) for t in first.top_logprobs] == [("Hi", -0.25), ("Yo", -1.5)]
    assert half.bytes == [0xF0, 0x9F] and half.logprob == -9999.0
    streamed = [
        token
        for chunk in chunks(CompletionStream(request, "c", 1), SCORED)
        for choice in ChatCompletionChunk.model_validate(chunk).choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert streamed == logprobs.content


def test_a_whole_text_completion() -> None:
    reply = Completion.model_validate_json(
        wire(encode_completion(completion(n=2), TWO, "cmpl-1", 1700)), strict=True
    )
    assert (reply.id, reply.object, reply.model) == ("cmpl-1", "text_completion", "cria")
    assert [(c.index, c.text, c.finish_reason) for c in reply.choices] == [
        (0, "Hi 🦙", "stop"),
        (1, "Yo", "length"),
    ]
    assert reply.usage is not None and reply.usage.total_tokens == 17


def test_a_text_completion_stream_is_the_same_reply() -> None:
    raw = chunks(CompletionStream(completion(n=2, include_usage=True), "cmpl-1", 1700), TWO)
    for (
        chunk
    ) in raw:  # the package's type requires a finish reason, though the API streams null until the last
        finished = [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in chunk["choices"]]
        Completion.model_validate_json(wire({**chunk, "choices": finished}), strict=True)
    for index, text, reason in ((0, "Hi 🦙", "stop"), (1, "Yo", "length")):
        own = [c["choices"][0] for c in raw if c["choices"] and c["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in own) == text
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + [reason]
    assert raw[-1]["choices"] == [] and raw[-1]["usage"]["total_tokens"] == 17


def test_logprobs_of_completions_count_offsets_in_the_text() -> None:
    request = completion(sampling=Sampling(logprobs=2))
    reply = Completion.model_validate_json(wire(encode_completion(request, SCORED, "c", 1)), strict=True)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["Hi", "bytes:\\xf0\\x9f"] and logprobs.token_logprobs == [-0.25, -9999.0]
    assert logprobs.top_logprobs == [{"Hi": -0.25, "Yo": -1.5}, {"bytes:\\xf0\\x9f": -9999.0}]
    assert logprobs.text_offset == [0, 2]
    streamed = [
        c["logprobs"] for chunk in chunks(CompletionStream(request, "c", 1), SCORED) for c in chunk["choices"]
    ]
    assert [offset for part in streamed if part for offset in part["text_offset"]] == [0, 2]


def test_tokens_that_are_no_text_keep_apart_and_offsets_count_characters() -> None:
    def scored(raw: bytes, *top: bytes) -> TokenLogprob:
        best = tuple(TokenLogprob(t.decode(errors="replace"), 0, t, -2.0) for t in top)
        return TokenLogprob(raw.decode(errors="replace"), 0, raw, -1.0, best)

    items = [
        scored(b"\xf0\x9f", b"\xf0", b"\xf0\x9f", b"\xc3"),
        scored(b"\xa6\x99"),
        scored("é!".encode()),
        scored(b"x"),
    ]
    events = [Started(1), Delta(0, "", (1,), (items[0],)), Delta(0, "🦙é!x", (2, 3, 4), tuple(items[1:]))]
    events += [Finished(0, "stop"), Usage(1, 4)]
    request = completion(sampling=Sampling(logprobs=3))
    (choice,) = encode_completion(request, events, "c", 1)["choices"]
    whole = choice["logprobs"]
    assert whole["tokens"] == ["bytes:\\xf0\\x9f", "bytes:\\xa6\\x99", "é!", "x"]
    assert whole["top_logprobs"][0] == {"bytes:\\xc3": -2.0, "bytes:\\xf0\\x9f": -1.0, "bytes:\\xf0": -2.0}
    assert whole["text_offset"] == [0, 0, 1, 3] and choice["text"][3:] == "x"
    parts = [c["logprobs"] for e in chunks(CompletionStream(request, "c", 1), events) for c in e["choices"]]
    assert [at for part in parts if part for at in part["text_offset"]] == [0, 0, 1, 3]


@pytest.mark.parametrize(
    "events",
    [TWO[:-2], TWO[:-1], [Started(1), Failed("out of memory")], []],
    ids=["a choice is open", "no usage", "failed", "nothing"],
)
def test_nothing_truncated_is_called_complete(events: list[Event]) -> None:
    with pytest.raises(ValueError):
        encode_completion(chat(n=2), events, "c", 1)
    with pytest.raises(ValueError):
        encode_completion(completion(n=2), events, "c", 1)
    finished = [
        choice["index"]
        for chunk in chunks(
            CompletionStream(chat(n=2), "c", 1), [e for e in events if not isinstance(e, Failed)]
        )
        for choice in chunk["choices"]
        if choice["finish_reason"]
    ]
    assert len(finished) == sum(isinstance(event, Finished) for event in events)


def test_a_cancelled_reply_does_not_say_that_it_stopped_by_itself() -> None:
    events: list[Event] = [Started(1), Delta(0, "Hi"), Finished(0, "cancelled"), Usage(1, 1)]
    assert encode_completion(chat(), events, "c", 1)["choices"][0]["finish_reason"] == "length"


def test_errors() -> None:
    body = encode_error(ProtocolError("temperature must be a number", "temperature", "invalid_value"))
    assert body == {
        "error": {
            "message": "temperature must be a number",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        }
    }
    [chunk] = CompletionStream(chat(), "c", 1).encode(Failed("the engine died", "engine_gone", 503))
    assert chunk["error"]["type"] == "server_error" and chunk["error"]["code"] == "engine_gone"


def test_models() -> None:
    models = encode_models([{"id": "cria", "created": 1700}, {"id": "cria@1", "created": 0}])
    assert models["object"] == "list"
    parsed = [Model.model_validate_json(wire(model), strict=True) for model in models["data"]]
    assert [(m.id, m.created, m.object) for m in parsed] == [("cria", 1700, "model"), ("cria@1", 0, "model")]
    theirs = [ModelInfo.model_validate_json(wire(model), strict=True) for model in models["data"]]
    assert [(m.id, m.created_at.timestamp(), m.type) for m in theirs] == [
        ("cria", 1700, "model"),
        ("cria@1", 0, "model"),
    ]
    assert (models["first_id"], models["last_id"], models["has_more"]) == ("cria", "cria@1", False)
    assert encode_models([])["first_id"] is None
    odd = encode_models([{"id": "x", "created": made} for made in (-5, 10**30)])["data"]
    assert [m["created_at"][:4] for m in odd] == ["1970", "9999"]
