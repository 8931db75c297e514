"""A small quality filter for English-like prose, after the rules of Gopher (Rae et al. 2021, appendix A)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from herd.data.words import Words


@dataclass(frozen=True)
class Quality:
    """The limits; a document outside any of them is removed and counted under the first that it breaks.

    min_words: fewest words. mean_word: least and greatest mean length of a word in characters.
    max_symbols: "#" and ellipses per word. min_letters: share of letters among all that is not white space.
    max_repeated_lines: share of lines that occurred before. max_repeated_ngrams: share of 5-word runs that
    occurred before. max_top_ngram: share of the words that belong to the most frequent 3-word run.
    """

    min_words: int = 20
    mean_word: tuple[float, float] = (3.0, 10.0)
    max_symbols: float = 0.1
    min_letters: float = 0.7
    max_repeated_lines: float = 0.3
    max_repeated_ngrams: float = 0.2
    max_top_ngram: float = 0.18

    def judge(self, text: str, words: Words) -> tuple[str, float] | None:
        """The first rule that the text breaks and by what factor (for naming the worst), or None."""
        count = len(words.hashes)
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        most = max(Counter(words.ngrams(3).tolist()).values(), default=0)
        symbols = (text.count("#") + text.count("...") + text.count("…")) / max(1, count)
        checks = (
            ("quality: too few words", self.min_words, count),
            ("quality: short words", self.mean_word[0], words.mean_length),
            ("quality: long words", words.mean_length, self.mean_word[1]),
            ("quality: symbols", symbols, self.max_symbols),
            ("quality: few letters", self.min_letters, words.letters),
            ("quality: repeated lines", _repeated(lines), self.max_repeated_lines),
            ("quality: repeated n-grams", _repeated(words.ngrams(5).tolist()), self.max_repeated_ngrams),
            ("quality: one frequent n-gram", most * 3 / count if most > 1 else 0.0, self.max_top_ngram),
        )
        return next(((rule, less / max(more, 1e-9)) for rule, less, more in checks if less > more), None)


def _repeated(items: list[Any]) -> float:
    """The share of the items that occurred before."""
    return 1 - len(set(items)) / len(items) if items else 0.0
