"""Anthropic's Messages API."""

from __future__ import annotations

import re
from typing import Any

from herd.cli.probe.chat import judge_stop, stop_string
from herd.cli.probe.check import (
    STORY,
    Group,
    Refused,
    Server,
    Verdict,
    at,
    broken,
    error_of,
    honoured,
    ignored,
    must_refuse,
    untested,
)
from herd.cli.probe.errors import NO_MODEL
from herd.cli.probe.schema import violation
from herd.cli.probe.streaming import parsed
from herd.cli.probe.structured import ABOUT, ASK, ROOM, SCHEMAS, _loaded
from herd.cli.probe.wire import Broken, quote

MESSAGES = Group("messages", "anthropic", "/v1/messages")
PATH = "/v1/messages"
UNSTEADY = "top_k is refused, so that no reply comes twice"
# The events without the text's own; "ping" and the deltas may come any number of times.
ORDER = "message_start (content_block_start (content_block_delta )*content_block_stop )*message_delta message_stop "


def body_of(said: Any = STORY, limit: int = 24, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    return {"messages": messages, "max_tokens": limit, **fields}


def message(server: Server, said: Any = STORY, limit: int = 24, **fields: Any) -> dict[str, Any]:
    return server.ask(PATH, body_of(said, limit, **fields))


def greedy(server: Server) -> dict[str, int]:
    """The field that makes replies repeatable, or none: Anthropic's newer models refuse it."""
    try:
        message(server, "Hi.", 1, top_k=1)
    except Refused:
        return {}
    return {"top_k": 1}


def text_of(reply: dict[str, Any]) -> str:
    blocks = at(reply, "content", kind=list)
    return "".join(at(block, "text", kind=str) for block in blocks if block.get("type") == "text")


def read(reply: dict[str, Any]) -> int:
    """The prompt's tokens: those of a cache are counted apart."""
    usage = at(reply, "usage", kind=dict)
    cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    return at(usage, "input_tokens", kind=int) + int(cached)


@MESSAGES.check("reply", 100)
def reply(server: Server) -> Verdict:
    said = message(server)
    if (at(said, "type", kind=str), at(said, "role", kind=str)) != ("message", "assistant"):
        return broken("not of type message by the assistant")
    at(said, "usage", "output_tokens", kind=int)
    return honoured(f"{quote(text_of(said), 50)!r}, {at(said, 'stop_reason', kind=str)}")


@MESSAGES.check("system", 200)
def system(server: Server) -> Verdict:
    less = message(server)
    more = message(server, system="You are a pirate and you talk of the wide sea and of your old ship.")
    grown = read(more) - read(less)
    return honoured(f"{grown} more tokens") if grown >= 8 else ignored(f"{grown} more tokens")


@MESSAGES.check("multi-turn", 250)
def multi_turn(server: Server) -> Verdict:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "My sister Olga lives in a red house."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I will remember her."}]},
        {"role": "user", "content": STORY},
    ]
    grown = read(message(server, turns)) - read(message(server, turns[2:]))
    return honoured(f"{grown} more tokens") if grown >= 10 else ignored(f"{grown} more tokens")


@MESSAGES.check("max_tokens", 60)
def max_tokens(server: Server) -> Verdict:
    said = message(server, limit=3)
    used = at(said, "usage", "output_tokens", kind=int)
    if used > 3:
        return ignored(f"{used} tokens for a limit of 3")
    if used == 3 and said.get("stop_reason") != "max_tokens":
        return broken(f"cut at 3 tokens, but stop_reason is {quote(said.get('stop_reason'))}")
    return honoured(f"{used} tokens, {said.get('stop_reason')}")


@MESSAGES.check("max_tokens is required", 40)
def max_tokens_required(server: Server) -> Verdict:
    body = {"messages": body_of("Hi.")["messages"], "stop_sequences": ["a", "e"]}
    taken = "a request without max_tokens is taken"
    return must_refuse(lambda: server.ask(PATH, body), "max_tokens", taken=taken)


@MESSAGES.check("stop_sequences", 200)
def stop_sequences(server: Server) -> Verdict:
    same = greedy(server)
    if not same:
        return untested(UNSTEADY)
    plain = text_of(message(server, **same))
    end = stop_string(plain)
    if not end:
        return untested(f"the reply is too short to be stopped in: {quote(plain)!r}")
    said = message(server, stop_sequences=[end], **same)
    if said.get("stop_reason") == "stop_sequence" and said.get("stop_sequence") != end:
        return broken(f"stop_sequence is {quote(said.get('stop_sequence'))!r}, not {end!r}")
    stopped = "stop" if said.get("stop_reason") == "stop_sequence" else str(said.get("stop_reason"))
    return judge_stop(plain, end, text_of(said), stopped)


@MESSAGES.check("count_tokens", 80)
def count_tokens(server: Server) -> Verdict:
    asked = {"messages": body_of()["messages"], "system": "You are a pirate."}
    count = at(server.ask(f"{PATH}/count_tokens", asked), "input_tokens", kind=int)
    used = read(message(server, limit=1, system="You are a pirate."))
    if count != used:
        return broken(f"{count} counted, {used} used")
    return honoured(f"{count} tokens, as in usage")


@MESSAGES.check("stream", 100)
def stream(server: Server) -> Verdict:
    events = events_of(server, body_of())
    parts = [
        at(event, "delta", "text", kind=str) for event in events if event["type"] == "content_block_delta"
    ]
    last = next(event for event in reversed(events) if event["type"] == "message_delta")
    reason = at(last, "delta", "stop_reason", kind=str)
    return honoured(f"{len(events)} events in order, {len(parts)} of text, {reason}")


@MESSAGES.check("streamed text", 200)
def streamed_text(server: Server) -> Verdict:
    same = greedy(server)
    if not same:
        return untested(UNSTEADY)
    events, whole = events_of(server, body_of(**same)), message(server, **same)
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    if text != text_of(whole):
        return broken(f"whole {quote(text_of(whole), 50)!r}, streamed {quote(text, 50)!r}")
    used = at(events[-2], "usage", "output_tokens", kind=int)
    if used != at(whole, "usage", "output_tokens", kind=int):
        return broken(f"output_tokens: {used}, without a stream {whole['usage']['output_tokens']}")
    return honoured("as without a stream, and so is the usage")


def events_of(server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream but for pings. Raises Refused, or Broken if they are out of order."""
    found = server.stream(PATH, body).events
    events = [parsed(data) for _, data in found]
    kinds = [at(event, "type", kind=str) for event in events]
    if [name for name, _ in found] != kinds:
        raise Broken("an event's name is not its type")
    events = [event for event in events if event["type"] != "ping"]
    if errors := [event for event in events if event["type"] == "error"]:
        raise Broken(f"an error in the stream: {quote(errors[0].get('error'))}")
    order = "".join(f"{event['type']} " for event in events)
    if not re.fullmatch(ORDER, order):
        raise Broken(f"events out of order: {quote(re.sub(r'(content_block_delta )+', 'deltas ', order))}")
    return events


def tools() -> list[dict[str, Any]]:
    return [
        {"name": name, "description": ABOUT[name], "input_schema": schema} for name, schema in SCHEMAS.items()
    ]


def _tool_check(name: str, choice: dict[str, Any], wanted: str | None) -> None:
    @MESSAGES.check(name, 500)
    def check(server: Server) -> Verdict:
        said = message(server, ASK, ROOM, tools=tools(), tool_choice=choice, **greedy(server))
        blocks = at(said, "content", kind=list)
        calls = [block for block in blocks if block.get("type") == "tool_use"]
        if choice["type"] == "none":
            return ignored("a tool is used") if calls else honoured("no tool is used")
        return _judge(calls, at(said, "stop_reason", kind=str), choice["type"] == "auto", wanted)


def _judge(calls: list[dict[str, Any]], reason: str, may_not: bool, wanted: str | None) -> Verdict:
    if may_not and not calls:
        return honoured(f"no tool is used, {quote(reason)}")
    if reason == "max_tokens" and (not calls or any(call["input"] is None for call in calls)):
        return untested(f"{ROOM} tokens did not suffice; stop_reason says so")
    if not calls:
        return ignored("no tool is used")
    for call in calls:
        name = at(call, "name", kind=str)
        if not at(call, "id", kind=str) or name not in SCHEMAS:
            return broken(f"{quote(name)!r} is used, which is not offered, or has no id")
        if why := violation(at(call, "input", kind=dict), SCHEMAS[name]):
            return broken(f"{name}: {why}")
        if wanted and name != wanted:
            return ignored(f"{name} is used, not {wanted}")
    if reason not in ("tool_use", "max_tokens"):
        return broken(f"a tool is used, but stop_reason is {quote(reason)}")
    return honoured(f"{calls[0]['name']}({quote(calls[0]['input'], 60)})")


_tool_check("tools: none", {"type": "none"}, None)
_tool_check("tools: auto", {"type": "auto"}, None)
_tool_check("tools: any", {"type": "any"}, None)
_tool_check("tools: named", {"type": "tool", "name": "clock"}, "clock")


@MESSAGES.check("tools: streamed", 500)
def streamed_tool(server: Server) -> Verdict:
    events = events_of(
        server, body_of(ASK, ROOM, tools=tools(), tool_choice={"type": "any"}, **greedy(server))
    )
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        index = event.get("index", -1)
        if event["type"] == "content_block_start" and event["content_block"].get("type") == "tool_use":
            calls[index] = {**event["content_block"], "text": ""}
        elif event["type"] == "content_block_delta" and index in calls:
            calls[index]["text"] += at(event, "delta", "partial_json", kind=str)
    reason = at(events[-2], "delta", "stop_reason", kind=str)
    for call in calls.values():
        call["input"], why = _loaded(call["text"])
        if why and reason != "max_tokens":
            return broken(why)
    return _judge(list(calls.values()), reason, False, None)


@MESSAGES.check("tools: results", 600)
def results(server: Server) -> Verdict:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo", "days": 2}}
    used = []
    for content in ("Snow.", "Snow on Monday, then a storm from the north, then sun and ice."):
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
        turns = [
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        used.append(read(message(server, turns, 8, tools=tools())))
    if used[1] - used[0] < 8:
        return ignored(f"twelve words more in a result are {used[1] - used[0]} tokens more")
    return honoured(f"twelve words more in a result are {used[1] - used[0]} tokens more")


@MESSAGES.check("errors", 60)
def errors(server: Server) -> Verdict:
    """Errors have the dialect's own body: an unknown model, a wrong type."""
    wrong = (
        ({"model": NO_MODEL}, "not_found_error", ""),
        ({"max_tokens": "three"}, "invalid_request_error", "max_tokens"),
    )
    for change, kind, name in wrong:
        answer = server.call("POST", PATH, {"model": server.model, **body_of(limit=1), **change})
        if answer.status == 200:
            return ignored(f"{change} is taken")
        text, _ = error_of(answer)
        value = answer.json()
        if value.get("type") != "error" or answer.status >= 500:
            return broken(f"{answer.status}, not an error of the dialect: {quote(answer.data)}")
        if at(value, "error", "type", kind=str) != kind or name not in text:
            return Verdict("refused", f"{change}: {quote(value['error']['type'])}: {quote(text, 60)}")
    return honoured("not_found_error and invalid_request_error, by name")


@MESSAGES.check("unknown field", 30)
def unknown_field(server: Server) -> Verdict:
    message(server, "Hi.", 1, no_such_field=1)
    return ignored("no_such_field is taken")
