"""Chat completions: the reply and what steers it."""

from __future__ import annotations

import json
import math
from typing import Any

from herd.cli.probe.check import (
    STORY,
    Group,
    Refused,
    Server,
    Verdict,
    at,
    broken,
    counted,
    finish_of,
    honoured,
    ignored,
    text_of,
    untested,
)
from herd.cli.probe.wire import quote

CHAT = Group("chat", "openai", "/v1/chat/completions")
BIASED = 1000  # an id that about every vocabulary has
LINES = "Write this line ten times: I like the sea."
REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")


@CHAT.check("reply", 250)
def reply(server: Server) -> Verdict:
    try:
        said = server.chat()
    except Refused:  # OpenAI's reasoning models know only the newer name
        server.limit = "max_completion_tokens"
        said = server.chat()
    at(said, "id", kind=str)
    if at(said, "object", kind=str) != "chat.completion":
        return broken(f"object is {quote(said['object'])}, not chat.completion")
    if at(said, "choices", 0, "message", "role", kind=str) != "assistant":
        return broken("the message's role is not assistant")
    if finish_of(said) not in REASONS:
        return broken(f"finish_reason is {quote(finish_of(said))}")
    return honoured(f"{quote(text_of(said), 50)!r}, {finish_of(said)}")


@CHAT.check("system prompt", 500)
def system_prompt(server: Server) -> Verdict:
    system = (
        "You are a pirate. You say arr in every sentence, and you speak of your ship and of the wide sea."
    )
    user = {"role": "user", "content": STORY}
    return _reads_more(server, [user], [{"role": "system", "content": system}, user], 15)


@CHAT.check("multi-turn", 500)
def multi_turn(server: Server) -> Verdict:
    turns = [
        {"role": "user", "content": "My sister is called Olga and she lives in a red house by the river."},
        {"role": "assistant", "content": "I will remember her and the red house."},
        {"role": "user", "content": STORY},
    ]
    return _reads_more(server, turns[2:], turns, 15)


def _reads_more(
    server: Server, short: list[dict[str, Any]], long: list[dict[str, Any]], words: int
) -> Verdict:
    """Whether the prompt of `long` is counted as longer than that of `short` by at least `words` tokens."""
    less, more = server.chat(short), server.chat(long)
    grown = counted(more) - counted(less)
    if grown >= words:
        return honoured(f"{grown} more prompt tokens")
    if text_of(less) != text_of(more):
        return honoured(f"the reply changes (but usage counts only {grown} more tokens)")
    return ignored(f"{grown} more prompt tokens, and the same reply")


@CHAT.check("text parts", 300)
def text_parts(server: Server) -> Verdict:
    parts = [{"type": "text", "text": STORY[:20]}, {"type": "text", "text": STORY[20:]}]
    whole, split = server.chat(limit=8), server.chat([{"role": "user", "content": parts}], limit=8)
    if counted(split) < counted(whole) - 2:
        return ignored(f"{counted(whole)} prompt tokens as a string, {counted(split)} in two parts")
    return honoured(f"{counted(split)} prompt tokens, {counted(whole)} as one string")


@CHAT.check("max tokens", 150)
def max_tokens(server: Server) -> Verdict:
    said = server.chat(limit=3)
    used = counted(said, "completion_tokens")
    if used > 3 or len(text_of(said).split()) > 3:
        return ignored(f"{used} tokens for a limit of 3: {quote(text_of(said))!r}")
    if used == 3 and finish_of(said) != "length":
        return broken(f"cut at 3 tokens, but finish_reason is {finish_of(said)}")
    return honoured(f"{used} tokens, {finish_of(said)}")


@CHAT.check("temperature 0", 300)
def temperature_zero(server: Server) -> Verdict:
    first, second = text_of(server.chat()), text_of(server.chat())
    if first != second:
        return ignored(f"two replies: {quote(first, 40)!r}, {quote(second, 40)!r}")
    return honoured("two replies are the same")


@CHAT.check("stop", 250)
def stop(server: Server) -> Verdict:
    plain = text_of(server.chat())
    end = stop_string(plain)
    if not end:
        return untested(f"the reply is too short to be stopped in: {quote(plain)!r}")
    said = server.chat(stop=[end])
    return judge_stop(plain, end, text_of(said), finish_of(said))


def stop_string(text: str) -> str:
    """The end of a word, a space and the start of the next, so that no token can be the whole of it; or ""."""
    for i in range(len(text) // 3, len(text) - 2):
        if text[i] == " " and text[i - 2 : i].isalpha() and text[i + 1 : i + 3].isalpha():
            return text[i - 2 : i + 3]
    return ""


def judge_stop(plain: str, end: str, text: str, finish: str) -> Verdict:
    """`plain`: the same reply without a stop; `text`: the one that was to end before `end`."""
    if end in text:
        return ignored(f"{end!r} is in the text")
    if finish != "stop":
        return ignored(f"finish_reason is {quote(finish)} with stop {end!r}")
    before = plain[: plain.index(end)]
    if text.startswith(before) and text != before:
        return broken(f"a part of the stop string {end!r} is shown: {quote(text[len(before) :])!r}")
    if before.startswith(text) and text.rstrip() != before.rstrip():
        return broken(f"{len(before) - len(text)} characters before {end!r} are missing")
    return honoured(f"ends before {end!r}")


@CHAT.check("temperature, seed", 500)
def seed(server: Server) -> Verdict:
    texts = [text_of(server.chat(temperature=1, seed=seed)) for seed in (7, 7, 8, 9)]
    if texts[0] != texts[1]:
        return ignored(f"seed 7 twice: {quote(texts[0], 40)!r}, {quote(texts[1], 40)!r}")
    if len(set(texts)) == 1:
        return ignored("temperature 1 with seeds 7, 8, 9 gives one text")
    return honoured("one seed, one text; other seeds, other texts")


@CHAT.check("top_p", 350)
def top_p(server: Server) -> Verdict:
    texts = {text_of(server.chat(temperature=1, top_p=1e-6, seed=seed)) for seed in (1, 2, 3)}
    if len(texts) > 1:
        return ignored("top_p 0.000001 leaves more than one text")
    return honoured("top_p 0.000001 leaves one text for three seeds")


@CHAT.check("n", 180)
def choices(server: Server) -> Verdict:
    said = server.chat(n=2, temperature=1)
    found = [at(choice, "index", kind=int) for choice in said["choices"]]
    if len(found) == 1:
        return ignored("one choice for n = 2")
    if sorted(found) != [0, 1]:
        return broken(f"n = 2 gives the choices {found}")
    return honoured("two choices")


@CHAT.check("logprobs", 200)
def logprobs(server: Server) -> Verdict:
    said = server.chat(limit=12, logprobs=True, top_logprobs=4)
    if not at(said, "choices", 0).get("logprobs"):  # type: ignore[attr-defined]
        return ignored("no logprobs in the reply")
    tokens = at(said, "choices", 0, "logprobs", "content", kind=list)
    if not tokens:
        return ignored("logprobs.content is empty")
    joined = b"".join(bytes(token.get("bytes") or token["token"].encode()) for token in tokens)
    if not joined.startswith(text_of(said).encode()):
        return broken(f"the tokens make {quote(joined, 60)!r}, not the text")
    for token in tokens:
        best = [at(other, "logprob", kind=float) for other in at(token, "top_logprobs", kind=list)]
        total, own = sum(map(math.exp, best)), at(token, "logprob", kind=float)
        if own > 1e-6 or total > 1.001:
            return broken(f"probabilities of {total:.3g} and {math.exp(min(own, 9)):.3g}")
        if len(best) != 4 or best != sorted(best, reverse=True):
            return broken(f"top_logprobs: {len(best)} of 4, or not in order")
        if abs(best[0] - own) > 1e-3:
            return broken(f"greedy took a token of {own:.3f} where the best has {best[0]:.3f}")
    return honoured(f"{len(tokens)} tokens make the text; probabilities sum to at most 1")


@CHAT.check("logit_bias", 250)
def logit_bias(server: Server) -> Verdict:
    plain = text_of(server.chat(limit=6))
    forced = text_of(server.chat(limit=6, logit_bias={str(BIASED): 100}))
    once = text_of(server.chat(limit=1, logit_bias={str(BIASED): 100}))
    if forced == plain:
        return ignored("+100 for a token changes nothing")
    if once and forced.strip() not in (once * 6).strip():
        return broken(f"+100 gives {quote(once)!r}, then {quote(forced)!r}")
    return honoured(f"+100 forces {quote(once)!r}")


def _penalty(name: str) -> None:
    @CHAT.check(name, 350)
    def penalty(server: Server) -> Verdict:
        plain, other = (text_of(server.chat(LINES, 64, **{name: value})) for value in (0, 2))
        if plain == other:
            return ignored(f"{name} 2 changes nothing in {len(plain.split())} words")
        return honoured(f"{name} 2 changes the reply: {_variety(plain)} became {_variety(other)}")


_penalty("frequency_penalty")
_penalty("presence_penalty")


def _variety(text: str) -> str:
    words = text.split()
    return f"{len(set(words))} of {len(words)} words different"


@CHAT.check("unicode", 400)
def unicode(server: Server) -> Verdict:
    said = "Grüße, 世界! עברית 🐑👩\u200d👩\u200d👧 e\u0301 \U00020000"
    format = {
        "type": "json_schema",
        "json_schema": {
            "name": "same",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"text": {"type": "string", "enum": [said]}},
                "required": ["text"],
                "additionalProperties": False,
            },
        },
    }
    plain = text_of(server.chat(said, limit=8))
    if "\N{REPLACEMENT CHARACTER}" in plain.rstrip("\N{REPLACEMENT CHARACTER}"):
        return broken(f"characters are lost: {quote(plain)!r}")
    try:
        forced = server.chat(said, limit=120, response_format=format)
    except Refused as error:
        return honoured(f"a prompt of five scripts is taken (no round trip: {quote(error, 60)})")
    if finish_of(forced) == "length" or not text_of(forced).startswith("{"):
        return honoured("a prompt of five scripts is taken (no round trip: json_schema does not hold)")
    try:
        value = at(json.loads(text_of(forced)), "text", kind=str)
    except ValueError:
        return broken(f"an enum of five scripts came back as no JSON: {quote(text_of(forced))!r}")
    if value != said:
        return broken(f"an enum of five scripts came back as {quote(value)!r}")
    return honoured("five scripts came back by an enum as they were sent")


@CHAT.check("usage", 400)
def usage(server: Server) -> Verdict:
    short, long = server.chat(limit=8), server.chat(STORY + " " + STORY, limit=8)
    for said in (short, long):
        prompt, reply = counted(said), counted(said, "completion_tokens")
        if counted(said, "total_tokens") != prompt + reply:
            return broken(f"{prompt} + {reply} tokens are not {counted(said, 'total_tokens')}")
        if not 0 < reply <= max(8, len(text_of(said).encode()) + 2):
            return broken(f"{reply} tokens for {quote(text_of(said))!r} with a limit of 8")
    grown = counted(long) - counted(short)
    if not len(STORY.split()) // 2 <= grown <= len(STORY) + 1:
        return broken(f"{len(STORY)} characters more are {grown} tokens more")
    return honoured(f"sums agree; {len(STORY)} characters more are {grown} tokens more")
