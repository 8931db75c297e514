"""The Responses API."""

from __future__ import annotations

from typing import Any

from herd.cli.probe.check import (
    STORY,
    Group,
    Server,
    Verdict,
    accepted,
    at,
    broken,
    error_of,
    honoured,
    ignored,
    must_refuse,
    untested,
)
from herd.cli.probe.schema import violation
from herd.cli.probe.streaming import parsed
from herd.cli.probe.structured import ABOUT, ASK, EASY, ROOM, SCHEMAS, _loaded, wrong_call
from herd.cli.probe.wire import quote

RESPONSES = Group("responses", "openai", "/v1/responses")
ORDER = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
)
ENDS = ("response.completed", "response.incomplete")


def respond(server: Server, input: Any = STORY, limit: int = 24, **fields: Any) -> dict[str, Any]:
    body = {"input": input, "max_output_tokens": limit, "temperature": 0, "store": False, **fields}
    return server.ask("/v1/responses", body)


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        at(part, "text", kind=str)
        for item in at(response, "output", kind=list)
        if item.get("type") == "message"
        for part in at(item, "content", kind=list)
        if part.get("type") == "output_text"
    )


def read(response: dict[str, Any]) -> int:
    return at(response, "usage", "input_tokens", kind=int)


@RESPONSES.check("reply", 100)
def reply(server: Server) -> Verdict:
    found = respond(server)
    if at(found, "object", kind=str) != "response":
        return broken(f"object is {quote(found['object'])}, not response")
    if at(found, "status", kind=str) not in ("completed", "incomplete"):
        return broken(f"status is {quote(found['status'])}")
    total = read(found) + at(found, "usage", "output_tokens", kind=int)
    if at(found, "usage", "total_tokens", kind=int) != total:
        return broken("the usage does not add up")
    return honoured(f"{quote(text_of(found), 50)!r}, {found['status']}")


@RESPONSES.check("limit", 80)
def limit(server: Server) -> Verdict:
    found = respond(server, limit=16)  # the least that OpenAI takes
    used = at(found, "usage", "output_tokens", kind=int)
    if used > 16:
        return ignored(f"{used} tokens for a limit of 16")
    if used == 16 and found.get("status") == "completed":
        return broken("cut at 16 tokens, but the status is completed")
    if found.get("status") == "incomplete":
        why = at(found, "incomplete_details", "reason", kind=str)
        return honoured(f"{used} tokens, incomplete: {quote(why)}")
    return honoured(f"{used} tokens, {quote(found.get('status'))}")


@RESPONSES.check("instructions", 200)
def instructions(server: Server) -> Verdict:
    less, more = respond(server), respond(server, instructions="You are a pirate who talks of the wide sea.")
    grown = read(more) - read(less)
    return honoured(f"{grown} more tokens") if grown >= 6 else ignored(f"{grown} more tokens")


@RESPONSES.check("stored", 100)
def stored(server: Server) -> Verdict:
    made = respond(server, store=True)
    path = f"/v1/responses/{at(made, 'id', kind=str)}"
    kept = accepted(server.call("GET", path))
    if kept.get("id") != made["id"] or text_of(kept) != text_of(made):
        return broken("what is kept is not what was sent")
    accepted(server.call("DELETE", path))
    if server.call("GET", path).status != 404:
        return ignored("after DELETE it is still there")
    return honoured("kept, then deleted")


@RESPONSES.check("not stored", 100)
def not_stored(server: Server) -> Verdict:
    made = respond(server, store=False)
    if server.call("GET", f"/v1/responses/{at(made, 'id', kind=str)}").status == 200:
        return ignored("store false, and it is kept")
    return honoured("store false keeps nothing")


@RESPONSES.check("previous_response_id", 300)
def previous(server: Server) -> Verdict:
    first = respond(server, "My name is Olga and I live in a red house.", store=True)
    alone = read(respond(server, "Who am I?"))
    both = read(respond(server, "Who am I?", previous_response_id=at(first, "id", kind=str)))
    server.call("DELETE", f"/v1/responses/{first['id']}")
    if both < alone + 8:
        return ignored(f"{both} input tokens, {alone} without it")
    return honoured(f"{both} input tokens, {alone} without it")


@RESPONSES.check("unknown previous_response_id", 60)
def unknown_previous(server: Server) -> Verdict:
    id = "resp_0123456789abcdef0123456789abcdef"
    return must_refuse(
        lambda: respond(server, limit=16, previous_response_id=id),
        "previous",
        id,
        taken="a response that never was is continued",
    )


@RESPONSES.check("stream", 160)
def stream(server: Server) -> Verdict:
    body = {"input": STORY, "max_output_tokens": 24, "temperature": 0, "store": False}
    found = [(name, data) for name, data in server.stream("/v1/responses", body).events if data != "[DONE]"]
    events = [parsed(data) for _, data in found]
    kinds = [at(event, "type", kind=str) for event in events]
    if any(name and name != kind for (name, _), kind in zip(found, kinds, strict=True)):
        return broken("an event's name is not its type")
    numbers = [at(event, "sequence_number", kind=int) for event in events]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return broken("sequence_number does not count the events")
    if kinds[-1] not in ENDS:
        return broken(f"the last event is {quote(kinds[-1])}")
    seen = [kind for kind in dict.fromkeys(kinds) if kind in ORDER]
    # Reasoning models send other items before the message; its own events keep their order.
    if seen != [kind for kind in ORDER if kind in seen] or len(seen) < len(ORDER) - 1:
        return broken(f"events are missing or out of order: {', '.join(kind[9:] for kind in seen)}")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    if text != text_of(at(events[-1], "response", kind=dict)):
        return broken("the deltas do not make the text of the last event")
    return honoured(f"{len(events)} events in order, {kinds[-1]}")


@RESPONSES.check("json_schema", 250)
def json_schema(server: Server) -> Verdict:
    format = {"type": "json_schema", "name": "answer", "strict": True, "schema": EASY}
    found = respond(server, "Answer in JSON.", 80, text={"format": format})
    if found.get("status") == "incomplete":
        return untested("80 tokens did not suffice; the status says so")
    value, why = _loaded(text_of(found))
    why = why or violation(value, EASY)
    return ignored(why) if why else honoured(quote(text_of(found)))


@RESPONSES.check("tool", 450)
def tool(server: Server) -> Verdict:
    tools = [
        {"type": "function", "name": name, "description": ABOUT[name], "parameters": schema, "strict": True}
        for name, schema in SCHEMAS.items()
    ]
    found = respond(server, ASK, ROOM, tools=tools, tool_choice="required")
    calls = [item for item in at(found, "output", kind=list) if item.get("type") == "function_call"]
    as_chat = [{"id": at(call, "call_id", kind=str), "type": "function", "function": call} for call in calls]
    why = wrong_call(as_chat)
    if found.get("status") == "incomplete" and (why or not calls):
        return untested(f"{ROOM} tokens did not suffice; the status says so")
    if not calls:
        return ignored("no call was made")
    return broken(why) if why else honoured(f"{calls[0]['name']}({quote(calls[0]['arguments'], 60)})")


@RESPONSES.check("cancel", 100)
def cancel(server: Server) -> Verdict:
    made = respond(server, limit=64, background=True, store=True)
    ended = accepted(server.call("POST", f"/v1/responses/{at(made, 'id', kind=str)}/cancel"))
    server.call("DELETE", f"/v1/responses/{made['id']}")
    if at(ended, "status", kind=str) not in ("cancelled", "completed", "incomplete"):
        return ignored(f"after cancel the status is {quote(ended['status'])}")
    return honoured(f"after cancel the status is {ended['status']}")


@RESPONSES.check("wrong type", 30)
def wrong_type(server: Server) -> Verdict:
    body = {"model": server.model, "input": STORY, "max_output_tokens": 16, "temperature": "hot"}
    answer = server.call("POST", "/v1/responses", body)
    if answer.status == 200:
        return ignored('temperature "hot" is taken')
    message, param = error_of(answer)
    accepted(answer) if answer.status >= 500 else None
    if "temperature" not in message + param:
        return Verdict("refused", f"{answer.status}, not by name: {quote(message)}")
    return honoured(f"{answer.status}: {quote(message, 80)}")
