"""The verdict: against the textbook interval, and by simulation where clusters make it differ."""

import math

import numpy as np
import pytest
from scipy import stats

from herd.errors import HerdError
from herd.evidence.verdict import least_clusters, paired_verdict


def clustered(rng: np.random.Generator, count: int, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """1–5 pairs a conversation that share half of their variance."""
    group = np.repeat(np.arange(count), rng.integers(1, 6, count))
    return effect + rng.normal(size=count)[group] + rng.normal(size=len(group)), group


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_singletons_give_the_ordinary_t_interval(alpha: float) -> None:
    d = np.random.default_rng(0).normal(0.3, 2, 17)
    verdict = paired_verdict(d, range(17), alpha=alpha)
    low, high = stats.t.interval(1 - alpha, 16, d.mean(), d.std(ddof=1) / math.sqrt(17))
    assert (verdict.low, verdict.high) == pytest.approx((low, high), rel=1e-12)
    assert (verdict.n, verdict.clusters) == (17, 17)


def test_equal_clusters_give_the_t_interval_of_their_means() -> None:
    d = np.random.default_rng(1).normal(size=(9, 4))
    verdict = paired_verdict(d.ravel(), [f"c{i}" for i in range(9) for _ in range(4)])
    means = d.mean(1)
    low, high = stats.t.interval(0.95, 8, means.mean(), means.std(ddof=1) / 3)
    assert (verdict.low, verdict.high) == pytest.approx((low, high), rel=1e-12)


def test_coverage_and_false_switches() -> None:
    rng, runs = np.random.default_rng(2), 4000
    inside = switches = 0
    for _ in range(runs):
        verdict = paired_verdict(*clustered(rng, 25))
        inside += verdict.low <= 0 <= verdict.high
        switches += verdict.decision == "SWITCH"
    assert 0.93 <= inside / runs <= 0.97
    assert switches / runs <= 0.05


def test_coin_flips_from_the_least_number_of_conversations_seldom_switch() -> None:
    flips = np.random.default_rng(3).choice([-1.0, 1.0], (4000, least_clusters()))
    switches = sum(paired_verdict(row, range(len(row))).decision == "SWITCH" for row in flips)
    assert switches / len(flips) <= 0.05


def test_the_three_decisions() -> None:
    d, group = clustered(np.random.default_rng(4), 200, effect=1.0)
    assert paired_verdict(d, group).decision == "SWITCH"
    assert paired_verdict(-d, group).decision == "STAY"
    assert paired_verdict(d, group, margin=3.0).decision == "STAY"
    assert paired_verdict(d, group, margin=1.0).decision == "NOT ENOUGH DATA"
    assert paired_verdict(np.zeros(20), range(20)).decision == "STAY"  # an identical candidate


def test_repeats_within_a_conversation_are_not_evidence() -> None:
    d, copies = np.array([0.9, 0.2, -0.3, 0.8, 0.5, -0.1, 0.4]), 50
    once, verdict = paired_verdict(d, range(7)), paired_verdict(np.tile(d, copies), list(range(7)) * copies)
    assert (verdict.low, verdict.high) == pytest.approx((once.low, once.high))
    assert verdict.decision == once.decision == "NOT ENOUGH DATA"


def test_needed_is_about_the_number_that_decides() -> None:
    d = np.random.default_rng(5).normal(0.25, 1, 400)
    d += 0.25 - d.mean()
    few = paired_verdict(d[:20] - d[:20].mean() + 0.25, range(20))
    assert few.decision == "NOT ENOUGH DATA" and few.needed is not None
    assert few.needed == pytest.approx((1.96 * d[:20].std(ddof=1) / 0.25) ** 2, abs=2)
    assert paired_verdict(-np.arange(-3, 6.0), range(9)).needed is None  # nothing to wait for


def test_too_few_clusters_and_bad_input() -> None:
    assert least_clusters(0.05) == 6
    verdict = paired_verdict([1.0] * 30, [0, 1, 2, 3, 4] * 6)
    assert (verdict.decision, verdict.needed, verdict.low) == ("NOT ENOUGH DATA", 6, None)
    assert paired_verdict([], []).decision == "NOT ENOUGH DATA"
    for differences, clusters in (([1.0, float("nan")], [0, 1]), ([1.0], [0, 1])):
        with pytest.raises(HerdError, match="one finite difference"):
            paired_verdict(differences, clusters)
