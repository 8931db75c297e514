"""Request bodies of the Anthropic dialect."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol import Format, Message, ProtocolError, Request, Tool, ToolCall
from herd.protocol.anthropic import FIELDS, decode_count, decode_message
from herd.protocol.fields import unsupported
from herd.protocol.refusals import unsupported_fields

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "weather", "description": "Now.", "input_schema": SCHEMA}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
EPHEMERAL = {"type": "ephemeral"}


def message(**fields: Any) -> Request:
    return decode_message({"model": "cria", "max_tokens": 9, "messages": [USER], **fields})


def refused(**fields: Any) -> str:
    """What the dialect refuses, or else the local engine."""
    with pytest.raises(ProtocolError) as caught:
        for path, why in unsupported_fields(message(**fields)).items():
            raise unsupported(path, why)
    assert "\n" not in str(caught.value) and caught.value.status == 400 and caught.value.param
    return caught.value.param


def use(id: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Lima"}, **more}


def result(id: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, **more}


def test_every_honoured_field_reaches_the_request() -> None:
    request = message(
        system="Be brief.", temperature=0.5, top_k=40, top_p=0.9, stop_sequences=["a", "b"], stream=True,
        tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    s = request.sampling
    assert (request.route, request.kind, request.n, request.stream) == ("cria", "chat", 1, True)
    assert request.messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert (s.max_tokens, s.temperature, s.top_k, s.top_p, s.stop) == (9, 0.5, 40, 0.9, ("a", "b"))
    assert request.explicit == {"max_tokens", "temperature", "top_k", "top_p", "stop"}
    assert request.tools == (Tool("weather", "Now.", SCHEMA),)
    assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
    assert request.format == Format("json_schema", SCHEMA)
    assert message(max_tokens=0).sampling.max_tokens == 0


@pytest.mark.parametrize(
    ("choice", "wish", "name"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "weather"}, "required", "weather"),
    ],
)
def test_tool_choice(choice: Any, wish: str, name: str | None) -> None:
    request = message(tools=[TOOL], tool_choice=choice)
    assert (request.tool_choice, request.tool_name) == (wish, name) and request.parallel_tool_calls


def test_turns_of_one_role_are_one_turn_and_results_are_messages() -> None:
    request = message(
        system=[{"type": "text", "text": "One."}, {"type": "text", "text": " Two."}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "I look.", "citations": None},
                    use("1", caller={"type": "direct"}),
                    use("2"),
                ],
            },
            {"role": "user", "content": [result("2", content="sun"), result("1", content=[
                {"type": "text", "text": "no "}, {"type": "text", "text": "city"}], is_error=True),
                {"type": "text", "text": "So?"}]},
            {"role": "system", "content": "Be kind."},
            USER,
        ],
    )  # fmt: skip
    call = ToolCall("1", "weather", '{"city": "Lima"}')
    assert request.messages == (
        Message("system", "One. Two."),
        Message("user", "a\nbc"),
        Message(
            "assistant",
            "I look.",
            tool_calls=(call, ToolCall("2", "weather", call.arguments)),
            reasoning="hm",
            signature="s",
        ),
        Message("tool", "sun", tool_call_id="2"),
        Message("tool", "Error: no city", tool_call_id="1"),
        Message("user", "So?"),
        Message("system", "Be kind."),
        Message("user", "hi"),
    )
    silent = message(
        messages=[USER, {"role": "assistant", "content": [use()]}, {"role": "user", "content": [result()]}]
    )
    assert silent.messages[-1] == Message("tool", "", tool_call_id="1")


def test_hints_and_labels_are_recorded() -> None:
    request = message(
        metadata={"user_id": "u"}, service_tier="auto", cache_control=EPHEMERAL,
        system=[{"type": "text", "text": "S", "cache_control": EPHEMERAL}],
        tools=[{**TOOL, "cache_control": EPHEMERAL, "eager_input_streaming": True}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": EPHEMERAL}]}],
    )  # fmt: skip
    assert request.labels == {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": EPHEMERAL,
        "system[0].cache_control": EPHEMERAL,
        "tools[0].cache_control": EPHEMERAL,
        "tools[0].eager_input_streaming": True,
        "messages[0].content[0].cache_control": EPHEMERAL,
    }


def test_defaults_are_accepted() -> None:
    same = message(
        thinking={"type": "disabled"}, speed="standard", tools=[], stop_sequences=[], output_config={},
        temperature=None, container=None, metadata={},
    )  # fmt: skip
    assert same.messages == message().messages and same.format is None
    tool = {**TOOL, "type": "custom", "strict": True, "allowed_callers": ["direct"], "input_examples": []}
    assert message(tools=[tool]).tools == message(tools=[TOOL]).tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 4097}, "messages"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"n": 2}, "n"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"metadata": {"user": "x"}}, "user"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": {"schema": {}}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tool_choice": {"type": "auto", "name": "weather"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "wether"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"messages": [USER, {"role": "assistant", "content": "The answer is ("}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [use()]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [result()]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [result()]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [use(input="x")]}]}, "messages[0].content[0].input"),
        ({"messages": [{"role": "assistant", "content": [use(caller={"type": "code"})]}]},
         "messages[0].content[0].caller"),
        ({"messages": [{"role": "assistant", "content": [use(), use()]}]}, "messages[0].content[1].id"),
        ({"messages": [{"role": "assistant", "content": [use()]}, {"role": "user", "content": [
            result(content=[IMAGE])]}]}, "messages[1].content[0].content[0]"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
         "messages[0].content[0].source.url"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"messages": [{"role": "assistant", "content": [use()]}, {"role": "user", "content": [
            result(content=0)]}]}, "messages[1].content[0].content"),
        ({"messages": [{"role": "assistant", "content": [use()]}, {"role": "user", "content": [
            result(is_error="no")]}]}, "messages[1].content[0].is_error"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


def test_counting() -> None:
    request = decode_count({"model": "cria", "messages": [USER], "system": "S", "tools": [TOOL]})
    assert request.count and len(request.messages) == 2 and len(request.tools) == 1
    for name in FIELDS["message"].keys() - FIELDS["count"].keys():
        with pytest.raises(ProtocolError) as caught:
            decode_count({"model": "cria", "messages": [USER], name: 1})
        assert caught.value.param == name


def test_long_conversations_are_read_in_little_time() -> None:
    turns = [{"role": "user", "content": "x" * 900}] * 4096
    parts = [{"type": "text", "text": "x"}] * 100_000
    began = time.process_time()
    (one,) = message(messages=turns).messages
    assert len(one.content) == 4096 * 901 - 1
    assert len(message(messages=[{"role": "user", "content": parts}]).messages[0].content) == 100_000
    assert time.process_time() - began < 2


words = st.sampled_from(
    ["text", "tool_use", "tool_result", "user", "assistant", "custom", "auto", "tool", "1", ""]
)
keys = st.sampled_from(
    ["type", "role", "content", "text", "id", "name", "input", "tool_use_id", "is_error", "cache_control",
     "input_schema", "format", "schema", "disable_parallel_tool_use", "x"])  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | words
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS["message"])), values, max_size=3), st.booleans())
def test_any_body_is_taken_or_refused_in_one_line(body: dict[str, Any], whole: bool) -> None:
    start = {"model": "cria", "max_tokens": 9, "messages": [USER]} if whole else {}
    for decode in (decode_message, decode_count):
        try:
            request = decode({**start, **body})
        except ProtocolError as error:
            assert "\n" not in str(error) and error.param is not None and error.status == 400
        else:
            assert Request.from_json(json.loads(json.dumps(request.to_json()).encode())) == request
