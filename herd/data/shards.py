"""Token shards: documents as one long array on disk, memory-mapped when read.

A shard set is a directory with, for each shard, `tokens-00000.bin` (little-endian uint16 or uint32),
`docs-00000.npy` (int64 offsets, one more than there are documents), for chat data `mask-00000.bin` (uint8, 1
where a token is to be learned), and one `manifest.json`. A shard holds documents of one source.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from herd.errors import HerdError

SHARD_TOKENS = 1 << 27


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the whole file or none of it."""
    scratch = path.with_name(path.name + ".tmp")
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def fingerprint(shards: list[dict[str, Any]]) -> str:
    """sha256 over the digests of the shards' files, in order."""
    digests = [digest for shard in shards for digest in shard["sha256"].values()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _file_name(part: str, number: int) -> str:
    return f"{part}-{number:05d}.{'npy' if part == 'docs' else 'bin'}"


class ShardWriter:
    """Writes a shard set into an empty directory; call `close()` to get its manifest.

    `header` goes into the manifest as it is (tokenizer fingerprint and the like).
    """

    def __init__(self, folder: Path, dtype: str, *, masked: bool, header: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.dtype, self.masked, self.header = folder, np.dtype(dtype), masked, header
        self.shards: list[dict[str, Any]] = []
        self.source = ""
        self._files: dict[str, tuple[BinaryIO, Any]] = {}  # open files and their running digests
        self._lengths: list[np.ndarray] = []
        self._tokens = 0

    def add(
        self, source: str, tokens: np.ndarray, lengths: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        """Append documents: tokens [sum(lengths)], lengths [documents], mask like tokens (absent: all ones)."""
        if self._files and (source != self.source or self._tokens + len(tokens) > SHARD_TOKENS):
            self._finish()
        if not self._files:
            self.source = source
            for kind in ("tokens", "mask") if self.masked else ("tokens",):
                name = _file_name(kind, len(self.shards))
                self._files[name] = (open(self.folder / name, "wb"), hashlib.sha256())  # noqa: SIM115
        parts = [tokens.astype(self.dtype.newbyteorder("<"))]
        if self.masked:
            parts.append(np.ones(len(tokens), np.uint8) if mask is None else mask.astype(np.uint8))
        for (file, digest), part in zip(self._files.values(), parts, strict=True):
            data = part.tobytes()
            file.write(data)
            digest.update(data)
        self._lengths.append(np.asarray(lengths, np.int64))
        self._tokens += len(tokens)

    def _finish(self) -> None:
        name = _file_name("docs", len(self.shards))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))]).astype(np.int64)
        np.save(self.folder / name, offsets)
        digests = {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest()}
        for name, (file, digest) in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            digests[name] = digest.hexdigest()
        self.shards.append(
            {"source": self.source, "documents": len(offsets) - 1, "tokens": self._tokens, "sha256": digests}
        )
        self._files, self._lengths, self._tokens = {}, [], 0

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
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self._tokens, self._masks, self._offsets = [], [], []
        for shard in shards:
            docs, tokens, *mask = shard["sha256"]
            self._offsets.append(self._load_offsets(shard, docs))
            self._tokens.append(self._map(shard, tokens, dtype))
            self._masks += [self._map(shard, name, np.dtype(np.uint8)) for name in mask]
        self._first = [0, *accumulate(shard["documents"] for shard in shards)]
        self.n_docs = self._first[-1]
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
            parts = ["docs", "tokens", "mask"] if manifest["masked"] else ["docs", "tokens"]
            for number, shard in enumerate(manifest["shards"]):
                if list(shard["sha256"]) != [_file_name(part, number) for part in parts]:
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

    def _map(self, shard: dict[str, Any], name: str, dtype: np.dtype[Any]) -> np.ndarray:
        path, expected = self.folder / name, shard["tokens"] * dtype.itemsize
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            found = "is missing" if size < 0 else f"has {size:,} bytes"
            raise HerdError(f"{path}: {found}, the manifest says {expected:,}; prepare the data again")
        return np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)

    def _load_offsets(self, shard: dict[str, Any], name: str) -> np.ndarray:
        path = self.folder / name
        try:
            offsets = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise HerdError(f"{path}: cannot be read ({error}); prepare the data again") from None
        good = offsets.dtype == np.int64 and offsets.shape == (shard["documents"] + 1,)
        if not good or offsets[0] != 0 or offsets[-1] != shard["tokens"] or (np.diff(offsets) < 0).any():
            raise HerdError(f"{path}: does not agree with the manifest; prepare the data again")
        return np.asarray(offsets)

    def lengths(self) -> np.ndarray:
        """Tokens in each document, [n_docs] int64."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for offsets in self._offsets)])

    def doc(self, index: int) -> np.ndarray:
        """The tokens of a document, a view of the file."""
        shard, start, stop = self._find(index)
        return self._tokens[shard][start:stop]

    def mask(self, index: int) -> np.ndarray | None:
        """1 where a token of the document is to be learned, or None when all are."""
        shard, start, stop = self._find(index)
        return self._masks[shard][start:stop] if self._masks else None

    def _find(self, index: int) -> tuple[int, int, int]:
        if not 0 <= index < self.n_docs:
            raise IndexError(index)
        shard = bisect_right(self._first, index) - 1
        offsets = self._offsets[shard]
        at = index - self._first[shard]
        return shard, int(offsets[at]), int(offsets[at + 1])

    def verify(self) -> None:
        """Hash every file again; HerdError names the first that changed."""
        for shard in self._shards:
            for name, digest in shard["sha256"].items():
                with open(self.folder / name, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise HerdError(f"{self.folder / name}: its bytes changed since it was written")
