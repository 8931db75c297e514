"""Near-duplicates by MinHash and locality-sensitive hashing; overlap with evaluation sets by n-grams."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from herd.data.words import U64, Words, constants, mix

_BLOCK = 4096


def minhash(shingles: np.ndarray, permutations: int) -> np.ndarray:
    """The MinHash signature of a set of hashes, [permutations] uint32 (Broder 1997).

    Two signatures agree in a place with the probability of the sets' Jaccard similarity.
    """
    scale, shift = constants(4, permutations) | U64(1), constants(5, permutations)
    best = np.full(permutations, np.iinfo(U64).max, U64)
    for start in range(0, len(shingles), _BLOCK):
        values = shingles[start : start + _BLOCK, None] * scale + shift
        np.minimum(best, values.min(axis=0), out=best)
    return (best >> U64(32)).astype(np.uint32)


def bands(permutations: int, threshold: float) -> tuple[int, int]:
    """(bands, rows in a band): the longest bands that still meet 99 % of the pairs at the threshold."""
    for rows in range(permutations, 1, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= 0.99:
            return count, rows
    return permutations, 1


def near_duplicates(signatures: np.ndarray, threshold: float) -> np.ndarray:
    """For each document, the earlier kept document that it nearly repeats, or -1: [documents] int64.

    signatures [documents, permutations]. Documents are taken in order; one is dropped when its signature
    agrees in at least `threshold` of the places with that of a document kept before it.
    """
    documents, permutations = signatures.shape
    count, rows = bands(permutations, threshold)
    buckets = [_shared_buckets(signatures[:, b * rows : (b + 1) * rows]) for b in range(count)]
    candidates = np.unique(np.concatenate([np.zeros(0, np.int64), *(docs for docs, _ in buckets)]))
    keys = np.full((len(candidates), count), -1, np.int64)
    for b, (docs, ids) in enumerate(buckets):
        keys[np.searchsorted(candidates, docs), b] = ids

    original = np.full(documents, -1, np.int64)
    kept: dict[tuple[int, int], list[int]] = {}  # (band, bucket) -> kept documents
    for document, row in zip(candidates.tolist(), keys.tolist(), strict=True):
        places = [(b, bucket) for b, bucket in enumerate(row) if bucket >= 0]
        rivals = sorted({rival for place in places for rival in kept.get(place, ())})
        if rivals:
            agreement = (signatures[rivals] == signatures[document]).mean(axis=1)
            if agreement.max() >= threshold:
                original[document] = rivals[int(agreement.argmax())]
                continue
        for place in places:
            kept.setdefault(place, []).append(document)
    return original


def _shared_buckets(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents that share their band with another document, and the number of the bucket they share."""
    steps = constants(6, band.shape[1]) | U64(1)
    keys = mix((band.astype(U64) * steps).sum(axis=1, dtype=U64))
    _, ids, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    docs = np.flatnonzero(sizes[ids] > 1)
    return docs, ids[docs]


class NgramIndex:
    """The n-grams of evaluation sets: 13 words, and texts of 8 to 12 words whole (as for GPT-3, Brown 2020)."""

    LONGEST, SHORTEST = 13, 8

    def __init__(self, records: Iterable[Any]) -> None:
        grams: dict[int, list[np.ndarray]] = {n: [] for n in range(self.SHORTEST, self.LONGEST + 1)}
        for record in records:
            for text in _strings(record):
                if len(text) < 2 * self.SHORTEST - 1:
                    continue  # cannot hold that many words
                words = Words(text)
                n = min(self.LONGEST, len(words.hashes))
                if n >= self.SHORTEST:
                    grams[n].append(words.ngrams(n))
        self._grams = {n: np.unique(np.concatenate(found)) for n, found in grams.items() if found}

    def save(self, path: Path) -> None:
        scratch = path.with_suffix(".tmp")
        with open(scratch, "wb") as file:
            np.savez(file, **{str(n): known for n, known in self._grams.items()})  # type: ignore[arg-type]
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: Path) -> NgramIndex:
        index = cls(())
        with np.load(path, allow_pickle=False) as file:
            index._grams = {int(n): file[n] for n in file.files}
        return index

    def overlaps(self, words: Words) -> bool:
        """Whether the text has a run of words in common with the index."""
        for n, known in self._grams.items():
            grams = words.ngrams(n)
            at = np.minimum(np.searchsorted(known, grams), len(known) - 1)
            if (known[at] == grams).any():
                return True
        return False


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
