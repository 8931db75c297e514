"""A tour of everything by OpenAI's own package, against a real server and the bundled model."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .conftest import KEY

pytestmark = pytest.mark.slow

SAY: Any = [{"role": "user", "content": "Tell me a story about a dog."}]
GREEDY: Any = {"model": "cria", "temperature": 0, "max_completion_tokens": 24}


class Trip(BaseModel):
    """A trip to a city."""

    city: Literal["Oslo", "Lima"]
    days: int = Field(ge=1, le=7)


class Clock(BaseModel):
    """The time in a zone."""

    zone: Literal["UTC", "CET"]


TOOLS: Any = [
    openai.pydantic_function_tool(Trip, name="trip"),
    openai.pydantic_function_tool(Clock, name="clock"),
]
SHAPES: dict[str, type[BaseModel]] = {"trip": Trip, "clock": Clock}


@pytest.fixture(scope="module")
def client(herd_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{herd_url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, messages: Any = SAY, **fields: Any) -> Any:
    return client.chat.completions.create(messages=messages, **(GREEDY | fields))


def text(reply: Any) -> str:
    content = reply.choices[0].message.content
    assert isinstance(content, str)
    return content


def test_models(client: openai.OpenAI) -> None:
    assert "cria" in [model.id for model in client.models.list()]
    assert client.models.retrieve("cria").object == "model"


def test_chat_and_its_limits(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(messages=SAY, **GREEDY)
    reply = raw.parse()
    assert raw.headers["x-request-id"] and reply._request_id == raw.headers["x-request-id"]
    assert reply.usage is not None
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 24)
    turns = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": "Hello, Ann."},
        *SAY,
    ]
    longer = chat(client, turns, user="ann", metadata={"a": "b"}, store=False, service_tier="auto")
    assert longer.usage.prompt_tokens > reply.usage.prompt_tokens + 10


def test_seed_and_choices(client: openai.OpenAI) -> None:
    drawn = {"temperature": 1, "seed": 5, "n": 3}
    first, second = chat(client, **drawn), chat(client, **drawn)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in first.choices] == [0, 1, 2]


def test_stream(client: openai.OpenAI) -> None:
    asked = {"n": 2, "seed": 3, "temperature": 0.8}
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}, **asked))
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = chat(client, **asked)
    assert texts == [choice.message.content for choice in whole.choices]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert sorted(c.finish_reason for x in chunks for c in x.choices if c.finish_reason) == ["length"] * 2


def test_stop(client: openai.OpenAI) -> None:
    plain = text(chat(client))
    end = plain[8:12]
    reply = chat(client, stop=[end, "never said"])
    assert text(reply) == plain[: plain.index(end)] and reply.choices[0].finish_reason == "stop"
    streamed = "".join(x.choices[0].delta.content or "" for x in chat(client, stop=end, stream=True))
    assert streamed == text(reply)


def test_logprobs(client: openai.OpenAI) -> None:
    reply = chat(client, logprobs=True, top_logprobs=5)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == 24
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text(reply)
    for token in tokens:
        assert token.logprob == max(other.logprob for other in token.top_logprobs)
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1 + 1e-6


def test_bias_and_penalties(client: openai.OpenAI) -> None:
    once = text(chat(client, logit_bias={"500": 100}, max_completion_tokens=1))
    assert text(chat(client, logit_bias={"500": 100}, max_completion_tokens=4)).strip() == (once * 4).strip()
    many: Any = [{"role": "user", "content": "Say the word sea again and again: sea sea sea sea sea sea sea"}]
    plain = text(chat(client, many, max_completion_tokens=80))
    for name in ("frequency_penalty", "presence_penalty"):
        assert text(chat(client, many, max_completion_tokens=80, **{name: 2})) != plain


@pytest.mark.parametrize("choice", ["auto", "none", "required", "trip", "clock"])
def test_tools(client: openai.OpenAI, choice: str) -> None:
    wanted: Any = {"type": "function", "function": {"name": choice}} if choice in SHAPES else choice
    asked: Any = {"tools": TOOLS, "tool_choice": wanted, "parallel_tool_calls": False}
    asked["max_completion_tokens"] = 300
    reply = chat(client, **asked)
    calls = reply.choices[0].message.tool_calls or []
    if choice in ("required", *SHAPES):
        assert reply.choices[0].finish_reason == "tool_calls" and len(calls) == 1
    if choice == "none":
        assert not calls
    for call in calls:
        SHAPES[call.function.name].model_validate_json(call.function.arguments)
        assert choice not in SHAPES or call.function.name == choice
    pieces = [
        call
        for x in chat(client, stream=True, **asked)
        for c in x.choices
        for call in c.delta.tool_calls or []
    ]
    assert [p.function.arguments for p in pieces] == [c.function.arguments for c in calls]  # each whole
    if calls:
        told = [{"role": "tool", "tool_call_id": call.id, "content": "It is done."} for call in calls]
        after = chat(client, [*SAY, reply.choices[0].message, *told], tools=TOOLS)
        assert after.usage.prompt_tokens > chat(client, tools=TOOLS).usage.prompt_tokens + 20


def test_several_calls(client: openai.OpenAI) -> None:
    """A small model goes on calling; each call is whole, also of a reply that is cut."""
    reply = chat(client, tools=TOOLS, tool_choice="required", max_completion_tokens=400)
    assert reply.choices[0].finish_reason in ("tool_calls", "length")
    assert reply.choices[0].message.tool_calls
    for call in reply.choices[0].message.tool_calls:
        SHAPES[call.function.name].model_validate_json(call.function.arguments)


def test_structured_output(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "messages": SAY, "max_completion_tokens": 200}
    parsed = client.chat.completions.parse(response_format=Trip, **asked).choices[0].message.parsed
    assert isinstance(parsed, Trip)
    with client.chat.completions.stream(response_format=Trip, **asked) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Trip)
    for format, pattern in (
        ({"regex": "[a-c]{3}-[0-9]{2}"}, r"[a-c]{3}-[0-9]{2}"),
        ({"choice": ["yes", "no"]}, "yes|no"),
    ):
        reply = chat(client, extra_body={"structured_outputs": format}, temperature=1, seed=1)
        assert re.fullmatch(pattern, text(reply)), text(reply)
    grammar = 'start: "(" /[0-9]{1,3}/ ")"'
    assert re.fullmatch(
        r"\(\d+\)", text(chat(client, extra_body={"structured_outputs": {"grammar": grammar}}))
    )
    reply = chat(client, response_format={"type": "json_object"}, max_completion_tokens=400)
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text(reply)), dict)


def test_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "max_tokens": 8, "temperature": 0}
    prompt = "Once upon a time there was"
    plain = client.completions.create(prompt=prompt, **asked)
    echoed = client.completions.create(prompt=prompt, echo=True, logprobs=2, **asked)
    assert echoed.choices[0].text == prompt + plain.choices[0].text
    scores = echoed.choices[0].logprobs
    assert scores is not None and scores.tokens is not None and scores.token_logprobs is not None
    assert "".join(scores.tokens) == echoed.choices[0].text
    assert all(score <= 0 for score in scores.token_logprobs[1:])
    streamed = client.completions.create(prompt=prompt, stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == plain.choices[0].text
    several = client.completions.create(prompt=[prompt, [500, 501, 502]], n=2, **asked)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == plain.choices[0].text


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["A dog sleeps.", "The sea is cold.", "A dog sleeps."]
    packed = client.embeddings.create(model="cria", input=texts)  # the package asks for base64
    plain = client.embeddings.create(model="cria", input=texts[1], encoding_format="float")
    vectors = [item.embedding for item in packed.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert vectors[1] == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert math.hypot(*vectors[0]) == pytest.approx(1, abs=1e-4)
    assert packed.usage.total_tokens > plain.usage.total_tokens


def test_a_stored_response_is_continued_and_deleted(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "temperature": 0, "max_output_tokens": 24}
    first = client.responses.create(input="My name is Olga.", instructions="Be kind.", **asked)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    then = client.responses.create(input="Who am I?", previous_response_id=first.id, **asked)
    alone = client.responses.create(input="Who am I?", store=False, **asked)
    assert then.usage and alone.usage and then.usage.input_tokens > alone.usage.input_tokens + 20
    count = client.responses.input_tokens.count
    counted = count(model="cria", input="Who am I?", previous_response_id=first.id)
    assert counted.input_tokens == then.usage.input_tokens
    assert count(model="cria", input="Who am I?").input_tokens == alone.usage.input_tokens
    items = list(client.responses.input_items.list(first.id))
    assert len(items) == 1
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(alone.id)


def test_a_streamed_response(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "temperature": 0, "max_output_tokens": 24, "input": "Tell me of the sea."}
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == final.output_text
    assert final.status in ("completed", "incomplete")
    assert final.output_text == client.responses.create(**asked).output_text


def test_a_form_that_cannot_be_is_named(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
    wrong: Any = {"type": "json_schema", "name": "x", "schema": schema}
    asked: Any = {"model": "cria", "input": "A trip.", "text": {"format": wrong}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked)
    assert caught.value.param == "text.format"
    made = client.responses.create(background=True, **asked)
    while made.status in ("queued", "in_progress"):
        time.sleep(0.05)
        made = client.responses.retrieve(made.id)
    assert made.status == "failed" and made.error is not None
    assert made.error.code == "invalid_prompt" and made.error.message in caught.value.message
    for field, fields in (
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}),
        ("structured_outputs", {"extra_body": {"structured_outputs": {"regex": "("}}}),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, **fields)
        assert caught.value.param == field


def test_the_tokens_of_tools_are_counted(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "book", "parameters": Trip.model_json_schema()}
    asked: Any = {"model": "cria", "input": "A trip.", "instructions": "Be kind.", "tools": [tool]}
    for choice in ("auto", "required", "none"):
        made = client.responses.create(max_output_tokens=16, tool_choice=choice, **asked)
        counted = client.responses.input_tokens.count(tool_choice=choice, **asked)
        assert made.usage and counted.input_tokens == made.usage.input_tokens


def test_responses_with_tools_and_a_form(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="cria", input="A trip.", text_format=Trip, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Trip)
    tools: Any = [
        {"type": "function", "name": name, "parameters": shape.model_json_schema(), "strict": False}
        for name, shape in SHAPES.items()
    ]
    made = client.responses.create(
        model="cria", input="A trip.", tools=tools, tool_choice="required", max_output_tokens=400
    )
    calls = [item for item in made.output if item.type == "function_call"]
    assert calls
    for call in calls:
        SHAPES[call.name].model_validate_json(call.arguments)
    told: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "Done."} for call in calls
    ]
    after = client.responses.create(
        model="cria",
        input=told,
        previous_response_id=made.id,
        tools=tools,
        tool_choice="none",
        max_output_tokens=16,
    )
    assert after.output_text is not None and after.status in ("completed", "incomplete")


def test_a_response_in_the_background_is_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="cria",
        input="Tell me a very long story.",
        background=True,
        temperature=1,
        max_output_tokens=1500,
    )
    assert made.status in ("queued", "in_progress")
    ended = client.responses.cancel(made.id)
    assert ended.status in ("cancelled", "completed", "incomplete")
    assert client.responses.retrieve(made.id).status == ended.status


def test_errors_by_class(client: openai.OpenAI, herd_url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(client, model="nobody")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{herd_url}/v1", api_key="wrong", max_retries=0).models.list()
    for fields, name in (
        ({"temperature": 9}, "temperature"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            chat(client, **fields)
        assert name in str(raised.value.param) and name in raised.value.message
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}
    with pytest.raises(openai.BadRequestError, match="#/type"):
        chat(client, response_format=schema)
    with pytest.raises(openai.BadRequestError, match=r"\d+ tokens.*2048"):
        chat(client, [{"role": "user", "content": "sheep " * 4000}])
