"""A tour of everything by Anthropic's own package, against a real server and the bundled model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel, Field

from .conftest import KEY

pytestmark = pytest.mark.slow

SAY: Any = [{"role": "user", "content": "Tell me a story about a dog."}]


class Trip(BaseModel):
    """A trip to a city."""

    city: Literal["Oslo", "Lima"]
    days: int = Field(ge=1, le=7)


class Clock(BaseModel):
    """The time in a zone."""

    zone: Literal["UTC", "CET"]


SHAPES: dict[str, type[BaseModel]] = {"trip": Trip, "clock": Clock}
TOOLS: Any = [
    {"name": name, "description": shape.__doc__, "input_schema": shape.model_json_schema()}
    for name, shape in SHAPES.items()
]


@pytest.fixture(scope="module")
def client(herd_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=herd_url, api_key=KEY, max_retries=0) as made:
        yield made


def create(client: anthropic.Anthropic, **fields: Any) -> Any:
    """Greedy: the package no longer has the argument, the API has the field."""
    asked: dict[str, Any] = {"model": "cria", "max_tokens": 24, "messages": SAY, "extra_body": {"top_k": 1}}
    return client.messages.create(**(asked | fields))


def text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def read(usage: Any) -> int:
    return int(usage.input_tokens + (usage.cache_read_input_tokens or 0))


def test_a_message_and_its_limits(client: anthropic.Anthropic) -> None:
    message = create(client)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 24)
    assert text(message) and message._request_id
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "My name is Olga."}]},
        {"role": "assistant", "content": "Hello, Olga."},
        *SAY,
    ]
    longer = create(
        client, messages=turns, system=[{"type": "text", "text": "Be kind."}], metadata={"user_id": "a"}
    )
    assert read(longer.usage) > read(message.usage) + 10
    assert text(create(client)) == text(message)


def test_stop_sequences(client: anthropic.Anthropic) -> None:
    plain = text(create(client))
    end = plain[8:12]
    message = create(client, stop_sequences=["never said", end])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", end)
    assert text(message) == plain[: plain.index(end)]


def test_stream(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "cria", "max_tokens": 24, "messages": SAY, "extra_body": {"top_k": 1}}
    with client.messages.stream(**asked) as stream:
        shown = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = create(client)
    assert shown == text(final) == text(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    kinds = [event.type for event in create(client, stream=True) if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_count_tokens(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "cria", "messages": SAY, "system": "Be kind.", "tools": TOOLS}
    count = client.messages.count_tokens(**asked).input_tokens
    assert count == read(client.messages.create(max_tokens=1, **asked).usage)


CHOICES: Any = [
    {"type": "auto"},
    {"type": "none"},
    {"type": "any", "disable_parallel_tool_use": True},
    {"type": "tool", "name": "trip", "disable_parallel_tool_use": True},
    {"type": "tool", "name": "clock", "disable_parallel_tool_use": True},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.get("name", choice["type"]))
def test_tools(client: anthropic.Anthropic, choice: Any) -> None:
    asked: Any = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 300}
    message = create(client, **asked)
    uses = [block for block in message.content if block.type == "tool_use"]
    if choice["type"] in ("any", "tool"):
        assert message.stop_reason == "tool_use" and len(uses) == 1
    if choice["type"] == "none":
        assert not uses
    for use in uses:
        SHAPES[use.name].model_validate(use.input)
        assert choice.get("name", use.name) == use.name
    with client.messages.stream(model="cria", messages=SAY, extra_body={"top_k": 1}, **asked) as stream:
        final: Any = stream.get_final_message()
    assert [b.input for b in final.content if b.type == "tool_use"] == [use.input for use in uses]
    if uses:
        told = [{"type": "tool_result", "tool_use_id": use.id, "content": "Done."} for use in uses]
        turns = [*SAY, {"role": "assistant", "content": message.content}, {"role": "user", "content": told}]
        after = create(client, messages=turns, tools=TOOLS)
        assert read(after.usage) > read(create(client, tools=TOOLS).usage) + 20


def test_structured_output(client: anthropic.Anthropic) -> None:
    """The package itself takes bounds out of a schema before it sends it, so this one has none."""
    message = client.messages.parse(model="cria", max_tokens=300, messages=SAY, output_format=Clock)
    assert isinstance(message.parsed_output, Clock)


def test_errors_by_class(client: anthropic.Anthropic, herd_url: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        create(client, model="nobody")
    with pytest.raises(anthropic.AuthenticationError):
        create(anthropic.Anthropic(base_url=herd_url, api_key="wrong", max_retries=0))
    for fields, name in (
        ({"extra_body": {"top_k": "one"}}, "top_k"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "sheep " * 4000}]}, "2048"),
    ):
        with pytest.raises(anthropic.BadRequestError) as raised:
            create(client, **fields)
        assert name in raised.value.message
        body: Any = raised.value.body
        assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
