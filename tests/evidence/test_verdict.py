"""The verdict: its interval, its decisions, and by simulation how seldom it switches falsely, however often asked."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from herd.errors import HerdError
from herd.evidence.sequences import least_clusters, reach
from herd.evidence.verdict import verdict


def clustered(rng: np.random.Generator, count: int, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """1–5 pairs a conversation that share half of their variance."""
    group = np.repeat(np.arange(count), rng.integers(1, 6, count))
    return effect + rng.normal(size=count)[group] + rng.normal(size=len(group)), group


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_singletons_and_equal_clusters_give_the_sequence_of_their_means(alpha: float) -> None:
    d = np.random.default_rng(0).normal(0.3, 2, (17, 3))
    for found, rows in (
        (verdict(d[:, 0], range(17), alpha=alpha), d[:, :1]),
        (verdict(d.ravel(), [f"c{i}" for i in range(17) for _ in range(3)], alpha=alpha), d),
    ):
        means, times = rows.mean(1), float(reach(17, alpha))
        error = means.std(ddof=1) / math.sqrt(17)
        g = ((means - means.mean()) ** 3).sum() / ((means - means.mean()) ** 2).sum() ** 1.5

        def hall(t: float, x: float, g: float = g) -> float:
            return t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6 - x

        low, high = (brentq(hall, -1000, 1000, (x,), xtol=1e-12) for x in (-times, times))
        ends = rows.mean() - error * max(times, high), rows.mean() - error * min(-times, low)
        assert (found.low, found.high) == pytest.approx(ends, rel=1e-9)
        assert (found.n, found.clusters) == (rows.size, 17)


@pytest.mark.slow
def test_asked_after_every_few_conversations_it_seldom_switches_falsely() -> None:
    rng, runs, looks = np.random.default_rng(2), 400, range(10, 101, 5)
    switches = outside = 0
    for _ in range(runs):
        d, group = clustered(rng, 100)
        found = [verdict(d[group < n], group[group < n]) for n in looks]
        switches += any(v.decision == "SWITCH" for v in found)
        outside += any(not v.low <= 0 <= v.high for v in found if v.low is not None)
    assert switches / runs <= 0.04  # alpha / 2 and three standard errors
    assert outside / runs <= 0.07


@pytest.mark.slow
def test_coin_flips_from_the_least_number_of_conversations_on_seldom_switch() -> None:
    rng, runs, switches = np.random.default_rng(3), 400, 0
    for _ in range(runs):
        flips = rng.choice([-1.0, 1.0], 40)
        switches += any(
            verdict(flips[:n], range(n)).decision == "SWITCH" for n in range(least_clusters(), 41)
        )
    assert switches / runs <= 0.05


@pytest.mark.slow
def test_seldom_much_worse_from_the_least_number_of_conversations_on() -> None:
    """1 - exponential: most differences are above their mean, 0."""
    rng, runs, switches = np.random.default_rng(6), 300, 0
    for _ in range(runs):
        d = 1 - rng.exponential(size=40)
        switches += any(verdict(d[:n], range(n)).decision == "SWITCH" for n in range(least_clusters(), 41))
    assert switches / runs <= 0.08  # 0.05 and two and a half standard errors


def test_what_voters_share_counts_once() -> None:
    """Voters differ in what they like; their conversations are many, and say no more of other voters."""
    rng, runs, looks = np.random.default_rng(4), 200, range(60, 301, 60)
    switches = {True: 0, False: 0}
    for _ in range(runs):
        voter = rng.integers(0, 20, 300)
        d = rng.normal(size=20)[voter] + rng.normal(size=300)
        for crossed in switches:
            switches[crossed] += any(
                verdict(d[:n], range(n), voter[:n].tolist() if crossed else None).decision == "SWITCH"
                for n in looks
            )
    assert switches[True] / runs <= 0.05 < 0.1 < switches[False] / runs


def test_the_three_decisions() -> None:
    d, group = clustered(np.random.default_rng(4), 200, effect=1.0)
    assert verdict(d, group).decision == "SWITCH"
    assert verdict(-d, group).decision == "STAY"
    assert verdict(d, group, margin=3.0).decision == "STAY"
    assert verdict(d, group, margin=1.0).decision == "NOT ENOUGH DATA"
    assert verdict(np.zeros(20), range(20)).decision == "STAY"  # an identical candidate
    assert verdict(np.zeros(20), range(20), margin=-0.1).decision == "SWITCH"  # and not worse by so much
    assert verdict(d - 1, group, margin=-1.0).decision == "SWITCH"
    assert "valid at any time" in verdict(d, group).reason


def test_few_voters_are_named() -> None:
    d, group = clustered(np.random.default_rng(4), 200, effect=1.0)
    alone = verdict(d, group, ["me"] * len(d))
    assert alone.decision == "SWITCH" and alone.reason.endswith(", for 1 voter")
    assert (alone.low, alone.high) == (verdict(d, group).low, verdict(d, group).high)


def test_repeats_within_a_conversation_are_not_evidence() -> None:
    d, copies = np.array([0.9, 0.2, -0.3, 0.8, 0.5, -0.1, 0.4]), 50
    once, found = verdict(d, range(7)), verdict(np.tile(d, copies), list(range(7)) * copies)
    assert (found.low, found.high) == pytest.approx((once.low, once.high))
    assert found.decision == once.decision == "NOT ENOUGH DATA"


def test_needed_is_about_the_number_that_decides() -> None:
    d = np.random.default_rng(5).normal(size=400)
    d = (d - d.mean()) / d.std() + 0.3
    few = verdict(d[:20] - d[:20].mean() + 0.3, range(20))
    assert few.decision == "NOT ENOUGH DATA" and few.needed is not None
    spread = d[:20].std(ddof=1)
    assert float(reach(few.needed)) * spread / math.sqrt(few.needed) == pytest.approx(0.3, rel=0.02)
    assert verdict(-np.arange(-3, 6.0), range(9)).needed is None  # nothing to wait for


def test_too_few_clusters_and_bad_input() -> None:
    few = verdict([1.0] * 30, [0, 1, 2, 3, 4] * 6)
    assert (few.decision, few.needed, few.low) == ("NOT ENOUGH DATA", 7, None)
    assert verdict([], []).decision == "NOT ENOUGH DATA"
    # eight conversations, but one of them has nearly all the pairs
    lopsided = verdict([1.0] * 93 + [1.1] * 7, [0] * 93 + [1, 2, 3, 4, 5, 6, 7])
    assert lopsided.decision == "NOT ENOUGH DATA" and lopsided.low is None
    for differences, clusters in (([1.0, float("nan")], [0, 1]), ([1.0], [0, 1])):
        with pytest.raises(HerdError, match="one .*value"):
            verdict(differences, clusters)
    with pytest.raises(HerdError, match="voter"):
        verdict([1.0, 2.0], [0, 1], [0])
    with pytest.raises(HerdError, match="margin"):
        verdict([1.0, 2.0], [0, 1], margin=math.nan)
