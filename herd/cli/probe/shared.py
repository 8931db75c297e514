"""What is asked of more than one API, told once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from herd.cli.probe.check import Group, Server
from herd.cli.probe.finding import Broken, Ignored, Untested, quote
from herd.cli.probe.reply import Call, Reply
from herd.cli.probe.schema import SCHEMAS, no_match

DONE = "[DONE]"
ROOM = 150  # tokens for calls
ASK = "What is the weather in Oslo for two days? Use the tool."
RESULTS = ("Snow.", "Snow on Monday, then a storm from the north, then sun and ice.")


def reads_more(less: Reply, more: Reply, least: int) -> str:
    """The second prompt must count for at least so many tokens more than the first."""
    grown = more.read - less.read
    Ignored.when(grown < least, f"{grown} more tokens")
    return f"{grown} more tokens"


def reads_results(replies: Sequence[Reply]) -> str:
    """Of the two prompts that end with RESULTS."""
    grown = replies[1].read - replies[0].read
    evidence = f"twelve words more in a result are {grown} prompt tokens more"
    Ignored.when(grown < 8, evidence)
    return evidence


def same_text(whole: str, streamed: str) -> None:
    Broken.when(whole != streamed, f"whole {quote(whole, 50)!r}, streamed {quote(streamed, 50)!r}")


def limit_check(group: Group, name: str, tokens: int, api: type[Reply]) -> None:
    """Adds the check of the most tokens that a reply may have."""

    @group.check(name, tokens)
    def check(server: Server) -> str:
        said = server.ask(api, limit=3)
        over = said.written > 3 or len(said.text.split()) > 3
        Ignored.when(over, f"{said.written} tokens for a limit of 3: {quote(said.text)!r}")
        uncut = said.written == 3 and said.finish != api.cut
        Broken.when(uncut, f"cut at 3 tokens, but {api.why} is {quote(said.finish)}")
        return f"{said.written} tokens, {said.finish}"


def stops(plain: str, again: Callable[[str], tuple[str, str]]) -> str:
    """A stop string ends a reply right before it.

    `plain`: the reply without one; `again`: text and finish ("stop") of the same reply that this string is to end.
    """
    end = stop_string(plain)
    Untested.when(not end, f"the reply is too short to be stopped in: {quote(plain)!r}")
    text, finish = again(end)
    Ignored.when(end in text, f"{end!r} is in the text")
    Ignored.when(finish != "stop", f"finish_reason is {quote(finish)} with stop {end!r}")
    before = plain[: plain.index(end)]
    shown = text.startswith(before) and text != before
    Broken.when(shown, f"a part of the stop string {end!r} is shown: {quote(text[len(before) :])!r}")
    lost = before.startswith(text) and text.rstrip() != before.rstrip()
    Broken.when(lost, f"{len(before) - len(text)} characters before {end!r} are missing")
    return f"ends before {end!r}"


def stop_string(text: str) -> str:
    """The end of a word, a space and the start of the next, so that no token can be the whole of it; or ""."""
    for i in range(len(text) // 3, len(text) - 2):
        if text[i] == " " and text[i - 2 : i].isalpha() and text[i + 1 : i + 3].isalpha():
            return text[i - 2 : i + 3]
    return ""


def follows(reply: Reply, schema: dict[str, Any], limit: int) -> str:
    """The reply must be JSON of the schema."""
    Untested.when(reply.finish == reply.cut, f"{limit} tokens did not suffice; {reply.why} says so")
    why = no_match(reply.text, schema)
    if why:
        raise Ignored(why)
    return quote(reply.text)


def calls_tools(api: type[Reply], calls: Sequence[Call], finish: str, wanted: str | None = None) -> str:
    """Calls had to be made, of `wanted` if given."""
    why = wrong_call(calls)
    short = finish == api.cut and (why or not calls)
    Untested.when(short, f"{ROOM} tokens did not suffice; {api.why} says so")
    Ignored.when(not calls, "no call was made")
    if why:
        raise Broken(why)
    names = [call.name for call in calls]
    Ignored.when(wanted and set(names) != {wanted}, f"{', '.join(names)} is called, not {wanted}")
    # For a named function OpenAI's own API says "stop".
    ended = finish in (api.calling, api.cut) or wanted and finish == "stop"
    Broken.when(not ended, f"{api.why} is {quote(finish)}")
    return f"{names[0]}({quote(calls[0].arguments, 60)}), {finish}"


def wrong_call(calls: Sequence[Call]) -> str | None:
    """What is wrong with the first bad call, or None."""
    for call in calls:
        if not call.id:
            return "a call has no id, or is not of type function"
        if call.name not in SCHEMAS:
            return f"{quote(call.name)!r} is called, which is not offered"
        if why := no_match(call.arguments, SCHEMAS[call.name]):
            return f"{call.name}: {why}"
    return None


def tool_check(
    group: Group,
    name: str,
    tokens: int,
    ask: Callable[[Server], Reply],
    choice: str,
    wanted: str | None = None,
) -> None:
    """Adds the check of a tool_choice: "none", "auto", or that calls are made."""

    @group.check(name, tokens)
    def check(server: Server) -> str:
        reply = ask(server)
        calls = reply.calls
        if choice == "none":
            Ignored.when(calls, "a tool is called")
            return "no tool is called"
        if choice == "auto" and not calls:
            return f"0 calls, {reply.finish}"
        return calls_tools(type(reply), calls, reply.finish, wanted)


def parsed(data: str) -> dict[str, Any]:
    """An event's JSON object. Raises Broken."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Broken(f"an event is no JSON object: {quote(data)}")
    return value


def chunks_of(
    server: Server, api: type[Reply], *said: Any, needs_end: bool = False, **fields: Any
) -> list[dict[str, Any]]:
    """The chunks of a whole stream of the OpenAI dialect. Raises Refused or Broken.

    `needs_end`: whether [DONE] must end it; one check asks that, so that a server without it is judged on by others.
    """
    events = [data for _, data in server.stream(api, *said, **fields).events]
    Broken.when(not events, "the stream is empty")
    ended = not needs_end or events[-1] == DONE
    Broken.when(not ended, f"the stream does not end with [DONE] but with {quote(events[-1])}")
    chunks = [parsed(data) for data in events if data != DONE]
    for chunk in chunks:
        Broken.when("error" in chunk, f"an error in the stream: {quote(chunk.get('error'))}")
    return chunks
