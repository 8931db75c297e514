"""Structured output and tools of chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from herd.cli.probe.check import (
    Group,
    Server,
    Verdict,
    at,
    broken,
    counted,
    finish_of,
    honoured,
    ignored,
    must_refuse,
    text_of,
    untested,
)
from herd.cli.probe.schema import violation
from herd.cli.probe.streaming import deltas, finishes, streamed
from herd.cli.probe.wire import quote

FORMAT = Group("format", "openai", "/v1/chat/completions")
TOOLS = Group("tools", "openai", "/v1/chat/completions")


def shape(required: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The schema of an object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": dict(required),
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


EASY = shape(
    {"name": {"type": "string", "enum": ["Ann", "Bob"]}, "age": {"type": "integer", "enum": [7, 30]}}
)
HARD = shape(
    {
        "kind": {"type": "string", "enum": ['a "quoted" \\ one', "żółw 🐢"]},
        "sizes": {
            "type": "array",
            "items": {"type": "integer", "minimum": 10, "maximum": 12},
            "minItems": 3,
            "maxItems": 3,
        },
        "either": {"anyOf": [{"type": "null"}, shape({"on": {"type": "boolean"}})]},
        "code": {"type": "string", "pattern": "^[A-C]{2}-[0-9]{3}$"},
    }
)
NESTED = shape(
    {"tree": {"$ref": "#/$defs/node"}},
    **{
        "$defs": {
            "node": shape(
                {
                    "leaf": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2},
                }
            ),
            "leaf": shape({"leaf": {"type": "boolean"}}),
        }
    },
)
WEATHER = shape(
    {
        "city": {"type": "string", "enum": ["Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    }
)
CLOCK = shape({"zone": {"type": "string", "enum": ["UTC", "CET"]}})
SCHEMAS = {"weather": WEATHER, "clock": CLOCK}
ABOUT = {"weather": "The weather of a city.", "clock": "The time in a zone."}
ROOM = 150  # tokens for calls
ASK = "What is the weather in Oslo for two days? Use the tool."


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


@FORMAT.check("json_object", 250)
def json_object(server: Server) -> Verdict:
    said = "Describe a dog as a JSON object with a name and an age."
    reply = server.chat(said, 120, response_format={"type": "json_object"})
    value, why = _loaded(text_of(reply))
    if finish_of(reply) == "length":
        return untested("120 tokens did not suffice; finish_reason says so")
    if why or not isinstance(value, dict):
        return ignored(why or f"no object: {quote(text_of(reply))!r}")
    return honoured(quote(text_of(reply)))


def _schema_check(name: str, schema: Mapping[str, Any], limit: int) -> None:
    @FORMAT.check(name, limit + 400)
    def check(server: Server) -> Verdict:
        reply = server.chat("Answer in JSON.", limit, response_format=_format(schema))
        if finish_of(reply) == "length":
            return untested(f"{limit} tokens did not suffice; finish_reason says so")
        value, why = _loaded(text_of(reply))
        why = why or violation(value, schema)
        return ignored(why) if why else honoured(quote(text_of(reply)))


_schema_check("json_schema", EASY, 80)
_schema_check("json_schema, hard", HARD, 150)
_schema_check("json_schema, nested", NESTED, 150)


@FORMAT.check("cut is not whole", 250)
def cut(server: Server) -> Verdict:
    reply = server.chat("Answer in JSON.", 2, response_format=_format(EASY))
    if finish_of(reply) != "length" and _loaded(text_of(reply))[1]:
        return broken(f"{quote(text_of(reply))!r} is called {finish_of(reply)}")
    return honoured(f"a reply cut at 2 tokens is called {finish_of(reply)}")


@FORMAT.check("impossible schema", 150)
def impossible(server: Server) -> Verdict:
    schema = shape({"a": {"type": "no such type"}})
    reply = server.chat("Answer in JSON.", 16, response_format=_format(schema))
    return ignored(f'a schema of type "no such type" is taken: {quote(text_of(reply))!r}')


def _loaded(text: str) -> tuple[Any, str | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError):
        return None, f"no JSON: {quote(text)!r}"


def tools() -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "description": ABOUT[name], "parameters": schema}}
        for name, schema in SCHEMAS.items()
    ]


def calls_of(reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    return at(reply, "choices", 0, "message", kind=dict).get("tool_calls") or []


def wrong_call(calls: list[dict[str, Any]]) -> str | None:
    """What is wrong with the first bad call, or None."""
    for call in calls:
        name = at(call, "function", "name", kind=str)
        if not at(call, "id", kind=str) or call.get("type") != "function":
            return "a call has no id, or is not of type function"
        if name not in SCHEMAS:
            return f"{quote(name)!r} is called, which is not offered"
        value, why = _loaded(at(call, "function", "arguments", kind=str))
        if why := why or violation(value, SCHEMAS[name]):
            return f"{name}: {why}"
    return None


def _judge(calls: list[dict[str, Any]], finish: str, name: str | None = None) -> Verdict:
    """Calls that had to be made, of `name` if given."""
    if finish == "length" and (not calls or wrong_call(calls)):
        return untested(f"{ROOM} tokens did not suffice; finish_reason says so")
    if not calls:
        return ignored("no call was made")
    if why := wrong_call(calls):
        return broken(why)
    names = [call["function"]["name"] for call in calls]
    if name and set(names) != {name}:
        return ignored(f"{', '.join(names)} is called, not {name}")
    # For a named function OpenAI's own API says "stop".
    if finish not in ("tool_calls", "length") and not (name and finish == "stop"):
        return broken(f"finish_reason is {quote(finish)}")
    return honoured(f"{names[0]}({quote(calls[0]['function']['arguments'], 60)}), {finish}")


@TOOLS.check("none", 400)
def none(server: Server) -> Verdict:
    calls = calls_of(server.chat(ASK, 24, tools=tools(), tool_choice="none"))
    return ignored("a tool is called") if calls else honoured("no tool is called")


@TOOLS.check("auto", 550)
def auto(server: Server) -> Verdict:
    reply = server.chat(ASK, ROOM, tools=tools())
    calls = calls_of(reply)
    if why := wrong_call(calls):
        return broken(why)
    if calls and finish_of(reply) not in ("tool_calls", "length"):
        return broken(f"calls, but finish_reason is {finish_of(reply)}")
    return honoured(f"{len(calls)} calls, {finish_of(reply)}")


@TOOLS.check("required", 550)
def required(server: Server) -> Verdict:
    reply = server.chat(ASK, ROOM, tools=tools(), tool_choice="required")
    return _judge(calls_of(reply), finish_of(reply))


@TOOLS.check("named", 550)
def named(server: Server) -> Verdict:
    choice = {"type": "function", "function": {"name": "clock"}}
    reply = server.chat(ASK, ROOM, tools=tools(), tool_choice=choice)
    return _judge(calls_of(reply), finish_of(reply), "clock")


@TOOLS.check("unknown name", 400)
def unknown_name(server: Server) -> Verdict:
    choice = {"type": "function", "function": {"name": "no_such_tool"}}
    return must_refuse(
        lambda: server.chat(ASK, 24, tools=tools(), tool_choice=choice),
        "no_such_tool",
        "tool_choice",
        taken="a tool_choice that is not among the tools is taken",
    )


@TOOLS.check("one at a time", 550)
def one_at_a_time(server: Server) -> Verdict:
    said = "What is the weather in Oslo and in Lima, and the time in UTC? Use the tools."
    reply = server.chat(said, ROOM, tools=tools(), tool_choice="required", parallel_tool_calls=False)
    calls = calls_of(reply)
    if len(calls) > 1:
        return ignored(f"{len(calls)} calls with parallel_tool_calls false")
    return _judge(calls, finish_of(reply))


@TOOLS.check("streamed", 550)
def streamed_calls(server: Server) -> Verdict:
    chunks = streamed(server, ASK, ROOM, tools=tools(), tool_choice="required")
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas(chunks):
        for part in delta.get("tool_calls") or []:
            index, function = at(part, "index", kind=int), at(part, "function", kind=dict)
            if index not in calls:
                head = {"id": at(part, "id", kind=str), "type": part.get("type")}
                calls[index] = head | {"function": {"name": at(function, "name", kind=str), "arguments": ""}}
            calls[index]["function"]["arguments"] += function.get("arguments") or ""
    return _judge(list(calls.values()), ", ".join(finishes(chunks)))


@TOOLS.check("results", 700)
def results(server: Server) -> Verdict:
    """A tool's result is read: the prompt grows by it."""
    call = {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'}
    read = []
    for content in ("Snow.", "Snow on Monday, then a storm from the north, then sun and ice."):
        calls = [{"id": "call_1", "type": "function", "function": call}]
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": content},
        ]
        read.append(counted(server.chat(turns, 8, tools=tools())))
    grown = read[1] - read[0]
    if grown < 8:
        return ignored(f"twelve words more in a result are {grown} prompt tokens more")
    return honoured(f"twelve words more in a result are {grown} prompt tokens more")
