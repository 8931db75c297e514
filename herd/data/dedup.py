"""Near-duplicates by MinHash and locality-sensitive hashing; overlap with evaluation sets by n-grams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from herd.data.words import U64, Words, constants

_BLOCK = 4096
_NONE = np.iinfo(np.uint32).max  # in every place of the signature of an empty set


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


def _rows(permutations: int, threshold: float) -> int:
    """Places in a band: the longest bands that still meet 99 % of the pairs at the threshold."""
    longest = range(permutations, 1, -1)
    return next((r for r in longest if 1 - (1 - threshold**r) ** (permutations // r) >= 0.99), 1)


def near_duplicates(signatures: np.ndarray, threshold: float) -> np.ndarray:
    """For each document, the earlier kept document that it nearly repeats, or -1: [documents] int64.

    signatures [documents, permutations]. Documents are taken in order; one is dropped when its signature
    agrees in at least `threshold` of the places with that of a document kept before it. Only documents that
    share all places of a band are compared. An empty set of shingles repeats nothing.
    """
    documents, permutations = signatures.shape
    rows = _rows(permutations, threshold)
    shape = (documents, permutations // rows)
    keys, shared = np.zeros(shape, U64), np.zeros(shape, bool)
    for b in range(shape[1]):
        keys[:, b] = signatures[:, b * rows : (b + 1) * rows] @ (constants(6, rows) | U64(1))
        _, ids, sizes = np.unique(keys[:, b], return_inverse=True, return_counts=True)
        shared[:, b] = sizes[ids] > 1
    shared[(signatures == _NONE).all(axis=1)] = False

    original = np.full(documents, -1, np.int64)
    kept: dict[tuple[int, int], list[int]] = {}  # (band, key) -> kept documents
    for document in np.flatnonzero(shared.any(axis=1)).tolist():
        places = [(b, int(keys[document, b])) for b in np.flatnonzero(shared[document]).tolist()]
        rivals = sorted({rival for place in places for rival in kept.get(place, ())})
        if rivals:
            agreement = (signatures[rivals] == signatures[document]).mean(axis=1)
            if agreement.max() >= threshold:
                original[document] = rivals[int(agreement.argmax())]
                continue
        for place in places:
            kept.setdefault(place, []).append(document)
    return original


class NgramIndex:
    """The n-grams of evaluation sets: 13 words, and texts of 8 to 12 words whole (as for GPT-3, Brown 2020)."""

    LONGEST, SHORTEST = 13, 8

    def __init__(self, records: Iterable[Any]) -> None:
        grams: dict[int, list[np.ndarray]] = {}
        for text in (text for record in records for text in _strings(record)):
            if len(text) < 2 * self.SHORTEST - 1:
                continue  # cannot hold that many words
            words = Words(text)
            n = min(self.LONGEST, len(words.hashes))
            if n >= self.SHORTEST:
                grams.setdefault(n, []).append(words.ngrams(n))
        self._grams = {n: np.unique(np.concatenate(found)) for n, found in grams.items()}

    def overlaps(self, words: Words) -> bool:
        """Whether the text has a run of words in common with the index."""
        for n, known in self._grams.items():
            grams = words.ngrams(n)
            at = np.minimum(np.searchsorted(known, grams), len(known) - 1)
            if (known[at] == grams).any():
                return True
        return False


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
