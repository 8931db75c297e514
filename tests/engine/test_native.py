"""The native runner against float64, with the same roundings done in PyTorch; and bit for bit against itself."""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from herd.engine import kernels, native
from herd.engine.native import Native
from herd.engine.step import BLOCK, Adapter, Span
from herd.errors import HerdError
from herd.model.config import Config, RopeScaling
from herd.model.llama import Linear, Llama

from ..tiny import tiny_llama

KINDS = kernels.KINDS
SHAPES = {
    "cria": Config(300, 128, 2, 4, 2, 64, 352),
    "llama-3.2": Config(300, 128, 2, 8, 2, 32, 256, rope_scaling=RopeScaling(32.0), max_positions=131072),
    "llama-3.1": Config(
        200, 96, 2, 6, 2, 48, 160, rope_scaling=RopeScaling(8.0), max_positions=131072, tied=False
    ),
    "wide": Config(100, 1024, 1, 4, 2, 64, 1408),
    "tiny": Config(100, 32, 2, 4, 1, 8, 64, norm_eps=1e-6, rope_theta=10000.0),
}


best = pytest.mark.skipif(kernels.available() is None, reason="no kernels here")


def random_llama(shape: str, seed: int = 0) -> Llama:
    model = tiny_llama(SHAPES[shape], seed=seed, spread=3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            parameter.copy_(parameter.bfloat16().float())
    return model


def rounded(x: Tensor) -> Tensor:
    return x.float().bfloat16().double()


class Quantised(torch.nn.Module):
    """A product with the roundings of a kind: weights as packed, activations to bf16 or to 8 bits a row."""

    def __init__(self, weight: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = kernels.PackedWeight(weight, kind).rows(range(len(weight))).double()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "bf16":
            return F.linear(rounded(x), self.weight)
        scale = x.abs().amax(-1, keepdim=True) / 127
        return F.linear((x / scale).round() * scale, self.weight)


def reference(model: Llama, kind: str) -> Llama:
    """The model in float64 with the kind's roundings, and angles that are exact."""
    model = copy.deepcopy(model).double()
    head = "int8" if kind == "int4" else kind
    model.lm_head = Quantised(model.head_weight.float(), head)
    if model.config.tied:
        model.embed.weight.data = model.lm_head.weight
    for parent in list(model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, Quantised(child.weight.float(), kind))
    model.dtype = None

    def rope(positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angle = positions[..., None].double() * model.freq.double()
        angle = torch.cat((angle, angle), dim=-1)[:, None]
        return angle.cos(), angle.sin()

    model.rope = rope  # type: ignore[method-assign]
    return model


def attend_from(first: int) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Causal attention in float64 of bf16 queries, keys and values; rows before `first` are left zero."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (rounded(x) for x in (q, k, v))
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        score = q[:, :, first:] @ k.mT / q.shape[-1] ** 0.5
        seen = torch.arange(k.shape[2]) <= torch.arange(first, q.shape[2])[:, None]
        y = score.masked_fill(~seen, -torch.inf).softmax(-1) @ v
        return F.pad(y, (0, 0, first, 0))

    return attend


def run(model: Llama, ids: Sequence[int], first: int = 0) -> Tensor:
    at = torch.arange(len(ids))[None]
    with torch.inference_mode():
        return model.hidden(torch.tensor([ids]), at, attend_from(first))[0]


def tokens(config: Config, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, n).tolist()


def nothing() -> None: ...


def whole(runner: Native, ids: Sequence[int], adapter: Adapter | None = None) -> Tensor:
    """All states of one sequence in one step, in blocks from the end of the cache."""
    blocks = range(63, 63 - -(-len(ids) // BLOCK), -1)
    return runner.hidden(ids, [Span(0, len(ids), 0, blocks, adapter)], nothing)


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", ["cria", "llama-3.2", "llama-3.1", "tiny"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_logits_are_those_of_float64(library: ctypes.CDLL, shape: str, kind: str) -> None:
    """Each first token sees one key, so nothing is rounded but what the reference rounds too. Later ones have bf16
    weights in softmax, after which 8-bit roundings fall the other way now and then."""
    model = random_llama(shape)
    expected = reference(model, kind)
    runner = Native(copy.deepcopy(model), kind)
    runner.allocate(64)
    ids = tokens(model.config, 60)
    firsts = runner.hidden(ids, [Span(i, i + 1, 0, [i]) for i in range(60)], nothing)
    wanted = torch.cat([run(expected, [id]) for id in ids])
    assert distance(firsts, wanted) < 0.01
    assert distance(runner.logits(firsts), expected.head(wanted)) < 0.01
    states = whole(runner, ids)
    assert distance(states, run(expected, ids)) < (0.01 if kind == "bf16" else 0.04)
    # What quantisation itself costs random weights, which are the hardest to quantise:
    exact = run(reference(model, "bf16"), ids)
    assert distance(states, exact) < {"bf16": 0.01, "int8": 0.1, "int4": 0.5}[kind]


@best
def test_positions_past_8192_are_exact() -> None:
    """A prompt of 8,300 positions in chunks; the last rows of the first layer, which see all of it."""
    model = random_llama("llama-3.2")
    model.layers = model.layers[:1]
    model.config = replace(model.config, n_layers=1)
    ids = tokens(model.config, 8300)
    expected = run(reference(model, "bf16"), ids, first=8290)[8290:]
    runner = Native(model, "bf16")
    runner.allocate(260)
    got = runner.hidden(ids, [Span(0, 8300, 0, range(260))], nothing)
    assert distance(got[8290:], expected) < 0.01


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_row_does_not_depend_on_schedule_blocks_or_threads(
    library: ctypes.CDLL, kind: str, data: st.DataObject
) -> None:
    """Random lengths, cuts, orders, company and blocks: every state has the bits that its sequence alone gives."""
    runner = _runner("cria", kind, data.draw(st.sampled_from([1, 2])))
    runner.chunk = data.draw(st.sampled_from([5, 64, 512]))
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=5))
    blocks = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(63).tolist()
    sequences = [tokens(runner.config, n, seed) for seed, n in enumerate(lengths)]
    held = [[blocks.pop() for _ in range(-(-n // BLOCK))] for n in lengths]
    done, got = [0] * len(lengths), [[] for _ in lengths]
    while left := [i for i, n in enumerate(lengths) if done[i] < n]:
        spans, ids, owners = [], [], []
        for i in data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True)):
            n = data.draw(st.integers(1, lengths[i] - done[i]))
            spans.append(Span(len(ids), len(ids) + n, done[i], held[i]))
            ids += sequences[i][done[i] : done[i] + n]
            owners.append(i)
            done[i] += n
        states = runner.hidden(ids, spans, nothing)
        for i, s in zip(owners, spans, strict=True):
            got[i].append(states[s.start : s.stop])
    one = _runner("cria", kind, 1)
    runner.chunk = native.CHUNK
    for ids, states in zip(sequences, got, strict=True):
        expected = whole(one, ids)
        assert torch.equal(torch.cat(states), expected)
        assert torch.equal(runner.logits(expected[-3:])[-1], one.logits(expected)[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_of_a_layer_that_two_threads_share(library: ctypes.CDLL, kind: str) -> None:
    """The shapes above are so small that one thread computes few rows; with few rows each prepares its own."""
    one, two = (_runner("wide", kind, threads) for threads in (1, 2))
    ids = tokens(one.config, 37)
    expected = whole(one, ids)
    got = [two.hidden(ids[:30], [Span(0, 30, 0, [5, 6])], nothing)]
    for first, end in pairwise((30, 31, 33, 37)):
        got.append(two.hidden(ids[first:end], [Span(0, end - first, first, [5, 6])], nothing))
    assert torch.equal(torch.cat(got), expected)


_runners: dict[tuple[str | None, str, str, int], Native] = {}


def _runner(shape: str, kind: str, threads: int) -> Native:
    if (key := (kernels.available(), shape, kind, threads)) not in _runners:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        _runners[key] = Native(random_llama(shape), kind)
        torch.set_num_threads(before)
        _runners[key].allocate(64)
    return _runners[key]


@best
def test_a_copied_block_serves_as_well() -> None:
    runner = _runner("cria", "int8", 1)
    ids = tokens(runner.config, 60)
    expected = runner.hidden(ids, [Span(0, 60, 0, [3, 4])], nothing)
    runner.copy_block(4, 9)
    assert torch.equal(runner.hidden(ids[40:], [Span(0, 20, 40, [3, 9])], nothing), expected[40:])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@best
def test_the_cache_takes_memory_as_it_fills_and_a_little_ahead() -> None:
    runner = Native(random_llama("cria"), "int8")
    before, mega = resident(), 1 << 20
    runner.allocate(8192)
    assert runner.block_bytes * 8192 == 256 * mega
    assert resident() - before < 24 * mega
    for block, most in ((0, 64), (1023, 96), (8191, 256)):
        runner.hidden([1], [Span(0, 1, 0, [block])], nothing)
        while runner.rest():
            pass
        assert most - 2 <= (resident() - before) / mega <= most + 8


# --- attention alone


def attention(
    qkv: np.ndarray, heads: int, kv_heads: int, cuts: Sequence[int] = (), first: int = 0
) -> tuple[np.ndarray, Tensor]:
    """The kernels' result for rows [T, (heads + 2 kv_heads) · D], cut at `cuts`, over a cache of NaN; and
    float64's, in which rows before `first` are zero."""
    T, D = len(qkv), qkv.shape[1] // (heads + 2 * kv_heads)
    blocks = np.random.default_rng(T).permutation(-(-T // BLOCK)).astype(np.int32)
    cache = np.full((len(blocks), kv_heads, 2, BLOCK * -(-D // 32) * 32), 0x7FC0, np.uint16)
    angles = np.hstack((np.ones((T, D // 2)), np.zeros((T, D // 2)))).astype(np.float32)
    out = np.empty((T, heads * D), np.float32)
    shape = native.Shape(0, heads, kv_heads, D, 0, 1, 0.0)
    for start, end in pairwise((0, *cuts, T)):
        span = np.array([0, end - start, start, 0], np.int32)
        chunk = native.Chunk(end - start, 1)
        chunk.span, chunk.blocks, chunk.angles = (x.ctypes.data for x in (span, blocks, angles))
        chunk.y, chunk.h = qkv[start:].ctypes.data, out[start:].ctypes.data
        native.library().herd_attend(ctypes.addressof(shape), ctypes.addressof(chunk), 0, cache.ctypes.data)
    rows = torch.from_numpy(qkv).view(T, -1, D).transpose(0, 1)[None]
    q, k, v = rows.split((heads, kv_heads, kv_heads), dim=1)
    return out, attend_from(first)(0, q, k, v)[0].transpose(0, 1).reshape(T, -1)


@pytest.mark.parametrize("size", [16, 48, 64, 128, 256])
@pytest.mark.parametrize("rows", [1, 31, 33, 150])
def test_attention(library: ctypes.CDLL, size: int, rows: int) -> None:
    rng = np.random.default_rng(size + rows)
    for heads, kv_heads, scale in ((4, 4, 1.0), (6, 2, 3.0), (5, 1, 0.1)):
        qkv = (scale * rng.standard_normal((rows, (heads + 2 * kv_heads) * size))).astype(np.float32)
        got, expected = attention(qkv, heads, kv_heads)
        assert distance(torch.from_numpy(got), expected) < 2**-8  # weights are bf16
        cuts = sorted(set(rng.integers(1, rows, 4).tolist())) if rows > 1 else ()
        assert np.array_equal(attention(qkv, heads, kv_heads, cuts)[0], got)


def test_attention_to_4096_keys_and_to_one_among_them(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((4096, 4 * 64)).astype(np.float32)
    qkv[:, :128] *= 0.01  # queries that hardly prefer any key
    got, expected = attention(qkv, 2, 1, first=3900)
    assert distance(torch.from_numpy(got[3900:]), expected[3900:]) < 2**-8
    qkv[77, 128:192] = 300.0  # a key far above the others
    qkv[78:, :128] = 300.0
    got, expected = attention(qkv, 2, 1, first=3900)
    assert np.allclose(got[3900:], expected[3900:], rtol=2**-8)
    assert np.allclose(got[4095, :64], qkv[77, 192:], rtol=2**-8)


def test_attention_of_huge_scores(library: ctypes.CDLL) -> None:
    """Scores up to 1e9: softmax is then the choice of the highest, and never NaN."""
    qkv = (1e4 * np.random.default_rng(1).standard_normal((100, 3 * 64))).astype(np.float32)
    got, expected = attention(qkv, 1, 1)
    assert distance(torch.from_numpy(got), expected) < 2**-8


# --- adapters


def random_adapter(config: Config, parts: Sequence[str], rank: int, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        name: module.weight.shape
        for name, module in Llama(config).named_modules()
        if name.endswith(tuple(parts)) and isinstance(module, Linear)
    }
    a = {name: torch.randn(rank, k, generator=generator) * k**-0.5 for name, (n, k) in shapes.items()}
    b = {name: torch.randn(n, rank, generator=generator) for name, (n, k) in shapes.items()}
    return Adapter(0.3 / rank, a, b)


ALL = ("q", "k", "v", "o", "gate", "up", "down")


def test_an_adapter_is_its_merged_weights(library: ctypes.CDLL) -> None:
    model = random_llama("cria")
    adapters = [
        random_adapter(model.config, ALL, 8, 1),
        random_adapter(model.config, ("q", "v"), 3, 2),
        random_adapter(model.config, ("layers.1.ffn.down",), 16, 3),
    ]
    runner = Native(copy.deepcopy(model), "bf16")
    runner.allocate(64)
    ids = tokens(model.config, 40)
    plain = whole(runner, ids)
    for adapter in adapters:
        merged = reference(model, "bf16")
        for name, a in adapter.a.items():
            change = adapter.scale * adapter.b[name].double() @ a.double()
            merged.get_submodule(name).weight += change
        alone = whole(runner, ids, adapter)
        assert distance(alone, run(merged, ids)) < 0.01
        assert distance(alone, plain) > 0.05
    # In one batch, of several rows and of one, each as if it were alone.
    for past in (0, 37):
        n = 40 - past
        spans = [
            Span(i * n, i * n + n, past, [2 * i, 2 * i + 1], adapter)
            for i, adapter in enumerate([None, *adapters, adapters[0]])
        ]
        if past == 0:
            runner.hidden(ids * 5, spans, nothing)
        got = runner.hidden(ids[past:] * 5, spans, nothing).split(n)
        for states, span in zip(got, spans, strict=True):
            assert torch.equal(states, whole(runner, ids, span.adapter)[past:])


@best
def test_an_adapter_of_another_model_is_refused() -> None:
    runner = _runner("cria", "int8", 1)
    other = random_adapter(SHAPES["llama-3.2"], ("k",), 2, 0)
    with pytest.raises(HerdError, match=r"layers\.0\.attn\.k has shapes"):
        whole(runner, [1], other)
    strange = Adapter(1.0, {"layers.9.attn.q": torch.zeros(2, 128)}, {"layers.9.attn.q": torch.zeros(256, 2)})
    with pytest.raises(HerdError, match=r"layers\.9\.attn\.q is not a layer"):
        whole(runner, [1], strange)


# --- what a step refuses, and what ends it


@best
def test_a_step_ends_between_layers_and_refuses_what_it_cannot_hold() -> None:
    runner = _runner("cria", "int8", 1)
    calls: list[int] = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    runner.hidden([1, 2], [Span(0, 2, 0, [0])], between)
    assert len(calls) == 1  # so short a step is not worth a look between its layers
    n = 63 * BLOCK
    spans = [Span(i * n, (i + 1) * n, 0, range(63)) for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        runner.hidden(tokens(runner.config, 8 * n), spans, between)
    assert len(calls) == 3
    for ids, blocks in (([300], [0]), ([-1], [0]), ([1], [64]), ([1], [-1])):
        with pytest.raises(HerdError):
            runner.hidden(ids, [Span(0, 1, 0, blocks)], nothing)
    with pytest.raises(HerdError, match="int4"):
        Native(random_llama("tiny"), "int3")


@best
def test_the_models_own_weights_are_given_up() -> None:
    model = random_llama("llama-3.1")
    runner = Native(model, "int4")
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == 0
    c = runner.config
    assert runner.block_bytes == c.n_layers * c.n_kv_heads * 2 * BLOCK * 64 * 2  # heads of 48 lie in 64
