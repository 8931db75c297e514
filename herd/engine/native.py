"""A model on the kernels: one call into C++ a layer, everything between the layers' ends done there.

The residual stream is fp32; weights are bf16, int8 or int4 (then with an int8 head); keys and values are bf16.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from herd.engine import kernels
from herd.engine.step import BLOCK, Adapter, Span
from herd.errors import HerdError
from herd.model.config import Config
from herd.model.llama import Llama
from herd.protocol.types import Sampling

# Rows that go through a layer together: what lies between its products stays in the last cache, or nearly.
CHUNK = 512
FEW = 4  # as in layer.h

# The products of a layer, in the kernels' order, and the parts that each is made of.
PRODUCTS = (("attn.q", "attn.k", "attn.v"), ("attn.o",), ("ffn.gate", "ffn.up"), ("ffn.down",))

_LORA = np.dtype(
    [("a", "u8"), ("b", "u8")]
    + [(name, "i4") for name in ("product", "start", "stop", "rank", "column", "n")],
    align=True,
)
_LIMITS = np.dtype([("temperature", "f8"), ("top_p", "f8"), ("min_p", "f8"), ("top_k", "i8")])


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("dim", "heads", "kv_heads", "head", "ffn", "layers")]
    _fields_ += [("eps", ctypes.c_float)]


class Layer(ctypes.Structure):
    _fields_ = [(name, kernels.Weight) for name in ("qkv", "o", "gate_up", "down")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("attn_norm", "ffn_norm")]


class Chunk(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("rows", "spans", "loras")]
    _fields_ += [
        (name, ctypes.c_void_p) for name in ("span", "blocks", "lora", "angles", "x", "y", "h", "low", "act")
    ]
    _fields_ += [(name, ctypes.c_size_t) for name in ("h_size", "act_size")]

    held: Any  # what the addresses point to
    parts: _Loras | None = None

    def adapt(self, layer: int) -> None:
        """Point to this layer's parts of the adapters."""
        if self.parts:
            first, end = self.parts.first[layer : layer + 2]
            self.lora = self.parts.table.ctypes.data + first * _LORA.itemsize
            self.loras = end - first


@dataclass(frozen=True)
class _Loras:
    table: np.ndarray
    first: list[int]  # by layer, where its rows begin


class Native:
    """A Runner (see `step`). The model's own weights are given up one by one as they are packed."""

    invariant = True

    def __init__(self, model: Llama, weights: str = "int8") -> None:
        c = self.config = model.config
        if weights not in kernels.KINDS:
            raise HerdError(f"weights must be one of {', '.join(kernels.KINDS)}, not {weights!r}")
        self.weights = weights
        self._lib, self._team = library(), kernels.team(torch.get_num_threads())
        self._shape = Shape(c.dim, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim, c.n_layers, c.norm_eps)
        self._frequencies = model.freq.double().numpy()
        self._angles = np.empty((0, c.head_dim), np.float32)
        heads, kv_heads = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        self._inputs = (c.dim, heads, c.ffn_dim)
        self._widest = max(heads + 2 * kv_heads, 2 * c.ffn_dim)
        self._kind, self._threads = kernels.KINDS.index(weights), self._lib.herd_team_size(self._team)
        head = "int8" if weights == "int4" else weights
        self._head = kernels.PackedWeight(_take(model.head_weight), head)
        # An embedding of its own is only looked up, never multiplied with: bf16 costs no time.
        self._embed = self._head if c.tied else kernels.PackedWeight(_take(model.embed.weight), "bf16")
        self._norm = _vector(model.norm.weight)
        self._packed: list[kernels.PackedWeight] = []
        self._vectors: list[np.ndarray] = []
        self._layers = (Layer * c.n_layers)()
        for i, block in enumerate(model.layers):
            for name, parts in zip(("qkv", "o", "gate_up", "down"), PRODUCTS, strict=True):
                first, *more = (_take(block.get_parameter(f"{part}.weight")) for part in parts)
                self._packed.append(kernels.PackedWeight(first, weights, *more))
                setattr(self._layers[i], name, self._packed[-1].struct)
            for name in ("attn_norm", "ffn_norm"):
                self._vectors.append(_vector(block.get_parameter(f"{name}.weight")))
                setattr(self._layers[i], name, self._vectors[-1].ctypes.data)
        self._adapters: WeakKeyDictionary[Adapter, _Parts] = WeakKeyDictionary()
        self._adapted: Any = None, None  # what _loras said last, and of what
        self._room: dict[str, mmap] = {}
        self._cache = np.empty((0, 0), np.uint8)

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights."""
        packed = {id(p): p.bytes for p in (*self._packed, self._head, self._embed)}
        return sum(packed.values()) + sum(v.nbytes for v in (*self._vectors, self._norm))

    # --- keys and values

    @property
    def block_bytes(self) -> int:
        c = self.config
        return c.n_layers * c.n_kv_heads * 2 * BLOCK * -(-c.head_dim // 32) * 32 * 2

    def allocate(self, blocks: int) -> None:
        self._cache = np.frombuffer(kernels.reserve(blocks * self.block_bytes), np.uint8).reshape(blocks, -1)

    def copy_block(self, source: int, target: int) -> None:
        self._cache[target] = self._cache[source]

    # --- a step

    def hidden(self, tokens: Sequence[int], spans: Sequence[Span], between: Callable[[], None]) -> Tensor:
        c, rows = self.config, len(tokens)
        x = torch.empty(rows, c.dim)
        if not rows:
            return x
        ids = np.frombuffer(array("q", tokens), np.int64)
        if ids.min() < 0 or ids.max() >= c.vocab_size:
            raise HerdError("a token id is outside the vocabulary")
        self._lib.herd_unpack_rows(
            ctypes.addressof(self._embed.struct), ids.ctypes.data, rows, x.data_ptr(), c.dim
        )
        chunks = [self._chunk(piece, x) for piece in _pieces(spans)]
        shape, cache = ctypes.addressof(self._shape), self._cache.ctypes.data
        for layer in range(c.n_layers):
            between()
            at = ctypes.addressof(self._layers[layer])
            for chunk in chunks:
                chunk.adapt(layer)
                self._lib.herd_layer(self._team, shape, at, ctypes.addressof(chunk), layer, cache)
        norm = self._norm.ctypes.data
        self._lib.herd_norm(self._team, x.data_ptr(), norm, rows, c.dim, c.norm_eps, x.data_ptr())
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        hidden = hidden.contiguous()
        n = len(hidden)
        out = torch.empty(n, self.config.vocab_size)
        if n:
            w = self._head.struct
            act = kernels.address(self._scratch("act", self._lib.herd_act_bytes(w.kind, n, w.k)))
            self._lib.herd_head(self._team, ctypes.addressof(w), hidden.data_ptr(), n, act, out.data_ptr())
        return out

    def _scratch(self, name: str, size: int) -> mmap:
        """Room for so many bytes, kept from step to step; who points to it holds it, since the next may need more."""
        if name not in self._room or len(self._room[name]) < size:
            self._room[name] = kernels.reserve(size)
        return self._room[name]

    def _chunk(self, spans: list[Span], x: Tensor) -> Chunk:
        c = self.config
        first, rows = spans[0].start, spans[-1].stop - spans[0].start
        table, bounds = array("i"), array("i")
        for s in spans:
            bounds.extend((s.start - first, s.stop - first, s.past, len(table)))
            needed = -(-(s.past + s.stop - s.start) // BLOCK)
            if len(s.blocks) < needed:
                raise HerdError(f"a span needs {needed} blocks and has {len(s.blocks)}")
            table.extend(s.blocks[:needed])
        blocks = np.frombuffer(table, np.int32)
        if blocks.min() < 0 or blocks.max() >= len(self._cache):
            raise HerdError("a span names a block that was not allocated")
        self._turn(max(s.past + s.stop - s.start for s in spans))
        copies = self._threads if rows <= FEW else 1
        chunk = Chunk(rows, len(spans))
        chunk.h_size = rows * max(self._inputs)
        chunk.act_size = max(self._lib.herd_act_bytes(self._kind, rows, k) for k in self._inputs) + 63 & ~63
        sizes = {"y": 4 * rows * self._widest, "h": 4 * chunk.h_size * copies, "act": chunk.act_size * copies}
        if any(s.adapter for s in spans):
            chunk.parts, sizes["low"] = self._loras(spans)
        room = {name: self._scratch(name, size) for name, size in sizes.items()}
        for name, memory in room.items():
            setattr(chunk, name, kernels.address(memory))
        chunk.span, chunk.blocks = bounds.buffer_info()[0], table.buffer_info()[0]
        chunk.angles = self._angles.ctypes.data
        chunk.x = x.data_ptr() + first * c.dim * 4
        chunk.held = (bounds, table, self._angles, room)
        return chunk

    def _turn(self, positions: int) -> None:
        """Have the rotary angles' cosines and sines of so many positions, exact to fp32 however far they lie."""
        have = len(self._angles)
        if positions > have:
            at = np.arange(have, max(positions, 2 * have, 256))[:, None] * self._frequencies
            self._angles = np.concatenate(
                (self._angles, np.hstack((np.cos(at), np.sin(at))).astype(np.float32))
            )

    # --- adapters

    def _loras(self, spans: list[Span]) -> tuple[_Loras, int]:
        """All adapters' parts, layer by layer, and the bytes that hold what lies between their halves. Kept, since
        the next step often has the same on the same rows."""
        key = [(s.adapter and ref(s.adapter), s.start - spans[0].start, s.stop - s.start) for s in spans]
        if key == self._adapted[0]:
            return self._adapted[1]
        runs: list[tuple[Adapter | None, list[Span]]] = []  # neighbours with one adapter are one run
        for s in spans:
            if not runs or runs[-1][0] is not s.adapter:
                runs.append((s.adapter, []))
            runs[-1][1].append(s)
        tables, layers = [], []
        for adapter, run in runs:
            if adapter is not None:
                parts = self._parts(adapter)
                tables.append(parts.table.copy())
                tables[-1]["start"] = run[0].start - spans[0].start
                tables[-1]["stop"] = run[-1].stop - spans[0].start
                layers.append(parts.layers)
        table, layer = np.concatenate(tables), np.concatenate(layers)
        order = np.lexsort((table["product"], layer))
        first = np.searchsorted(layer[order], np.arange(self.config.n_layers + 1))
        # At most three parts, those of q, k and v, are in use at once.
        low = 3 * 2 * sum(int((t["stop"] - t["start"]).max() * t["rank"].max()) for t in tables if len(t))
        self._adapted = key, (_Loras(table[order], first.tolist()), low)
        return self._adapted[1]

    def _parts(self, adapter: Adapter) -> _Parts:
        if adapter not in self._adapters:
            self._adapters[adapter] = _parts(adapter, self.config)
        return self._adapters[adapter]


@dataclass(frozen=True)
class _Parts:
    """An adapter as the kernels take it (see layer.h). `held` owns what the table points to."""

    table: np.ndarray
    layers: np.ndarray
    held: mmap


def _parts(adapter: Adapter, config: Config) -> _Parts:
    """Raises HerdError for names and shapes that are not this model's."""
    c, rows, layers, memory = config, [], [], bytearray()
    outputs = {
        "attn.q": c.n_heads * c.head_dim,
        "attn.k": c.n_kv_heads * c.head_dim,
        "attn.v": c.n_kv_heads * c.head_dim,
        "attn.o": c.dim,
        "ffn.gate": c.ffn_dim,
        "ffn.up": c.ffn_dim,
        "ffn.down": c.dim,
    }
    inputs = {"attn.o": c.n_heads * c.head_dim, "ffn.down": c.ffn_dim}
    known = {
        f"layers.{i}.{part}": (i, product, parts, part)
        for i in range(c.n_layers)
        for product, parts in enumerate(PRODUCTS)
        for part in parts
    }
    for name in adapter.a:
        if name not in known:
            raise HerdError(f"adapter: {name} is not a layer of this model")
        i, product, parts, part = known[name]
        a, b = adapter.a[name].float(), adapter.b[name].float()
        k, n, rank = inputs.get(part, c.dim), outputs[part], len(a)
        if a.shape != (rank, k) or b.shape != (n, rank):
            raise HerdError(
                f"adapter: {name} has shapes {tuple(a.shape)}, {tuple(b.shape)}, not [r,{k}], [{n},r]"
            )
        a, b = pad(a, (0, -k % 32, 0, -rank % 4)), pad(b * adapter.scale, (0, -rank % 4, 0, -n % 16))
        rank = len(a)
        column = sum(outputs[p] for p in parts[: parts.index(part)])
        at = len(memory)
        for half in (a, b.view(-1, 16, rank // 2, 2).transpose(1, 2)):
            memory += half.bfloat16().contiguous().view(torch.uint8).numpy().tobytes()
        rows.append((at, at + 2 * a.numel(), product, 0, 0, rank, column, n))
        layers.append(i)
    held = kernels.reserve(len(memory))
    held[: len(memory)] = bytes(memory)
    table = np.array(rows, _LORA)
    table["a"] += kernels.address(held)
    table["b"] += kernels.address(held)
    return _Parts(table, np.array(layers, np.int64), held)


def _pieces(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans, cut so that each piece of the step has at most CHUNK rows."""
    pieces: list[list[Span]] = [[]]
    room = CHUNK
    for s in spans:
        start = s.start
        while start < s.stop:
            stop = min(s.stop, start + room)
            pieces[-1].append(Span(start, stop, s.past + start - s.start, s.blocks, s.adapter))
            room -= stop - start
            start = stop
            if not room:
                pieces.append([])
                room = CHUNK
    return [piece for piece in pieces if piece]


@cache
def library() -> ctypes.CDLL:
    lib, p, i = kernels.library(), ctypes.c_void_p, ctypes.c_int
    signatures = {
        "herd_layer": [p, p, p, p, i, p],
        "herd_norm": [p, p, p, i, i, ctypes.c_float, p],
        "herd_head": [p, p, p, i, p, p],
        "herd_attend": [p, p, i, p],
        "herd_draw": [p, p, i, i, p, p, p],
        "herd_score": [p, p, i, i, p, i, p, p],
    }
    for name, arguments in signatures.items():
        getattr(lib, name).argtypes = arguments
        getattr(lib, name).restype = None
    return lib


def _take(weight: Tensor) -> Tensor:
    """A parameter's values, which the model then no longer holds."""
    values = weight.detach()
    weight.data = torch.empty(0, dtype=weight.dtype)
    return values


def _vector(weight: Tensor) -> np.ndarray:
    return weight.detach().float().contiguous().numpy().copy()


# --- drawing


def draw(logits: Tensor, samplings: Sequence[Sampling], uniform: Sequence[float]) -> list[int | None]:
    """A token for each row of fp32 logits [n,V], as `sampler.draw` defines it from a uniform number of [0, 1).

    None where a logit is NaN or the largest is infinite. Weights are summed from fp32 values: next to a limit or to
    a step of the distribution (some 1e-6 of it), the PyTorch path may choose the neighbour.
    """
    n, size = logits.shape
    limits = np.array([(s.temperature, s.top_p, s.min_p, s.top_k) for s in samplings], _LIMITS)
    u, tokens = np.array(uniform, np.float64), np.empty(n, np.int32)
    logits = logits.contiguous()
    library().herd_draw(
        kernels.team(torch.get_num_threads()),
        logits.data_ptr(),
        n,
        size,
        limits.ctypes.data,
        u.ctypes.data,
        tokens.ctypes.data,
    )
    return [None if t < 0 else t for t in tokens.tolist()]


def logprobs(logits: Tensor, chosen: Sequence[int], k: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """`sampler.logprobs` of each row of fp32 logits [n,V]: the chosen token's value and the k best with their ids."""
    n, size = logits.shape
    k = min(k, size)
    ids, values = np.empty((n, k), np.int32), np.empty((n, 1 + k), np.float32)
    logits, at = logits.contiguous(), np.array(chosen, np.int32)
    library().herd_score(
        kernels.team(torch.get_num_threads()),
        logits.data_ptr(),
        n,
        size,
        at.ctypes.data,
        k,
        values.ctypes.data,
        ids.ctypes.data,
    )
    return [
        (v[0], list(zip(i, v[1:], strict=True))) for v, i in zip(values.tolist(), ids.tolist(), strict=True)
    ]
