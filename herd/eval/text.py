"""Bits per byte: how many bits a model needs to write down a text, whatever its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from herd.errors import HerdError
from herd.eval.score import Progress, begin, silent, token_logprobs
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

END = "<|end_of_text|>"


@dataclass(frozen=True)
class BitsPerByte:
    """`value` = bits / bytes; tokens are those scored, the ends of documents among them."""

    value: float
    bits: float
    bytes: int
    tokens: int
    documents: int


def bits_per_byte(
    model: Llama,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: Progress = silent,
) -> BitsPerByte:
    """−Σ log2 p(token) over all tokens of the documents, divided by their UTF-8 bytes.

    A document is scored after the begin token, and with its end token (where the tokenizer has
    `<|end_of_text|>`): its bits say where it stops, as a compressor's must, while its bytes hold the text alone.
    A document longer than `context` tokens (the model's positions) is scored in windows that advance by `stride`
    (half the context), each token once, with at least context - stride tokens before it.
    """
    context = min(context or model.config.max_positions, model.config.max_positions)
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context:
        raise HerdError(f"a stride of {stride} skips tokens; use 1 to the context, {context}")
    size = sum(len(text.encode()) for text in documents)
    if not size:
        raise HerdError("no text to measure bits per byte on")
    end = [tokenizer.special[END]] if END in tokenizer.special else []
    first = begin(tokenizer)
    windows: list[list[int]] = []
    fresh: list[int] = []  # how many tokens at the end of each window are scored
    for ids in tokenizer.encode_batch(list(documents)):
        ids = [first, *ids, *end]
        scored = 1  # tokens with a score; the begin token needs none
        while scored < len(ids):
            stop = min(len(ids), scored + stride if scored > 1 else context + 1)
            windows.append(ids[max(0, stop - context - 1) : stop])
            fresh.append(stop - scored)
            scored = stop
    logprobs = token_logprobs(model, windows, progress=progress)
    nats = math.fsum(float(-p[-n:].sum()) for p, n in zip(logprobs, fresh, strict=True))
    bits = nats / math.log(2)
    return BitsPerByte(bits / size, bits, size, sum(fresh), len(documents))
