"""The list of models, and how the server says no."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote as escaped

from herd.cli.probe.check import (
    STORY,
    Group,
    Refused,
    Server,
    Verdict,
    accepted,
    at,
    broken,
    counted,
    error_of,
    honoured,
    ignored,
    text_of,
    untested,
)
from herd.cli.probe.wire import Answer, NoAnswer, quote

MODELS = Group("models", "openai", None)
ERRORS = Group("errors", "openai", "/v1/chat/completions")
NO_MODEL = "no-such-model-of-the-probe"
WORDS = 20_000  # of the over-long prompt, if the server does not say how long a context is
CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_input_tokens")
WRONG_TYPES: dict[str, Any] = {
    "temperature": "hot",
    "max_tokens": "three",
    "messages": "Hello.",
    "stream": "yes",
    "stop": 7,
    "seed": "seven",
}
OUT_OF_RANGE: dict[str, Any] = {"temperature": 99, "top_p": 7, "n": 0, "messages": [], "max_tokens": -5}


@MODELS.check("list", 0)
def listing(server: Server) -> Verdict:
    value = accepted(server.call("GET", "/v1/models"))
    ids = [at(entry, "id", kind=str) for entry in at(value, "data", kind=list)]
    if not ids:
        return broken("the list is empty")
    return honoured(f"{len(ids)}: {quote(', '.join(ids), 80)}")


@MODELS.check("one", 0)
def one(server: Server) -> Verdict:
    value = accepted(server.call("GET", f"/v1/models/{escaped(server.model, safe='')}"))
    if at(value, "id", kind=str) != server.model:
        return broken(f"asked for {quote(server.model)}, told of {quote(value['id'])}")
    return honoured(f"{quote(value['id'])}")


@MODELS.check("unknown", 0)
def unknown(server: Server) -> Verdict:
    return _not_found(server.call("GET", f"/v1/models/{NO_MODEL}"))


@ERRORS.check("unknown model", 30)
def unknown_model(server: Server) -> Verdict:
    body = server.chat_body("Hello.", 1) | {"model": NO_MODEL}
    return _not_found(server.call("POST", "/v1/chat/completions", body))


def _not_found(answer: Answer) -> Verdict:
    if answer.status == 200:
        at(accepted(answer), "id", kind=str)
        return ignored("another model answers for one that is not there")
    message, _ = error_of(answer)
    if answer.status == 404:
        return honoured(f"404: {quote(message, 80)}")
    accepted(answer)
    raise AssertionError  # what is not 200 raises


@ERRORS.check("wrong key", 30)
def wrong_key(server: Server) -> Verdict:
    if not server.key:
        return untested("no --key to be compared with a wrong one")
    path = "/v1/chat/completions"
    body = {"model": server.model, **server.chat_body("Hello.", 1)}
    answer = server.wire.call("POST", path, body, server.headers(path, key="wrong-key-of-the-probe"))
    if answer.status == 200:
        return ignored("a wrong key is taken")
    message, _ = error_of(answer)
    if answer.status not in (401, 403):
        return broken(f"{answer.status}: {quote(message)}")
    return honoured(f"{answer.status}: {quote(message, 80)}")


@ERRORS.check("unknown field", 30)
def unknown_field(server: Server) -> Verdict:
    try:
        server.chat("Hello.", 1, no_such_field=1)
    except Refused as error:
        return Verdict("refused", str(error))
    return ignored("no_such_field is taken")


@ERRORS.check("wrong types", 250)
def wrong_types(server: Server) -> Verdict:
    return _each_refused(server, WRONG_TYPES)


@ERRORS.check("out of range", 250)
def out_of_range(server: Server) -> Verdict:
    return _each_refused(server, OUT_OF_RANGE)


def _each_refused(server: Server, values: dict[str, Any]) -> Verdict:
    """Each field with a wrong value must get a 400 that names it."""
    taken, nameless = [], []
    for name, value in values.items():
        name = server.limit if name == "max_tokens" else name
        body = {"model": server.model, **server.chat_body("Hello.", 4), name: value}
        answer = server.call("POST", "/v1/chat/completions", body)
        if answer.status == 200:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                accepted(answer)
            taken.append(f"{name}: {value!r}")
            continue
        message, param = error_of(answer)
        if answer.status >= 500:
            return broken(f"{name}: {value!r} gives {answer.status}: {quote(message)}")
        if name not in message and name not in param:
            nameless.append(name)
    if taken:
        return ignored(f"taken: {', '.join(taken)}")
    if nameless:
        return Verdict("refused", f"refused, but not named: {', '.join(nameless)}")
    return honoured(f"each of {', '.join(values)} is refused by name")


@ERRORS.check("broken JSON", 0)
def broken_json(server: Server) -> Verdict:
    for sent in (b'{"model": ', b"\xff\xfe", b"[" * 2000):
        answer = server.wire.call(
            "POST", "/v1/chat/completions", sent, server.headers("/v1/chat/completions")
        )
        if answer.status == 200:
            accepted(answer)
            return ignored(f"{quote(sent, 20)!r} is taken")
        message, _ = error_of(answer)
        if answer.status >= 500:
            return broken(f"{quote(sent, 20)!r} gives {answer.status}: {quote(message)}")
    return honoured(f"{answer.status}: {quote(message, 80)}")


@ERRORS.check("over-long prompt", 2 * WORDS)
def over_long(server: Server) -> Verdict:
    known = next((server.listing[name] for name in CONTEXT_NAMES if server.listing.get(name)), None)
    words = known + 100 if isinstance(known, int) and known < 2 * WORDS else WORDS
    said = " sheep" * words
    body = {"model": server.model, **server.chat_body(f"{STORY}{said}", 1)}
    try:
        answer = server.call("POST", "/v1/chat/completions", body)
    except NoAnswer:
        return untested(f"{words:,} words are not read within the time limit")
    if answer.status == 200:
        reply = accepted(answer)
        text_of(reply)
        if counted(reply) < words:
            return ignored(
                f"of {words:,} words {counted(reply):,} tokens are read: the rest is dropped silently"
            )
        return untested(f"{words:,} words fit: {counted(reply):,} tokens")
    message, _ = error_of(answer)
    if answer.status not in (400, 413, 422):
        return broken(f"{answer.status}: {quote(message)}")
    if len(re.findall(r"\d[\d,]*", message)) < 2:
        return Verdict("refused", f"{answer.status} without both counts: {quote(message, 80)}")
    return honoured(f"{answer.status}: {quote(message, 120)}")
