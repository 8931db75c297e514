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
    Spans of one row (replies) whose keys fill equally many blocks are computed together, the others one by one.
    """

    def __init__(self, cache: SlotCache, spans: Sequence[Span], dtype: torch.dtype) -> None:
        self.cache, self.dtype = cache, dtype
        self.group = cache.config.n_heads // cache.config.n_kv_heads
        self.parts: list[_Part] = []
        replies: dict[int, list[Span]] = {}
        for span in sorted(spans, key=lambda s: s.slot):
            if span.stop - span.start == 1:
                replies.setdefault(span.past // BLOCK, []).append(span)
            else:
                self.parts.append(self._part([span]))
        self.parts += map(self._part, replies.values())

    def _part(self, spans: list[Span]) -> _Part:
        """Of spans with equally many rows n: m of them, whose keys end within the same block."""
        first, n = spans[0], spans[0].stop - spans[0].start
        keys = -(-(first.past + n) // BLOCK) * BLOCK
        at = torch.tensor([range(s.past, s.past + n) for s in spans])  # [m, n]
        hidden = torch.arange(keys) > at[..., None]
        mask = (
            torch.zeros(hidden.shape, dtype=self.dtype)
            .masked_fill_(hidden, float("-inf"))
            .repeat(1, self.group, 1)
        )
        mask = F.pad(mask, (0, 0, 0, -mask.shape[1] % ROWS))[:, None]
        slots = torch.tensor([s.slot for s in spans])
        rows = torch.tensor([range(s.start, s.stop) for s in spans])
        return _Part(slots, rows, at, mask)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1,H,T,D], k and v [1,K,T,D] of all rows of the step → [1,H,T,D]."""
        out = torch.zeros_like(q)
        heads, size = k.shape[1], q.shape[-1]
        for part in self.parts:
            m, n = part.rows.shape
            all_keys, all_values = self.cache.k[layer], self.cache.v[layer]
            all_keys[part.slots[:, None], :, part.at] = k[0, :, part.rows].permute(1, 2, 0, 3)
            all_values[part.slots[:, None], :, part.at] = v[0, :, part.rows].permute(1, 2, 0, 3)
            # [H,m,n,D] → [m, K, group · n, D], padded to a multiple of ROWS.
            rows = q[0, :, part.rows].view(heads, self.group, m, n, size).permute(2, 0, 1, 3, 4)
            rows = rows.reshape(m, heads, self.group * n, size)
            rows = F.pad(rows, (0, 0, 0, part.mask.shape[2] - rows.shape[2]))
            keys, values = part.of(all_keys), part.of(all_values)
            y = F.scaled_dot_product_attention(rows, keys, values, attn_mask=part.mask)
            y = y[:, :, : self.group * n].reshape(m, heads, self.group, n, size).permute(1, 2, 0, 3, 4)
            out[0, :, part.rows] = y.reshape(-1, m, n, size)
        return out


@dataclass
class _Part:
    """Spans computed together: slots [m], rows of the step [m,n], positions [m,n], mask [m, 1, rows padded, keys]."""

    slots: Tensor
    rows: Tensor
    at: Tensor
    mask: Tensor

    def of(self, cached: Tensor) -> Tensor:
        """The spans' part of one layer's keys or values: a view where slots are neighbours, else a copy."""
        seen = cached[:, :, : self.mask.shape[-1]]
        first, count = int(self.slots[0]), len(self.slots)
        neighbours = torch.equal(self.slots, torch.arange(first, first + count))
        return seen[first : first + count] if neighbours else seen.index_select(0, self.slots)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose memory is only taken when it is written: `torch.zeros` would touch every page."""
    raw = np.zeros(shape, dtype={2: np.int16, 4: np.int32}[dtype.itemsize])
    return torch.from_numpy(raw).view(dtype)
