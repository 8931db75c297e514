"""Keys and values of many sequences: one slot each, kept after a reply so that the next may share its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from herd.model.config import Config

# Torch's products on CPU give a row the same bits in any company if rows come in fours, and its attention kernel
# the same bits for any number of queries if keys also come in whole blocks of 512 (the kernel's own block; what lies
# past the end is masked and adds exact zeros). Kept to, a token's numbers do not depend on batch, chunk or prefix hit.
ROWS = 4
BLOCK = 512


@dataclass
class Span:
    """Rows [start, stop) of a step: one sequence's tokens from position `past` on."""

    slot: int
    start: int
    stop: int
    past: int


class SlotCache:
    """Keys and values [L, slots, K, S, D] and, for each slot, the tokens whose positions are filled."""

    def __init__(self, config: Config, slots: int, max_len: int, dtype: torch.dtype) -> None:
        self.config = config
        self.max_len = max_len
        shape = (config.n_layers, slots, config.n_kv_heads, -(-max_len // BLOCK) * BLOCK, config.head_dim)
        self.k, self.v = _zeros(shape, dtype), _zeros(shape, dtype)
        self.tokens = np.zeros((slots, max_len), dtype=np.int64)
        self.length = [0] * slots
        self.salt = [""] * slots
        self.free = list(range(slots))  # least recently used first

    @staticmethod
    def bytes_per_token(config: Config, dtype: torch.dtype) -> int:
        return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize

    @property
    def usage(self) -> float:
        """Share of all positions that running sequences fill."""
        busy = set(range(len(self.length))) - set(self.free)
        return sum(self.length[s] for s in busy) / self.tokens.size

    def acquire(self, prompt: Sequence[int], salt: str, reuse: bool = True) -> tuple[int, int]:
        """A free slot for `prompt` and how many of its first tokens the slot already holds.

        The longest common beginning of any slot with the same salt is used, compared token by token: the slot is
        taken over if it is free and loses less than it gives, else its beginning is copied to the slot unused for
        longest. The last token is always left to compute, since its logits are wanted.
        """
        want = np.asarray(prompt[:-1], dtype=np.int64)
        hits = [
            self._common(s, want) if reuse and self.salt[s] == salt else 0 for s in range(len(self.length))
        ]
        source = max(range(len(hits)), key=lambda s: (hits[s], s in self.free))
        hit = hits[source]
        empty = next((s for s in self.free if not self.length[s]), None)
        slot = self.free[0] if empty is None else empty
        if source in self.free and hit and (2 * hit >= self.length[source] or len(self.free) == 1):
            slot = source
        elif hit:
            self.k[:, slot, :, :hit] = self.k[:, source, :, :hit]
            self.v[:, slot, :, :hit] = self.v[:, source, :, :hit]
            self.tokens[slot, :hit] = want[:hit]
        self.free.remove(slot)
        self.length[slot], self.salt[slot] = hit, salt
        return slot, hit

    def _common(self, slot: int, want: np.ndarray) -> int:
        size = min(self.length[slot], len(want))
        differ = self.tokens[slot, :size] != want[:size]
        return int(differ.argmax()) if differ.any() else size

    def release(self, slot: int) -> None:
        """Give the slot back; what it holds stays until another sequence needs the room."""
        self.free.append(slot)

    def wrote(self, span: Span, tokens: Sequence[int]) -> None:
        """Note the tokens of a span whose keys and values are now in the cache."""
        end = span.past + len(tokens)
        self.tokens[span.slot, span.past : end] = tokens
        self.length[span.slot] = end

    def attention(self, spans: Sequence[Span], dtype: torch.dtype) -> Attention:
        return Attention(self, spans, dtype)


class Attention:
    """The `attend` of one step: each span's rows see their own slot, causally. Masks are made once, for all layers.

    The query heads that share a key-value head are rows of one product, so keys are read once and never repeated.
    One call a sequence measured faster on two cores than one padded call for all, whose keys must be gathered.
    """

    def __init__(self, cache: SlotCache, spans: Sequence[Span], dtype: torch.dtype) -> None:
        self.cache = cache
        self.group = cache.config.n_heads // cache.config.n_kv_heads
        self.parts = [(span, self._mask(span, dtype)) for span in spans]

    def _mask(self, span: Span, dtype: torch.dtype) -> Tensor:
        """[group · n, padded to ROWS; keys in whole blocks]: 0 where a query sees a key, else -inf."""
        n = span.stop - span.start
        keys = -(-(span.past + n) // BLOCK) * BLOCK
        hidden = torch.arange(keys)[None] > torch.arange(span.past, span.past + n)[:, None]
        mask = torch.zeros(n, keys, dtype=dtype).masked_fill_(hidden, float("-inf")).repeat(self.group, 1)
        return F.pad(mask, (0, 0, 0, -len(mask) % ROWS))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1,H,T,D], k and v [1,K,T,D] of all rows of the step → [1,H,T,D]."""
        out = torch.zeros_like(q)
        heads, size = k.shape[1], q.shape[-1]
        for span, mask in self.parts:
            a, b, n = span.start, span.stop, span.stop - span.start
            keys, values = self.cache.k[layer, span.slot], self.cache.v[layer, span.slot]
            keys[:, span.past : span.past + n] = k[0, :, a:b]
            values[:, span.past : span.past + n] = v[0, :, a:b]
            rows = F.pad(q[0, :, a:b].reshape(heads, -1, size), (0, 0, 0, len(mask) - self.group * n))
            seen = mask.shape[1]
            y = F.scaled_dot_product_attention(
                rows[None], keys[None, :, :seen], values[None, :, :seen], attn_mask=mask[None, None]
            )
            out[0, :, a:b] = y[0, :, : self.group * n].reshape(-1, n, size)
        return out


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose memory is only taken when it is written: `torch.zeros` would touch every page."""
    raw = np.zeros(shape, dtype={2: np.int16, 4: np.int32}[dtype.itemsize])
    return torch.from_numpy(raw).view(dtype)
