"""Tools and structured output in the OpenAI dialect's requests."""

import re
from typing import Any

import pytest

from herd.protocol import Format, Message, ProtocolError, Request, Tool, ToolCall
from herd.protocol.openai import decode_chat, decode_completion

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Now.", "parameters": SCHEMA, "strict": True},
}
TIME = {"type": "function", "function": {"name": "time"}}


def chat(**fields: Any) -> Request:
    return decode_chat({"model": "cria", "messages": [USER], **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(ProtocolError) as caught:
        chat(**fields)
    assert "\n" not in str(caught.value) and caught.value.status == 400 and caught.value.param
    return caught.value.param


def call(id: str, arguments: str = '{"city": "Lima"}', **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}, **more}


def test_tools() -> None:
    request = chat(tools=[WEATHER, TIME], parallel_tool_calls=False)
    weather, time = request.tools
    assert weather == Tool("weather", "Now.", SCHEMA)
    assert (request.tool_choice, request.tool_name, request.parallel_tool_calls) == ("auto", None, False)
    # a function without parameters has an empty list of them, says the API reference
    assert (time.name, time.description, time.parameters["properties"]) == ("time", "", {})
    assert time.parameters["additionalProperties"] is False


@pytest.mark.parametrize(
    ("choice", "names", "wish", "name"),
    [
        ("none", ["weather", "time"], "none", None),
        ("auto", ["weather", "time"], "auto", None),
        ("required", ["weather", "time"], "required", None),
        ({"type": "function", "function": {"name": "time"}}, ["weather", "time"], "required", "time"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TIME]}},
            ["time"], "auto", None,
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}, TIME]}},
            ["weather", "time"], "required", None,
        ),
    ],
)  # fmt: skip
def test_tool_choice(choice: Any, names: list[str], wish: str, name: str | None) -> None:
    request = chat(tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool.name for tool in request.tools] == names
    assert (request.tool_choice, request.tool_name) == (wish, name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [TIME] * 129}, "tools"),
        ({"tools": [TIME, TIME]}, "tools[1]"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
         "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]},
         "tools[0].function.description"),
        ({"tools": [{"type": "function", "function": {"name": "f"}, "x": 1}]}, "x"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [TIME]}, "tool_choice"),
        ({"tool_choice": 1, "tools": [TIME]}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}, "tools": [TIME]}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}, "allowed_tools": {}},
          "tools": [TIME]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "tim"}}, "tools": [TIME]},
         "tool_choice.function.name"),
        ({"tool_choice": {"type": "function"}, "tools": [TIME]}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [TIME]}, "tool_choice.allowed_tools"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}}},
         "tool_choice.allowed_tools.mode"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
          "tools": [TIME]}, "tool_choice"),
    ],
)  # fmt: skip
def test_tools_that_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).startswith(param)


def test_a_conversation_with_calls() -> None:
    request = chat(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call("1"), call("2", "")]},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "rain"}]},
            {"role": "tool", "tool_call_id": "1", "content": "sun"},
            {"role": "assistant", "content": "Sun.", "tool_calls": [call("1")]},
            {"role": "tool", "tool_call_id": "1", "content": ""},
        ]
    )
    assert request.messages[1:4] == (
        Message(
            "assistant",
            "",
            tool_calls=(ToolCall("1", "weather", '{"city": "Lima"}'), ToolCall("2", "weather", "{}")),
        ),
        Message("tool", "rain", tool_call_id="2"),
        Message("tool", "sun", tool_call_id="1"),
    )
    assert request.messages[4].content == "Sun." and request.messages[5].tool_call_id == "1"


@pytest.mark.parametrize(
    ("calls", "answers", "param"),
    [
        ([call("1"), call("1")], [], "messages[1].tool_calls[1].id"),
        ([call("")], [], "messages[1].tool_calls[0].id"),
        ([call("1", type="custom")], [], "messages[1].tool_calls[0].type"),
        ([call("1", "[]")], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", "{")], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", '{"a": NaN}')], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", '{"a": 1e999}')], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", '{"a": "\\ud800"}')], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", '{"a":' * 70 + "1" + "}" * 70)], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", "[" * 100_000)], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1", '{"a": ' + "9" * 10_000 + "}")], [], "messages[1].tool_calls[0].function.arguments"),
        ([call("1")] * 129, [], "messages[1].tool_calls"),
        ([call("1")], ["2"], "messages[2].tool_call_id"),
        ([call("1")], ["1", "1"], "messages[3].tool_call_id"),
        ([call("1")], [None], "messages[2].tool_call_id"),
        ([call("1")], [[]], "messages[2].tool_call_id"),
    ],
)
def test_calls_and_answers_that_are_refused(calls: list[Any], answers: list[Any], param: str) -> None:
    told = [{"role": "tool", "tool_call_id": id, "content": "x"} for id in answers]
    said = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, *told]
    assert refused(messages=said) == param


def test_a_conversation_has_room_for_so_many_calls() -> None:
    made = [[call(f"{j}-{i}") for i in range(128)] for j in range(33)]
    said = [{"role": "assistant", "content": None, "tool_calls": calls} for calls in made]
    assert len(chat(messages=said[:32]).messages) == 32
    assert refused(messages=said) == "messages[32].tool_calls[0].id"


def test_formats() -> None:
    assert chat(response_format={"type": "text"}).format is None
    assert chat(response_format={"type": "json_object"}).format == Format("json_object")
    wanted = {"name": "city", "schema": SCHEMA, "strict": False, "description": "A city."}
    request = chat(response_format={"type": "json_schema", "json_schema": wanted})
    assert request.format == Format("json_schema", SCHEMA)
    assert request.labels == {"response_format.json_schema.description": "A city."}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object", "json_schema": {}}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": "ab"}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": "x"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
         "structured_outputs"),
    ],
)  # fmt: skip
def test_formats_that_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


def test_vllm_structured_outputs() -> None:
    def of(**form: Any) -> Format | None:
        (completion,) = decode_completion({"model": "cria", "prompt": "x", "structured_outputs": form})
        assert completion.format == chat(structured_outputs=form).format
        return completion.format

    assert of(json=SCHEMA) == Format("json_schema", SCHEMA)
    assert of(json_object=True, regex=None) == Format("json_object")
    assert of(regex="[ab]+") == Format("regex", text="[ab]+")
    assert of(grammar='start: "a"') == Format("lark", text='start: "a"')


def test_a_choice_is_one_of_the_strings_and_nothing_else() -> None:
    llguidance = pytest.importorskip("llguidance")
    options = ["yes", "no", "a.b|c", "(x)[y]{z}^$\\d", "-~&#+*?", "ü 🦙\n", '"q"', "yes, but"]
    found = chat(structured_outputs={"choice": options}).format
    assert found is not None and found.kind == "regex"
    for option in options:
        assert re.fullmatch(found.text, option)
    for other in ("", "yesno", "aXb|c", "maybe", "yes,"):
        assert not re.fullmatch(found.text, other)
    assert not llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_regex(found.text))
