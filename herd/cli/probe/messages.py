"""Anthropic's Messages API."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from herd.cli.probe import shared
from herd.cli.probe.check import STORY, Group, Server, accepted, must_refuse, refusal
from herd.cli.probe.errors import NO_MODEL, unknown_field
from herd.cli.probe.finding import Broken, Refused, Untested, quote
from herd.cli.probe.reply import Call, Message, at
from herd.cli.probe.schema import ABOUT, SCHEMAS
from herd.cli.probe.shared import ASK, RESULTS, ROOM

MESSAGES = Group("messages", "anthropic", Message.path)
PIRATE = "You are a pirate."
# The events without the text's own; "ping" and the deltas may come any number of times.
ORDER = "message_start (content_block_start (content_block_delta )*content_block_stop )*message_delta message_stop "


def message(server: Server, said: Any = STORY, limit: int = 24, **fields: Any) -> Message:
    return server.ask(Message, said, limit, **fields)


def greedy(server: Server) -> dict[str, int]:
    """The field that makes replies repeatable, or none: Anthropic's newer models refuse it."""
    try:
        message(server, "Hi.", 1, top_k=1)
    except Refused:
        return {}
    return {"top_k": 1}


def must_be_greedy(server: Server) -> dict[str, int]:
    same = greedy(server)
    Untested.when(not same, "top_k is refused, so that no reply comes twice")
    return same


def turn(role: str, **block: Any) -> dict[str, Any]:
    return {"role": role, "content": [block]}


@MESSAGES.check("reply", 100)
def reply(server: Server) -> str:
    said = message(server)
    ours = (said.at("type", kind=str), said.at("role", kind=str)) == ("message", "assistant")
    Broken.when(not ours, "not of type message by the assistant")
    said.at("usage", "output_tokens", kind=int)
    return str(said)


@MESSAGES.check("system", 200)
def system(server: Server) -> str:
    more = message(server, system="You are a pirate and you talk of the wide sea and of your old ship.")
    return shared.reads_more(message(server), more, 8)


@MESSAGES.check("multi-turn", 250)
def multi_turn(server: Server) -> str:
    before = [
        turn("user", type="text", text="My sister Olga lives in a red house."),
        turn("assistant", type="text", text="I will remember her."),
    ]
    asked = {"role": "user", "content": STORY}
    return shared.reads_more(message(server, [asked]), message(server, [*before, asked]), 10)


shared.limit_check(MESSAGES, "max_tokens", 60, Message)


@MESSAGES.check("max_tokens is required", 40)
def max_tokens_required(server: Server) -> str:
    body = server.body(Message, "Hi.", stop_sequences=["a", "e"])
    del body["max_tokens"]
    taken = "a request without max_tokens is taken"
    return must_refuse(lambda: accepted(server.call("POST", Message.path, body)), "max_tokens", taken=taken)


@MESSAGES.check("stop_sequences", 200)
def stop_sequences(server: Server) -> str:
    same = must_be_greedy(server)

    def again(end: str) -> tuple[str, str]:
        said = message(server, stop_sequences=[end], **same)
        reason, found = said.data.get("stop_reason"), said.data.get("stop_sequence")
        if reason != "stop_sequence":
            return said.text, str(reason)
        Broken.when(found != end, f"stop_sequence is {quote(found)!r}, not {end!r}")
        return said.text, "stop"

    return shared.stops(message(server, **same).text, again)


@MESSAGES.check("count_tokens", 80)
def count_tokens(server: Server) -> str:
    body = server.body(Message, system=PIRATE)
    del body["max_tokens"]
    found = accepted(server.call("POST", f"{Message.path}/count_tokens", body))
    count, used = at(found, "input_tokens", kind=int), message(server, limit=1, system=PIRATE).read
    Broken.when(count != used, f"{count} counted, {used} used")
    return f"{count} tokens, as in usage"


def events_of(server: Server, *said: Any, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream but for pings. Raises Refused, or Broken if they are out of order."""
    found = server.stream(Message, *said, **fields).events
    events = [shared.parsed(data) for _, data in found]
    kinds = [at(event, "type", kind=str) for event in events]
    Broken.when([name for name, _ in found] != kinds, "an event's name is not its type")
    for event in events:
        Broken.when(event["type"] == "error", f"an error in the stream: {quote(event.get('error'))}")
    order = "".join(f"{kind} " for kind in kinds if kind != "ping")
    short = quote(re.sub(r"(content_block_delta )+", "deltas ", order))
    Broken.when(not re.fullmatch(ORDER, order), f"events out of order: {short}")
    return [event for event in events if event["type"] != "ping"]


def texts_of(events: list[dict[str, Any]]) -> list[str]:
    parts = [event for event in events if event["type"] == "content_block_delta"]
    return [at(part, "delta", "text", kind=str) for part in parts]


@MESSAGES.check("stream", 100)
def stream(server: Server) -> str:
    events = events_of(server)
    reason = at(events[-2], "delta", "stop_reason", kind=str)
    return f"{len(events)} events in order, {len(texts_of(events))} of text, {reason}"


@MESSAGES.check("streamed text", 200)
def streamed_text(server: Server) -> str:
    same = must_be_greedy(server)
    events, whole = events_of(server, **same), message(server, **same)
    shared.same_text(whole.text, "".join(texts_of(events)))
    used = at(events[-2], "usage", "output_tokens", kind=int)
    Broken.when(used != whole.written, f"output_tokens: {used}, without a stream {whole.written}")
    return "as without a stream, and so is the usage"


OFFERED = [
    {"name": name, "description": ABOUT[name], "input_schema": schema} for name, schema in SCHEMAS.items()
]


def use(server: Server, choice: dict[str, Any]) -> Message:
    return message(server, ASK, ROOM, tools=OFFERED, tool_choice=choice, **greedy(server))


for kind in ("none", "auto", "any"):
    shared.tool_check(MESSAGES, f"tools: {kind}", 500, partial(use, choice={"type": kind}), kind)
clock = partial(use, choice={"type": "tool", "name": "clock"})
shared.tool_check(MESSAGES, "tools: named", 500, clock, "any", "clock")


@MESSAGES.check("tools: streamed", 500)
def streamed_tool(server: Server) -> str:
    events = events_of(server, ASK, ROOM, tools=OFFERED, tool_choice={"type": "any"}, **greedy(server))
    calls: dict[int, Call] = {}
    for event in events:
        index, block = event.get("index", -1), event.get("content_block", {})
        if block.get("type") == "tool_use":
            calls[index] = Call(at(block, "id", kind=str), at(block, "name", kind=str), "")
        elif event["type"] == "content_block_delta" and index in calls:
            more = calls[index].arguments + at(event, "delta", "partial_json", kind=str)
            calls[index] = calls[index]._replace(arguments=more)
    return shared.calls_tools(Message, list(calls.values()), at(events[-2], "delta", "stop_reason", kind=str))


@MESSAGES.check("tools: results", 600)
def results(server: Server) -> str:
    given = {"city": "Oslo", "days": 2}
    call = turn("assistant", type="tool_use", id="toolu_1", name="weather", input=given)
    result = partial(turn, "user", type="tool_result", tool_use_id="toolu_1")
    asked = [{"role": "user", "content": ASK}, call]
    return shared.reads_results([
        message(server, [*asked, result(content=content)], 8, tools=OFFERED)
        for content in RESULTS
    ])  # fmt: skip


@MESSAGES.check("errors", 60)
def errors(server: Server) -> str:
    """Errors have the dialect's own body: an unknown model, a wrong type."""
    wrong: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"model": NO_MODEL}, "not_found_error", ""),
        ({"max_tokens": "three"}, "invalid_request_error", "max_tokens"),
    )
    for change, kind, name in wrong:
        answer = server.post(Message, limit=1, **change)
        own = f"{answer.status}, not an error of the dialect: {quote(answer.data)}"
        text, _ = refusal(answer, f"{change} is taken")
        Broken.when(at(answer.json(), "type") != "error", own)
        found = at(answer.json(), "error", "type", kind=str)
        Refused.when(found != kind or name not in text, f"{change}: {quote(found)}: {quote(text, 60)}")
    return "not_found_error and invalid_request_error, by name"


MESSAGES.check("unknown field", 30)(partial(unknown_field, api=Message))
