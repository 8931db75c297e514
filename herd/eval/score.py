"""Log-probabilities of given tokens: the one measurement under every evaluation here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from herd.errors import HerdError
from herd.model.llama import Llama
from herd.model.mask import attend, causal
from herd.model.tokenizer import Tokenizer

Progress = Callable[[int, int], None]  # sequences done, of how many
BATCH_TOKENS = 8192
_LOGITS = 1 << 24  # logits in memory at once, 64 MiB in float32


def silent(done: int, total: int) -> None:
    """No progress shown."""


@torch.inference_mode()
def token_logprobs(
    model: Llama,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[np.ndarray]:
    """log p(token | the tokens before it), in nats, for every token of a sequence but its first.

    Returns float64 [length - 1] for each, in the order given. Sequences of like length share a batch of at most
    `batch_tokens` (or one sequence); the batches depend on nothing but the arguments. Every sequence needs two
    tokens or more.
    """
    device = next(model.parameters()).device
    out = [np.zeros(0)] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    done = 0
    while done < len(order):
        longest = len(sequences[order[done]])
        rows = order[done : done + max(1, batch_tokens // longest)]
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        real = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, i in enumerate(rows):
            tokens[row, : len(sequences[i])] = torch.as_tensor(sequences[i])
            real[row, : len(sequences[i])] = True
        tokens, real = tokens.to(device), real.to(device)
        positions = torch.arange(longest - 1, device=device).expand(len(rows), -1)
        hidden = model.hidden(tokens[:, :-1], positions, attend(causal()))[real[:, 1:]]
        values = _logprobs(model, hidden, tokens[:, 1:][real[:, 1:]])
        pieces = np.split(values, np.cumsum([len(sequences[i]) - 1 for i in rows])[:-1])
        for i, piece in zip(rows, pieces, strict=True):
            out[i] = piece
        done += len(rows)
        progress(done, len(order))
    return out


def _logprobs(model: Llama, hidden: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    step = max(1, _LOGITS // model.config.vocab_size)
    parts = [
        -F.cross_entropy(model.head(hidden[at : at + step]).float(), labels[at : at + step], reduction="none")
        for at in range(0, len(labels), step)
    ]
    return torch.cat(parts).double().cpu().numpy()


def begin(tokenizer: Tokenizer) -> int:
    """The token every scored text starts after: begin of text, or end of text as in GPT-2."""
    token = tokenizer.bos_id
    if token is None:
        names = ("<|end_of_text|>", "<|endoftext|>", "</s>")
        token = next((tokenizer.special[name] for name in names if name in tokenizer.special), None)
    if token is None:
        raise HerdError("this tokenizer has no token that begins a text, so its first token cannot be scored")
    return token
