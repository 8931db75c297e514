"""Packed products against integers and float64, in every library."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from herd.engine import kernels
from herd.engine.kernels import KINDS, Kind, PackedWeight, PlainWeight
from herd.errors import HerdError

from .conftest import RUNNABLE

best = pytest.mark.skipif(not RUNNABLE or kernels.available() is None, reason="no kernels here")
ROOT = Path(__file__).parents[2]
SHAPES = [
    (1, 16, 64),
    (3, 33, 40),
    (16, 64, 32),
    (17, 100, 1000),
    (33, 16, 8191),
    (50, 130, 257),
    (256, 80, 320),
]


def build(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        str(folder),
        "--build-temp",
        str(folder / "t"),
    ]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


def values(rows: int, n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)
    return torch.randn(rows, k, generator=generator), weight


def codes(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """round(x · 127 / absmax), half to even, and absmax / 127: the definition, in NumPy's fp32."""
    array = x.numpy()
    absmax = np.abs(array).max(1, keepdims=True)
    return np.rint(array * (np.float32(127) / absmax)).astype(np.int64), absmax / np.float32(127)


def product(packed: PackedWeight, x: Tensor, threads: int, ld: int = 0, add: Tensor | None = None) -> Tensor:
    """herd_prepare and herd_linear, thread after thread: their shares do not depend on when they are done."""
    kind, rows, ld = KINDS.index(packed.kind), len(x), ld or packed.n
    out = torch.full((rows, ld), 7.0) if add is None else add.clone()
    act = kernels.reserve(packed.library.herd_act_bytes(kind, rows, packed.k))
    for t in range(threads):
        packed.library.herd_prepare(
            kind, x.data_ptr(), x.stride(0), rows, packed.k, kernels.address(act), t, threads
        )
    for t in range(threads):
        packed.library.herd_linear(
            ctypes.byref(packed.struct),
            kernels.address(act),
            rows,
            out.data_ptr(),
            ld,
            add is not None,
            t,
            t + 1,
            threads,
        )
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_exact(library: ctypes.CDLL, shape: tuple[int, int, int]) -> None:
    x, weight = values(*shape)
    (a, a_scale), (w, w_scale) = codes(x), codes(weight)
    expected = (a @ w.T).astype(np.float32) * w_scale.T * a_scale
    assert np.array_equal(PackedWeight(weight, "int8").linear(x).numpy(), expected)


def test_int8_is_exact_at_the_largest_values(library: ctypes.CDLL) -> None:
    k = 65536
    x, weight = torch.ones(7, k), torch.ones(20, k)
    weight[1::2] = -1
    x[3] = -1
    exact = torch.full((7, 20), 127.0 * 127 * k) * (torch.tensor(1.0) / 127) * (torch.tensor(1.0) / 127)
    exact[:, 1::2] *= -1
    exact[3] *= -1
    assert torch.equal(PackedWeight(weight, "int8").linear(x), exact)


@pytest.mark.parametrize("kind", ["bf16", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(library: ctypes.CDLL, kind: Kind, shape: tuple[int, int, int]) -> None:
    x, weight = values(*shape)
    packed = PackedWeight(weight, kind)
    used = packed.rows(range(packed.n)).double()
    if kind == "bf16":
        assert torch.equal(used, weight.bfloat16().double())
        seen = x.bfloat16().double()
    else:
        a, scale = codes(x)
        seen = torch.from_numpy(a * scale.astype(np.float64))
    bound = (seen.abs() @ used.abs().T) * 2**-24 * (shape[2] / 2 + 8)
    assert ((packed.linear(x).double() - seen @ used.T).abs() <= bound).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bf16", [False, True])
def test_packed_rows_are_the_plain_ones(library: ctypes.CDLL, kind: Kind, bf16: bool) -> None:
    _, weight = values(1, 75, 1030)
    weight[5], weight[6, 64:96], weight[7, 3] = 0, 0, 1000
    weight = weight.bfloat16() if bf16 else weight
    packed = PackedWeight(weight, kind)
    assert torch.equal(packed.rows(range(75)), kernels.quantised(weight, kind))
    assert torch.equal(packed.rows([74, 0, 74]), packed.rows(range(75))[[74, 0, 74]])
    for outside in (-1, 75):
        with pytest.raises(IndexError):
            packed.rows([outside])


@pytest.mark.parametrize("kind", KINDS)
def test_plain_products_agree(library: ctypes.CDLL, kind: Kind) -> None:
    x, weight = values(40, 70, 2100)
    packed, plain = PackedWeight(weight, kind).linear(x), PlainWeight(weight, kind).linear(x)
    if kind == "int8":
        assert torch.equal(packed, plain)
    assert (packed - plain).abs().max() <= 2e-6 * plain.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_any_batch_and_team(library: ctypes.CDLL, kind: Kind) -> None:
    x, weight = values(100, 200, 777)
    packed = PackedWeight(weight, kind)
    whole = product(packed, x, 1)
    for rows in (1, 2, 3, 4, 5, 6, 7, 16, 17, 31, 33, 49):
        start = 100 - rows
        for threads in (1, 2, 3, 5):
            assert torch.equal(product(packed, x[start:], threads), whole[start:]), (rows, threads)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_rows_stay_alone(library: ctypes.CDLL, kind: Kind) -> None:
    x, weight = values(40, 50, 200)
    packed = PackedWeight(weight, kind)
    clean = packed.linear(x)
    x[1, 3], x[9, 0], x[17, 199], x[20] = torch.nan, torch.inf, -torch.inf, 0
    x[30, 7] = 3e38
    x.view(torch.int32)[33, 2] = 0x7F800001  # a NaN whose upper half, cut off, would be infinite
    bad = packed.linear(x)
    others = [i for i in range(40) if i not in (1, 9, 17, 20, 30, 33)]
    assert torch.equal(bad[others], clean[others])
    assert not bad[[1, 9, 17]].isfinite().any()
    assert bad[33].isnan().all()
    assert (bad[20] == 0).all()
    assert torch.equal(bad[30], packed.linear(x[30:31])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_bad_weights_stay_in_their_outputs(library: ctypes.CDLL, kind: Kind) -> None:
    x, weight = values(8, 40, 128)
    clean = PackedWeight(weight, kind).linear(x)
    weight[4, 7], weight[21, 100] = torch.nan, torch.inf
    bad = PackedWeight(weight, kind).linear(x)
    others = [i for i in range(40) if i not in (4, 21)]
    assert torch.equal(bad[:, others], clean[:, others])
    assert not bad[:, [4, 21]].isfinite().any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_weight_in_parts_is_the_whole(library: ctypes.CDLL, kind: Kind, dtype: torch.dtype) -> None:
    weight = values(1, 53, 150)[1].to(dtype)
    whole, parts = PackedWeight(weight, kind), PackedWeight(weight[:7], kind, weight[7:40], weight[40:])
    assert parts.memory[:] == whole.memory[:]
    with pytest.raises(ValueError, match="parts"):
        PackedWeight(weight, kind, weight[:, 1:])


def test_large_memory_may_lie_in_huge_pages() -> None:
    memory = kernels.reserve(8 << 20)
    start = f"{kernels.address(memory):x}-"
    maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = next(after for before, after in pairwise(maps) if start in before).splitlines()[0].split()
    assert "hg" in flags and "sh" not in flags


@pytest.mark.parametrize("kind", KINDS)
def test_strides_and_adding(library: ctypes.CDLL, kind: Kind) -> None:
    wide, weight = values(21, 37, 150)[0], values(1, 37, 90)[1]
    packed, x = PackedWeight(weight, kind), wide[:, 20:110]
    alone = packed.linear(x)
    out = product(packed, x, 2, ld=45)
    assert torch.equal(out[:, :37], alone)
    assert (out[:, 37:] == 7).all()
    start = torch.randn(21, 37)
    assert torch.equal(product(packed, x, 2, add=start), start + alone)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 70), n=st.integers(1, 150), k=st.integers(1, 400), seed=st.integers(0, 99))
def test_any_shape(library: ctypes.CDLL, rows: int, n: int, k: int, seed: int) -> None:
    x, weight = values(rows, n, k, seed)
    for kind in KINDS:
        packed, plain = PackedWeight(weight, kind), PlainWeight(weight, kind)
        assert torch.equal(packed.rows(range(n)), plain.rows(range(n)))
        expected = plain.linear(x)
        bound = 4e-6 * (x.norm(dim=1, keepdim=True) * plain.rows(range(n)).norm(dim=1)) + 1e-30
        assert ((packed.linear(x) - expected).abs() <= bound).all()


def test_int4_scales_beat_the_simple_one(library: ctypes.CDLL) -> None:
    _, weight = values(1, 64, 1024)
    groups = weight.view(64, -1, 32)
    step = groups.abs().amax(2, keepdim=True) / 7
    simple = (torch.round(groups / step).clamp(-8, 7) * step).flatten(1)
    ours = PackedWeight(weight, "int4").rows(range(64))
    assert (ours - weight).norm() < 0.95 * (simple - weight).norm()


# ---- the team


def test_python_threads_take_turns(library: ctypes.CDLL) -> None:
    x, weight = values(20, 64, 256)
    packed = PackedWeight(weight, "int8")
    packed.threads = 3
    expected = packed.linear(x)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(50) if not torch.equal(packed.linear(x), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Turn(ctypes.Structure):
    _fields_ = [
        ("team", ctypes.c_void_p),
        ("phase", ctypes.c_uint32),
        ("t", ctypes.c_int),
        ("nt", ctypes.c_int),
    ]


TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(Turn))
MUCH = 1 << 40


def run(library: ctypes.CDLL, team: int, work: int, counts: Sequence[int]) -> list[tuple[int, int]]:
    """(phase, part) of a task's parts in the order in which they began and, again, ended."""
    seen: list[tuple[int, int]] = []
    part = library.herd_part
    part.argtypes, part.restype = (ctypes.POINTER(Turn), ctypes.c_int, ctypes.c_int), ctypes.c_int

    def task(_: object, turn: Any) -> None:
        for phase, count in enumerate(counts):
            last = -1
            while (last := part(turn, count, last)) >= 0:
                seen.append((phase, last))
                time.sleep(0)
                seen.append((phase, last))

    library.herd_team_run.argtypes = (ctypes.c_void_p, TASK, ctypes.c_void_p, ctypes.c_int64)
    library.herd_team_run(team, TASK(task), None, work)
    return seen


@pytest.mark.parametrize("work", [MUCH, 1])
def test_parts_are_done_once_each_and_phases_one_after_the_other(library: ctypes.CDLL, work: int) -> None:
    counts = [1, 5, 0, 2, 30, 1, 1, 7, 64] * 20
    seen = run(library, kernels.team(4), work, counts)
    assert sorted(seen) == sorted([(phase, part) for phase, n in enumerate(counts) for part in range(n)] * 2)
    assert [phase for phase, _ in seen] == sorted(phase for phase, _ in seen)


def test_a_team_runs_nested_and_alone_in_a_fork(library: ctypes.CDLL) -> None:
    team, inner = kernels.team(4), []

    def outer(_: object, turn: Any) -> None:
        inner.append(run(library, team, MUCH, [2, 1]))

    alone = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0)]
    run(library, team, MUCH, [])
    library.herd_team_run(team, TASK(outer), None, MUCH)
    assert inner and all(one == alone for one in inner)
    child = os.fork()
    if child == 0:
        os._exit(run(library, team, MUCH, [2, 1]) != alone)
    assert os.waitpid(child, 0)[1] == 0


def test_an_idle_team_takes_no_time_and_ends(library: ctypes.CDLL) -> None:
    x, weight = values(1, 64, 64)
    packed = PackedWeight(weight, "int8")
    packed.threads = 6
    packed.linear(x)
    time.sleep(0.05)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.1
    before = set(os.listdir("/proc/self/task"))
    team = library.herd_team_new(5)
    of_the_team = set(os.listdir("/proc/self/task")) - before
    assert (library.herd_team_size(team), len(of_the_team)) == (5, 4)
    library.herd_team_free(team)
    end = time.monotonic() + 60
    while of_the_team & set(os.listdir("/proc/self/task")):  # they go just after they are joined
        assert time.monotonic() < end


# ---- choosing and building


@pytest.fixture
def fresh() -> Iterator[None]:
    kernels.choose.cache_clear()
    yield
    kernels.choose.cache_clear()


def test_without_kernels_pytorch_serves(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_KERNELS", "none")
    assert kernels.available() is None
    assert "PyTorch" in kernels.describe()
    assert isinstance(kernels.pack(torch.randn(4, 8), "int8"), PlainWeight)
    with pytest.raises(HerdError, match="HERD_KERNELS=none"):
        PackedWeight(torch.randn(4, 8), "int8")


def test_what_is_asked_for_and_cannot_be_had_is_said(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_KERNELS", "sse")
    with pytest.raises(HerdError, match="amx, avx512, vnni, avx2, none"):
        kernels.available()
    monkeypatch.setattr(kernels, "cpu_flags", lambda: frozenset({"sse2"}))
    monkeypatch.setenv("HERD_KERNELS", "avx2")
    with pytest.raises(HerdError, match="no avx2"):
        kernels.available()
    monkeypatch.delenv("HERD_KERNELS")
    assert kernels.available() is None


def test_a_library_that_computes_wrongly_is_passed_over(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ctypes.CDLL:
        raise OSError("it may not run here, or computes wrongly")

    monkeypatch.delenv("HERD_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "load", broken)
    assert kernels.available() is None
    assert kernels.describe().count("computes wrongly") == len(kernels.FEATURES)


@best
def test_a_library_of_other_sources_is_passed_over(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.built_from(kernels.load(RUNNABLE[0])) == kernels.sources() != ""
    monkeypatch.setattr(kernels, "sources", lambda: "of tomorrow")
    monkeypatch.delenv("HERD_KERNELS", raising=False)
    assert kernels.available() is None
    assert "python setup.py build_ext --inplace" in kernels.describe()


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_building_without_a_compiler_succeeds_in_one_line(tmp_path: Path, compiler: str) -> None:
    result = build(tmp_path, CXX=compiler)
    assert result.returncode == 0
    assert len([line for line in result.stderr.splitlines() if line.startswith("herd:")]) == 1
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("shape", [(8,), (0, 8), (4, 0), (2, 65537)])
def test_a_weight_of_no_use_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a weight is"):
        PlainWeight(torch.zeros(shape), "int8")


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_plain_rows_do_not_depend_on_their_batch(kind: Kind) -> None:
    x, weight = values(30, 50, 3000)
    plain = PlainWeight(weight, kind)
    whole = plain.linear(x)
    assert torch.equal(torch.cat([plain.linear(row[None]) for row in x]), whole)
    used, (a, scale) = plain.rows(range(50)).double(), codes(x)
    expected = torch.from_numpy(a * scale.astype(np.float64)) @ used.T
    assert (whole.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
