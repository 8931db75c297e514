"""Confidence sequences: against the mixture they come from, sums written out, and looking too often at equals."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from herd.errors import HerdError
from herd.evidence.sequences import TUNED_FOR, better, clustered_mean, least_clusters, reach
from herd.evidence.votes import Votes

ALPHA = 0.05


def rho() -> float:
    """Where the asymptotic sequence is narrowest at TUNED_FOR, by search."""
    grid = np.geomspace(0.01, 3, 20_001)
    return float(grid[np.argmin(asymptotic(TUNED_FOR, grid))])


def asymptotic(n: float, rho: np.ndarray | float) -> np.ndarray:
    """Waudby-Smith et al., equation (9): in standard deviations."""
    u = n * rho**2 + 1
    return np.sqrt(2 * u / (n * rho) ** 2 * np.log(np.sqrt(u) / ALPHA))


@pytest.mark.parametrize("n", [8, 20, 100])
def test_at_its_end_the_mixture_is_one_over_alpha_times_as_likely_as_no_effect(n: int) -> None:
    t, spread = float(reach(n, ALPHA)), rho()

    def likelihood(effect: float) -> float:
        density = stats.nct.pdf(t, n - 1, math.sqrt(n) * effect)
        return float(density * stats.norm.pdf(effect, scale=spread))

    mixed, _ = integrate.quad(likelihood, -5 * spread, 5 * spread, limit=200)
    assert mixed / stats.t.pdf(t, n - 1) == pytest.approx(1 / ALPHA, rel=1e-3)


def test_with_many_it_is_the_asymptotic_sequence() -> None:
    n = np.array([1e4, 1e5, 1e6])
    np.testing.assert_allclose(reach(n) / np.sqrt(n), asymptotic(n, rho()), rtol=2e-3)
    assert (reach([0, 1, 3, 6]) == math.inf).all() and reach(7) < math.inf
    assert least_clusters(0.05) == 7 and math.isinf(reach(least_clusters(0.001) - 1, 0.001))


def test_single_values_have_the_ordinary_error_and_equal_clusters_that_of_their_means() -> None:
    d = np.random.default_rng(0).normal(size=(9, 4))
    alone = clustered_mean(d.ravel())
    assert (alone.value, alone.error) == pytest.approx((d.mean(), d.std(ddof=1) / 6)) and alone.count == 36
    together = clustered_mean(d.ravel(), np.repeat(np.arange(9), 4))
    assert together.error == pytest.approx(d.mean(1).std(ddof=1) / 3) and together.count == pytest.approx(9)
    weighed = clustered_mean([1.0, 0.0, 5.0], weight=[2, 1, 0])
    assert weighed.value == pytest.approx(2 / 3) and weighed.count == pytest.approx(9 / 5)
    light = clustered_mean([1.0, 0.0], weight=[2e-300, 1e-300])
    assert (light.error, light.count) == (weighed.error, weighed.count)


def test_two_ways_are_the_double_sum_over_what_shares_a_cluster() -> None:
    rng = np.random.default_rng(1)
    conversation, voter = rng.integers(0, 12, 60), rng.integers(0, 15, 60)
    d = rng.normal(size=60) + rng.normal(size=12)[conversation] + rng.normal(size=15)[voter]
    found = clustered_mean(d, conversation.tolist(), [f"voter {v}" for v in voter])
    outer = np.outer(d - d.mean(), d - d.mean())
    same = [conversation[:, None] == conversation, voter[:, None] == voter]
    total = 0.0
    for sign, which in ((1, same[0]), (1, same[1]), (-1, same[0] & same[1])):
        groups = len(np.unique(which, axis=0))
        total += sign * groups / (groups - 1) * (outer * which).sum()
    assert found.error == pytest.approx(math.sqrt(total) / 60)
    nested = clustered_mean(d, np.arange(60), voter)
    assert nested.error == pytest.approx(clustered_mean(d, voter).error)


def duel(outcomes: np.ndarray | list[int], **columns: object) -> Votes:
    """cria against tale, the sides taking turns; outcomes 0 cria, 1 tale, 2 tie, 3 both bad."""
    o = np.asarray(outcomes)
    side = np.arange(len(o)) % 2
    placed = np.where(o < 2, o ^ side, o)
    return Votes.of(["cria", "tale", "other"], side, 1 - side, placed, **columns)  # type: ignore[arg-type]


def test_who_wins_is_said_with_the_interval() -> None:
    found = better(duel([0] * 70 + [1] * 30 + [2] * 10 + [3] * 5), 0, 1)
    assert (found.decision, found.votes, found.both_bad, found.needed) == ("A", 110, 5, None)
    assert found.estimate == pytest.approx(75 / 110 - 0.5)
    d = np.repeat([0.5, -0.5, 0.0], [70, 30, 10])
    half = float(reach(110)) * math.hypot(d.std(ddof=1) / math.sqrt(110), 0.5 / 110)
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))
    assert found.sentence == (
        f"cria beats tale: 68 % of 110 votes, 95 % interval {100 * (found.low + 0.5):.0f} to "
        f"{100 * (found.high + 0.5):.0f} %, valid at any time"
    )
    other = better(duel([0] * 70 + [1] * 30 + [2] * 10 + [3] * 5), 1, 0)
    assert other.decision == "B" and other.sentence == found.sentence and other.low == -found.high


def test_until_it_is_decided_it_says_about_how_many_more() -> None:
    few = better(duel([0, 1, 0, 0] * 6), 0, 1)
    assert few.decision == "NOT ENOUGH DATA" and few.needed
    assert f"about {few.needed} more votes may decide" in few.sentence
    enough = duel([0, 1, 0, 0] * ((24 + few.needed) // 4 + 3))
    assert better(enough, 0, 1).decision == "A"
    assert better(duel([0, 1, 0, 0] * ((24 + few.needed) // 4 - 3)), 0, 1).decision != "A"
    none = better(duel([3, 3]), 0, 1)
    assert (none.estimate, none.low, none.high, none.both_bad) == (None, -0.5, 0.5, 2) and none.needed
    assert "no votes yet" in none.sentence
    one = better(duel([0]), 0, 1)
    assert (one.decision, one.low, one.high) == ("NOT ENOUGH DATA", -0.5, 0.5)
    assert better(duel([0, 1] * 10), 0, 1).needed is None


def test_equal_within_a_margin() -> None:
    votes = duel([0, 1] * 2000)
    assert better(votes, 0, 1, margin=0.05).decision == "EQUAL"
    assert better(votes, 0, 1).decision == "NOT ENOUGH DATA"
    assert "equal within 5 points" in better(votes, 0, 1, margin=0.05).sentence
    close = better(duel([0, 1] * 100), 0, 1, margin=0.05)
    assert close.decision == "NOT ENOUGH DATA" and 400 < (close.needed or 0) < 4000


def test_repeats_and_votes_that_do_not_count_are_no_evidence() -> None:
    outcomes = [0, 0, 0, 1] * 15
    once = better(duel(outcomes), 0, 1)
    copies = duel(np.repeat(outcomes, 10), conversation=np.repeat(np.arange(60), 10))
    assert once.decision == "A"
    assert better(copies, 0, 1).low == pytest.approx(once.low, abs=1e-9)
    void = duel(outcomes + [1] * 500, weight=[1.0] * 60 + [0.0] * 500)
    assert better(void, 0, 1).sentence == once.sentence
    people = np.arange(60) % 3
    assert better(duel(outcomes, voter=people), 0, 1).sentence.endswith("; of 3 voters only")
    loud = duel([0] * 300 + [0, 1] * 10, voter=[7] * 300 + list(range(10, 30)))
    assert better(loud, 0, 1).decision == "NOT ENOUGH DATA"  # one voter's opinion, however often


@pytest.mark.slow
def test_looking_every_day_at_equals_seldom_finds_a_winner() -> None:
    rng, runs, fixed, sequence = np.random.default_rng(2), 250, 0, 0
    days = np.arange(15, 301, 15)
    for _ in range(runs):
        votes = duel(rng.choice(3, 300, p=[0.4, 0.4, 0.2]))
        found = [better(votes.where(np.arange(n)), 0, 1) for n in days]
        sequence += any(f.decision in ("A", "B") for f in found)
        fixed += any(abs(f.estimate or 0) > 1.96 * math.sqrt(0.2 / f.votes) for f in found)
    assert sequence / runs <= 0.05 < 0.15 < fixed / runs


def test_bad_input() -> None:
    votes = duel([0, 1])
    for a, b in ((0, 0), (0, 3), (-1, 0)):
        with pytest.raises(HerdError, match="two of the targets"):
            better(votes, a, b)
    for options in ({"alpha": 0.0}, {"alpha": 1.5}, {"margin": -1.0}, {"margin": math.nan}):
        with pytest.raises(HerdError, match="alpha|margin"):
            better(votes, 0, 1, **options)
    for values, clusters in (
        ([1.0, math.nan], [0, 1]),
        ([1.0, 1e308], [0, 1]),
        ([1.0], [0, 1]),
        ([[1.0]], [0]),
    ):
        with pytest.raises(HerdError, match="one"):
            clustered_mean(values, clusters)
    with pytest.raises(HerdError, match="weights"):
        clustered_mean([1.0, 2.0], weight=[1.0, -1.0])
