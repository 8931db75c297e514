"""Chat completions: the reply and what steers it."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

from herd.cli.probe.check import STORY, Group, Server
from herd.cli.probe.finding import Broken, Ignored, Refused, Untested, quote
from herd.cli.probe.reply import Chat, at
from herd.cli.probe.schema import json_schema, one_of, shape
from herd.cli.probe.shared import limit_check, stops

CHAT = Group("chat", "openai", Chat.path)
BIASED = 1000  # an id that about every vocabulary has
REPEAT = "Write this again and again: red red red red red red red red"
REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
SCRIPTS = "Grüße, 世界! עברית 🐑👩\u200d👩\u200d👧 e\u0301 \U00020000"
LOST = "\N{REPLACEMENT CHARACTER}"


@CHAT.check("reply", 250)
def reply(server: Server) -> str:
    try:
        said = server.chat()
    except Refused:  # OpenAI's reasoning models know only the newer name
        server.limits[Chat] = "max_completion_tokens"
        said = server.chat()
    said.at("id", kind=str)
    said.must_be_of_its_kind()
    role = said.at("choices", 0, "message", "role", kind=str)
    Broken.when(role != "assistant", "the message's role is not assistant")
    Broken.when(said.finish not in REASONS, f"finish_reason is {quote(said.finish)}")
    return str(said)


@CHAT.check("system prompt", 500)
def system_prompt(server: Server) -> str:
    system = (
        "You are a pirate. You say arr in every sentence, and you speak of your ship and of the wide sea."
    )
    return _reads({"role": "system", "content": system}, server=server)


@CHAT.check("multi-turn", 500)
def multi_turn(server: Server) -> str:
    asked = "My sister is called Olga and she lives in a red house by the river."
    answer = "I will remember her and the red house."
    return _reads({"role": "user", "content": asked}, {"role": "assistant", "content": answer}, server=server)


def _reads(*before: dict[str, Any], server: Server) -> str:
    """With these turns before it the prompt must count for more, or the reply change."""
    less, more = server.chat(), server.chat([*before, {"role": "user", "content": STORY}])
    grown = more.read - less.read
    if grown >= 15:
        return f"{grown} more prompt tokens"
    Ignored.when(less.text == more.text, f"{grown} more prompt tokens, and the same reply")
    return f"the reply changes (but usage counts only {grown} more tokens)"


@CHAT.check("text parts", 300)
def text_parts(server: Server) -> str:
    parts = [{"type": "text", "text": STORY[:20]}, {"type": "text", "text": STORY[20:]}]
    whole, split = server.chat(limit=8).read, server.chat([{"role": "user", "content": parts}], 8).read
    Ignored.when(split < whole - 2, f"{whole} prompt tokens as a string, {split} in two parts")
    return f"{split} prompt tokens, {whole} as one string"


limit_check(CHAT, "max tokens", 150, Chat)


@CHAT.check("temperature 0", 300)
def temperature_zero(server: Server) -> str:
    first, second = server.chat().text, server.chat().text
    Ignored.when(first != second, f"two replies: {quote(first, 40)!r}, {quote(second, 40)!r}")
    return "two replies are the same"


@CHAT.check("stop", 250)
def stop(server: Server) -> str:
    def again(end: str) -> tuple[str, str]:
        said = server.chat(stop=[end])
        return said.text, said.finish

    return stops(server.chat().text, again)


@CHAT.check("temperature, seed", 500)
def seed(server: Server) -> str:
    texts = [server.chat(temperature=1, seed=seed).text for seed in (7, 7, 8, 9)]
    Ignored.when(texts[0] != texts[1], f"seed 7 twice: {quote(texts[0], 40)!r}, {quote(texts[1], 40)!r}")
    Ignored.when(len(set(texts)) == 1, "temperature 1 with seeds 7, 8, 9 gives one text")
    return "one seed, one text; other seeds, other texts"


@CHAT.check("top_p", 350)
def top_p(server: Server) -> str:
    texts = {server.chat(temperature=1, top_p=1e-6, seed=seed).text for seed in (1, 2, 3)}
    Ignored.when(len(texts) > 1, "top_p 0.000001 leaves more than one text")
    return "top_p 0.000001 leaves one text for three seeds"


@CHAT.check("n", 180)
def choices(server: Server) -> str:
    said = server.chat(n=2, temperature=1)
    found = [at(choice, "index", kind=int) for choice in said.at("choices", kind=list)]
    Ignored.when(len(found) == 1, "one choice for n = 2")
    Broken.when(sorted(found) != [0, 1], f"n = 2 gives the choices {found}")
    return "two choices"


@CHAT.check("logprobs", 200)
def logprobs(server: Server) -> str:
    said = server.chat(limit=12, logprobs=True, top_logprobs=4)
    Ignored.when(not said.at("choices", 0, kind=dict).get("logprobs"), "no logprobs in the reply")
    tokens = said.at("choices", 0, "logprobs", "content", kind=list)
    Ignored.when(not tokens, "logprobs.content is empty")
    joined = b"".join(bytes(token.get("bytes") or token["token"].encode()) for token in tokens)
    whole = joined.startswith(said.text.encode())
    Broken.when(not whole, f"the tokens make {quote(joined, 60)!r}, not the text")
    for token in tokens:
        best = [at(other, "logprob", kind=float) for other in at(token, "top_logprobs", kind=list)]
        total, own = sum(map(math.exp, best)), at(token, "logprob", kind=float)
        odd = own > 1e-6 or total > 1.001
        Broken.when(odd, f"probabilities of {total:.3g} and {math.exp(min(own, 9)):.3g}")
        mixed = len(best) != 4 or best != sorted(best, reverse=True)
        Broken.when(mixed, f"top_logprobs: {len(best)} of 4, or not in order")
        not_best = abs(best[0] - own) > 1e-3
        Broken.when(not_best, f"greedy took a token of {own:.3f} where the best has {best[0]:.3f}")
    return f"{len(tokens)} tokens make the text; probabilities sum to at most 1"


@CHAT.check("logit_bias", 250)
def logit_bias(server: Server) -> str:
    bias = {"logit_bias": {str(BIASED): 100}}
    plain = server.chat(limit=6).text
    forced, once = server.chat(limit=6, **bias).text, server.chat(limit=1, **bias).text
    Ignored.when(forced == plain, "+100 for a token changes nothing")
    another = once and forced.strip() not in (once * 6).strip()
    Broken.when(another, f"+100 gives {quote(once)!r}, then {quote(forced)!r}")
    return f"+100 forces {quote(once)!r}"


def _penalty(server: Server, name: str) -> str:
    plain, other = (server.chat(REPEAT, 64, **{name: value}).text for value in (0, 2))
    words = plain.split()
    if plain == other and len(set(words)) == len(words):
        raise Untested("the reply repeats no word, so there was nothing to change")
    Ignored.when(plain == other, f"{name} 2 changes nothing in {len(words)} words")
    return f"{name} 2 changes the reply: {_variety(plain)} became {_variety(other)}"


for name in ("frequency_penalty", "presence_penalty"):
    CHAT.check(name, 350)(partial(_penalty, name=name))


def _variety(text: str) -> str:
    words = text.split()
    return f"{len(set(words))} of {len(words)} words different"


@CHAT.check("unicode", 400)
def unicode(server: Server) -> str:
    format = json_schema(shape({"text": one_of(SCRIPTS)}), "same")
    plain = server.chat(SCRIPTS, 8).text
    Broken.when(LOST in plain.rstrip(LOST), f"characters are lost: {quote(plain)!r}")
    try:
        forced = server.chat(SCRIPTS, 120, response_format=format)
    except Refused as error:
        return f"a prompt of five scripts is taken (no round trip: {quote(error, 60)})"
    if forced.finish == "length" or not forced.text.startswith("{"):
        return "a prompt of five scripts is taken (no round trip: json_schema does not hold)"
    try:
        value = at(json.loads(forced.text), "text", kind=str)
    except ValueError:
        raise Broken(f"an enum of five scripts came back as no JSON: {quote(forced.text)!r}") from None
    Broken.when(value != SCRIPTS, f"an enum of five scripts came back as {quote(value)!r}")
    return "five scripts came back by an enum as they were sent"


@CHAT.check("usage", 400)
def usage(server: Server) -> str:
    short, long = server.chat(limit=8), server.chat(STORY + " " + STORY, 8)
    for said in (short, long):
        total = said.at("usage", "total_tokens", kind=int)
        Broken.when(total != said.read + said.written, f"{said.read} + {said.written} tokens are not {total}")
        likely = 0 < said.written <= max(8, len(said.text.encode()) + 2)
        Broken.when(not likely, f"{said.written} tokens for {quote(said.text)!r} with a limit of 8")
    grown = long.read - short.read
    likely = len(STORY.split()) // 2 <= grown <= len(STORY) + 1
    Broken.when(not likely, f"{len(STORY)} characters more are {grown} tokens more")
    return f"sums agree; {len(STORY)} characters more are {grown} tokens more"
