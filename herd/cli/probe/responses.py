"""The Responses API."""

from __future__ import annotations

from functools import partial
from typing import Any

from herd.cli.probe.check import STORY, Group, Server, accepted, must_refuse
from herd.cli.probe.errors import each_refused
from herd.cli.probe.finding import Broken, Ignored, quote
from herd.cli.probe.reply import Response, at
from herd.cli.probe.schema import ABOUT, EASY, SCHEMAS
from herd.cli.probe.shared import ASK, DONE, ROOM, follows, parsed, reads_more, tool_check

RESPONSES = Group("responses", "openai", Response.path)
ORDER = [
    f"response.{name}"
    for name in (
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    )
]  # fmt: skip
ENDS = ("response.completed", "response.incomplete")
WHO = "Who am I?"


def respond(server: Server, input: Any = STORY, limit: int = 24, **fields: Any) -> Response:
    return server.ask(Response, input, limit, **fields)


def place(made: Response) -> str:
    return f"{Response.path}/{made.at('id', kind=str)}"


@RESPONSES.check("reply", 100)
def reply(server: Server) -> str:
    found = respond(server)
    found.must_be_of_its_kind()
    Broken.when(found.finish not in ("completed", "incomplete"), f"status is {quote(found.finish)}")
    total = found.at("usage", "total_tokens", kind=int)
    Broken.when(total != found.read + found.written, "the usage does not add up")
    return str(found)


@RESPONSES.check("limit", 80)
def limit(server: Server) -> str:
    found = respond(server, limit=16)  # the least that OpenAI takes
    used, status = found.written, quote(found.data.get("status"))
    Ignored.when(used > 16, f"{used} tokens for a limit of 16")
    uncut = used == 16 and status == "completed"
    Broken.when(uncut, "cut at 16 tokens, but the status is completed")
    if status == "incomplete":
        return f"{used} tokens, incomplete: {quote(found.at('incomplete_details', 'reason', kind=str))}"
    return f"{used} tokens, {status}"


@RESPONSES.check("instructions", 200)
def instructions(server: Server) -> str:
    more = respond(server, instructions="You are a pirate who talks of the wide sea.")
    return reads_more(respond(server), more, 6)


@RESPONSES.check("stored", 100)
def stored(server: Server) -> str:
    made = respond(server, store=True)
    kept = Response(accepted(server.call("GET", place(made))))
    same = kept.data.get("id") == made.data["id"] and kept.text == made.text
    Broken.when(not same, "what is kept is not what was sent")
    accepted(server.call("DELETE", place(made)))
    Ignored.when(server.call("GET", place(made)).status != 404, "after DELETE it is still there")
    return "kept, then deleted"


@RESPONSES.check("not stored", 100)
def not_stored(server: Server) -> str:
    found = server.call("GET", place(respond(server, store=False)))
    Ignored.when(found.status == 200, "store false, and it is kept")
    return "store false keeps nothing"


@RESPONSES.check("previous_response_id", 300)
def previous(server: Server) -> str:
    first = respond(server, "My name is Olga and I live in a red house.", store=True)
    alone = respond(server, WHO).read
    both = respond(server, WHO, previous_response_id=first.at("id", kind=str)).read
    server.call("DELETE", place(first))
    evidence = f"{both} input tokens, {alone} without it"
    Ignored.when(both < alone + 8, evidence)
    return evidence


@RESPONSES.check("unknown previous_response_id", 60)
def unknown_previous(server: Server) -> str:
    id = "resp_0123456789abcdef0123456789abcdef"
    asked = partial(respond, server, limit=16, previous_response_id=id)
    return must_refuse(asked, "previous", id, taken="a response that never was is continued")


@RESPONSES.check("stream", 160)
def stream(server: Server) -> str:
    found = [(name, data) for name, data in server.stream(Response).events if data != DONE]
    events = [parsed(data) for _, data in found]
    kinds = [at(event, "type", kind=str) for event in events]
    misnamed = any(name and name != kind for (name, _), kind in zip(found, kinds, strict=True))
    Broken.when(misnamed, "an event's name is not its type")
    numbers = [at(event, "sequence_number", kind=int) for event in events]
    counts = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    Broken.when(not counts, "sequence_number does not count the events")
    Broken.when(kinds[-1] not in ENDS, f"the last event is {quote(kinds[-1])}")
    seen = [kind for kind in dict.fromkeys(kinds) if kind in ORDER]
    # Reasoning models send other items before the message; its own events keep their order.
    ordered = seen == [kind for kind in ORDER if kind in seen] and len(seen) >= len(ORDER) - 1
    told = ", ".join(kind[9:] for kind in seen)
    Broken.when(not ordered, f"events are missing or out of order: {told}")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    whole = Response(at(events[-1], "response", kind=dict))
    Broken.when(text != whole.text, "the deltas do not make the text of the last event")
    return f"{len(events)} events in order, {kinds[-1]}"


@RESPONSES.check("json_schema", 250)
def json_schema(server: Server) -> str:
    format = {"type": "json_schema", "name": "answer", "strict": True, "schema": EASY}
    return follows(respond(server, "Answer in JSON.", 80, text={"format": format}), EASY, 80)


OFFERED = [
    {"type": "function", "name": name, "description": ABOUT[name], "parameters": schema, "strict": True}
    for name, schema in SCHEMAS.items()
]
asked = partial(respond, input=ASK, limit=ROOM, tools=OFFERED, tool_choice="required")
tool_check(RESPONSES, "tool", 450, asked, "any")


@RESPONSES.check("cancel", 100)
def cancel(server: Server) -> str:
    made = respond(server, limit=64, background=True, store=True)
    ended = Response(accepted(server.call("POST", f"{place(made)}/cancel"))).finish
    server.call("DELETE", place(made))
    over = ended in ("cancelled", "completed", "incomplete")
    Ignored.when(not over, f"after cancel the status is {quote(ended)}")
    return f"after cancel the status is {ended}"


hot = partial(each_refused, values={"temperature": "hot"}, api=Response, limit=16)
RESPONSES.check("wrong type", 30)(hot)
