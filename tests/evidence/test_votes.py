"""Votes as columns: counts against a plain loop, and what is refused."""

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence.votes import BOTH_BAD, TIE, Votes

from .votes_made import names


def test_counts_are_those_of_a_loop() -> None:
    rng, k, n = np.random.default_rng(0), 5, 400
    a = rng.integers(0, k, n)
    b = (a + rng.integers(1, k, n)) % k
    said, weight = rng.integers(0, 4, n), rng.choice([0, 0.5, 1], n)
    counts = Votes.of(names(k), a, b, said, weight=weight).counts()
    expected = np.zeros((3, k, k))
    for x, y, o, w in zip(a, b, said, weight, strict=True):
        if o < TIE:
            expected[0][(x, y) if o == 0 else (y, x)] += w
        else:
            which = 2 if o == BOTH_BAD else 1
            expected[which][x, y] += w
            expected[which][y, x] += w
    assert np.array_equal(np.stack([counts.wins, counts.ties, counts.both_bad]), expected)
    assert np.array_equal(counts.games, expected[0] + expected[0].T + expected[1])


def test_counts_add_up_over_parts_and_only_over_the_same_targets() -> None:
    rng = np.random.default_rng(1)
    votes = Votes.of(names(3), rng.integers(0, 2, 50), [2] * 50, rng.integers(0, 4, 50))
    parts = votes.where(np.arange(20)).counts() + votes.where(np.arange(50) >= 20).counts()
    assert np.array_equal(parts.wins, votes.counts().wins) and len(votes) == 50
    with pytest.raises(HerdError, match="different targets"):
        votes.counts() + Votes.of(["x"], [], [], []).counts()


@pytest.mark.parametrize(
    ("a", "b", "outcome", "more", "message"),
    [
        ([0], [1, 0], [0], {}, "different lengths"),
        ([0], [1], [0], {"voter": [1, 2]}, "different lengths"),
        ([0], [2], [0], {}, "not there"),
        ([-1], [1], [0], {}, "not there"),
        ([0], [1], [4], {}, "not there"),
        ([0, 1], [1, 1], [0, 0], {}, "vote 1 compares a target with itself"),
        ([0], [1], [0], {"weight": [-1.0]}, "weights"),
        ([0], [1], [0], {"weight": [np.nan]}, "weights"),
    ],
)
def test_bad_columns(a: list, b: list, outcome: list, more: dict, message: str) -> None:
    with pytest.raises(HerdError, match=message):
        Votes.of(["x", "y"], a, b, outcome, **more)
