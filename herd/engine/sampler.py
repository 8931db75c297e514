"""Drawing the next token, and the log-probabilities that are reported with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from herd.protocol.types import Sampling

COLD = 1e-6  # temperatures below it count as 0: no number holds what some would make of logits
_FIRST = 1024  # tokens sorted at first for a nucleus; a whole sort only if they are not enough


def generator(sampling: Sampling, index: int) -> np.random.Generator:
    """Choice `index`'s own random numbers: equal seeds give equal streams, whatever else runs."""
    entropy = None if sampling.seed is None else [sampling.seed & (2**64 - 1), index]
    return np.random.Generator(np.random.PCG64(entropy))


def penalise(logits: Tensor, tokens: Sequence[int], prompt: int, sampling: Sampling) -> Tensor:
    """logits [V] less the penalties for `tokens` behind the prompt, plus the biases, as OpenAI's API defines them.

    The same tensor where there is nothing to change.
    """
    s = sampling
    penalties = (s.frequency_penalty or s.presence_penalty) and len(tokens) > prompt
    if not (penalties or s.logit_bias):
        return logits
    logits = logits.clone()
    if penalties:
        ids, counts = (torch.from_numpy(x) for x in np.unique(tokens[prompt:], return_counts=True))
        logits[ids] -= s.frequency_penalty * counts.to(logits.dtype) + s.presence_penalty
    if s.logit_bias:
        logits[[int(id) for id in s.logit_bias]] += torch.tensor(list(s.logit_bias.values()))
    return logits


def probabilities(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What is drawn from: probabilities [n,V] (fp64) of logits [n,V], zero for tokens that are ruled out.

    As in `transformers`: temperature, then top-k, then top-p on what is left, then min-p. Of equals at the limit of
    top-k or top-p, torch's `topk` decides. Sums are running sums, whose order does not depend on n.
    """
    temperature = torch.tensor([[s.temperature] for s in samplings], dtype=torch.float64)
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    ranked = [i for i, s in enumerate(samplings) if s.top_k > 0 or s.top_p < 1]
    if ranked:
        probs[ranked] = _best(probs[ranked], [samplings[i] for i in ranked])
    if any(s.min_p > 0 for s in samplings):
        least = torch.tensor([[s.min_p] for s in samplings], dtype=torch.float64)
        probs = torch.where(probs >= least * probs.amax(-1, keepdim=True), probs, 0.0)
    return probs


def draw(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], uniform: Sequence[float]
) -> list[int | None]:
    """One token from each of these rows of logits [n,V]; None where the highest is not a number or infinite.

    A temperature below COLD takes the likeliest, the lowest id of equals. Else the row's uniform number of [0, 1) is
    inverted through the cumulative distribution in order of token id, so that nothing but the row and its number decides.
    """
    if list(rows) != list(range(len(logits))):
        logits = logits[list(rows)]
    table = logits.numpy()
    best = table.argmax(-1)  # of what is not a number, if there is any
    finite = np.isfinite(table[np.arange(len(best)), best])
    tokens: list[int | None] = best.tolist()
    warm = [i for i, s in enumerate(samplings) if s.temperature >= COLD]
    if warm:
        some = logits if len(warm) == len(tokens) else logits[warm]
        sums = probabilities(some, [samplings[i] for i in warm]).cumsum(-1).numpy()
        for i, cumulative in zip(warm, sums, strict=True):
            end = cumulative[-1]
            at = int(np.searchsorted(cumulative, uniform[i] * end, side="right"))
            # The number may round up to the very end, where the last possible token is the first to reach it.
            tokens[i] = at if at < len(cumulative) else int(np.searchsorted(cumulative, end))
    return tokens if finite.all() else [t if ok else None for t, ok in zip(tokens, finite, strict=True)]


def _best(probs: Tensor, samplings: Sequence[Sampling], size: int = _FIRST) -> Tensor:
    """Each row [V] less what its top-k and top-p rule out; at least one token stays. `size`: tokens sorted at first."""
    V = probs.shape[-1]
    size = min(size, V)
    top_k = torch.tensor([[s.top_k if 0 < s.top_k < V else V] for s in samplings])
    top_p = torch.tensor([[s.top_p] for s in samplings], dtype=torch.float64)
    values, ids = torch.topk(probs, size)
    rank = torch.arange(size)
    values = torch.where(rank < top_k, values, 0.0)
    running = values.cumsum(-1)
    total = torch.where(top_k < V, running[:, -1:], 1.0)  # top_p is a share of what top-k left
    kept = ((running - values < top_p * total) | (top_p == 1)) & (rank < top_k) | (rank == 0)
    result = torch.zeros_like(probs).scatter(-1, ids, torch.where(kept, values, 0.0))
    if size < V:
        more = (
            ((top_k > size) & ((top_k < V) | (running[:, -1:] < top_p)))
            .flatten()
            .nonzero()
            .flatten()
            .tolist()
        )
        if more:
            result[more] = _best(probs[more], [samplings[i] for i in more], V)
    return result


def logprobs(logits: Tensor, chosen: int, k: int) -> tuple[float, list[tuple[int, float]]]:
    """Of the model's own distribution, before temperature: the chosen token's value, and the k best with their ids."""
    values = torch.log_softmax(logits, dim=-1)
    best = torch.topk(values, min(k, values.numel()))
    return float(values[chosen]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
