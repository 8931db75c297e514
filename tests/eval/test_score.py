"""Token log-probabilities and bits per byte, against transformers and against arithmetic."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from herd.errors import HerdError
from herd.eval.score import begin, token_logprobs
from herd.eval.text import bits_per_byte
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

DOCUMENTS = [
    "The fox was kind.",
    "",
    "Fünf kleine Füchse — 五只狐狸.",
    "It had a friend near the river. " * 9,
]


@torch.inference_mode()
def peer_logprobs(peer: Any, ids: list[int]) -> np.ndarray:
    logprobs = peer(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return np.array([logprobs[i, token].item() for i, token in enumerate(ids[1:])])


def test_against_transformers_whatever_the_batch(model: Llama, peer: Any) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, model.config.vocab_size, n).tolist() for n in (2, 31, 7, 7, 48, 3)]
    seen: list[tuple[int, int]] = []
    for batch_tokens in (1, 60, 10_000):
        scores = token_logprobs(
            model, sequences, batch_tokens=batch_tokens, progress=lambda *at: seen.append(at)
        )
        for ids, score in zip(sequences, scores, strict=True):
            np.testing.assert_allclose(score, peer_logprobs(peer, ids), atol=2e-5)
    assert seen[-1] == (6, 6) and len(seen) > 8


def test_bits_per_byte_is_that_of_transformers(model: Llama, peer: Any, tokenizer: Tokenizer) -> None:
    short = DOCUMENTS[:3]
    result = bits_per_byte(model, tokenizer, short)
    end = tokenizer.special["<|end_of_text|>"]
    texts = [[begin(tokenizer), *tokenizer.encode(text), end] for text in short]
    bits = -sum(peer_logprobs(peer, ids).sum() for ids in texts) / math.log(2)
    size = sum(len(text.encode()) for text in short)
    assert result.bits == pytest.approx(bits, rel=1e-5)
    assert result.value == pytest.approx(bits / size, rel=1e-5)
    assert (result.bytes, result.documents) == (size, 3)
    assert result.tokens == sum(len(ids) - 1 for ids in texts)


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (48, 24), (7, 1)])
def test_windows(model: Llama, peer: Any, tokenizer: Tokenizer, context: int, stride: int) -> None:
    """Token i is predicted in the first window of `context` inputs that reaches it."""
    result = bits_per_byte(model, tokenizer, DOCUMENTS, context=context, stride=stride)
    nats, count = 0.0, 0
    for text in DOCUMENTS:
        ids = [begin(tokenizer), *tokenizer.encode(text), tokenizer.special["<|end_of_text|>"]]
        for i in range(1, len(ids)):
            steps = max(0, math.ceil((i - context) / stride))  # windows after the first until i is covered
            stop = min(len(ids), context + 1 + steps * stride)
            window = ids[max(0, stop - context - 1) : stop]
            nats -= peer_logprobs(peer, window)[i - stop + len(window) - 1]
            count += 1
    assert result.tokens == count
    assert result.bits == pytest.approx(nats / math.log(2), rel=1e-5)


def test_uniform_model_by_hand(model: Llama, tokenizer: Tokenizer) -> None:
    uniform = Llama(model.config)
    with torch.no_grad():
        uniform.embed.weight.zero_()
    text = "a small brown fox"
    tokens = len(tokenizer.encode(text)) + 1
    result = bits_per_byte(uniform, tokenizer, [text])
    assert result.value == pytest.approx(math.log2(tokenizer.vocab_size) * tokens / 17, rel=1e-6)


def test_what_cannot_be_measured(model: Llama, tokenizer: Tokenizer) -> None:
    with pytest.raises(HerdError, match="no text"):
        bits_per_byte(model, tokenizer, [""])
    with pytest.raises(HerdError, match="skips tokens"):
        bits_per_byte(model, tokenizer, ["a"], context=8, stride=9)
