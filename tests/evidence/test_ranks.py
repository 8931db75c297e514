"""Rank bounds: the quantile against SciPy, and by simulation that all of them hold at once."""

import numpy as np
import pytest
from scipy import stats

from herd.evidence.ranks import rank_bounds, studentized_range
from herd.evidence.ratings import SCALE, rate

from .votes_made import cast, truth


@pytest.mark.parametrize(("k", "degrees"), [(2, np.inf), (3, 5), (10, 30), (130, np.inf), (40, 2)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_quantile_of_the_studentized_range(k: int, degrees: float, alpha: float) -> None:
    q = studentized_range(alpha, k, degrees)
    assert stats.studentized_range.sf(q, k, degrees) == pytest.approx(alpha, rel=2e-4)


def test_of_two_it_is_the_interval_of_their_difference() -> None:
    assert studentized_range(0.05, 2) == pytest.approx(np.sqrt(2) * stats.norm.ppf(0.975))
    for gap, known in ((1.9, False), (2.0, True)):
        best, worst = rank_bounds(np.array([gap, 0.0]), np.eye(2) / 2, 0.05)
        assert (best.tolist(), worst.tolist()) == (([1, 2], [1, 2]) if known else ([1, 1], [2, 2]))


def test_all_differences_and_all_ranks_hold_at_once() -> None:
    rng, runs = np.random.default_rng(0), 400
    differences = ranks = separated = 0
    for _ in range(runs):
        theta = truth(rng, 8)
        theta[4:] = theta[4]  # equals among them: the hard case for ranks
        theta -= theta.mean()
        ratings = rate(cast(rng, theta, 400).counts())
        variance = np.diag(ratings.covariance)
        error = np.sqrt(variance[:, None] + variance - 2 * ratings.covariance + np.eye(8))
        wrong = np.abs(ratings.rating[:, None] - ratings.rating - SCALE * (theta[:, None] - theta))
        differences += bool((wrong / error).max() <= studentized_range(0.05, 8) / np.sqrt(2))
        most = 1 + (theta > theta[:, None] + 1e-12).sum(1)
        least = 8 - (theta < theta[:, None] - 1e-12).sum(1)
        ranks += bool(((ratings.best <= most) & (least <= ratings.worst)).all())
        separated += int((ratings.best > 1).sum())
    assert 0.94 <= differences / runs <= 0.99
    assert ranks / runs >= 0.95
    assert separated > runs  # and they are not bounds that say nothing


def test_overlapping_intervals_may_differ_surely() -> None:
    covariance = np.array([[4.0, 3.9], [3.9, 4.0]])
    best, worst = rank_bounds(np.array([1.0, 0.0]), covariance, 0.05)
    assert best.tolist() == [1, 2] and worst.tolist() == [1, 2]
