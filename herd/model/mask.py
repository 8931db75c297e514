"""Which position may see which: the attention mask as an argument, shared by training, serving and the feed.

Shapes: B batch, T query positions, S key positions, H heads, K key-value heads, G = H/K, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, q [B,H,T,D], k [B,K,T,D], v [B,K,T,D]) → [B,H,T,D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

BLOCK = 128  # queries whose scores are held at a time on a CPU: few enough to stay in its cache


@dataclass(frozen=True)
class Mask:
    """A query sees the keys before it and itself; with `docs` [B,T], of them those with its own number.

    `allowed` [B or 1, 1, T, S], true where a query may see a key, replaces that rule.
    """

    docs: Tensor | None = None
    allowed: Tensor | None = None


def causal() -> Mask:
    """Each position sees itself and what came before."""
    return Mask()


def document(docs: Tensor) -> Mask:
    """Causal within each document. docs: [B,T] document number of each position (packed rows)."""
    return Mask(docs)


def prefix(lengths: Tensor, total: int) -> Mask:
    """The first `lengths[b]` positions see each other fully; what follows is causal. lengths: [B]."""
    at = torch.arange(total, device=lengths.device)
    lower = at[:, None] >= at[None, :]
    return Mask(allowed=(lower | (at[None, None, :] < lengths[:, None, None]))[:, None])


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, *, is_causal: bool = False) -> Tensor:
    """Softmax attention with grouped key-value heads: q [B,H,T,D], k and v [B,K,S,D] → [B,H,T,D]."""
    shared = q.shape[1] // k.shape[1]
    if shared > 1 and allowed is not None and q.is_cuda:
        # Of CUDA's kernels only the slowest takes both a mask and fewer keys than queries.
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
        shared = 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, is_causal=is_causal, enable_gqa=shared > 1
    )


def attend(mask: Mask) -> Attend:
    """Attention over the tokens of this call alone (no cache)."""
    docs, allowed = mask.docs, mask.allowed
    if allowed is None and (docs is None or docs.device.type == "cpu"):
        return lambda layer, q, k, v: (
            _blockwise(q, k, v, docs) if q.device.type == "cpu" else attention(q, k, v, None, is_causal=True)
        )
    if allowed is None:
        assert docs is not None
        allowed = _seen(docs, 0, docs.shape[1], docs.device)
    return lambda layer, q, k, v: attention(q, k, v, allowed)


def _seen(docs: Tensor | None, start: int, stop: int, device: torch.device) -> Tensor:
    """[B or 1, 1, stop - start, stop]: which keys the queries [start, stop) see."""
    seen = torch.arange(stop, device=device) <= torch.arange(start, stop, device=device)[:, None]
    if docs is not None:
        seen = seen & (docs[:, start:stop, None] == docs[:, None, :stop])
    return seen.view(-1, 1, stop - start, stop)


def _blockwise(q: Tensor, k: Tensor, v: Tensor, docs: Tensor | None) -> Tensor:
    """Attention on a CPU, BLOCK queries at a time against the keys up to their own: about half of the work is never
    done, and a block's scores do not leave the cache. Query heads that share keys are rows of one product."""
    B, H, T, D = q.shape
    K, G = k.shape[1], H // k.shape[1]
    q = (q * D**-0.5).view(B, K, G, T, D)
    out = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        rows = q[:, :, :, start:stop].reshape(B, K, -1, D)
        hidden = ~_seen(docs, start, stop, q.device).repeat(1, 1, G, 1)
        scores = (rows @ k[:, :, :stop].transpose(2, 3)).masked_fill(hidden, float("-inf"))
        y = scores.softmax(-1) @ v[:, :, :stop]
        out.append(y.view(B, K, G, stop - start, D))
    return torch.cat(out, dim=3).reshape(B, H, T, D)
