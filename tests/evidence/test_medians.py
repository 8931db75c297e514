"""Medians: the interval's coverage by the binomial law, and what a simulation finds."""

import numpy as np
import pytest
from scipy.stats import binom

from herd.evidence.medians import median


@pytest.mark.parametrize("n", [6, 7, 20, 101, 1000])
def test_the_interval_is_the_narrowest_that_covers(n: int) -> None:
    found = median(np.random.default_rng(n).permutation(n))  # the k-th value is k
    assert found is not None and found.low is not None and found.high is not None
    assert found.median == (n - 1) / 2 and found.low == n - 1 - found.high
    below = int(found.low)  # the order statistic below + 1
    assert 2 * binom.cdf(below, n, 0.5) <= 0.05 < 2 * binom.cdf(below + 1, n, 0.5)


def test_too_few_values() -> None:
    assert median([]) is None
    assert median([3.0, 1.0, 2.0, 9.0, 4.0]) == (3.0, None, None)


def test_coverage_of_a_skewed_law() -> None:
    draws = np.random.default_rng(1).exponential(size=(2000, 30))
    held = [
        found.low <= np.log(2) <= found.high
        for row in draws
        if (found := median(row)) and found.low and found.high
    ]
    assert 0.94 <= np.mean(held) <= 0.985
