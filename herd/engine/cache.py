"""Keys and values of many sequences: one slot each, kept after a reply so that the next may share its beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from herd.model.config import Config

# Torch's products on CPU, and its attention for a given number of keys, give a row the same bits in any company if
# rows come in fours. So rows do, and `keys_for` a row is a matter of its position alone (what lies past the row is
# masked and adds exact zeros): a token's numbers do not depend on batch, chunk or prefix hit.
ROWS = 4
BLOCK = 512


def keys_for(position: int) -> int:
    """Keys that a row at this position is computed with: a power of two from 64 to BLOCK, then whole blocks."""
    if position < BLOCK:
        return max(1 << position.bit_length(), 64)
    return (position // BLOCK + 1) * BLOCK


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
    Single rows (replies) with equally many keys are computed together, other pieces of spans one by one.
    """

    def __init__(self, cache: SlotCache, spans: Sequence[Span], dtype: torch.dtype) -> None:
        self.cache, self.dtype = cache, dtype
        self.group = cache.config.n_heads // cache.config.n_kv_heads
        pieces = [piece for span in sorted(spans, key=lambda s: s.slot) for piece in _pieces(span)]
        singles: dict[int, list[Span]] = {}
        for piece in pieces:
            if piece.stop - piece.start == 1:
                singles.setdefault(keys_for(piece.past), []).append(piece)
        parts = [[p] for p in pieces if p.stop - p.start > 1] + list(singles.values())
        self.parts = [self._part(part) for part in parts]
        # Rows in the order of the parts, where each goes in the cache, and the way back to the order of the step.
        rows = [
            (r, p.slot, p.past + r - p.start) for part in parts for p in part for r in range(p.start, p.stop)
        ]
        self.rows, self.slots, self.at = torch.tensor(rows).unbind(1)
        self.back = F.pad(self.rows.argsort(), (0, -len(rows) % ROWS))

    def _part(self, pieces: list[Span]) -> _Part:
        first, n = pieces[0], pieces[0].stop - pieces[0].start
        keys = keys_for(first.past)
        at = torch.tensor([p.past for p in pieces])[:, None] + torch.arange(n)
        mask = torch.zeros(len(pieces), n, keys, dtype=self.dtype)
        mask.masked_fill_(torch.arange(keys) > at[..., None], float("-inf"))
        mask = F.pad(mask.repeat(1, self.group, 1), (0, 0, 0, -n * self.group % ROWS))[:, None]
        slots = [p.slot for p in pieces]
        neighbours = slots == list(range(slots[0], slots[0] + len(slots)))
        return _Part(n, mask, slice(slots[0], slots[-1] + 1) if neighbours else torch.tensor(slots))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1,H,T,D], k and v [1,K,T,D] of all rows of the step → [1,H,T,D]."""
        cached = self.cache.k[layer], self.cache.v[layer]
        for old, new in zip(cached, (k, v), strict=True):
            old[self.slots, :, self.at] = new[0].transpose(0, 1)[self.rows]
        H, K, D = q.shape[1], k.shape[1], q.shape[-1]
        out, rows = [], torch.split(q[0].transpose(0, 1)[self.rows], [len(p.mask) * p.n for p in self.parts])
        for part, x in zip(self.parts, rows, strict=True):
            m, n = len(part.mask), part.n
            x = x.view(m, n, K, self.group, D).permute(0, 2, 3, 1, 4).reshape(m, K, self.group * n, D)
            x = F.pad(x, (0, 0, 0, part.mask.shape[2] - x.shape[2]))
            keys, values = (c[part.slots, :, : part.mask.shape[-1]] for c in cached)
            y = F.scaled_dot_product_attention(x, keys, values, attn_mask=part.mask)[:, :, : self.group * n]
            out.append(y.reshape(m, K, self.group, n, D).permute(0, 3, 1, 2, 4).reshape(m * n, H, D))
        return torch.cat(out)[self.back].transpose(0, 1)[None]


@dataclass
class _Part:
    """Pieces computed together: m of them, of n rows each. mask: [m, 1, rows padded, keys]."""

    n: int
    mask: Tensor
    slots: slice | Tensor  # a slice, and so no copy of the keys, where slots are neighbours


def _pieces(span: Span) -> Iterator[Span]:
    """The span cut where its rows get more keys."""
    while (end := span.start + keys_for(span.past) - span.past) < span.stop:
        yield replace(span, stop=end)
        span = replace(span, start=end, past=span.past + end - span.start)
    yield span


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose memory is only taken when it is written: `torch.zeros` would touch every page."""
    raw = np.zeros(shape, dtype={2: np.int16, 4: np.int32}[dtype.itemsize])
    return torch.from_numpy(raw).view(dtype)
