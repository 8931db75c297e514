"""Token shards: documents as one long array on disk, memory-mapped when read.

A shard set is a directory with, for each shard, `tokens-00000.bin` (little-endian uint16 or uint32),
`docs-00000.npy` (int64 offsets, one more than there are documents), for chat data `mask-00000.bin` (uint8, 1
where a token is to be learned), and one `manifest.json`. A shard holds documents of one source.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from herd.errors import HerdError
from herd.registry.files import atomic_write, sha256_file

SHARD_TOKENS = 1 << 27


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the whole file or none of it."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False))
    path.chmod(0o644)  # the shards beside it are for others too


def fingerprint(shards: list[dict[str, Any]]) -> str:
    """sha256 over the digests of the shards' files, in order."""
    digests = [digest for shard in shards for digest in shard["sha256"].values()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _names(number: int, masked: bool) -> list[str]:
    """The files of a shard: offsets, tokens, and the mask of a masked set."""
    return [f"docs-{number:05d}.npy", f"tokens-{number:05d}.bin", f"mask-{number:05d}.bin"][: 2 + masked]


class ShardWriter:
    """Writes a shard set into a new directory; call `close()` to get its manifest.

    `header` goes into the manifest as it is (tokenizer fingerprint and the like).
    """

    def __init__(self, folder: Path, dtype: str, *, masked: bool, header: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.dtype, self.masked, self.header = folder, np.dtype(dtype), masked, header
        self.shards: list[dict[str, Any]] = []
        self._files: list[BinaryIO] = []  # of the shard being written: tokens, mask
        self._lengths: list[np.ndarray] = []
        self._source, self._tokens = "", 0

    def add(
        self, source: str, tokens: np.ndarray, lengths: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        """Append documents: tokens [sum(lengths)], lengths [documents], mask like tokens (absent: all ones)."""
        if self._files and (source != self._source or self._tokens + len(tokens) > SHARD_TOKENS):
            self._finish()
        if not self._files:
            names = _names(len(self.shards), self.masked)[1:]
            self._source, self._files = source, [open(self.folder / name, "wb") for name in names]
        flags = np.ones(len(tokens), np.uint8) if mask is None else mask.astype(np.uint8)
        parts = [tokens.astype(self.dtype.newbyteorder("<")), flags][: len(self._files)]
        for file, part in zip(self._files, parts, strict=True):
            file.write(part.tobytes())
        self._lengths.append(lengths)
        self._tokens += len(tokens)

    def _finish(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        names = _names(len(self.shards), self.masked)
        offsets = np.concatenate([[0], *self._lengths]).cumsum(dtype=np.int64)
        np.save(self.folder / names[0], offsets)
        digests = {name: sha256_file(self.folder / name) for name in names}
        self.shards.append(
            {"source": self._source, "documents": len(offsets) - 1, "tokens": self._tokens, "sha256": digests}
        )
        self._files, self._lengths, self._tokens = [], [], 0

    def close(self) -> dict[str, Any]:
        """Finish the last shard, write `manifest.json` and return it."""
        if self._files:
            self._finish()
        manifest = {
            **self.header,
            "dtype": self.dtype.name,
            "masked": self.masked,
            "documents": sum(shard["documents"] for shard in self.shards),
            "tokens": sum(shard["tokens"] for shard in self.shards),
            "fingerprint": fingerprint(self.shards),
            "shards": self.shards,
        }
        write_json(self.folder / "manifest.json", manifest)
        return manifest


class Shards:
    """A shard set opened for reading. Documents are numbered across shards in the manifest's order."""

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[dict[str, Any]]) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint = fingerprint(shards)
        self._shards = shards
        self._parts: list[tuple[np.ndarray, ...]] = []  # of each shard: tokens, mask
        places = [np.zeros((0, 3), np.int64)]
        for number, shard in enumerate(shards):
            offsets, tokens, *mask = (folder / name for name in shard["sha256"])
            places.append(_places(offsets, shard, number))
            ids = _map(tokens, np.dtype(manifest["dtype"]).newbyteorder("<"), shard["tokens"])
            self._parts.append((ids, *(_map(path, np.dtype(np.uint8), shard["tokens"]) for path in mask)))
        self._places = np.concatenate(places)  # of each document: shard, first token, end
        self.n_docs = len(self._places)
        self.n_tokens: int = sum(shard["tokens"] for shard in shards)

    @classmethod
    def open(cls, folder: str | Path, source: str | None = None) -> Shards:
        """Open a shard set, or the part of it that came from one source.

        Raises HerdError when the manifest is missing or malformed, or a file has not the size it promises;
        `verify()` compares the digests too.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            for number, shard in enumerate(manifest["shards"]):
                if list(shard["sha256"]) != _names(number, manifest["masked"]):
                    raise ValueError("not one digest for each file of a shard")
                if type(shard["documents"]) is not int or type(shard["tokens"]) is not int:
                    raise ValueError("counts that are not whole numbers")
            if manifest["dtype"] not in ("uint16", "uint32"):
                raise ValueError("dtype")
            shards = [shard for shard in manifest["shards"] if source in (None, shard["source"])]
        except OSError:
            raise HerdError(
                f"{folder}: no shard set here (no manifest.json); make one with `herd data`"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HerdError(f"{folder}/manifest.json: malformed ({error})") from None
        if source is not None and not shards:
            known = ", ".join(sorted({shard["source"] for shard in manifest["shards"]}))
            raise HerdError(f"{folder}: no source {source!r} (there are: {known})")
        return cls(folder, manifest, shards)

    def lengths(self) -> np.ndarray:
        """Tokens in each document, [n_docs] int64."""
        lengths: np.ndarray = self._places[:, 2] - self._places[:, 1]
        return lengths

    def doc(self, index: int) -> np.ndarray:
        """The tokens of a document, a view of the file."""
        return self._part(0, index)

    def mask(self, index: int) -> np.ndarray | None:
        """1 where a token of the document is to be learned, or None when all are."""
        return self._part(1, index) if self.manifest["masked"] else None

    def _part(self, number: int, index: int) -> np.ndarray:
        shard, start, stop = self._places[index]
        part: np.ndarray = self._parts[shard][number][start:stop]
        return part

    def verify(self) -> None:
        """Hash every file again; HerdError names the first that changed."""
        for shard in self._shards:
            for name, digest in shard["sha256"].items():
                if sha256_file(self.folder / name) != digest:
                    raise HerdError(f"{self.folder / name}: its bytes changed since it was written")


def _map(path: Path, dtype: np.dtype[Any], count: int) -> np.ndarray:
    size, expected = path.stat().st_size if path.is_file() else 0, count * dtype.itemsize
    if size != expected:
        raise HerdError(f"{path}: {size:,} bytes, the manifest says {expected:,}; prepare the data again")
    return np.memmap(path, dtype, "r") if count else np.zeros(0, dtype)


def _places(path: Path, shard: dict[str, Any], number: int) -> np.ndarray:
    """Shard, first token and end of each document, [documents, 3] int64."""
    try:
        ends = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise HerdError(f"{path}: cannot be read ({error}); prepare the data again") from None
    good = ends.dtype == np.int64 and ends.shape == (shard["documents"] + 1,)
    if not good or ends[0] != 0 or ends[-1] != shard["tokens"] or (np.diff(ends) < 0).any():
        raise HerdError(f"{path}: does not agree with the manifest; prepare the data again")
    return np.column_stack([np.full(shard["documents"], number), ends[:-1], ends[1:]])
