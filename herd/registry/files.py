"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from herd.errors import HerdError


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: Path, data: str | bytes) -> None:
    """Replace `path` by `data`, durably: readers see the old or the new content. Raises OSError on a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        _sync(path.parent)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append one line, durably; a line that a crash left torn stays apart from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        torn = b""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def tree_files(directory: Path, *, leave_out: str = "") -> dict[str, str]:
    """Relative path → SHA-256 of each file below `directory` but the one whose relative path is `leave_out`.

    Raises HerdError for a link or a device, which a digest could not vouch for.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        mode, name = path.lstat().st_mode, path.relative_to(directory).as_posix()
        if stat.S_ISREG(mode):
            files[name] = sha256_file(path)
        elif not stat.S_ISDIR(mode):
            raise HerdError(f"{path} is a link or a device; put a copy of the file in its place")
    files.pop(leave_out, None)
    return files


def tree_digest(directory: Path, *, leave_out: str = "") -> str:
    """SHA-256 over the sorted (relative path, SHA-256) of the files that `tree_files` gives."""
    return digest_of(tree_files(directory, leave_out=leave_out))


def digest_of(files: Mapping[str, str]) -> str:
    """The `tree_digest` of a directory with these files (relative path → SHA-256)."""
    total = hashlib.sha256()
    for name, digest in sorted(files.items()):
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def sync_tree(directory: Path) -> None:
    """Make all files below `directory`, and their names, durable."""
    for path in (*directory.rglob("*"), directory):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most 1 MiB. Raises HerdError, one line, if there is none."""
    try:
        if path.stat().st_size > 1 << 20:
            raise HerdError(f"{path}: larger than 1 MiB; refused")
        table = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise HerdError(f"{path}: not readable JSON ({str(error)[:80]})") from None
    if not isinstance(table, dict):
        raise HerdError(f"{path}: expected a JSON object")
    return table


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
