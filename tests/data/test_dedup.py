"""Near-duplicates against brute-force Jaccard, n-gram overlap and the quality rules against plain Python."""

import itertools
import re
from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from herd.data.dedup import NgramIndex, minhash, near_duplicates
from herd.data.quality import Quality
from herd.data.words import Words

VOCABULARY = [f"w{i}" for i in range(3000)]


@cache
def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: str, b: str) -> float:
    x, y = shingles(a), shingles(b)
    return len(x & y) / len(x | y)


def corpus() -> list[str]:
    """Random texts and, for each, copies with more and more words changed."""
    rng, texts = np.random.default_rng(0), []
    for _ in range(60):
        words = rng.choice(VOCABULARY, 300).tolist()
        texts.append(" ".join(words))
        for changes in (0, 1, 3, 20, 60):
            copy = list(words)
            for at in rng.choice(300, changes, replace=False):
                copy[at] = "changed"
            texts.append(" ".join(copy).capitalize() + ".")
    return texts


def test_near_duplicates_are_those_of_brute_force() -> None:
    texts = corpus()
    signatures = np.stack([minhash(Words(t).ngrams(5), 64) for t in texts])
    original = near_duplicates(signatures, 0.8)
    kept = [i for i in range(len(texts)) if original[i] < 0]
    sure = 0
    for i in range(len(texts)):
        best = max((jaccard(texts[i], texts[k]) for k in kept if k < i), default=0.0)
        if best > 0.93:
            assert original[i] >= 0
            sure += 1
        elif best < 0.6:
            assert original[i] < 0
    assert sure >= 100
    for i in np.flatnonzero(original >= 0):
        assert jaccard(texts[i], texts[original[i]]) > 0.6 and original[original[i]] < 0


def test_minhash_estimates_jaccard() -> None:
    texts = corpus()[:24]
    signatures = [minhash(Words(t).ngrams(5), 512) for t in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        estimate = float((signatures[i] == signatures[j]).mean())
        assert abs(estimate - jaccard(texts[i], texts[j])) < 0.1  # 4.5 standard errors


@given(st.text(alphabet="aB3é雪 .,-'\n“”", max_size=60))
def test_words_are_those_of_a_regular_expression(text: str) -> None:
    expected = re.findall(r"[^\W_]+", text)
    words = Words(text)
    assert len(words.hashes) == len(expected)
    keys = [w.translate({ord("B"): "b"}) for w in expected]
    assert len(set(words.hashes.tolist())) == len(set(keys))
    if expected:
        assert np.isclose(words.mean_length, sum(map(len, expected)) / len(expected))


@given(st.integers(0, 40), st.integers(0, 20), st.integers(5, 30))
def test_overlap_is_thirteen_words_in_a_row(before: int, shared: int, after: int) -> None:
    words = [f"e{i}" for i in range(30)]
    index = NgramIndex([{"doc": {"query": " ".join(words), "choices": ["yes", "no"]}}])
    filler = [f"t{i}" for i in range(before)]
    text = filler + words[3 : 3 + shared] + [f"u{i}" for i in range(after)]
    assert index.overlaps(Words(", ".join(text).upper())) == (shared >= 13)


def test_short_evaluation_texts_match_whole() -> None:
    index = NgramIndex(
        [{"good": "Amanda was respected by some of the waitresses.", "bad": "Too short to count."}]
    )
    assert index.overlaps(Words('He said: "Amanda was respected by some of the waitresses", and left.'))
    assert not index.overlaps(Words("Amanda was respected by some of the waiters. Too short to count."))


PROSE = (
    "The old boat lay at the end of the garden, under a pear tree. Nobody had sailed in it for years, but the "
    "children went there every morning and took turns at being captain. One day it rained so hard that the "
    "boat began to float."
)


def test_quality_rules() -> None:
    bad = {
        "too few words": "A short note.",
        "short words": "a b c d e f g h i j k l m n o p " * 3,
        "long words": "incomprehensibility " * 5 + "counterrevolutionaries notwithstanding " * 10,
        "symbols": PROSE.replace(" ", " # "),
        "few letters": " ".join(f"{i}.{i}" for i in range(1000, 1100)) + PROSE,
        "repeated lines": "\n".join(["Subscribe to our letter today"] * 9 + [PROSE]),
        "repeated n-grams": f"{PROSE} {PROSE}",
        "one frequent n-gram": "the big dog saw " + " the big dog saw ".join(PROSE.split()[:20]),
    }
    assert Quality().judge(PROSE, Words(PROSE)) is None
    for rule, text in bad.items():
        verdict = Quality().judge(text, Words(text))
        assert verdict and verdict[1] > 1, rule
        if rule not in ("one frequent n-gram",):
            assert verdict[0] == f"quality: {rule}"
    only = Quality(max_repeated_ngrams=1.0)
    text = bad["one frequent n-gram"]
    assert only.judge(text, Words(text)) == ("quality: one frequent n-gram", only.judge(text, Words(text))[1])  # type: ignore[index]
