"""A provider's reply in the words of every client's dialect: nothing of it is lost, however its bytes are cut."""

import json
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import Message as ClaudeMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
)
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from herd.protocol import (
    Called,
    Delta,
    Embedded,
    Event,
    Finished,
    Message,
    Reasoned,
    Request,
    Sampling,
    Started,
    Tool,
    ToolCall,
    Usage,
    anthropic,
    openai,
    responses,
    upstream_anthropic,
    upstream_openai,
)
from herd.protocol.sse import Parser

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TOOLS = (
    Tool("weather", "Now.", {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("f-1", "", {"type": "object"}),
)
PROVIDERS: dict[str, Any] = {"openai": upstream_openai, "anthropic": upstream_anthropic}

# Replies: a provider's, written by our own codec for its dialect, which the packages' types check.
PIECES = st.lists(st.tuples(st.sampled_from(["text", "thought", "call"]), TEXT), max_size=8)
WHY = st.sampled_from(["stop", "length", "content_filter"])


@st.composite
def replies(draw: st.DrawFn) -> list[Event]:
    """Thoughts, then text, then calls: as models answer."""
    made: dict[str, list[Event]] = {"thought": [], "text": [], "call": []}
    for i, (kind, text) in enumerate(draw(PIECES)):
        call = ToolCall(f"call_{i}", "weather", json.dumps({"city": text}))
        new: dict[str, Event] = {
            "text": Delta(0, text),
            "thought": Reasoned(0, text),
            "call": Called(0, call),
        }
        made[kind].append(new[kind])
    reason = "tool_calls" if made["call"] else draw(WHY)
    used = Usage(
        20,
        draw(st.integers(9, 30)),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 9)),
    )
    start = Started(20, used.cached_tokens)
    return [start, *made["thought"], *made["text"], *made["call"], Finished(0, reason), used]


def told(events: list[Event]) -> dict[str, Any]:
    """What a reply says, however it is cut."""
    return {
        "text": "".join(e.text for e in events if isinstance(e, Delta)),
        "thought": "".join(e.text for e in events if isinstance(e, Reasoned)),
        "calls": [
            (e.call.name, json.loads(e.call.arguments), e.call.id) for e in events if isinstance(e, Called)
        ],
        "reason": [e.reason for e in events if isinstance(e, Finished)],
        "usage": [e for e in events if isinstance(e, Usage)],
    }


def streamed(provider: str, request: Request, events: list[Event], cuts: list[int]) -> list[Event]:
    """The events out of the bytes that such a provider would send, in pieces."""
    wire = b""
    if provider == "openai":
        codec: Any = openai.CompletionStream(replace(request, include_usage=True), "c", 1)
    else:
        codec = anthropic.MessageStream(request, "m")
    for made in (made for event in events for made in codec.encode(event)):
        name = f"event: {made['type']}\n" if provider == "anthropic" else ""
        wire += f"{name}data: {json.dumps(made)}\n\n".encode()
    wire += b"data: [DONE]\n\n" if provider == "openai" else b""
    parser, stream, found = Parser(), PROVIDERS[provider].Stream(request), list[Event]()
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for a, b in zip(places, places[1:], strict=False):
        for sent in parser.feed(wire[a:b]):
            found += stream.feed(sent.event, sent.data)
    return [*found, *stream.end()]


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(deadline=None)
@given(replies(), st.lists(st.integers(0, 4000), max_size=5))
def test_a_providers_reply_reaches_callers_of_every_dialect(
    provider: str, events: list[Event], cuts: list[int]
) -> None:
    request = Request(
        "r", "chat", tools=TOOLS, stream=True, include_usage=True, sampling=Sampling(max_tokens=9)
    )
    got = streamed(provider, request, events, cuts)
    assert told(got) == told(events)
    encode = openai.encode_completion if provider == "openai" else anthropic.encode_message
    whole = list(PROVIDERS[provider].decode(json.dumps(encode(request, events, "c", 1)), request))
    assert told(whole) == told(events)
    for reply in (got, whole):
        chat = ChatCompletion.model_validate_json(
            json.dumps(openai.encode_completion(request, reply, "c", 1)), strict=True
        )
        message = ClaudeMessage.model_validate_json(
            json.dumps(anthropic.encode_message(request, reply, "m")), strict=True
        )
        said, wanted = chat.choices[0].message, told(events)
        thoughts = "".join(b.thinking for b in message.content if b.type == "thinking")
        texts = "".join(b.text for b in message.content if b.type == "text")
        assert (said.content or "", getattr(said, "reasoning_content", "")) == (
            wanted["text"],
            wanted["thought"],
        )
        assert (texts, thoughts) == (wanted["text"], wanted["thought"])
        assert [b.id for b in message.content if b.type == "tool_use"] == [id for *_, id in wanted["calls"]]
        assert [c.id for c in said.tool_calls or []] == [id for *_, id in wanted["calls"]]
        assert chat.choices[0].finish_reason == wanted["reason"][0]
        used = message.usage
        assert chat.usage is not None and chat.usage.prompt_tokens == 20 == used.input_tokens + (
            used.cache_read_input_tokens or 0
        ) + (used.cache_creation_input_tokens or 0)
        chunks(request, reply)


def chunks(request: Request, events: list[Event]) -> None:
    """Every chunk of a stream is of the package's type, and a response holds all that was said."""
    chat, message = openai.CompletionStream(request, "c", 1), anthropic.MessageStream(request, "m")
    shown = {
        **responses.decode_response({"model": "r", "input": "x"}).shown,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    response = responses.ResponseStream("resp_1", 1.0, shown, lambda: 2.0)
    for event in events:
        for made in chat.encode(event):
            ChatCompletionChunk.model_validate_json(json.dumps(made), strict=True)
        for made in message.encode(event):
            if made["type"] != "ping":
                CLAUDE.validate_json(json.dumps(made), strict=True)
        for made in response.encode(event):
            RESPONSE.validate_json(json.dumps(made), strict=True)
    final = Response.model_validate_json(json.dumps(response.response), strict=True)
    wanted = told(events)
    assert final.output_text == wanted["text"]
    thoughts = [p.text for item in final.output if item.type == "reasoning" for p in item.content or []]
    assert "".join(thoughts) == wanted["thought"]
    assert [i.call_id for i in final.output if i.type == "function_call"] == [
        id for *_, id in wanted["calls"]
    ]
    ended = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(wanted["reason"][0])
    assert (final.incomplete_details.reason if final.incomplete_details else None) == ended


CLAUDE: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSE: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def test_a_signature_stays_with_its_thoughts() -> None:
    request = Request("r", "chat", stream=True, sampling=Sampling(max_tokens=9))
    events: list[Event] = [
        Started(1), Reasoned(0, "One."), Reasoned(0, "", "s1"), Reasoned(0, "Two.", "s2"), Delta(0, "x"), Finished(0, "stop"),
        Usage(1, 1),
    ]  # fmt: skip
    got = streamed("anthropic", request, events, [])
    for reply in (events, got):
        content = anthropic.encode_message(request, reply, "m")["content"]
        assert [(b["thinking"], b["signature"]) for b in content[:-1]] == [("One.", "s1"), ("Two.", "s2")]
    shown = responses.decode_response({"model": "r", "input": "x"}).shown
    response = responses.ResponseStream("resp_1", 1.0, shown, lambda: 2.0)
    for event in got:
        response.encode(event)
    assert response.response is not None
    items = response.response["output"]
    assert [item.get("encrypted_content") for item in items] == ["s1", "s2", None]
    # and comes back with the caller's next turn
    body = {
        "model": "r",
        "input": [{"role": "user", "content": "x"}, *items[1:], {"role": "user", "content": "y"}],
    }
    again = responses.decode_response(body).after(())
    assert again.messages[1] == Message("assistant", "x", reasoning="Two.", signature="s2")
    sent = upstream_anthropic.encode(again, "m")["messages"][1]["content"]
    assert sent[0] == {"type": "thinking", "thinking": "Two.", "signature": "s2"}


def test_a_stored_response_shows_what_was_thought() -> None:
    shown = {
        **responses.decode_response({"model": "r", "input": "x"}).shown,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    row: dict[str, Any] = {
        "id": "resp_1", "created": 1.0, "finish": "content_filter", "reply": "Hi", "reasoning": "Hm", "calls": None, "error": None,
        "tokens": {"prompt": 3, "completion": 2, "cached": None}, "latency": {"total": 5},
        "request": {"messages": [Message("user", "x").to_json()]},
        "response": {"shown": shown, "lead": 0, "past": 0, "background": False},
    }  # fmt: skip
    stored = Response.model_validate_json(json.dumps(responses.encode_stored(row)), strict=True)
    assert [item.type for item in stored.output] == ["reasoning", "message"] and stored.output_text == "Hi"
    assert stored.incomplete_details and stored.incomplete_details.reason == "content_filter"
    assert responses.history(row) == (Message("user", "x"), Message("assistant", "Hi", reasoning="Hm"))
    said = Message("assistant", "Hi", reasoning="Hm", signature="s").to_json()
    row["request"]["messages"].append(said)
    items = responses.encode_items(row)
    again = responses.decode_response({"model": "r", "input": items}).after(())
    assert again.messages == (Message("user", "x"), Message("assistant", "Hi", reasoning="Hm", signature="s"))


def test_completions_and_vectors_reach_their_callers() -> None:
    request = Request(
        "r", "completion", prompt="Once", stream=True, include_usage=True, sampling=Sampling(logprobs=1)
    )
    score = {"tokens": ["x"], "token_logprobs": [-1], "top_logprobs": [{"x": -1}], "text_offset": [0]}
    body = {"choices": [{"index": 0, "text": "x", "logprobs": score, "finish_reason": "stop"}]}
    events = upstream_openai.decode(body, request)
    reply = Completion.model_validate_json(
        json.dumps(openai.encode_completion(request, events, "c", 1)), strict=True
    )
    assert reply.choices[0].logprobs is not None and reply.choices[0].logprobs.token_logprobs == [-1]
    vector = upstream_openai.decode({"data": [{"embedding": [1, 0]}]}, Request("r", "embedding", prompt="x"))
    assert vector[1] == Embedded(0, (1.0, 0.0))
    CreateEmbeddingResponse.model_validate_json(
        json.dumps(openai.encode_embeddings("r", vector)), strict=True
    )
