"""Words and n-grams of a text as 64-bit hashes, vectorised: the ground of deduplication and decontamination."""

from __future__ import annotations

import numpy as np

U64 = np.uint64


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of uint64 that scatters all bits."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    x ^= x >> U64(31)
    return x


def constants(name: int, n: int) -> np.ndarray:
    """n fixed pseudo-random uint64, a different row for each name; the same on every machine and version."""
    return mix((np.arange(1, n + 1, dtype=U64) + (U64(name) << U64(32))) * U64(0x9E3779B97F4A7C15))


_CODES = np.arange(256)
_LETTER = ((_CODES | 32) >= ord("a")) & ((_CODES | 32) <= ord("z")) & (_CODES < 128) | (_CODES >= 128)
_IN_WORD = _LETTER | (_CODES >= ord("0")) & (_CODES <= ord("9"))
_BYTE = constants(1, 256)
_BYTE[ord("A") : ord("Z") + 1] = _BYTE[ord("a") : ord("z") + 1]  # case does not matter
_PLACE = constants(2, 64) | U64(1)
_STEP = constants(3, 64) | U64(1)
_PUNCTUATION = "‘’“”–—…"  # the typographic signs of English prose, which are no part of a word


class Words:
    """The words of a text: runs of letters and digits (any non-ASCII sign counts as a letter), case ignored.

    hashes [words] uint64; letters is the share of letters among the bytes that are not white space.
    """

    def __init__(self, text: str) -> None:
        for sign in _PUNCTUATION:
            text = text.replace(sign, " ")
        raw = np.frombuffer(f" {text} ".encode(), np.uint8)
        inside = _IN_WORD[raw]
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        lengths = edges[1::2] - edges[::2]
        body = raw[inside]
        self.letters = float(_LETTER[raw].sum() / max(1, (raw > 32).sum()))
        self.mean_length = float(((body & 0xC0) != 0x80).sum() / max(1, len(lengths)))  # in characters
        first = np.cumsum(lengths) - lengths
        place = np.arange(len(body)) - np.repeat(first, lengths)
        self.hashes = mix(np.add.reduceat(_BYTE[body] * _PLACE[place & 63], first))

    def ngrams(self, n: int) -> np.ndarray:
        """Hashes of all runs of n words, [max(0, words - n + 1)] uint64."""
        count = max(0, len(self.hashes) - n + 1)
        total = np.zeros(count, U64)
        for k in range(n):
            total += self.hashes[k : k + count] * _STEP[k]
        return mix(total)
