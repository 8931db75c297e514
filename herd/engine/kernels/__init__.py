"""The CPU kernels: which library this machine runs, weights packed for it, and the same in plain PyTorch.

`setup.py` builds one library per instruction set, where a compiler is; `HERD_KERNELS` (amx, avx512, vnni, avx2 or none)
names another than the best that this CPU has. Where there is none, `pack` gives a `PlainWeight`, no `PackedWeight`:
the same quantised values, exact products too, only slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from herd.errors import HerdError
from herd.model.config import WIDEST

ROOM = Path(__file__).parent
Kind = Literal["bf16", "int8", "int4"]
KINDS: tuple[Kind, ...] = ("bf16", "int8", "int4")  # in the order of herd_kernels.h's numbers
GROUP = 32  # inputs that share an int4 scale
REACHES = (-8.0, -8.7, -7.4, -6.8, 7.0)  # where a group's largest weight may come to lie among -8 … 7
HUGE = 2 << 20  # bytes of a huge page
POPULATE_WRITE = 23  # of madvise, since Linux 5.14

AVX2 = ("avx2", "fma", "f16c")
VNNI = (*AVX2, *(f"avx512{part}" for part in ("f", "bw", "vl", "dq", "_vnni")))  # as Ice Lake has it
AVX512 = (*VNNI, "avx512_bf16")
FEATURES = {
    "amx": (*AVX512, "amx_tile", "amx_int8", "amx_bf16"),
    "avx512": AVX512,
    "vnni": VNNI,
    "avx2": AVX2,
}


class Weight(ctypes.Structure):
    """`Weight` of herd_kernels.h."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("n", ctypes.c_int32),
        ("k", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
    ]


def load(name: str) -> ctypes.CDLL:
    """One instruction set's library, checked. OSError: not built, of other sources, not for this CPU, computes wrongly."""
    if missing := set(FEATURES[name]) - cpu_flags():
        raise OSError(f"this CPU has no {', '.join(sorted(missing))}")
    library = ctypes.CDLL(str(ROOM / f"libherd_{name}.so"))
    if sources() not in ("", built_from(library)):
        raise OSError("built from other sources; `python setup.py build_ext --inplace` builds it again")
    declare(library)
    if library.herd_init() != 0:
        raise OSError("it may not run here, or computes wrongly")
    return library


def declare(library: ctypes.CDLL) -> None:
    pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    functions = {
        "herd_init": (integer, ()),
        "herd_team_new": (pointer, (integer,)),
        "herd_team_free": (None, (pointer,)),
        "herd_team_size": (integer, (pointer,)),
        "herd_weight_bytes": (size, (integer, integer, integer)),
        "herd_weight_at": (None, (pointer, integer, integer, integer, pointer)),
        "herd_pack_all": (None, (pointer, pointer, pointer, integer)),
        "herd_unpack_rows": (None, (pointer, pointer, integer, pointer, integer)),
        "herd_act_bytes": (size, (integer, integer, integer)),
        "herd_prepare": (None, (integer, pointer, integer, integer, integer, pointer, integer, integer)),
        "herd_linear": (None, (pointer, pointer, integer, pointer, *[integer] * 5)),
        "herd_linear_all": (None, (pointer, pointer, pointer, integer, integer, pointer, pointer, integer)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@cache
def sources() -> str:
    """What names the sources in this folder, as setup.py has it; "" where a wheel has brought none."""
    files = sorted([*ROOM.glob("*.cpp"), *ROOM.glob("*.h")])
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest() if files else ""


def built_from(library: ctypes.CDLL) -> str:
    try:
        return (ctypes.c_char * 64).in_dll(library, "herd_sources").value.decode()
    except ValueError:  # it is older than that name
        return ""


@cache
def cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


@cache
def choose() -> tuple[str | None, ctypes.CDLL | None, str]:
    """The library's name, itself, and why not another. HerdError where HERD_KERNELS asks for what cannot be had."""
    asked = os.environ.get("HERD_KERNELS", "")
    if asked == "none":
        return None, None, "HERD_KERNELS=none"
    if asked and asked not in FEATURES:
        raise HerdError(f"HERD_KERNELS={asked}: it is one of {', '.join(FEATURES)}, none")
    reasons: list[str] = []
    for name in (asked,) if asked else FEATURES:
        try:
            return name, load(name), "; ".join(reasons)
        except OSError as error:
            reasons.append(f"{name}: {error}")
    if asked:
        raise HerdError(f"HERD_KERNELS={asked} cannot be used: {reasons[0]}")
    return None, None, "; ".join(reasons)


def available() -> str | None:
    """The instruction set of the kernels in use, or None: plain PyTorch."""
    return choose()[0]


def describe() -> str:
    """One line for people: what computes here, and why nothing better does."""
    name, _, reasons = choose()
    used = f"CPU kernels: {name}" if name else "CPU kernels: none, PyTorch computes"
    return f"{used} ({reasons})" if reasons else used


def library() -> ctypes.CDLL:
    """The library in use. HerdError where there is none."""
    _, found, reasons = choose()
    if found is None:
        raise HerdError(f"no CPU kernels here: {reasons}")
    return found


@cache
def team(threads: int) -> int:
    """A `Team*` of so many threads, kept for the life of the process."""
    return int(library().herd_team_new(threads))


def reserve(size: int) -> mmap.mmap:
    """Zeroed memory on a page's boundary, in huge pages where it is large: streaming weights else waits for page tables.

    Its pages come when they are first written to, or are asked for (`populate`). Private, as shared memory, Python's
    default, has no huge pages.
    """
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE:
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def populate(memory: mmap.mmap, start: int, stop: int) -> None:
    """Have the pages of bytes [start, stop) now, where the system can do that; start is on a page's boundary."""
    with suppress(OSError):  # older kernels
        memory.madvise(POPULATE_WRITE, start, stop - start)


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def checked(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or not 0 < weight.shape[1] <= WIDEST or weight.shape[0] == 0:
        raise ValueError(f"a weight is [outputs, inputs ≤ {WIDEST}], this one {list(weight.shape)}")
    weight = weight.detach().cpu()
    return (weight if weight.dtype == torch.bfloat16 else weight.float()).contiguous()


class LinearWeight(Protocol):
    """A quantised weight [n,k], whoever computes with it."""

    kind: Kind
    n: int
    k: int
    bytes: int

    def rows(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Rows of the weight as it is used, [len(ids),k] fp32: an embedding that is tied to the packed head."""
        ...

    def linear(self, x: Tensor) -> Tensor:
        """x Wᵀ for x [T,k] fp32: [T,n] fp32."""
        ...


def pack(weight: Tensor, kind: Kind) -> LinearWeight:
    """A weight [n,k] for the kernels of this machine, or for PyTorch where there are none."""
    return PackedWeight(weight, kind) if available() else PlainWeight(weight, kind)


class PackedWeight:
    """A weight [n,k] in the kernels' own layout; `struct` points into memory that lives as long as this object.

    More weights of as many inputs and the same type, if given, add their outputs.
    """

    def __init__(self, weight: Tensor, kind: Kind, *more: Tensor) -> None:
        parts = [checked(part) for part in (weight, *more)]
        k, dtype = parts[0].shape[1], parts[0].dtype
        if any(part.shape[1] != k or part.dtype != dtype for part in parts):
            raise ValueError("the parts of a weight have other inputs, or another type")
        rows = [p.data_ptr() + k * p.itemsize * np.arange(len(p), dtype=np.uint64) for p in parts]
        addresses = np.concatenate(rows)
        n = len(addresses)
        self.kind, self.n, self.k = kind, n, k
        self.library, self.threads = library(), torch.get_num_threads()
        self.bytes = int(self.library.herd_weight_bytes(KINDS.index(kind), n, k))
        self.memory = reserve(self.bytes)
        self.struct = Weight()
        self.library.herd_weight_at(ctypes.byref(self.struct), KINDS.index(kind), n, k, address(self.memory))
        self.library.herd_pack_all(
            team(self.threads), ctypes.byref(self.struct), addresses.ctypes.data, dtype == torch.bfloat16
        )

    def rows(self, ids: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(ids, dtype=torch.int64).contiguous()
        if len(index) and not (0 <= int(index.min()) and int(index.max()) < self.n):
            raise IndexError(f"rows are 0 to {self.n - 1}")
        out = torch.empty(len(index), self.k)
        self.library.herd_unpack_rows(
            ctypes.byref(self.struct), index.data_ptr(), len(index), out.data_ptr(), self.k
        )
        return out

    def linear(self, x: Tensor) -> Tensor:
        x, out = x.float().contiguous(), torch.empty(len(x), self.n)
        act = reserve(self.library.herd_act_bytes(KINDS.index(self.kind), len(x), self.k))
        self.library.herd_linear_all(
            team(self.threads),
            ctypes.byref(self.struct),
            x.data_ptr(),
            self.k,
            len(x),
            address(act),
            out.data_ptr(),
            self.n,
        )
        return out


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in -127 … 127 (fp32) and a scale a row: absmax / 127; NaN for a row that is not finite."""
    absmax = x.abs().amax(1, keepdim=True)
    finite = absmax.isfinite()
    codes = torch.where(finite & (absmax >= 1e-30), torch.round(x * (torch.tensor(127.0) / absmax)), 0)
    return codes, torch.where(finite, torch.where(absmax >= 1e-30, absmax / 127, 0), torch.nan)


def in_order(x: Tensor) -> Tensor:
    """Sums over the last dimension, kept, one after the other as the kernels do."""
    return functools.reduce(torch.add, torch.split(x, 1, -1))  # type: ignore[no-untyped-call]


def quantise_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Int4 codes in -8 … 7 [n,k/32,32] and scales [n,k/32,1], both fp32: of some scales the one of least squares."""
    n, k = weight.shape
    x = torch.nn.functional.pad(weight, (0, -k % GROUP)).view(n, -1, GROUP)
    top = x.gather(2, x.abs().argmax(2, keepdim=True))
    best, codes, scale = torch.zeros_like(top), torch.zeros_like(x), torch.zeros_like(top)
    for reach in REACHES:
        inverse = torch.tensor(reach) / top  # `number / tensor` would round twice
        q = torch.where(inverse.abs() < 1e30, torch.round(x * inverse).clamp(-8, 7), 0)
        xq, qq = in_order(x * q), in_order(q * q)
        better = xq * xq / qq > best
        best = torch.where(better, xq * xq / qq, best)
        codes, scale = torch.where(better, q, codes), torch.where(better, xq / qq, scale)
    return codes, torch.where(top.isfinite(), scale, torch.nan).half().float()


class PlainWeight:
    """What PackedWeight is, in PyTorch. Int8 agrees with it bit for bit, int4 but for fp32 rounding between groups.

    Codes are kept as fp32 numbers: a product of 1,024 of them is exact (127² · 1024 < 2²⁴) in whatever order it is summed,
    so that a row does not depend on its batch here either. bf16 leaves the order to PyTorch.
    """

    def __init__(self, weight: Tensor, kind: Kind) -> None:
        weight = checked(weight).float()
        self.kind, (self.n, self.k) = kind, weight.shape
        if kind == "bf16":
            self.codes, self.scale = weight.bfloat16().float(), torch.ones(self.n, 1)
        elif kind == "int8":
            self.codes, self.scale = quantise_rows(weight)
        else:
            codes, self.scale = quantise_groups(weight)
            self.codes = codes.flatten(1)
        self.bytes = self.codes.nbytes + self.scale.nbytes

    def rows(self, ids: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(ids, dtype=torch.int64)
        codes, scale = self.codes[index], self.scale[index]
        if self.kind == "int4":
            return (codes.view(len(index), -1, GROUP) * scale).flatten(1)[:, : self.k]
        return codes * scale

    def linear(self, x: Tensor) -> Tensor:
        if self.kind == "bf16":
            return x.bfloat16().float() @ self.codes.T
        codes, scale = quantise_rows(x.float())
        if self.kind == "int8":
            total = torch.zeros(len(x), self.n, dtype=torch.int32)
            for i in range(0, self.k, 1024):
                total += (codes[:, i : i + 1024] @ self.codes[:, i : i + 1024].T).int()
            return total.float() * self.scale.T * scale
        out = torch.zeros(len(x), self.n)
        for group, i in enumerate(range(0, self.k, GROUP)):
            part = codes[:, i : i + GROUP]
            out += (part @ self.codes[:, i : i + part.shape[1]].T) * self.scale[:, group].T
        return out * scale


def quantised(weight: Tensor, kind: Kind) -> Tensor:
    """The values [n,k] (fp32) that a weight has once packed."""
    return PlainWeight(weight, kind).rows(range(len(weight)))
