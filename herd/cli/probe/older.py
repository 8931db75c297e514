"""Text completions and embeddings."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from herd.cli.probe.check import Group, Server, Verdict, at, broken, honoured, ignored
from herd.cli.probe.streaming import chunks_of
from herd.cli.probe.wire import quote

COMPLETIONS = Group("completions", "openai", "/v1/completions")
EMBEDDINGS = Group("embeddings", "openai", "/v1/embeddings")
ONCE = "Once upon a time there was a dog"


def complete(server: Server, prompt: Any = ONCE, **fields: Any) -> dict[str, Any]:
    return server.ask("/v1/completions", {"prompt": prompt, "max_tokens": 16, "temperature": 0, **fields})


def text_of(reply: dict[str, Any]) -> str:
    return at(reply, "choices", 0, "text", kind=str)


@COMPLETIONS.check("reply", 60)
def reply(server: Server) -> Verdict:
    said = complete(server)
    if at(said, "object", kind=str) != "text_completion":
        return broken(f"object is {quote(said['object'])}, not text_completion")
    used = at(said, "usage", "completion_tokens", kind=int)
    if used > 16:
        return ignored(f"{used} tokens for a limit of 16")
    finish = at(said, "choices", 0, "finish_reason", kind=str)
    return honoured(f"{quote(text_of(said), 50)!r}, {finish}")


@COMPLETIONS.check("stream", 120)
def stream(server: Server) -> Verdict:
    body = {"prompt": ONCE, "max_tokens": 16, "temperature": 0}
    chunks = chunks_of(server, "/v1/completions", body, needs_end=True)
    text = "".join(at(choice, "text", kind=str) for chunk in chunks for choice in chunk["choices"])
    whole = text_of(complete(server))
    if text != whole:
        return broken(f"whole {quote(whole, 50)!r}, streamed {quote(text, 50)!r}")
    return honoured(f"{len(chunks)} chunks make the text, then [DONE]")


@COMPLETIONS.check("echo", 120)
def echo(server: Server) -> Verdict:
    prompt = "The 世界 and a 🐑 naïve  sheep,\n\tand"
    text = text_of(complete(server, prompt, max_tokens=2, echo=True))
    if not text.startswith(prompt):
        plain = text_of(complete(server, prompt, max_tokens=2))
        if text == plain:
            return ignored("the prompt is not in the text")
        return broken(f"the prompt came back as {quote(text)!r}")
    return honoured("the prompt comes back, character by character")


@COMPLETIONS.check("logprobs", 60)
def logprobs(server: Server) -> Verdict:
    said = complete(server, max_tokens=8, logprobs=2)
    if not at(said, "choices", 0).get("logprobs"):  # type: ignore[attr-defined]
        return ignored("no logprobs in the reply")
    found = at(said, "choices", 0, "logprobs", kind=dict)
    tokens, values = at(found, "tokens", kind=list), at(found, "token_logprobs", kind=list)
    if not "".join(tokens).startswith(text_of(said)) and "\N{REPLACEMENT CHARACTER}" not in "".join(tokens):
        return broken(f"the tokens make {quote(''.join(tokens), 50)!r}, not the text")
    if len(tokens) != len(values) or any(value > 1e-6 for value in values):
        return broken(f"{len(tokens)} tokens, {len(values)} values; the greatest is {max(values):.3g}")
    return honoured(f"{len(tokens)} tokens make the text")


@COMPLETIONS.check("stop", 120)
def stop(server: Server) -> Verdict:
    plain = text_of(complete(server))
    if len(plain) < 8:
        return honoured("nothing to stop") if not plain else _stopped(server, plain, plain[0])
    return _stopped(server, plain, plain[len(plain) // 2 :][:3])


def _stopped(server: Server, plain: str, end: str) -> Verdict:
    text = text_of(complete(server, stop=end))
    if text != plain[: plain.index(end)]:
        return ignored(f"with stop {end!r}: {quote(text)!r}")
    return honoured(f"ends before {end!r}")


@COMPLETIONS.check("tokens as a prompt", 60)
def tokens(server: Server) -> Verdict:
    used = at(complete(server, [1000, 1001, 1002], max_tokens=2), "usage", "prompt_tokens", kind=int)
    if used not in (3, 4):  # some servers put a beginning-of-text before it
        return broken(f"three tokens are counted as {used}")
    return honoured(f"counted as {used}")


@COMPLETIONS.check("n", 120)
def several(server: Server) -> Verdict:
    found = at(complete(server, n=2, temperature=1), "choices", kind=list)
    return ignored(f"{len(found)} choice for n = 2") if len(found) != 2 else honoured("two choices")


def embed(server: Server, input: Any, **fields: Any) -> list[Any]:
    """The vectors, as they are sent."""
    found = at(server.ask("/v1/embeddings", {"input": input, **fields}), "data", kind=list)
    places = [at(entry, "index", kind=int) for entry in found]
    if places != list(range(len(found))):
        raise ValueError(f"indices {places}")
    return [at(entry, "embedding") for entry in found]


@EMBEDDINGS.check("vector", 10)
def vector(server: Server) -> Verdict:
    (found,) = embed(server, "A dog sleeps.")
    if not found or not all(math.isfinite(value) for value in found):
        return broken("the vector is empty, or not finite")
    length = math.hypot(*found)
    if abs(length - 1) > 0.01:
        return ignored(f"{len(found)} numbers, of length {length:.3g}, not 1")
    return honoured(f"{len(found)} numbers, of length {length:.4f}")


@EMBEDDINGS.check("batch", 60)
def batch(server: Server) -> Verdict:
    texts = ["A dog sleeps.", "The sea is wide and cold tonight.", "A dog sleeps."]
    together = embed(server, texts)
    if len(together) != 3:
        return broken(f"{len(together)} vectors for three texts")
    for text, found in zip(texts[:2], together, strict=False):
        (alone,) = embed(server, text)
        if _angle(alone, found) > 0.02:
            return broken(f"{text!r} has another vector in a batch")
    if _angle(together[0], together[2]) > 0.02 or together[0] == together[1]:
        return broken("equal texts have different vectors, or different texts equal ones")
    return honoured("in order, each as alone")


def _angle(a: list[float], b: list[float]) -> float:
    """1 - cosine."""
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@EMBEDDINGS.check("base64", 20)
def base64_vectors(server: Server) -> Verdict:
    (plain,), (packed,) = embed(server, "A dog."), embed(server, "A dog.", encoding_format="base64")
    if not isinstance(packed, str):
        return ignored("encoding_format base64 gives numbers")
    data = base64.b64decode(packed, validate=True)
    found = struct.unpack(f"<{len(data) // 4}f", data)
    if len(found) != len(plain) or _angle(plain, list(found)) > 1e-4:
        return broken("the bytes are not those of the numbers")
    return honoured("the same numbers")


@EMBEDDINGS.check("dimensions", 10)
def dimensions(server: Server) -> Verdict:
    (found,) = embed(server, "A dog.", dimensions=8)
    return honoured("8 numbers") if len(found) == 8 else ignored(f"{len(found)} numbers for dimensions = 8")
