"""One verdict decides whether a candidate replaces what is served."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from herd.errors import HerdError

Decision = Literal["SWITCH", "STAY", "NOT ENOUGH DATA"]


@dataclass(frozen=True)
class Verdict:
    """The decision and its evidence.

    `estimate`, `low` and `high` are in the unit of the differences; they are None when there are too few
    clusters for an interval. `needed` is a rough total of clusters at which the interval would clear the
    margin if the estimate held; None when the decision is made or the estimate does not favour the candidate.
    """

    decision: Decision
    reason: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    needed: int | None = None


def least_clusters(alpha: float = 0.05) -> int:
    """The fewest clusters that can ever decide: with fewer, even unanimous signs come up by chance (2^-G)
    more often than alpha / 2. Six at alpha 0.05."""
    return math.ceil(math.log2(2 / alpha))


def paired_verdict(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    margin: float = 0.0,
    alpha: float = 0.05,
    minimum: int | None = None,
) -> Verdict:
    """Is the candidate better than the current by more than `margin`?

    differences [n]: candidate minus current, one per pair, larger is better. clusters [n]: what each pair
    belongs to (its conversation); pairs of one cluster may depend on each other, clusters do not. SWITCH when
    the (1 - alpha) interval of the mean difference lies above the margin, STAY when it lies at or below it,
    NOT ENOUGH DATA when it holds the margin or there are fewer than `minimum` clusters (`least_clusters`
    unless given). The rate of false SWITCH is alpha / 2.

    The interval is m ± t(1 - alpha/2; G - 1) √V with the cluster-robust variance of a mean over G clusters,

        V = G/(G - 1) · Σ_g (Σ_{i in g} (d_i - m))² / n²

    (Liang and Zeger, Biometrika 73, 1986; the correction and the degrees of freedom as in Cameron and Miller,
    J. Human Resources 50, 2015, section VI). With one pair a cluster it is the ordinary t interval. Looking
    again after every vote is not covered: the interval is for one look. HerdError for differences that are
    not finite or do not match their clusters.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) != len(clusters) or not np.isfinite(d).all():
        raise HerdError("a verdict needs one finite difference and one cluster for each pair")
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)
    n, count = len(d), len(numbers)
    minimum = max(2, least_clusters(alpha) if minimum is None else minimum)
    if count < minimum:
        reason = f"{count} of at least {minimum} independent conversations"
        return Verdict("NOT ENOUGH DATA", reason, None, None, None, n, count, minimum)

    mean = float(d.mean())
    sums = np.bincount(group, weights=d - mean)
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / n
    half = float(stdtrit(count - 1, 1 - alpha / 2)) * error
    low, high = mean - half, mean + half
    interval = f"{mean:+.4g}, {1 - alpha:.0%} interval {low:+.4g} to {high:+.4g}"
    if low > margin:
        return Verdict("SWITCH", f"better: {interval}", mean, low, high, n, count)
    if high <= margin:
        return Verdict("STAY", f"not better: {interval}", mean, low, high, n, count)
    needed = None
    if mean > margin:
        needed = math.ceil(count * (float(ndtri(1 - alpha / 2)) * error / (mean - margin)) ** 2)
        needed = max(needed, count + 1)
    return Verdict("NOT ENOUGH DATA", f"cannot tell: {interval}", mean, low, high, n, count, needed)
