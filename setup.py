"""Builds the CPU kernels (herd/engine/kernels), once per instruction set, where a compiler is; without, PyTorch serves.

They are plain shared libraries loaded by ctypes, so one wheel serves every Python of its platform.
`python setup.py build_ext --inplace` builds them into a checkout; CXX names the compiler.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOM = Path("herd/engine/kernels")
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mprfchw"]
VNNI = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni"))]
AVX512 = [*VNNI, "-mavx512bf16"]
AMX = [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
# No contraction and no -ffast-math: a result is the same in whatever loop its row comes to lie.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility-inlines-hidden",
]


class BuildKernels(build_ext):
    """Calls the compiler itself: the flags that Python was built with are for other things."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extensions(self) -> None:
        with ThreadPoolExecutor() as pool:
            problems = [p for p in pool.map(self.compile, self.extensions) if p]
        if problems:
            print(
                f"herd: no CPU kernels of this kind, PyTorch serves instead: {'; '.join(problems)}",
                file=sys.stderr,
            )

    def compile(self, extension: Extension) -> str | None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler(), *FLAGS, *extension.extra_compile_args, *extension.sources, "-o", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            first = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
            return f"{target.name}: {first}"
        return None


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform_tag = super().get_tag()
        return "py3", "none", platform_tag


def compiler() -> str:
    return (
        os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or ""
    )


def kernels() -> list[Extension]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        print("herd: CPU kernels are for Linux on x86-64; PyTorch serves here", file=sys.stderr)
        return []
    if not compiler():
        print("herd: no C++ compiler, so no CPU kernels; PyTorch serves instead", file=sys.stderr)
        return []
    sources, headers = ([str(p) for p in sorted(ROOM.glob(f"*.{kind}"))] for kind in ("cpp", "h"))
    digest = hashlib.sha256(b"".join(Path(p).read_bytes() for p in sorted(sources + headers))).hexdigest()
    return [
        Extension(
            f"herd.engine.kernels.libherd_{name}",
            sources,
            depends=headers,
            extra_compile_args=[*flags, f'-DHERD_SOURCES="{digest}"'],
            optional=True,
        )
        for name, flags in (("amx", AMX), ("avx512", AVX512), ("vnni", VNNI), ("avx2", AVX2))
    ]


setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel})
