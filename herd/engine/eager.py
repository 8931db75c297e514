"""A step in PyTorch: where there are no kernels, and what the kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.engine.packed import Packed, Quantised
from herd.engine.step import BLOCK, Adapter, Span
from herd.model.llama import Linear, Llama

# Torch's products on CPU, and its attention for a given number of keys, give a row the same bits in any company if
# rows come in fours. So rows do, and `keys_for` a row is a matter of its position alone (what lies past the row is
# masked and adds exact zeros): a token's numbers do not depend on batch, chunk or prefix hit.
ROWS = 4
LONG = 512


def keys_for(position: int) -> int:
    """Keys that a row at this position is computed with: a power of two from 64 to LONG, then multiples of LONG."""
    if position < LONG:
        return max(1 << position.bit_length(), 64)
    return (position // LONG + 1) * LONG


class Eager:
    """A `step.Runner` around a Llama, which it switches to inference.

    Keys and values lie in [L, positions, K, D]. Position 0 is nobody's and stays zero: masked keys are read there,
    so that no number of another sequence, not even one that is not finite, is ever touched.
    """

    def __init__(self, model: Llama) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = model.config
        self.dtype = model.dtype or model.embed.weight.dtype
        # Where it was measured.
        self.invariant = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        self.k = self.v = torch.empty(0)
        self._linears = {n: m for n, m in model.named_modules() if isinstance(m, Linear | Packed | Quantised)}

    def allocate(self, blocks: int) -> None:
        c = self.config
        shape = (c.n_layers, (blocks + 1) * BLOCK, c.n_kv_heads, c.head_dim)
        self.k, self.v = _zeros(shape, self.dtype), _zeros(shape, self.dtype)

    def rest(self) -> bool:
        return False

    @property
    def block_bytes(self) -> int:
        c = self.config
        return 2 * BLOCK * c.n_layers * c.n_kv_heads * c.head_dim * self.dtype.itemsize

    @property
    def weight_bytes(self) -> int:
        total: int = sum(p.nbytes for p in self.model.parameters())
        for m in self._linears.values():
            total += m.weight.bytes if isinstance(m, Quantised) else 0
            total += m.weight.numel() * 2 if isinstance(m, Packed) else 0
        return total

    def copy_block(self, source: int, target: int) -> None:
        old, new = (slice((b + 1) * BLOCK, (b + 2) * BLOCK) for b in (source, target))
        for cache in (self.k, self.v):
            cache[:, new] = cache[:, old]

    @torch.no_grad()
    def hidden(self, tokens: Sequence[int], spans: Sequence[Span], between: Callable[[], None]) -> Tensor:
        pad = [0] * (-len(tokens) % ROWS)
        positions = [p for s in spans for p in range(s.past, s.past + s.stop - s.start)]
        attention = _Attention(self, spans)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            between()
            return attention(layer, q, k, v)

        with self._adapted(spans):
            ids = torch.tensor([[*tokens, *pad]])
            h = self.model.hidden(ids, torch.tensor([positions + pad]), attend)
        return h[0, : len(tokens)].float()

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        padded = F.pad(hidden.to(self.dtype), (0, 0, 0, -len(hidden) % ROWS))
        return self.model.head(padded)[: len(hidden)].float()

    @contextmanager
    def _adapted(self, spans: Sequence[Span]) -> Iterator[None]:
        """While it lasts, linear layers add what the spans' adapters say of their rows."""
        rows: dict[Adapter, list[int]] = {}
        for s in spans:
            if s.adapter:
                rows.setdefault(s.adapter, []).extend(range(s.start, s.stop))
        parts = [(adapter, torch.tensor(at)) for adapter, at in rows.items()]
        names = {name for adapter in rows for name in adapter.a}
        hooks = [
            self._linears[name].register_forward_hook(partial(_add_adapters, name, parts)) for name in names
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _add_adapters(
    name: str, parts: list[tuple[Adapter, Tensor]], _: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> Tensor:
    """output + scale · B (A x) for the rows of each adapter, in fp32."""
    x, y = inputs[0][0], output[0].clone()
    for adapter, rows in parts:
        if name in adapter.a:
            some = F.pad(x[rows].float(), (0, 0, 0, -len(rows) % ROWS))
            low = F.linear(F.linear(some, adapter.a[name]), adapter.b[name]) * adapter.scale
            y[rows] = (y[rows].float() + low[: len(rows)]).to(y.dtype)
    return y[None]


class _Attention:
    """The `attend` of one step: each span's rows see their own blocks, causally. Masks are made once, for all layers.

    The query heads that share a key-value head are rows of one product, so keys are read once and never repeated.
    Single rows (replies) with equally many keys are computed together, other pieces of spans one by one.
    """

    def __init__(self, runner: Eager, spans: Sequence[Span]) -> None:
        self.runner = runner
        self.group = runner.config.n_heads // runner.config.n_kv_heads
        pieces = [piece for span in spans for piece in _pieces(span)]
        singles: dict[int, list[Span]] = {}
        for piece in pieces:
            if piece.stop - piece.start == 1:
                singles.setdefault(keys_for(piece.past), []).append(piece)
        parts = [[p] for p in pieces if p.stop - p.start > 1] + list(singles.values())
        self.parts = [self._part(part) for part in parts]
        # Rows in the order of the parts, and the way back to the order of the step.
        self.rows = torch.tensor([r for part in parts for p in part for r in range(p.start, p.stop)])
        self.back = F.pad(self.rows.argsort(), (0, -len(self.rows) % ROWS))
        self.at = torch.cat([_places(s.blocks, s.past, s.past + s.stop - s.start) for s in spans])

    def _part(self, pieces: list[Span]) -> _Part:
        first, n = pieces[0], pieces[0].stop - pieces[0].start
        keys = keys_for(first.past)
        at = torch.tensor([p.past for p in pieces])[:, None] + torch.arange(n)
        mask = torch.zeros(len(pieces), n, keys, dtype=self.runner.dtype)
        mask.masked_fill_(torch.arange(keys) > at[..., None], float("-inf"))
        mask = F.pad(mask.repeat(1, self.group, 1), (0, 0, 0, -n * self.group % ROWS))[:, None]
        ends = [p.past + n for p in pieces]
        places = [F.pad(_places(p.blocks, 0, e), (0, keys - e)) for p, e in zip(pieces, ends, strict=True)]
        return _Part(n, mask, torch.stack(places))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1,H,T,D], k and v [1,K,T,D] of all rows of the step → [1,H,T,D]."""
        cached = self.runner.k[layer], self.runner.v[layer]
        for old, new in zip(cached, (k, v), strict=True):
            old[self.at] = new[0].transpose(0, 1)[: len(self.at)]
        H, K, D = q.shape[1], k.shape[1], q.shape[-1]
        out, rows = [], torch.split(q[0].transpose(0, 1)[self.rows], [len(p.mask) * p.n for p in self.parts])
        for part, x in zip(self.parts, rows, strict=True):
            m, n = len(part.mask), part.n
            x = x.view(m, n, K, self.group, D).permute(0, 2, 3, 1, 4).reshape(m, K, self.group * n, D)
            x = F.pad(x, (0, 0, 0, part.mask.shape[2] - x.shape[2]))
            keys, values = (c[part.places].transpose(1, 2).contiguous() for c in cached)
            y = F.scaled_dot_product_attention(x, keys, values, attn_mask=part.mask)[:, :, : self.group * n]
            out.append(y.reshape(m, K, self.group, n, D).permute(0, 3, 1, 2, 4).reshape(m * n, H, D))
        return torch.cat(out)[self.back].transpose(0, 1)[None]


@dataclass
class _Part:
    """Pieces computed together: m of them, of n rows each. mask: [m, 1, rows padded, keys]; places: [m, keys]."""

    n: int
    mask: Tensor
    places: Tensor


def _pieces(span: Span) -> Iterator[Span]:
    """The span cut where its rows get more keys."""
    while (end := span.start + keys_for(span.past) - span.past) < span.stop:
        yield replace(span, stop=end)
        span = replace(span, start=end, past=span.past + end - span.start)
    yield span


def _places(blocks: Sequence[int], start: int, stop: int) -> Tensor:
    """Where positions [start, stop) of a sequence lie."""
    at = torch.arange(start, stop)
    return (torch.tensor(blocks)[at // BLOCK] + 1) * BLOCK + at % BLOCK


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose memory is only taken when it is written: `torch.zeros` would touch every page."""
    raw = np.zeros(shape, dtype={2: np.int16, 4: np.int32}[dtype.itemsize])
    return torch.from_numpy(raw).view(dtype)
