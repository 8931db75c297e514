"""Whatever the events, a stream put together is the whole reply, in every dialect."""

import json
from typing import Any

from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from pydantic import TypeAdapter

from herd.protocol import (
    Called,
    Delta,
    Event,
    Finished,
    Reasoned,
    Request,
    Sampling,
    Started,
    Tool,
    ToolCall,
    Usage,
    anthropic,
)
from herd.protocol import openai as dialect

TOOLS = (Tool("f"),)
RAW: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@st.composite
def replies(draw: st.DrawFn, choices: int) -> list[Event]:
    """Events of a whole reply: texts, thoughts and calls of all choices in any order, then how each ended."""
    index, thought = st.integers(0, choices - 1), st.tuples(st.text(max_size=4), st.sampled_from(["", "sig"]))
    made = draw(st.lists(st.tuples(index, st.text(max_size=4) | st.integers(0, 99) | thought), max_size=12))
    events: list[Event] = [Started(7, 3)]
    for i, (choice, what) in enumerate(made):
        if isinstance(what, str):
            events.append(Delta(choice, what, (1,)))
        elif isinstance(what, tuple):
            events.append(Reasoned(choice, *what))
        else:
            events.append(Called(choice, ToolCall(f"call_{i}", "f", json.dumps({"x": what}))))
    for choice in draw(st.permutations(range(choices))):
        why = st.sampled_from(["stop", "length", "tool_calls", "cancelled", "content_filter"])
        events.append(Finished(choice, draw(why)))  # type: ignore[arg-type]
    return [*events, Usage(7, len(made), 3, 2, 1)]


@given(replies(3))
def test_chat(events: list[Event]) -> None:
    request = Request("cria", "chat", n=3, tools=TOOLS, stream=True, include_usage=True)
    codec = dialect.CompletionStream(request, "chatcmpl-1", 1700, "fp_1")
    state: Any = ChatCompletionStreamState()  # puts chunks together as OpenAI's client does
    for event in events:
        for chunk in codec.encode(event):
            state.handle_chunk(ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True))
    streamed = state.current_completion_snapshot.to_dict()
    whole = dialect.encode_completion(request, events, "chatcmpl-1", 1700, "fp_1")
    assert streamed["usage"] == whole["usage"]
    assert streamed["system_fingerprint"] == whole["system_fingerprint"] == "fp_1"
    for one, other in zip(
        sorted(streamed["choices"], key=lambda c: c["index"]), whole["choices"], strict=True
    ):
        assert one["finish_reason"] == other["finish_reason"]
        assert (one["message"].get("content") or "") == (other["message"]["content"] or "")
        assert (one["message"].get("reasoning_content") or "") == other["message"].get(
            "reasoning_content", ""
        )
        calls = [{k: v for k, v in c.items() if k != "index"} for c in one["message"].get("tool_calls") or []]
        assert [(c["id"], c["function"]["arguments"]) for c in calls] == [
            (c["id"], c["function"]["arguments"]) for c in other["message"].get("tool_calls", [])
        ]


def put_together(raw: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events of a stream describe."""
    message: dict[str, Any] = raw[0]["message"]
    texts: list[str] = []
    for event in raw[1:]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
            texts.append("")
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(texts) - 1
            delta = event["delta"]
            if delta["type"] == "signature_delta":
                message["content"][-1]["signature"] += delta["signature"]
            else:
                texts[-1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json")
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    for block, text in zip(message["content"], texts, strict=True):
        kind: str = block["type"]
        block |= {"input": json.loads(text)} if kind == "tool_use" else {kind: text}
    return message


@given(replies(1))
def test_messages(events: list[Event]) -> None:
    request = Request("cria", "chat", tools=TOOLS, stream=True, sampling=Sampling(max_tokens=99))
    codec = anthropic.MessageStream(request, "msg_1")
    raw = [json.loads(json.dumps(made)) for event in events for made in codec.encode(event)]
    for event in raw:
        if event["type"] != "ping":
            RAW.validate_json(json.dumps(event), strict=True)
    kinds = [event["type"] for event in raw]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert put_together(raw) == anthropic.encode_message(request, events, "msg_1")
