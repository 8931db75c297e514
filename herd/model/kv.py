"""A contiguous key-value cache: what generation keeps of the positions that it has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from herd.model.config import Config
from herd.model.mask import attention


class KVCache:
    """Keys and values [L,B,K,S,D] for S = `max_len` positions; `length` positions are filled."""

    def __init__(
        self,
        config: Config,
        batch: int,
        max_len: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, max_len, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k, v [B,K,T,D] and attend causally over everything kept. The caller advances `length`."""
        start, end = self.length, self.length + q.shape[2]
        self.k[layer, :, :, start:end] = k
        self.v[layer, :, :, start:end] = v
        allowed = None
        if q.shape[2] > 1 and start:
            at = torch.arange(end, device=q.device)
            allowed = (at[None, :] <= at[start:, None])[None, None]
        causal = q.shape[2] > 1 and not start
        return attention(q, self.k[layer, :, :, :end], self.v[layer, :, :, :end], allowed, is_causal=causal)
