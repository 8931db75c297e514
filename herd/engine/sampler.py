"""Drawing the next token, and the log-probabilities that are reported with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from herd.protocol.types import Sampling

_FIRST = 1024  # tokens sorted at first for a nucleus; a whole sort only if they are not enough


def generator(sampling: Sampling, index: int) -> np.random.Generator:
    """Choice `index`'s own random numbers: equal seeds give equal streams, whatever else runs."""
    entropy = None if sampling.seed is None else [sampling.seed & (2**64 - 1), index]
    return np.random.Generator(np.random.PCG64(entropy))


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What is drawn from: probabilities [V] (fp64) of logits [V], zero for tokens that are ruled out.

    As in `transformers`: temperature, then top-k, then top-p on what is left, then min-p. Of equals at the limit of
    top-k or top-p, torch's `topk` decides.
    """
    probs = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if 0 < sampling.top_k < probs.numel():
        probs = _keep(probs, torch.topk(probs, sampling.top_k).indices)
    if sampling.top_p < 1:
        probs = _keep(probs, _nucleus(probs, sampling.top_p))
    if sampling.min_p > 0:
        probs = torch.where(probs >= sampling.min_p * probs.max(), probs, 0.0)
    return probs / probs.sum()


def draw(logits: Tensor, sampling: Sampling, rng: np.random.Generator) -> int:
    """One token from logits [V]. Temperature 0 takes the likeliest (the lowest id of equals) and uses no randomness.

    Else one uniform number is inverted through the cumulative distribution in order of token id, so that nothing but
    the logits and the seed decides.
    """
    if sampling.temperature <= 0:
        return int(logits.argmax())
    probs = probabilities(logits, sampling).numpy()
    cumulative = probs.cumsum()
    at = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(at, int(probs.nonzero()[0][-1]))  # the number may round up to the very end


def _keep(probs: Tensor, ids: Tensor) -> Tensor:
    kept = torch.zeros_like(probs)
    kept[ids] = probs[ids]
    return kept / kept.sum()


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Ids of the smallest set of likeliest tokens whose probability reaches `top_p`; at least one."""
    for k in (min(_FIRST, probs.numel()), probs.numel()):
        values, ids = torch.topk(probs, k)
        before = values.cumsum(0) - values
        if before[-1] >= top_p:
            break
    return ids[: max(int((before < top_p).sum()), 1)]


def logprobs(logits: Tensor, chosen: int, k: int) -> tuple[float, list[tuple[int, float]]]:
    """Of the model's own distribution, before temperature: the chosen token's value, and the k best with their ids."""
    values = torch.log_softmax(logits, dim=-1)
    best = torch.topk(values, min(k, values.numel()))
    return float(values[chosen]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
