"""The list of models, and how the server says no."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import quote as escaped

from herd.cli.probe.check import STORY, Group, Server, accepted, error_of, refusal
from herd.cli.probe.finding import Broken, Ignored, NoAnswer, Refused, Untested, quote
from herd.cli.probe.reply import Chat, Reply, at
from herd.cli.probe.wire import Answer

MODELS = Group("models", "openai", None)
ERRORS = Group("errors", "openai", Chat.path)
NO_MODEL = "no-such-model-of-the-probe"
WORDS = 20_000  # of the over-long prompt, if the server does not say how long a context is
CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_input_tokens")
WRONG_TYPES: dict[str, Any] = {
    "temperature": "hot", "max_tokens": "three", "messages": "Hello.", "stream": "yes", "stop": 7, "seed": "seven",
}  # fmt: skip
OUT_OF_RANGE: dict[str, Any] = {"temperature": 99, "top_p": 7, "n": 0, "messages": [], "max_tokens": -5}


@MODELS.check("list", 0)
def listing(server: Server) -> str:
    value = accepted(server.call("GET", "/v1/models"))
    ids = [at(entry, "id", kind=str) for entry in at(value, "data", kind=list)]
    Broken.when(not ids, "the list is empty")
    return f"{len(ids)}: {quote(', '.join(ids), 80)}"


@MODELS.check("one", 0)
def one(server: Server) -> str:
    id = at(accepted(server.call("GET", f"/v1/models/{escaped(server.model, safe='')}")), "id", kind=str)
    Broken.when(id != server.model, f"asked for {quote(server.model)}, told of {quote(id)}")
    return quote(id)


@MODELS.check("unknown", 0)
def unknown(server: Server) -> str:
    return _not_found(server.call("GET", f"/v1/models/{NO_MODEL}"))


@ERRORS.check("unknown model", 30)
def unknown_model(server: Server) -> str:
    return _not_found(server.post(Chat, "Hello.", 1, model=NO_MODEL))


def _not_found(answer: Answer) -> str:
    if answer.status == 200:
        at(accepted(answer), "id", kind=str)
    message, _ = refusal(answer, "another model answers for one that is not there")
    if answer.status != 404:
        accepted(answer)  # raises what else it is
    return f"404: {quote(message, 80)}"


@ERRORS.check("wrong key", 30)
def wrong_key(server: Server) -> str:
    Untested.when(not server.key, "no --key to be compared with a wrong one")
    answer = server.call("POST", Chat.path, server.body(Chat, "Hello.", 1), "wrong-key-of-the-probe")
    message, _ = refusal(answer, "a wrong key is taken")
    Broken.when(answer.status not in (401, 403), f"{answer.status}: {quote(message)}")
    return f"{answer.status}: {quote(message, 80)}"


def unknown_field(server: Server, api: type[Reply]) -> str:
    server.ask(api, "Hello.", 1, no_such_field=1)
    raise Ignored("no_such_field is taken")


ERRORS.check("unknown field", 30)(partial(unknown_field, api=Chat))


def each_refused(server: Server, values: dict[str, Any], api: type[Reply] = Chat, limit: int = 4) -> str:
    """Each field with a wrong value must get a 400 that names it."""
    taken, nameless = [], []
    for name, value in values.items():
        name = server.limits.get(api, name) if name == "max_tokens" else name
        try:
            answer = server.post(api, "Hello.", limit, **{name: value})
            message, param = refusal(answer, f"{name}: {value!r}", f"{name}: {value!r} gives ")
        except Ignored as found:
            taken.append(str(found))
        else:
            nameless += [] if name in message or name in param else [name]
    Ignored.when(taken, f"taken: {', '.join(taken)}")
    Refused.when(nameless, f"refused, but not named: {', '.join(nameless)}")
    return f"each of {', '.join(values)} is refused by name"


ERRORS.check("wrong types", 250)(partial(each_refused, values=WRONG_TYPES))
ERRORS.check("out of range", 250)(partial(each_refused, values=OUT_OF_RANGE))


@ERRORS.check("broken JSON", 0)
def broken_json(server: Server) -> str:
    for sent in (b'{"model": ', b"\xff\xfe", b"[" * 2000):
        answer, what = server.call("POST", Chat.path, sent), f"{quote(sent, 20)!r}"
        message, _ = refusal(answer, f"{what} is taken", f"{what} gives ")
    return f"{answer.status}: {quote(message, 80)}"


@ERRORS.check("over-long prompt", 2 * WORDS)
def over_long(server: Server) -> str:
    known = next((server.listing[name] for name in CONTEXT_NAMES if server.listing.get(name)), None)
    words = known + 100 if isinstance(known, int) and known < 2 * WORDS else WORDS
    try:
        answer = server.post(Chat, STORY + " sheep" * words, 1)
    except NoAnswer:
        raise Untested(f"{words:,} words are not read within the time limit") from None
    if answer.status == 200:
        read = Chat(accepted(answer)).read
        lost = f"of {words:,} words {read:,} tokens are read: the rest is dropped silently"
        Ignored.when(read < words, lost)
        raise Untested(f"{words:,} words fit: {read:,} tokens")
    message, _ = error_of(answer)
    Broken.when(answer.status not in (400, 413, 422), f"{answer.status}: {quote(message)}")
    uncounted = len(re.findall(r"\d[\d,]*", message)) < 2
    Refused.when(uncounted, f"{answer.status} without both counts: {quote(message, 80)}")
    return f"{answer.status}: {quote(message, 120)}"
