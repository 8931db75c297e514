"""Judges: kappa and bias against worked examples, calibration by simulation."""

import math

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence.judges import agreement, calibrated, judge_bias


def test_agreement_with_and_without_ties() -> None:
    """Fleiss and Cohen's two by two: 20 and 15 alike, 5 and 10 not; kappa 0.4. Then ties and both bad."""
    human = [0] * 25 + [1] * 25 + [2, 2, 0, 3]
    judge = [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15 + [2, 0, 2, 3]
    found = agreement(human, judge)
    assert (found.decided, found.share_decided) == (50, 0.7) and found.kappa_decided == pytest.approx(0.4)
    chance = (26 * 31 + 25 * 20 + 2 * 2 + 1) / 54**2
    assert found.n == 54 and found.share == pytest.approx(37 / 54)
    assert found.kappa == pytest.approx((37 / 54 - chance) / (1 - chance))
    assert agreement([0, 0], [0, 0]).kappa is None and agreement([], []).share is None


def test_a_judge_that_only_sees_the_place() -> None:
    found = judge_bias([0] * 40, [0] * 40, np.ones((40, 2)))
    assert found is not None and found.follows_place == 1 and found.length is None
    assert (found.to_left.low, found.to_left.estimate, found.to_left.high) == (1, 1, 1)
    nearly = judge_bias([0] * 5 + [2], [0] * 5 + [2], np.ones((6, 2)))
    assert (
        nearly is not None and 0 < nearly.to_left.low < nearly.to_left.high == 1
    )  # there is no more than all
    fair = judge_bias([0, 1, 2, 0] * 10, [1, 0, 2, 1] * 10, [[1, 2], [3, 1], [1, 1], [2, 2]] * 10)
    assert fair is not None and fair.follows_place == 0 and fair.to_left.estimate == 0
    assert fair.length is not None and fair.length.estimate == pytest.approx(-0.5 * (5 / 6) / (1 / 9 + 1 / 4))
    assert judge_bias([], [], np.zeros((0, 2))) is None


def test_bias_intervals_cover_it() -> None:
    """The judge says left in 10 % of all cases whatever stands there, else prefers a reply with probability
    ½ + 0.3 f, f = (longer - shorter) / (longer + shorter). So to_left is 0.1 and length 0.9 · 0.3."""
    rng, runs, place, length = np.random.default_rng(0), 400, 0, 0
    for _ in range(runs):
        lengths = rng.integers(20, 400, (150, 2))
        f = (lengths[:, 0] - lengths[:, 1]) / lengths.sum(1)
        prefers = rng.random(150) < 0.5 + 0.3 * f
        stuck = rng.random(150) < 0.1
        first, second = np.where(stuck | prefers, 0, 1), np.where(stuck | ~prefers, 0, 1)
        found = judge_bias(first, second, lengths)
        assert found is not None and found.length is not None
        place += found.to_left.low <= 0.1 <= found.to_left.high
        length += found.length.low <= 0.27 <= found.length.high
    assert 0.9 <= place / runs <= 0.98 and 0.92 <= length / runs <= 0.98


def test_calibration_covers_whatever_the_judge_is_and_gains_from_a_good_one() -> None:
    rng, runs, covered, width = np.random.default_rng(1), 400, {0.0: 0, 0.6: 0, 0.95: 0}, {}
    for follows in covered:
        for _ in range(runs):
            group = np.repeat(np.arange(500), 2)
            truth = (rng.normal(0.25, 1, 500)[group] + rng.normal(size=1000)) > 0
            judge = np.where(rng.random(1000) < follows, truth, rng.random(1000) < 0.8) * 1.0
            conversations = group.tolist()
            found = calibrated(
                truth[:200], judge[:200], judge[200:], conversations[:200], conversations[200:]
            )
            target = 0.5702  # P(N(0.25, 2) > 0)
            covered[follows] += found.low <= target <= found.high
            width[follows] = width.get(follows, 0.0) + (found.high - found.low) / runs
    assert all(0.92 <= c / runs <= 0.98 for c in covered.values())
    assert width[0.95] < 0.6 * width[0.0]


def test_calibration_without_more_judgements_is_the_people_s_own_interval() -> None:
    y = np.random.default_rng(2).integers(0, 2, 50) * 1.0
    found = calibrated(y, y, [])
    assert found.estimate == pytest.approx(y.mean())
    assert found.high - found.low == pytest.approx(2 * 2.0096 * y.std(ddof=1) / math.sqrt(50), rel=1e-4)


def test_bad_input() -> None:
    for human, judge in (([0], [0, 1]), ([4], [0]), ([0.5], [1]), ([[0]], [[0]])):
        with pytest.raises(HerdError, match="outcome"):
            agreement(human, judge)
    for lengths in (np.ones((2, 3)), [[1, -1]] * 2, [[1, math.inf]] * 2):
        with pytest.raises(HerdError, match="lengths"):
            judge_bias([0, 1], [0, 1], lengths)
    for arguments, words in (
        (([1.0, 0.0], [1.0], []), "one judge's value"),
        (([1.0, math.nan], [1.0, 0.0], []), "finite"),
        (([1.0, 0.0], [1.0, 0.0], [1.0], [0, 0], [1]), "two conversations"),
        (([1.0, 0.0], [1.0, 0.0], [1.0], [0, 1], []), "one cluster"),
    ):
        with pytest.raises(HerdError, match=words):
            calibrated(*arguments)  # type: ignore[arg-type]
