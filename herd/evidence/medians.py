"""Medians with intervals that assume nothing of the distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr


class Median(NamedTuple):
    """low and high are None where there are too few values for an interval (below six at 95 %)."""

    median: float
    low: float | None
    high: float | None


def median(values: ArrayLike, *, alpha: float = 0.05) -> Median | None:
    """The median of values [n] with the narrowest symmetric pair of order statistics that holds the true one with a
    probability of at least 1 - alpha, whatever the distribution (Thompson, Annals of Mathematical Statistics 7, 1936).
    None for no values."""
    x = np.sort(np.asarray(values, np.float64))
    n = len(x)
    if not n:
        return None
    # P(fewer than l values lie below the median) = P(Binomial(n, ½) < l)
    out = int((bdtr(np.arange(n), n, 0.5) <= alpha / 2).sum())
    middle = float(np.median(x))
    return Median(middle, float(x[out - 1]), float(x[n - out])) if out else Median(middle, None, None)
