"""What this machine can do at most, measured: memory read by all cores, and products of matrices in bf16 and int8.

python bench/machine.py
"""

from __future__ import annotations

import mmap
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

READ = 1 << 30  # bytes, far more than any cache


@dataclass(frozen=True)
class Limits:
    """bandwidth: bytes read a second. bf16, int8: multiplications and additions a second."""

    bandwidth: float
    bf16: float
    int8: float

    def __str__(self) -> str:
        return (
            f"reads {self.bandwidth / 1e9:.1f} GB/s; products {self.bf16 / 1e12:.2f} TFLOP/s in bf16, "
            f"{self.int8 / 1e12:.2f} TOP/s in int8"
        )


def best(work: Callable[[], object], seconds: float = 1.5) -> float:
    """The shortest time of as many runs as fit."""
    shortest, end = float("inf"), time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        work()
        shortest = min(shortest, time.perf_counter() - began)
    return shortest


def measure() -> Limits:
    """The best of torch's ways, each as fast as it gets in some tries; memory lies in huge pages, as it reads fastest."""
    memory = mmap.mmap(-1, READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    data = torch.frombuffer(memory, dtype=torch.float32).fill_(1)
    words = data.view(torch.int32)
    bandwidth = READ / min(best(data.sum), best(words.sum), best(data.amax))
    bf16 = int8 = 0.0
    for m, k, n in ((512, 2048, 8192), (2048, 2048, 2048), (1024, 4096, 4096)):
        bf16 = max(bf16, *(2 * m * k * n / best(way, 0.7) for way in bf16_ways(m, k, n)))
        int8 = max(int8, *(2 * m * k * n / best(way, 0.7) for way in int8_ways(m, k, n)))
    return Limits(bandwidth, bf16, int8)


def bf16_ways(m: int, k: int, n: int) -> list[Callable[[], object]]:
    """Products [m,k] [k,n] of bf16 numbers; where the CPU can only emulate those, of the same in fp32."""
    a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(b)  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError):  # no oneDNN, or only emulated there
        a, b = a.float(), b.float()
        return [lambda: torch.mm(a, b.t())]
    return [
        lambda: torch.mm(a, b.t()),
        lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""),
    ]


def int8_ways(m: int, k: int, n: int) -> list[Callable[[], object]]:
    """Products of int8 numbers: oneDNN's; FBGEMM's where there is no VNNI, which oneDNN's need."""
    if "avx512_vnni" in flags() or "fbgemm" not in torch.backends.quantized.supported_engines:
        x, w = (torch.randint(-128, 127, shape, dtype=torch.int8) for shape in ((m, k), (k, n)))
        return [lambda: torch._int_mm(x, w)]
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings(action="ignore"):  # torch's own, that they go to another package
        a = torch.quantize_per_tensor(torch.randn(m, k), 0.05, 128, torch.quint8)
        b = torch.quantize_per_tensor(torch.randn(n, k), 0.05, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(b, None)
    return [lambda: torch.ops.quantized.linear(a, packed, 1.0, 0)]


def flags() -> list[str]:
    """What /proc/cpuinfo says the CPU can do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def describe() -> str:
    """Processor, cores and threads."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name)
        known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
        name += f" ({', '.join(f for f in known if f in flags())})"
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    print(describe())
    print(measure())
