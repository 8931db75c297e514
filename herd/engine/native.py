"""A model on the kernels: one call into C++ for as many layers as it does in a moment.

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

# Rows that go through a layer together, so that what lies between its products stays in the second cache; and through one
# of more bytes than the last cache may hold, which each of these pieces reads from memory.
CHUNK, LARGE_CHUNK, LARGE = 128, 512, 16 << 20

# Bytes of the cache that have their pages from the start, so that a first prompt does not wait for them; and how many
# more than were ever used may get theirs while nothing is asked.
AT_ONCE, AHEAD = 16 << 20, 64 << 20

# The products of a layer, in the kernels' order, and the parts that each is made of.
PRODUCTS = (("attn.q", "attn.k", "attn.v"), ("attn.o",), ("ffn.gate", "ffn.up"), ("ffn.down",))

_LORA = np.dtype(
    [("a", "u8"), ("b", "u8")]
    + [(name, "i4") for name in ("product", "start", "stop", "rank", "column", "n")],
    align=True,
)


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("dim", "heads", "kv_heads", "head", "ffn", "layers")]
    _fields_ += [("eps", ctypes.c_float)]


class Layer(ctypes.Structure):
    _fields_ = [(name, kernels.Weight) for name in ("qkv", "o", "gate_up", "down")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("attn_norm", "ffn_norm")]


class Model(ctypes.Structure):
    _fields_ = [("shape", Shape), ("layers", ctypes.POINTER(Layer))]
    _fields_ += [("embed", kernels.Weight), ("head", kernels.Weight), ("norm", ctypes.c_void_p)]


class Chunk(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("rows", "spans")]
    _fields_ += [
        (name, ctypes.c_void_p)
        for name in ("span", "blocks", "lora", "first", "angles", "ids", "x", "low", "y", "h", "act", "own")
    ]
    _fields_ += [("own_act", ctypes.c_size_t), ("own_size", ctypes.c_size_t), ("loras", ctypes.c_int32)]


class Native:
    """A Runner (see `step`). The model's own weights are given up one by one as they are packed."""

    invariant = True

    def __init__(self, model: Llama, weights: str = "int8") -> None:
        c = self.config = model.config
        if weights not in kernels.KINDS:
            raise HerdError(f"weights must be one of {', '.join(kernels.KINDS)}, not {weights!r}")
        self.weights = weights
        self._lib, self._team = library(), kernels.team(torch.get_num_threads())
        self._frequencies = model.freq.double().numpy()
        self._angles = np.empty((0, c.head_dim), np.float32)
        head = "int8" if weights == "int4" else weights
        self._head = kernels.PackedWeight(_take(model.head_weight), head)
        # An embedding of its own is only looked up, never multiplied with: bf16 costs no time.
        self._embed = self._head if c.tied else kernels.PackedWeight(_take(model.embed.weight), "bf16")
        self._packed: list[kernels.PackedWeight] = []
        self._vectors = [_vector(model.norm.weight)]
        layers = (Layer * c.n_layers)()
        for layer, block in zip(layers, model.layers, strict=True):
            for name, parts in zip(("qkv", "o", "gate_up", "down"), PRODUCTS, strict=True):
                first, *more = (_take(block.get_parameter(f"{part}.weight")) for part in parts)
                self._packed.append(kernels.PackedWeight(first, weights, *more))
                setattr(layer, name, self._packed[-1].struct)
            for name in ("attn_norm", "ffn_norm"):
                self._vectors.append(_vector(block.get_parameter(f"{name}.weight")))
                setattr(layer, name, self._vectors[-1].ctypes.data)
        self.chunk = CHUNK if sum(p.bytes for p in self._packed) <= LARGE * c.n_layers else LARGE_CHUNK
        shape = Shape(c.dim, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim, c.n_layers, c.norm_eps)
        structs = self._embed.struct, self._head.struct
        self._model = ctypes.byref(Model(shape, layers, *structs, self._vectors[0].ctypes.data))
        self._adapters: WeakKeyDictionary[Adapter, _Parts] = WeakKeyDictionary()
        self._adapted: tuple[list[Any], tuple[np.ndarray, ...]] = (
            [],
            (),
        )  # what _loras found last, and for what
        self._room, self._room_rows = kernels.reserve(0), 0
        self.allocate(0)

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights."""
        packed = {id(p): p.bytes for p in (*self._packed, self._head, self._embed)}
        return sum(packed.values()) + sum(v.nbytes for v in self._vectors)

    # --- keys and values

    @property
    def block_bytes(self) -> int:
        c = self.config
        return c.n_layers * c.n_kv_heads * 2 * BLOCK * -(-c.head_dim // 32) * 32 * 2

    def allocate(self, blocks: int) -> None:
        self._memory = kernels.reserve(blocks * self.block_bytes)
        whole = np.frombuffer(self._memory, np.uint8, blocks * self.block_bytes)
        self._cache, self._cache_at = whole.reshape(blocks, self.block_bytes), whole.ctypes.data
        self._used = self._there = 0  # bytes from its beginning that were ever used; that have pages
        self._have(AT_ONCE)

    def _have(self, size: int) -> None:
        """Get pages for so much of the cache: threads that meet them in a step would each make all of them."""
        size = min(-(-size // kernels.HUGE) * kernels.HUGE, self._cache.nbytes)
        if size > self._there:
            kernels.populate(self._memory, self._there, size)
            self._there = size

    def rest(self) -> bool:
        if self._there >= min(self._used + AHEAD, self._cache.nbytes):
            return False
        self._have(self._there + kernels.HUGE)
        return True

    def copy_block(self, source: int, target: int) -> None:
        self._cache[target] = self._cache[source]

    # --- a step

    def hidden(self, tokens: Sequence[int], spans: Sequence[Span], between: Callable[[], None]) -> Tensor:
        c, rows = self.config, len(tokens)
        x = torch.empty(rows, c.dim)
        if not rows:
            return x
        if min(tokens) < 0 or max(tokens) >= c.vocab_size:
            raise HerdError("a token id is outside the vocabulary")
        ids, pieces = array("q", tokens), _pieces(spans, self.chunk)
        self._turn(max(s.past + s.stop - s.start for s in spans))
        chunks, held = (Chunk * len(pieces))(), []
        for chunk, piece in zip(chunks, pieces, strict=True):
            first = piece[0].start
            chunk.ids, chunk.x = ids.buffer_info()[0] + 8 * first, x.data_ptr() + 4 * c.dim * first
            held.append(self._fill(chunk, piece))
        self._have(self._used)
        layer, room, cache = 0, self._scratch(min(rows, self.chunk)), self._cache_at
        while layer < c.n_layers:
            between()
            layer = self._lib.herd_layers(self._team, self._model, chunks, len(chunks), layer, room, cache)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        hidden, n = hidden.contiguous(), len(hidden)
        out = torch.empty(n, self.config.vocab_size)
        if n:
            room = self._scratch(n)
            self._lib.herd_head(self._team, self._model, hidden.data_ptr(), n, room, out.data_ptr())
        return out

    def _scratch(self, rows: int) -> int:
        """The address of room for what lies between so many rows' ends, the same from step to step."""
        if rows > self._room_rows:
            self._room = kernels.reserve(self._lib.herd_room(self._team, self._model, rows))
            self._room_rows = rows
        return kernels.address(self._room)

    def _fill(self, chunk: Chunk, spans: Sequence[Span]) -> object:
        """Describe these spans' rows; what is returned holds what the chunk then points to."""
        table, bounds, first = array("i"), array("i"), spans[0].start
        for s in spans:
            bounds.extend((s.start - first, s.stop - first, s.past, len(table)))
            needed = -(-(s.past + s.stop - s.start) // BLOCK)
            if len(s.blocks) < needed:
                raise HerdError(f"a span needs {needed} blocks and has {len(s.blocks)}")
            table.extend(s.blocks[:needed])
        if min(table) < 0 or max(table) >= len(self._cache):
            raise HerdError("a span names a block that was not allocated")
        self._used = max(self._used, (max(table) + 1) * self.block_bytes)
        chunk.rows, chunk.spans = spans[-1].stop - first, len(spans)
        chunk.span, chunk.blocks = bounds.buffer_info()[0], table.buffer_info()[0]
        chunk.angles = self._angles_at
        return bounds, table, self._loras(chunk, spans) if any(s.adapter for s in spans) else None

    def _turn(self, positions: int) -> None:
        """Have the rotary angles' cosines and sines of so many positions, exact to fp32 however far they lie."""
        have = len(self._angles)
        if positions > have:
            at = np.arange(have, max(positions, 2 * have, 256))[:, None] * self._frequencies
            self._angles = np.concatenate(
                (self._angles, np.hstack((np.cos(at), np.sin(at))).astype(np.float32))
            )
            self._angles_at = self._angles.ctypes.data

    # --- adapters

    def _loras(self, chunk: Chunk, spans: Sequence[Span]) -> object:
        """Point to all adapters' parts, layer by layer, and to room for what lies between their halves.

        All is kept, since the next step often has the same adapters in the same rows.
        """
        key = [(s.adapter and ref(s.adapter), s.start - spans[0].start, s.stop - s.start) for s in spans]
        if key != self._adapted[0]:
            self._adapted = key, self._table(spans)
        held = self._adapted[1]
        chunk.lora, chunk.first, chunk.low = (x.ctypes.data for x in held)
        return held

    def _table(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parts, where each layer's begin, and the room."""
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
        first = np.searchsorted(layer[order], np.arange(self.config.n_layers + 1)).astype(np.int32)
        # At most three parts, those of q, k and v, are in use at once.
        size = 3 * sum(int((t["stop"] - t["start"]).max() * t["rank"].max()) for t in tables if len(t))
        return table[order], first, np.empty(size, np.uint16)

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
    held.write(memory)
    table = np.array(rows, _LORA)
    table["a"] += kernels.address(held)
    table["b"] += kernels.address(held)
    return _Parts(table, np.array(layers, np.int64), held)


def _pieces(spans: Sequence[Span], most: int) -> list[Sequence[Span]]:
    """Spans, cut so that each piece of the step has at most so many rows."""
    if spans[-1].stop <= most:
        return [spans]
    pieces: list[list[Span]] = [[]]
    room = most
    for s in spans:
        start = s.start
        while start < s.stop:
            stop = min(s.stop, start + room)
            pieces[-1].append(Span(start, stop, s.past + start - s.start, s.blocks, s.adapter))
            room -= stop - start
            start = stop
            if not room:
                pieces.append([])
                room = most
    return [piece for piece in pieces if piece]


@cache
def library() -> ctypes.CDLL:
    lib, p, i = kernels.library(), ctypes.c_void_p, ctypes.c_int
    signatures = {
        "herd_layers": [p, p, p, i, i, p, p],
        "herd_room": [p, p, i],
        "herd_head": [p, p, p, i, p, p],
        "herd_attend": [p, p, i, p],
        "herd_draw": [p, p, p, i, i, p, p, p],
        "herd_score": [p, p, i, i, p, i, p, p],
    }
    for name, arguments in signatures.items():
        getattr(lib, name).argtypes = arguments
        getattr(lib, name).restype = None
    lib.herd_layers.restype, lib.herd_room.restype = i, ctypes.c_size_t
    return lib


def _take(weight: Tensor) -> Tensor:
    """A parameter's values, which the model then no longer holds."""
    values = weight.detach()
    weight.data = torch.empty(0, dtype=weight.dtype)
    return values


def _vector(weight: Tensor) -> np.ndarray:
    return weight.detach().float().contiguous().numpy().copy()


# --- drawing


def draw(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], uniform: Sequence[float]
) -> list[int | None]:
    """A token from each of these rows of fp32 logits [n,V], as `sampler.draw` defines it from a uniform number of [0, 1).

    None where a logit is NaN or the largest is infinite. Weights are summed from fp32 values: next to a limit or to
    a step of the distribution (some 1e-6 of it), the PyTorch path may choose the neighbour.
    """
    n, size = len(rows), logits.shape[1]
    limits = array("d", [v for s in samplings for v in (s.temperature, s.top_p, s.min_p, s.top_k)])
    at, u, tokens = array("i", rows), array("d", uniform), array("i", bytes(4 * n))
    logits = logits.contiguous()
    library().herd_draw(
        kernels.team(torch.get_num_threads()),
        logits.data_ptr(),
        at.buffer_info()[0],
        n,
        size,
        limits.buffer_info()[0],
        u.buffer_info()[0],
        tokens.buffer_info()[0],
    )
    return [None if t < 0 else t for t in tokens]


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
