"""Which position may see which: the attention mask as an argument, shared by training, serving and the feed.

Shapes: B batch, T query positions, S key positions, H heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# (layer, q [B,H,T,D], k [B,K,T,D], v [B,K,T,D]) → [B,H,T,D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """`allowed` [B or 1, 1, T, S], true where a query may see a key; None means plain causal."""

    allowed: Tensor | None = None


def causal() -> Mask:
    """Each position sees itself and what came before."""
    return Mask()


def document(docs: Tensor) -> Mask:
    """Causal within each document. docs: [B,T] document number of each position (packed rows)."""
    length = docs.shape[1]
    lower = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
    return Mask(((docs[:, :, None] == docs[:, None, :]) & lower)[:, None])


def prefix(lengths: Tensor, total: int) -> Mask:
    """The first `lengths[b]` positions see each other fully; what follows is causal. lengths: [B]."""
    at = torch.arange(total, device=lengths.device)
    lower = at[:, None] >= at[None, :]
    return Mask((lower | (at[None, None, :] < lengths[:, None, None]))[:, None])


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, *, is_causal: bool = False) -> Tensor:
    """Softmax attention with grouped key-value heads: q [B,H,T,D], k and v [B,K,S,D] → [B,H,T,D]."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend(mask: Mask) -> Attend:
    """Attention over the tokens of this call alone (no cache)."""
    return lambda layer, q, k, v: attention(q, k, v, mask.allowed, is_causal=mask.allowed is None)
