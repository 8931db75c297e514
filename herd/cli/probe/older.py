"""Text completions and embeddings."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from herd.cli.probe.check import Group, Server, accepted
from herd.cli.probe.finding import Broken, Ignored, quote
from herd.cli.probe.reply import Completion, at
from herd.cli.probe.shared import chunks_of, same_text

COMPLETIONS = Group("completions", "openai", Completion.path)
EMBEDDINGS = Group("embeddings", "openai", "/v1/embeddings")
ONCE = "Once upon a time there was a dog"


def complete(server: Server, prompt: Any = ONCE, limit: int = 16, **fields: Any) -> Completion:
    return server.ask(Completion, prompt, limit, **fields)


@COMPLETIONS.check("reply", 60)
def reply(server: Server) -> str:
    said = complete(server)
    said.must_be_of_its_kind()
    Ignored.when(said.written > 16, f"{said.written} tokens for a limit of 16")
    return str(said)


@COMPLETIONS.check("stream", 120)
def stream(server: Server) -> str:
    chunks = chunks_of(server, Completion, ONCE, 16, needs_end=True)
    text = "".join(at(choice, "text", kind=str) for chunk in chunks for choice in chunk["choices"])
    same_text(complete(server).text, text)
    return f"{len(chunks)} chunks make the text, then [DONE]"


@COMPLETIONS.check("echo", 120)
def echo(server: Server) -> str:
    prompt = "The 世界 and a 🐑 naïve  sheep,\n\tand"
    text = complete(server, prompt, 2, echo=True).text
    if not text.startswith(prompt):
        Ignored.when(text == complete(server, prompt, 2).text, "the prompt is not in the text")
        raise Broken(f"the prompt came back as {quote(text)!r}")
    return "the prompt comes back, character by character"


@COMPLETIONS.check("logprobs", 60)
def logprobs(server: Server) -> str:
    said = complete(server, limit=8, logprobs=2)
    Ignored.when(not said.at("choices", 0, kind=dict).get("logprobs"), "no logprobs in the reply")
    tokens, values = (
        said.at("choices", 0, "logprobs", name, kind=list) for name in ("tokens", "token_logprobs")
    )
    joined = "".join(tokens)
    whole = joined.startswith(said.text) or "\N{REPLACEMENT CHARACTER}" in joined
    Broken.when(not whole, f"the tokens make {quote(joined, 50)!r}, not the text")
    if len(tokens) != len(values) or any(value > 1e-6 for value in values):
        raise Broken(f"{len(tokens)} tokens, {len(values)} values; the greatest is {max(values):.3g}")
    return f"{len(tokens)} tokens make the text"


@COMPLETIONS.check("stop", 120)
def stop(server: Server) -> str:
    plain = complete(server).text
    if not plain:
        return "nothing to stop"
    end = plain[len(plain) // 2 :][:3] if len(plain) >= 8 else plain[0]
    text = complete(server, stop=end).text
    Ignored.when(text != plain[: plain.index(end)], f"with stop {end!r}: {quote(text)!r}")
    return f"ends before {end!r}"


@COMPLETIONS.check("tokens as a prompt", 60)
def tokens(server: Server) -> str:
    read = complete(server, [1000, 1001, 1002], 2).read
    # Some servers put a beginning-of-text before it.
    Broken.when(read not in (3, 4), f"three tokens are counted as {read}")
    return f"counted as {read}"


@COMPLETIONS.check("n", 120)
def several(server: Server) -> str:
    found = complete(server, n=2, temperature=1).at("choices", kind=list)
    Ignored.when(len(found) != 2, f"{len(found)} choice for n = 2")
    return "two choices"


def embed(server: Server, input: Any, **fields: Any) -> list[Any]:
    """The vectors, as they are sent."""
    body = {"model": server.model, "input": input, **fields}
    found = at(accepted(server.call("POST", "/v1/embeddings", body)), "data", kind=list)
    places = [at(entry, "index", kind=int) for entry in found]
    if places != list(range(len(found))):
        raise ValueError(f"indices {places}")
    return [at(entry, "embedding") for entry in found]


@EMBEDDINGS.check("vector", 10)
def vector(server: Server) -> str:
    (found,) = embed(server, "A dog sleeps.")
    odd = not found or not all(math.isfinite(value) for value in found)
    Broken.when(odd, "the vector is empty, or not finite")
    length = math.hypot(*found)
    Ignored.when(abs(length - 1) > 0.01, f"{len(found)} numbers, of length {length:.3g}, not 1")
    return f"{len(found)} numbers, of length {length:.4f}"


@EMBEDDINGS.check("batch", 60)
def batch(server: Server) -> str:
    texts = ["A dog sleeps.", "The sea is wide and cold tonight.", "A dog sleeps."]
    together = embed(server, texts)
    Broken.when(len(together) != 3, f"{len(together)} vectors for three texts")
    for text, found in zip(texts[:2], together, strict=False):
        (alone,) = embed(server, text)
        Broken.when(_angle(alone, found) > 0.02, f"{text!r} has another vector in a batch")
    odd = _angle(together[0], together[2]) > 0.02 or together[0] == together[1]
    Broken.when(odd, "equal texts have different vectors, or different texts equal ones")
    return "in order, each as alone"


def _angle(a: list[float], b: list[float]) -> float:
    """1 - cosine."""
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@EMBEDDINGS.check("base64", 20)
def base64_vectors(server: Server) -> str:
    (plain,), (packed,) = embed(server, "A dog."), embed(server, "A dog.", encoding_format="base64")
    Ignored.when(not isinstance(packed, str), "encoding_format base64 gives numbers")
    data = base64.b64decode(packed, validate=True)
    found = struct.unpack(f"<{len(data) // 4}f", data)
    odd = len(found) != len(plain) or _angle(plain, list(found)) > 1e-4
    Broken.when(odd, "the bytes are not those of the numbers")
    return "the same numbers"


@EMBEDDINGS.check("dimensions", 10)
def dimensions(server: Server) -> str:
    (found,) = embed(server, "A dog.", dimensions=8)
    Ignored.when(len(found) != 8, f"{len(found)} numbers for dimensions = 8")
    return "8 numbers"
