"""Structured output and tools of chat completions."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from herd.cli.probe import shared
from herd.cli.probe.check import Group, Server, must_refuse
from herd.cli.probe.finding import Broken, Ignored, quote
from herd.cli.probe.reply import Chat, at, function_call
from herd.cli.probe.schema import ABOUT, EASY, HARD, NESTED, SCHEMAS, json_schema, no_match, shape
from herd.cli.probe.shared import ASK, RESULTS, ROOM
from herd.cli.probe.streaming import deltas, finishes

FORMAT = Group("format", "openai", Chat.path)
TOOLS = Group("tools", "openai", Chat.path)


def answer(server: Server, schema: dict[str, Any], limit: int) -> Chat:
    return server.chat("Answer in JSON.", limit, response_format=json_schema(schema))


@FORMAT.check("json_object", 250)
def json_object(server: Server) -> str:
    said = "Describe a dog as a JSON object with a name and an age."
    return shared.follows(
        server.chat(said, 120, response_format={"type": "json_object"}), {"type": "object"}, 120
    )


def follow(server: Server, schema: dict[str, Any], limit: int) -> str:
    return shared.follows(answer(server, schema, limit), schema, limit)


for name, schema, limit in (
    ("json_schema", EASY, 80), ("json_schema, hard", HARD, 150), ("json_schema, nested", NESTED, 150),
):  # fmt: skip
    FORMAT.check(name, limit + 400)(partial(follow, schema=schema, limit=limit))


@FORMAT.check("cut is not whole", 250)
def cut(server: Server) -> str:
    said = answer(server, EASY, 2)
    lie = said.finish != "length" and no_match(said.text, {})
    Broken.when(lie, f"{quote(said.text)!r} is called {said.finish}")
    return f"a reply cut at 2 tokens is called {said.finish}"


@FORMAT.check("impossible schema", 150)
def impossible(server: Server) -> str:
    said = answer(server, shape({"a": {"type": "no such type"}}), 16)
    raise Ignored(f'a schema of type "no such type" is taken: {quote(said.text)!r}')


OFFERED = [
    {"type": "function", "function": {"name": name, "description": ABOUT[name], "parameters": schema}}
    for name, schema in SCHEMAS.items()
]


def ask(server: Server, choice: Any = "required", limit: int = ROOM, said: Any = ASK, **more: Any) -> Chat:
    return server.chat(said, limit, tools=OFFERED, tool_choice=choice, **more)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


shared.tool_check(TOOLS, "none", 400, partial(ask, choice="none", limit=24), "none")
shared.tool_check(TOOLS, "auto", 550, lambda server: server.chat(ASK, ROOM, tools=OFFERED), "auto")
shared.tool_check(TOOLS, "required", 550, ask, "any")
shared.tool_check(TOOLS, "named", 550, partial(ask, choice=named("clock")), "any", "clock")


@TOOLS.check("unknown name", 400)
def unknown_name(server: Server) -> str:
    taken = "a tool_choice that is not among the tools is taken"
    refused = partial(ask, server, named("no_such_tool"), 24)
    return must_refuse(refused, "no_such_tool", "tool_choice", taken=taken)


@TOOLS.check("one at a time", 550)
def one_at_a_time(server: Server) -> str:
    said = "What is the weather in Oslo and in Lima, and the time in UTC? Use the tools."
    reply = ask(server, said=said, parallel_tool_calls=False)
    calls = reply.calls
    Ignored.when(len(calls) > 1, f"{len(calls)} calls with parallel_tool_calls false")
    return shared.calls_tools(Chat, calls, reply.finish)


@TOOLS.check("streamed", 550)
def streamed(server: Server) -> str:
    chunks = shared.chunks_of(server, Chat, ASK, ROOM, tools=OFFERED, tool_choice="required")
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas(chunks):
        for part in delta.get("tool_calls") or []:
            index, function = at(part, "index", kind=int), at(part, "function", kind=dict)
            if index not in calls:
                calls[index] = part | {"function": {**function, "arguments": ""}}
            calls[index]["function"]["arguments"] += function.get("arguments") or ""
    return shared.calls_tools(
        Chat, [function_call(call) for call in calls.values()], ", ".join(finishes(chunks))
    )


@TOOLS.check("results", 700)
def results(server: Server) -> str:
    """A tool's result is read: the prompt grows by it."""
    call = {"name": "weather", "arguments": json.dumps({"city": "Oslo", "days": 2})}
    calls = [{"id": "call_1", "type": "function", "function": call}]
    asked = [{"role": "user", "content": ASK}, {"role": "assistant", "content": None, "tool_calls": calls}]
    return shared.reads_results([
        server.chat([*asked, {"role": "tool", "tool_call_id": "call_1", "content": content}], 8, tools=OFFERED)
        for content in RESULTS
    ])  # fmt: skip
