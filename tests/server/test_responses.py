"""The Responses dialect, by OpenAI's own client and byte by byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from herd.protocol import Failed, Format, Message, ToolCall

TEXT = "Once upon a time."
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": True,
}
CALL = ToolCall("call_1", "weather", '{"place": "Paris"}')


def events(text: str) -> list[Any]:
    """The data of each event, whose name must be its type; [DONE] at the end is left out."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    found = []
    for block in blocks:
        if block == "data: [DONE]":
            continue
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_whole_response(api: openai.OpenAI, engine: Any) -> None:
    response = api.responses.create(
        model="cria", input="Hi", instructions="Be brief.", max_output_tokens=9, temperature=0, metadata={"a": "b"}, user="u"
    )  # fmt: skip
    assert response.id.startswith("resp_") and response.status == "completed" and response.output_text == TEXT
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        3,
        4,
        7,
    )
    assert response.usage.input_tokens_details.cached_tokens == 1
    assert (response.instructions, response.max_output_tokens, response.temperature) == ("Be brief.", 9, 0)
    assert response.metadata == {"a": "b"} and response.error is None and response.completed_at
    (request,) = engine.requests
    assert request.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert request.sampling.max_tokens == 9 and request.labels == {"metadata": {"a": "b"}, "user": "u"}
    assert api.responses.retrieve(response.id) == response


def test_a_stream_by_the_client(api: openai.OpenAI) -> None:
    with api.responses.stream(model="cria", input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == TEXT and kinds.count("response.output_text.delta") == 4
    raw = list(api.responses.create(model="cria", input="Hi", stream=True))
    last = raw[-1]
    assert last.type == "response.completed"
    assert api.responses.retrieve(last.response.id).output == last.response.output


def test_the_exact_events(client: TestClient, engine: Any) -> None:
    engine.words, engine.calls = (
        ("Let me ", "see."),
        (CALL, ToolCall("call_2", "weather", '{"place": "Rome"}')),
    )
    body = {"model": "cria", "input": "Hi", "stream": True, "tools": [WEATHER]}
    reply = client.post("/v1/responses", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream") and reply.text.endswith(
        "data: [DONE]\n\n"
    )
    found = events(reply.text)
    call = ["response.output_item.added", "response.function_call_arguments.delta",
            "response.function_call_arguments.done", "response.output_item.done"]  # fmt: skip
    assert [event["type"] for event in found] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", *call, *call, "response.completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[0]["response"]["status"] == "in_progress" and found[0]["response"]["output"] == []
    assert found[2]["item"]["content"] == [] and found[2]["item"]["status"] == "in_progress"
    assert [event["output_index"] for event in found if "output_index" in event] == [0] * 7 + [1] * 4 + [
        2
    ] * 4
    assert found[9]["item"]["arguments"] == "" and found[11]["arguments"] == CALL.arguments
    final = found[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["message", "function_call", "function_call"]
    assert (
        final["output"][0]["content"][0]["text"] == "Let me see."
        and final["output"][1]["call_id"] == "call_1"
    )
    assert [event["item"] for event in found if event["type"] == "response.output_item.done"] == final[
        "output"
    ]
    assert client.get(f"/v1/responses/{final['id']}").json() == final


def test_a_reply_without_a_word_is_an_empty_message(client: TestClient, engine: Any) -> None:
    engine.words = ()
    found = events(client.post("/v1/responses", json={"model": "cria", "input": "Hi", "stream": True}).text)
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    final = found[-1]["response"]
    assert client.get(f"/v1/responses/{final['id']}").json() == final


def test_tools_and_their_outputs(api: openai.OpenAI, engine: Any) -> None:
    engine.words, engine.calls = (), (CALL,)
    first = api.responses.create(
        model="cria", input="Is it warm in Paris?", tools=[WEATHER], tool_choice="required"
    )
    (item,) = first.output
    assert item.type == "function_call" and json.loads(item.arguments) == {"place": "Paris"}
    assert engine.requests[-1].tool_choice == "required" and engine.requests[-1].tools[0].name == "weather"
    engine.words, engine.calls = ("Yes.",), ()
    output: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "25 °C"}
    second = api.responses.create(
        model="cria", previous_response_id=first.id, input=[output], tools=[WEATHER]
    )
    assert second.output_text == "Yes."
    asked = [
        Message("user", "Is it warm in Paris?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "25 °C", tool_call_id="call_1"),
    ]
    assert list(engine.requests[-1].messages) == asked
    # without the store: the same by sending the items back
    items: Any = [{"role": "user", "content": "Is it warm in Paris?"}, item.to_dict(), output]
    api.responses.create(model="cria", input=items, tools=[WEATHER], store=False)
    assert list(engine.requests[-1].messages) == asked
    with pytest.raises(openai.BadRequestError, match="call_9"):
        api.responses.create(
            model="cria", input=[{"type": "function_call_output", "call_id": "call_9", "output": "x"}]
        )


def test_which_tools_may_be_called(client: TestClient, engine: Any) -> None:
    other = {"type": "function", "name": "time", "parameters": None}
    body = {"model": "cria", "input": "Hi", "tools": [WEATHER, other], "parallel_tool_calls": False}
    for choice, tools, wish, name in (
        ("none", 2, "none", None),
        ({"type": "function", "name": "time"}, 2, "required", "time"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]},
            1,
            "auto",
            None,
        ),
    ):
        shown = client.post("/v1/responses", json={**body, "tool_choice": choice}).json()
        made = engine.requests[-1]
        assert (len(made.tools), made.tool_choice, made.tool_name) == (tools, wish, name)
        assert not made.parallel_tool_calls and shown["tool_choice"] == choice and len(shown["tools"]) == 2


def test_structured_output(api: openai.OpenAI, engine: Any) -> None:
    class Animal(BaseModel):
        name: str
        legs: int

    engine.words = ('{"name": ', '"llama", ', '"legs": 4}')
    parsed = api.responses.parse(model="cria", input="An animal?", text_format=Animal)
    assert parsed.output_parsed == Animal(name="llama", legs=4)
    format = engine.requests[-1].format
    assert format.kind == "json_schema" and set(format.schema["properties"]) == {"name", "legs"}
    api.responses.create(model="cria", input="JSON?", text={"format": {"type": "json_object"}})
    assert engine.requests[-1].format == Format("json_object")


def test_logprobs(api: openai.OpenAI, home: Path) -> None:
    response = api.responses.create(
        model="cria", input="Hi", include=["message.output_text.logprobs"], top_logprobs=2
    )
    part: Any = response.output[0].content[0]  # type: ignore[union-attr]
    assert [one.token for one in part.logprobs] == ["Once ", "upon ", "a ", "time."]
    assert [other.token for other in part.logprobs[0].top_logprobs] == ["t0", "t1"] and part.logprobs[
        0
    ].logprob == -0.5
    assert api.responses.retrieve(response.id) == response
    raw = list(
        api.responses.create(
            model="cria", input="Hi", include=["message.output_text.logprobs"], top_logprobs=1, stream=True
        )
    )
    last: Any = raw[-1]
    assert last.response.output[0].content[0].logprobs
    assert api.responses.retrieve(last.response.id).output == last.response.output


def test_logprobs_do_not_spell_what_is_redacted(start: Callable[..., TestClient], home: Path) -> None:
    routes = (
        f'[routes.{name}]\ntargets = ["cria"]\nredact = ["{word}"]'
        for name, word in (("a", "[u]pon"), ("b", "[x]yz"))
    )
    (home / "herd.toml").write_text("\n".join(routes))
    client, scores = start(), {}
    for name in "ab":
        body = {"model": name, "input": "Hi", "include": ["message.output_text.logprobs"]}
        id = client.post("/v1/responses", json=body).json()["id"]
        part = client.get(f"/v1/responses/{id}").json()["output"][0]["content"][0]
        scores[name] = part["text"], [one["token"] for one in part["logprobs"]]
    assert scores["b"] == (TEXT, ["Once ", "upon ", "a ", "time."])
    assert "upon" not in scores["a"][0] and scores["a"][1] == []


def test_history_without_instructions(api: openai.OpenAI, engine: Any, client: TestClient) -> None:
    first = api.responses.create(model="cria", input="One", instructions="Speak as a pirate.")
    second = api.responses.create(model="cria", input="Two", previous_response_id=first.id)
    third = api.responses.create(model="tale", input="Three", previous_response_id=second.id)
    assert [m.content for m in engine.requests[1].messages] == ["One", TEXT, "Two"]
    # the target's own system prompt is not history either
    assert [m.content for m in engine.requests[2].messages] == [
        "You tell tales.",
        "One",
        TEXT,
        "Two",
        TEXT,
        "Three",
    ]
    fourth = api.responses.create(model="cria", input="Four", previous_response_id=third.id)
    assert "You tell tales." not in [m.content for m in engine.requests[3].messages]
    assert fourth.previous_response_id == third.id and fourth.instructions is None
    talks = {
        client.get(f"/api/generations/{r.id}").json()["conversation"] for r in (first, second, third, fourth)
    }
    assert len(talks) == 1


def test_incomplete(api: openai.OpenAI, engine: Any) -> None:
    engine.reason = "length"
    response = api.responses.create(model="cria", input="Hi", max_output_tokens=4)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert (
        response.incomplete_details.reason == "max_output_tokens"
        and response.output[0].status == "incomplete"
    )  # type: ignore[union-attr]
    assert api.responses.retrieve(response.id) == response
    assert list(api.responses.create(model="cria", input="Hi", stream=True))[-1].type == "response.incomplete"


def test_failures(api: openai.OpenAI, client: TestClient, engine: Any) -> None:
    engine.break_after = 2
    with pytest.raises(openai.InternalServerError, match="stopped before"):
        api.responses.create(model="cria", input="Hi")
    reply = client.post("/v1/responses", json={"model": "cria", "input": "Hi", "stream": True})
    last = events(reply.text)[-1]
    assert last["type"] == "response.failed" and "[DONE]" not in reply.text
    failed = last["response"]
    assert failed["status"] == "failed" and failed["error"]["code"] == "server_error"
    assert (
        failed["output"][0]["status"] == "incomplete"
        and failed["output"][0]["content"][0]["text"] == "Once upon "
    )
    stored = client.get(f"/v1/responses/{failed['id']}").json()
    assert (stored["status"], stored["error"], stored["output"][0]["status"]) == (
        "failed",
        failed["error"],
        "incomplete",
    )
    with pytest.raises(openai.BadRequestError, match="failed"):
        api.responses.create(model="cria", input="x", previous_response_id=failed["id"])
    engine.fail = Failed("the prompt has 9 tokens; the context is 8", "context_length_exceeded", 400)
    with pytest.raises(openai.BadRequestError, match="context is 8"):
        list(api.responses.create(model="cria", input="Hi", stream=True))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": [3]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
    ({"input": [{"type": "reasoning", "summary": ["x"]}]}, "input[0].summary[0]"),
    ({"input": [{"type": "reasoning", "summary": [{"type": "x", "text": ""}]}]}, "input[0].summary[0]"),
    (
        {"input": [{"type": "reasoning", "content": [{"type": "summary_text", "text": ""}]}]},
        "input[0].content[0]",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "logprobs": {}}]}]},
        "input[0].content[0].logprobs",
    ),
    (
        {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "logprobs": 1}]}]},
        "input[0].content[0].logprobs",
    ),
    ({"input": [{"role": "assistant", "content": "x", "status": "done"}]}, "input[0].status"),
    ({"input": [{"role": "assistant", "content": "x", "status": 1}]}, "input[0].status"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}]},
        "input_image",
    ),
    ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "output_text"),
    ({"input": [{"role": "user", "content": "x", "colour": 1}]}, "colour"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
        "input[0].arguments",
    ),
    ({"tools": [{"type": "web_search"}]}, "web_search"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": 1}}}, "text.format.schema"),
    ({"text": {"verbosity": "high"}}, "text.verbosity"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "x"}, "conversation"),
    ({"background": True, "store": False}, "background"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"instructions": 1}, "instructions"),
    ({"previous_response_id": 1}, "previous_response_id"),
    ({"max_tokens": 1}, "max_tokens"),
]


@pytest.mark.parametrize(("fields", "named"), BAD, ids=[f"{i}-{named}" for i, (_, named) in enumerate(BAD)])
def test_bad_requests_are_refused_by_name(
    client: TestClient, engine: Any, fields: dict[str, Any], named: str
) -> None:
    reply = client.post("/v1/responses", json={"model": "cria", "input": "Hi", **fields})
    assert reply.status_code == 400 and named in reply.json()["error"]["message"], reply.text
    assert not engine.requests


def test_defaults_are_accepted(client: TestClient) -> None:
    body = {
        "truncation": "disabled", "reasoning": {"effort": "none", "summary": None}, "service_tier": "auto", "tools": [],
        "tool_choice": "auto", "text": {"format": {"type": "text"}, "verbosity": "medium"}, "conversation": None,
        "include": ["reasoning.encrypted_content"], "stream_options": {"include_obfuscation": False}, "top_logprobs": 0,
    }  # fmt: skip
    assert client.post("/v1/responses", json={"model": "cria", "input": "Hi", **body}).status_code == 200


def test_bad_queries(client: TestClient) -> None:
    id = client.post("/v1/responses", json={"model": "cria", "input": "Hi"}).json()["id"]
    include = "include[]=message.output_text.logprobs&include[]=reasoning.encrypted_content"
    for path in ("", "/input_items"):
        assert client.get(f"/v1/responses/{id}{path}?{include}").status_code == 200
        refused = client.get(f"/v1/responses/{id}{path}?{include}&include[]=file_search")
        assert refused.status_code == 400 and "'file_search'" in refused.json()["error"]["message"]
    for query in (
        "?stream=true",
        "?starting_after=3",
        "?include[]=x",
        "/input_items?limit=0",
        "/input_items?order=up",
    ):
        assert client.get(f"/v1/responses/{id}{query}").status_code == 400
