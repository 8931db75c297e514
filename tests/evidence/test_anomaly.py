"""Voters who do not vote like the others: the mean of e under the null to the last digit, errors and power by simulation."""

import itertools
import math

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence import anomaly
from herd.evidence.anomaly import suspects
from herd.evidence.votes import Votes

STRENGTH = np.array([1.5, 0.5, 0.6, 0.4])


def test_under_the_null_the_mean_of_e_is_at_most_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 4^5 ways to vote on three pairs, each with the probability that an urn gives it (Pólya): the others' votes
    and the prior are in it, and each ball drawn is put back with another of its colour."""
    monkeypatch.setattr(anomaly, "_prior", lambda votes, pairs, whole: np.tile(STRENGTH, (len(pairs), 1)))
    a, b = np.array([0, 1, 0, 2, 1]), np.array([1, 0, 2, 1, 2])
    others = np.random.default_rng(0).integers(0, 3, (30, 2))
    others = others[others[:, 0] != others[:, 1]]
    said = np.random.default_rng(1).integers(0, 4, len(others))
    mean = total = 0.0
    for outcome in itertools.product(range(4), repeat=5):
        urns: dict[frozenset[int], np.ndarray] = {}
        chance = 1.0
        for x, y, o, mine in [
            *((x, y, o, False) for (x, y), o in zip(others, said, strict=True)),
            *((x, y, o, True) for x, y, o in zip(a, b, outcome, strict=True)),
        ]:
            urn = urns.setdefault(frozenset((int(x), int(y))), STRENGTH.copy())
            colour = o if o > 1 else int((x if o == 0 else y) > (y if o == 0 else x))
            chance *= urn[colour] / urn.sum() if mine else 1.0
            urn[colour] += 1
        votes = Votes.of(
            ["x", "y", "z"],
            np.append(others[:, 0], a),
            np.append(others[:, 1], b),
            np.append(said, outcome),
        )
        log_e, _ = anomaly._evidence(votes, np.repeat([0, 1], [len(others), 5]), 2)
        mean, total = mean + chance * math.exp(log_e[1]), total + chance
    assert total == pytest.approx(1)
    assert 0.1 < mean <= 1 + 1e-9


RATING = np.array([0.0, 60, 120, -80, 30])
NAMES = ["a", "b", "c", "d", "e"]


def crowd(
    rng: np.random.Generator, voters: int, each: int, ties: float = math.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Votes by voters who say tie or both bad in three of ten cases, or each as often as Beta(0.3 ties, 0.7 ties)."""
    n = voters * each
    voter = np.repeat(np.arange(voters), each)
    a = rng.integers(0, 5, n)
    b = (a + rng.integers(1, 5, n)) % 5
    undecided = 0.3 if math.isinf(ties) else rng.beta(0.3 * ties, 0.7 * ties, voters)[voter]
    winner = rng.random(n) > 1 / (1 + 10 ** ((RATING[b] - RATING[a]) / 400))
    outcome = np.where(rng.random(n) < undecided, rng.choice([2, 2, 3], n), winner)
    return a, b, outcome, voter


@pytest.mark.parametrize("ties", [math.inf, 5.0])
def test_who_votes_like_the_others_is_not_suspected(ties: float) -> None:
    rng, wronged = np.random.default_rng(2), 0
    for _ in range(20):
        a, b, outcome, voter = crowd(rng, 60, 50, ties)
        wronged += len(suspects(Votes.of(NAMES, a, b, outcome, voter=voter)))
    assert wronged <= 3  # of 1,200 honest voters


def test_tastes_of_their_own_are_not_odd() -> None:
    """Each voter likes some targets more by 100 points (one standard deviation), and the left place by 50."""
    rng, wronged = np.random.default_rng(4), 0
    for _ in range(6):
        voter = np.repeat(np.arange(80), 200)
        a = rng.integers(0, 5, len(voter))
        b = (a + rng.integers(1, 5, len(voter))) % 5
        liked = RATING + rng.normal(0, 100, (80, 5))
        lead = liked[voter, a] - liked[voter, b] + rng.normal(0, 50, 80)[voter]
        outcome = np.where(
            rng.random(len(voter)) < 0.3, 2, rng.random(len(voter)) > 1 / (1 + 10 ** (-lead / 400))
        )
        wronged += len(suspects(Votes.of(NAMES, a, b, outcome, voter=voter)))
    assert wronged <= 1  # of 480


def test_what_others_do_is_found_and_named() -> None:
    rng = np.random.default_rng(3)
    a, b, outcome, voter = crowd(rng, 100, 200)
    for v, places in enumerate(np.split(np.arange(100 * 200), 100)[:8]):
        x, y, o = a[places], b[places], outcome[places]
        outcome[places] = [
            np.zeros(200),
            np.ones(200),
            np.full(200, 2),
            np.full(200, 3),
            rng.integers(0, 4, 200),
            np.where(x == 3, 0, np.where(y == 3, 1, o)),
            np.where(x == 2, 1, np.where(y == 2, 0, o)),
            np.where(o < 2, RATING[x] > RATING[y], o),
        ][v]
    found = suspects(Votes.of(NAMES, a, b, outcome, voter=voter + 100))
    kinds = ["always left", "always right", "always tie", "always both bad", "random", "for d", "against c"]
    assert {v: s.kind for v, s in found.items()} == dict(enumerate([*kinds, "against the others"], 100))
    assert all(s.votes == 200 and s.log_e == pytest.approx(math.log(s.e_value)) for s in found.values())
    assert min(s.e_value for s in found.values()) >= 100 / (8 * 0.01)


def test_where_there_is_nothing_to_compare_with_nobody_is_suspected() -> None:
    side = np.arange(200) % 2
    alone = Votes.of(["x", "y"], side, 1 - side, np.zeros(200, int), voter=np.zeros(200, int))
    assert not suspects(alone)
    assert not suspects(alone.where(np.zeros(200, bool)))
    agreed = Votes.of(["x", "y"], side, 1 - side, side, voter=np.arange(200) % 7)  # x wins, whoever is asked
    assert not suspects(agreed)
    left = Votes.of(
        ["x", "y"], side, 1 - side, np.where(np.arange(200) < 9, 0, side), voter=np.arange(200) // 9
    )
    assert not suspects(left)  # nine votes are too few to suspect anybody
    with pytest.raises(HerdError, match="alpha"):
        suspects(alone, alpha=0)
