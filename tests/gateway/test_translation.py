"""Any client's dialect to any provider's, there and back: nothing that steers an answer, and nothing of it, is lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from anthropic.types import MessageParam, ToolParam, message_create_params
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params as completion_params
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from openai.types.chat import completion_create_params as chat_params
from pydantic import TypeAdapter
from typing_extensions import get_type_hints

from herd.protocol import (
    Format,
    Image,
    Message,
    ProtocolError,
    Request,
    Sampling,
    Tool,
    ToolCall,
    anthropic,
    openai,
    responses,
    upstream_anthropic,
    upstream_openai,
)
from herd.protocol.refusals import leave_out, may_drop, unsupported_fields

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NAME = st.sampled_from(["weather", "time", "f-1"])
SCHEMAS = st.sampled_from(
    [
        {"type": "object", "properties": {"x": {}}, "required": ["x"], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
    ]
)
URLS = st.sampled_from(["https://a.example/b.png", "data:image/png;base64,aGk="])
TOOLS = (
    Tool("weather", "Now.", {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("f-1", "", {"type": "object"}),
)


@st.composite
def images(draw: st.DrawFn, content: str) -> tuple[Image, ...]:
    places = sorted(draw(st.lists(st.integers(0, len(content)), max_size=2)))
    return tuple(Image(draw(URLS), place) for place in places)


@st.composite
def conversations(draw: st.DrawFn, thoughts: bool) -> tuple[Message, ...]:
    """Turns in alternation, with calls that are all answered."""
    messages = [Message("system", draw(TEXT))] if draw(st.booleans()) else []
    ids = iter(range(1000))
    for _ in range(draw(st.integers(0, 2))):
        content = draw(TEXT)
        messages.append(Message("user", content, images=draw(images(content))))
        calls = tuple(
            ToolCall(f"call_{next(ids)}", draw(NAME), json.dumps({"x": draw(TEXT)}, ensure_ascii=False))
            for _ in range(draw(st.integers(0, 2)))
        )
        reasoning = draw(TEXT) if thoughts and draw(st.booleans()) else ""
        messages.append(
            Message(
                "assistant",
                draw(TEXT),
                tool_calls=calls,
                reasoning=reasoning,
                signature="s" if reasoning else "",
            )
        )
        messages += [Message("tool", draw(TEXT), tool_call_id=call.id) for call in calls]
    content = draw(TEXT)
    return (*messages, Message("user", content, images=draw(images(content))))


@st.composite
def requests(draw: st.DrawFn, wide: bool) -> Request:
    """What the OpenAI dialect can say, with vLLM's fields (`wide`), or what the Anthropic one can."""
    options: dict[str, Any] = {
        "temperature": st.sampled_from([0.0, 0.5, 1.0]),
        "top_k": st.integers(0, 50),
        "top_p": st.sampled_from([0.1, 1.0]),
        "stop": st.lists(st.sampled_from(["a", "END"]), min_size=1, max_size=2).map(tuple),
    }
    if wide:
        options |= {
            "min_p": st.just(0.1),
            "seed": st.integers(0, 9),
            "logprobs": st.integers(0, 3),
            "frequency_penalty": st.just(0.5),
            "presence_penalty": st.just(-0.5),
            "logit_bias": st.just({"5": 1.0}),
        }
    chosen = draw(st.fixed_dictionaries({}, optional=options))
    chosen["max_tokens"] = draw(st.integers(1, 99))
    tools = draw(st.sampled_from([(), TOOLS]))
    choice = draw(st.sampled_from(["auto", "none", "required", "weather"])) if tools else "auto"
    kinds: Any = SCHEMAS.map(lambda schema: Format("json_schema", schema))
    if wide:
        kinds |= st.sampled_from(
            [Format("json_object"), Format("regex", text="[ab]+"), Format("lark", text='start: "a"')]
        )
    return Request(
        "r",
        "chat",
        draw(conversations(thoughts=not wide)),
        tools=tools,
        tool_choice="required" if choice == "weather" else choice,  # type: ignore[arg-type]
        tool_name="weather" if choice == "weather" else None,
        parallel_tool_calls=not tools or choice == "none" or draw(st.booleans()),
        format=draw(st.none() | kinds),
        sampling=Sampling(**chosen),
        n=draw(st.integers(1, 3)) if wide else 1,
        stream=draw(st.booleans()),
        effort=draw(st.none() | st.sampled_from(["none", "low", "high", "max"])),  # type: ignore[arg-type]
        explicit=frozenset(chosen),
        dialect="chat" if wide else "messages",
    )


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def valid(body: dict[str, Any], whole: Any, **parts: Any) -> None:
    """The body as the packages type it: its fields are theirs, and the lists in it hold what they may."""
    names = {name for hint in whole for name in get_type_hints(hint)}
    # vLLM's fields; and those that Anthropic's package, not its API, has left off for the newest models
    assert body.keys() <= names | {"min_p", "structured_outputs", "temperature", "top_k", "top_p"}
    for name, hint in parts.items():
        if name in body:
            adapter(list[hint]).validate_json(json.dumps(body[name]), strict=True)
    rest = {
        name: hint for name, hint in get_type_hints(whole[0]).items() if name in body.keys() - parts.keys()
    }
    for name, hint in rest.items():
        adapter(hint).validate_json(json.dumps(body[name]))


@pytest.mark.slow
@settings(deadline=None)  # the packages' types are built at the first use
@given(requests(wide=True))
def test_a_request_in_openais_words_means_the_same(request: Request) -> None:
    body = json.loads(json.dumps(upstream_openai.encode(request, "m", extended=True)))
    valid(
        body,
        [chat_params.CompletionCreateParamsStreaming, chat_params.CompletionCreateParamsNonStreaming],
        messages=ChatCompletionMessageParam,
        tools=ChatCompletionToolUnionParam,
    )
    again = openai.decode_chat(body)
    assert again == replace(request, route="m", include_usage=request.stream)
    assert upstream_openai.unsupported(request, extended=True) == {}
    newer = upstream_openai.encode(request, "m", new_limit=True)
    assert newer["max_completion_tokens"] == request.sampling.max_tokens and "max_tokens" not in newer


@pytest.mark.slow
@settings(deadline=None)  # the packages' types are built at the first use
@given(requests(wide=False), st.booleans())
def test_a_request_in_anthropics_words_means_the_same(request: Request, counted: bool) -> None:
    request = replace(request, count=counted, stream=request.stream and not counted)
    body = json.loads(json.dumps(upstream_anthropic.encode(request, "m")))
    if not counted:
        streaming = message_create_params.MessageCreateParamsStreaming
        valid(body, [streaming], messages=MessageParam, tools=ToolParam)
        again = anthropic.decode_message(body)
    else:
        again = anthropic.decode_count(body)
        request = replace(request, sampling=Sampling(), explicit=frozenset())
    assert replace(again, labels={}) == replace(request, route="m")
    assert upstream_anthropic.unsupported(request) == {}


def test_a_chat_with_thoughts_goes_on_at_a_server_that_takes_them() -> None:
    said = (Message("user", "a"), Message("assistant", "b", reasoning="Hm"), Message("user", "c"))
    request = Request("r", "chat", said, dialect="chat")
    assert openai.decode_chat(upstream_openai.encode(request, "r", extended=True)).messages == said
    assert "Hm" not in str(upstream_openai.encode(request, "r"))  # OpenAI refuses the field


@settings(deadline=None)
@given(st.sampled_from(["Once", (1, 2, 3)]), st.booleans(), st.none() | st.integers(0, 5))
def test_completions_and_embeddings(prompt: Any, echo: bool, logprobs: int | None) -> None:
    chosen = {} if logprobs is None else {"logprobs": logprobs}
    request = Request(
        "r", "completion", prompt=prompt, echo=echo, sampling=Sampling(**chosen), explicit=frozenset(chosen),
        format=Format("json_object"), dialect="completion",
    )  # fmt: skip
    body = upstream_openai.encode(request, "r", extended=True)
    valid(body, [completion_params.CompletionCreateParamsNonStreaming])
    assert openai.decode_completion(body) == (request,)
    asked = openai.decode_embeddings({"model": "r", "input": "Once", "dimensions": 8, "user": "u"}).request
    assert unsupported_fields(asked) == {}
    assert upstream_openai.encode(asked, "m") == {"model": "m", "input": "Once", "dimensions": 8, "user": "u"}
    assert upstream_anthropic.unsupported(asked)["model"] and upstream_anthropic.unsupported(request)["model"]


# Requests of each client's dialect that say the same, as their own packages send them.
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PNG = "data:image/png;base64,aGk="
ABOUT = {"name": "weather", "description": "Now."}
SENT: dict[str, tuple[Callable[[Any], Request], dict[str, Any]]] = {
    "chat": (
        openai.decode_chat,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": PNG}}]},
                {"role": "assistant", "content": "I look.", "tool_calls": [
                    {"id": i, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima"}'}} for i in "ab"]},
                {"role": "tool", "tool_call_id": "a", "content": "sun"},
                {"role": "tool", "tool_call_id": "b", "content": "rain"},
                {"role": "user", "content": "So?"},
            ],
            "tools": [{"type": "function", "function": {**ABOUT, "parameters": SCHEMA}}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False, "max_completion_tokens": 99, "temperature": 0.5, "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
    ),
    "responses": (
        lambda body: responses.decode_response(body).after(()),
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "What is"}, {"type": "input_image", "image_url": PNG, "detail": "auto"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
                *({"type": "function_call", "call_id": i, "name": "weather", "arguments": '{"city": "Lima"}'} for i in "ab"),
                {"type": "function_call_output", "call_id": "a", "output": "sun"},
                {"type": "function_call_output", "call_id": "b", "output": "rain"},
                {"role": "user", "content": "So?"},
            ],
            "tools": [{"type": "function", **ABOUT, "parameters": SCHEMA, "strict": True}],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False, "max_output_tokens": 99, "temperature": 0.5, "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
        },
    ),
    "messages": (
        anthropic.decode_message,
        {
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image", "source": {
                    "type": "base64", "media_type": "image/png", "data": "aGk="}}]},
                {"role": "assistant", "content": [{"type": "text", "text": "I look."}, *(
                    {"type": "tool_use", "id": i, "name": "weather", "input": {"city": "Lima"}} for i in "ab")]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "sun"},
                    {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "So?"}]},
            ],
            "tools": [{**ABOUT, "input_schema": SCHEMA}],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            "max_tokens": 99, "temperature": 0.5,
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        },
    ),
}  # fmt: skip
PROVIDERS: dict[str, Any] = {"openai": upstream_openai, "anthropic": upstream_anthropic}


def asked(dialect: str, **more: Any) -> Request:
    decode, body = SENT[dialect]
    return decode({"model": "r", **body, **more})


@pytest.mark.parametrize("provider", PROVIDERS)
def test_all_dialects_ask_the_same_of_a_provider(provider: str) -> None:
    bodies = [PROVIDERS[provider].encode(asked(dialect), "m") for dialect in SENT]
    for body in bodies:
        body.pop("thinking", None)  # a caller of that dialect says apart whether to think
    assert bodies[0] == bodies[1] == bodies[2]
    assert all(PROVIDERS[provider].unsupported(asked(dialect)) == {} for dialect in SENT)


@pytest.mark.parametrize("dialect", SENT)
def test_what_the_local_engine_cannot_do_is_named_as_its_caller_names_it(dialect: str) -> None:
    image, effort = {
        "chat": ("messages[1].content[1]", "reasoning_effort"),
        "responses": ("input[0].content[1]", "reasoning.effort"),
        "messages": ("messages[0].content[1]", "output_config.effort"),
    }[dialect]
    request = asked(dialect)
    assert set(unsupported_fields(request)) == {image, effort}
    plain = leave_out(request, unsupported_fields(request))
    assert (
        unsupported_fields(plain) == {} and plain.effort is None and not any(m.images for m in plain.messages)
    )


def test_what_a_route_lets_go() -> None:
    assert may_drop("seed", {"seed"}) and may_drop("anything[0]", {"*"})
    assert may_drop("messages[12].content[3]", {"messages[].content[]"})
    assert not may_drop("messages[12].name", {"messages[].content[]", "name"})


FOREIGN: list[tuple[str, dict[str, Any], str, str]] = [
    ("chat", {"n": 2}, "anthropic", "n"),
    ("chat", {"seed": 1}, "anthropic", "seed"),
    ("chat", {"logprobs": True}, "anthropic", "logprobs"),
    ("chat", {"logit_bias": {"5": 1}}, "anthropic", "logit_bias"),
    ("chat", {"frequency_penalty": 1}, "anthropic", "frequency_penalty"),
    ("chat", {"temperature": 1.5}, "anthropic", "temperature"),
    ("chat", {"response_format": {"type": "json_object"}}, "anthropic", "response_format"),
    ("responses", {"text": {"format": {"type": "json_object"}}}, "anthropic", "text.format"),
    ("chat", {"response_format": None, "structured_outputs": {"regex": "a"}}, "openai", "structured_outputs"),
    ("chat", {"messages": [{"role": "user", "name": "ada", "content": "x"}]}, "anthropic", "messages[0].name"),
    ("chat", {"top_k": 5}, "openai", "top_k"),
    ("chat", {"min_p": 0.5}, "openai", "min_p"),
    ("messages", {"top_k": 5}, "openai", "top_k"),
    ("messages", {"container": "c"}, "openai", "container"),
    ("messages", {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "("}]}, "openai", "messages"),
    ("responses", {"truncation": "auto"}, "openai", "truncation"),
    ("responses", {"context_management": [{}]}, "anthropic", "context_management"),
    ("chat", {"prediction": {"type": "content", "content": "x"}}, "anthropic", "prediction"),
    ("chat", {"service_tier": "flex"}, "anthropic", "service_tier"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "fields", "provider", "named"), FOREIGN)
def test_what_a_provider_cannot_be_told_is_named(
    dialect: str, fields: Any, provider: str, named: str
) -> None:
    request = asked(dialect, **fields)
    lost = PROVIDERS[provider].unsupported(request)
    assert set(lost) == {named} and all("\n" not in reason for reason in lost.values())
    if named != "messages":
        assert PROVIDERS[provider].unsupported(leave_out(request, lost)) == {}


def test_foreign_fields_go_to_a_provider_of_the_dialect() -> None:
    fields = {
        "prediction": {"type": "content", "content": "x"},
        "service_tier": "flex",
        "verbosity": "low",
        "user": "u",
    }
    request = asked("chat", **fields, stream=True, stream_options={"include_obfuscation": True})
    body = upstream_openai.encode(request, "m")
    assert upstream_openai.unsupported(request) == {} and body.items() >= fields.items()
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": True}
    thinking = {"type": "enabled", "budget_tokens": 2048}
    request = asked(
        "messages", container="c", thinking=thinking, output_config={"task_budget": {"type": "tokens"}}
    )
    body = upstream_anthropic.encode(request, "m")
    assert (body["container"], body["thinking"], body["output_config"]) == (
        "c",
        thinking,
        {"task_budget": {"type": "tokens"}},
    )
    assert (
        upstream_openai.encode(leave_out(request, upstream_openai.unsupported(request)), "m")[
            "reasoning_effort"
        ]
        == "low"
    )
    # what lies in a list has its place only in the caller's own body
    odd = asked("messages", tools=[{"name": "weather", "input_schema": SCHEMA, "defer_loading": True}])
    assert set(upstream_anthropic.unsupported(odd)) == {"tools[0].defer_loading"}
    assert upstream_anthropic.unsupported(odd, whole=True) == {}


def test_a_tools_image_is_shown_where_tools_may_show_some() -> None:
    said = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": [
            {"type": "text", "text": "here"}, {"type": "image", "source": {"type": "url", "url": "https://a.example/b"}}]}]},
    ]  # fmt: skip
    request = asked("messages", messages=said, tool_choice=None, tools=[])
    assert upstream_anthropic.unsupported(request) == {}
    again = anthropic.decode_message(upstream_anthropic.encode(request, "r"))
    assert again.messages == request.messages and again.messages[-1].images[0].at == len("Error: here")
    assert set(upstream_openai.unsupported(request)) == {"messages[2].content[0].content[1]"}


@pytest.mark.parametrize(
    "fields", [{"nonsense": 1}, {"tools": [{"type": "web_search"}]}, {"reasoning_effort": "huge"}]
)
def test_what_no_dialect_can_say_is_still_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        asked("chat", **fields)
