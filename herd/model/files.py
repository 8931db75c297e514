"""Safetensors files, read without trust: every header is checked against the file before a tensor is touched."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from herd.errors import HerdError

MAX_HEADER = 64 << 20
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor entries of a safetensors file: name → {dtype, shape, data_offsets}.

    Raises HerdError in one line when the file is missing, truncated, lies about its size, or is something else.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise HerdError(f"{path}: not a safetensors file, or truncated")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise HerdError(f"{path}: no such file", status=404) from None
    except (ValueError, RecursionError):
        raise HerdError(f"{path}: its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise HerdError(f"{path}: its header is not a table of tensors")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check(path, name, entry, size - 8 - length)
    return header


def _check(path: Path, name: str, entry: Any, space: int) -> None:
    try:
        start, end = entry["data_offsets"]
        shape, width = entry["shape"], BYTES[entry["dtype"]]
        whole = all(type(n) is int and 0 <= n < 1 << 40 for n in (start, end, *shape))
    except (KeyError, TypeError, ValueError):
        raise HerdError(f"{path}: tensor {name[:80]!r} is described wrongly") from None
    if not whole or len(shape) > 8:
        raise HerdError(f"{path}: tensor {name[:80]!r} has an impossible shape or offset")
    count = 1
    for n in shape:
        count *= n
    if not 0 <= start <= end <= space or end - start != count * width:
        raise HerdError(f"{path}: tensor {name[:80]!r} lies outside the file or has the wrong size")


@torch.no_grad()
def read_tensors(
    paths: Sequence[Path], into: Mapping[str, Tensor], *, ignore: frozenset[str] = frozenset()
) -> None:
    """Fill the tensors of `into` from the files, converting types, one tensor in memory at a time; checks as `mapped`."""
    for name, tensor in mapped(paths, {name: t.shape for name, t in into.items()}, ignore=ignore):
        into[name].copy_(tensor)


def mapped(
    paths: Sequence[Path], shapes: Mapping[str, Sequence[int]], *, ignore: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the files by name, which still lie there: who keeps one must copy it, as files may change.

    Every name must be there once with its exact shape, and nothing else (but names in `ignore`).
    """
    missing = set(shapes)
    for path in paths:
        header = read_header(path)
        with _opened(path) as file:
            for name, entry in header.items():
                if name in ignore:
                    continue
                if name not in shapes:
                    raise HerdError(
                        f"{path}: unexpected tensor {name[:80]!r}; its config.json does not describe it"
                    )
                if list(shapes[name]) != entry["shape"]:
                    raise HerdError(
                        f"{path}: {name} is {entry['shape']}, the config wants {list(shapes[name])}"
                    )
                if name not in missing:
                    raise HerdError(f"{path}: tensor {name} comes twice")
                yield name, file.get_tensor(name)
                missing.discard(name)
    if missing:
        raise HerdError(
            f"{paths[0].parent if paths else '?'}: {len(missing)} tensors are missing, as {min(missing)}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The library's memory-mapped file; it refuses gaps and overlaps that the header check lets pass."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise HerdError(
            f"{path}: not a sound safetensors file ({' '.join(str(error).split())[:100]})"
        ) from None


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write atomically: a crash or a full disk leaves what was there before."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        save_file(dict(tensors), scratch, metadata={"format": "pt", **(metadata or {})})
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise HerdError(
            f"{path}: could not be written ({error.strerror or error}); free space and try again"
        ) from None
    except Exception as error:  # safetensors reports a full disk with its own exception
        raise HerdError(f"{path}: could not be written ({str(error)[:120]})") from None
    finally:
        scratch.unlink(missing_ok=True)
