"""Intervals that hold at every look at once, and which of two targets is better by them.

An interval for one look, looked at every day until it excludes zero, declares a winner among equals sooner or later. A
confidence sequence covers the truth at all times together with probability 1 - alpha.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import lambertw

from herd.errors import HerdError
from herd.evidence.bradley_terry import Matrix
from herd.evidence.votes import BOTH_BAD, TIE, A, Votes

TUNED_FOR = (
    25  # clusters at which a sequence is narrowest: a team's voters; at 1,000 it could be 12 % narrower
)
MOST = 1_000_000  # votes or clusters; who needs more will not decide
HUGE = 1e100  # its squares can still be added

Clusters = Sequence[Hashable] | NDArray[np.integer]
Outcome = Literal["A", "B", "EQUAL", "NOT ENOUGH DATA"]


@dataclass(frozen=True)
class Mean:
    """A mean with its cluster-robust standard error. `count`: how many independent clusters of equal size would say as
    much as these say, at most as many as there are. skew: of the mean, not of the values."""

    value: float
    error: float
    count: float
    skew: float = 0.0

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Valid at any time; infinite while there is too little.

        A few values of which the mean is skewed have an error that goes with it: where most are a little above the mean
        and some far below, what saw none of these is too high and too sure. So each end is the farther of the one without
        and the one with Hall's correction (J. Royal Statistical Society B 54, 1992).
        """
        times = float(reach(self.count, alpha))
        if not math.isfinite(times):
            return -math.inf, math.inf
        low, high = max(times, self._unskewed(times)), min(-times, self._unskewed(-times))
        return self.value - low * self.error, self.value - high * self.error

    def _unskewed(self, x: float) -> float:
        """The t at which t + skew t²/3 + skew² t³/27 + skew/6 is x: a cube."""
        if abs(self.skew) < 1e-6:
            return x
        return 3 / self.skew * (float(np.cbrt(1 + self.skew * (x - self.skew / 6))) - 1)

    def needed(self, distance: float, alpha: float = 0.05) -> float | None:
        """The count at which an interval about a mean so far from what is asked would clear it; None above `MOST`."""
        counts = np.geomspace(2, MOST, 1000)
        counts = counts[np.isfinite(reach(counts, alpha))]
        half = reach(counts, alpha) * np.sqrt(self.count / counts) * self.error
        clear = np.flatnonzero(half < abs(distance))
        return float(counts[clear[0]]) if len(clear) else None


def reach(count: ArrayLike, alpha: float = 0.05) -> Matrix:
    """How many standard errors a confidence sequence reaches on each side of the mean of `count` [...] clusters.

    With u = 1 + n rho² and k = (u / alpha²)^(1/n) it is √((n - 1)(k - 1) / (1 - k/u)), infinite while k ≥ u: the
    t-statistic at which the mixture over effects of N(0, rho²) standard deviations is 1/alpha times as likely as no
    effect. It is exact for Gaussian differences of unknown variance (Wang and Ramdas, "Anytime-valid t-tests and
    confidence sequences for Gaussian means with unknown variance", 2024), and for large n the asymptotic sequence

        √(2 (n rho² + 1) / (n rho²) · ln(√(n rho² + 1) / alpha))

    of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas ("Time-uniform central limit theory and asymptotic confidence
    sequences", Annals of Statistics 52, 2024), which needs two moments only. At n = `TUNED_FOR`, u is -W₋₁(-alpha²/e):
    narrowest there. HerdError for alpha outside 0 … 1.
    """
    if not 0 < alpha < 1:
        raise HerdError("alpha lies between 0 and 1")
    n = np.asarray(count, np.float64)
    best = -float(lambertw(-(alpha**2) / math.e, -1).real)
    u = 1 + (best - 1) * n / TUNED_FOR
    with np.errstate(all="ignore"):
        k = np.exp(np.log(u / alpha**2) / n)
        squared = (n - 1) * (k - 1) / (1 - k / u)
    return np.sqrt(np.where((n > 1) & (k < u), squared, np.inf))


@cache
def least_clusters(alpha: float = 0.05) -> int:
    """The fewest clusters that can ever decide, where `reach` becomes finite. Seven at alpha 0.05."""
    return next(n for n in range(2, MOST) if math.isfinite(reach(n, alpha)))


def clustered_mean(values: ArrayLike, *clusters: Clusters, weight: ArrayLike | None = None) -> Mean:
    """The mean of values [n], and how sure it is when values of one cluster depend on each other.

    Each of `clusters` [n] says what a value belongs to in one way (its conversation; its voter). The error is that of

        V = G/(G - 1) · Σ_g (Σ_{i in g} w_i (d_i - m))² / (Σ w)²

    for one way (Liang and Zeger, Biometrika 73, 1986), and V₁ + V₂ - V₁₂ for two, V₁₂ by what they have in common
    (Cameron, Gelbach and Miller, J. Business & Economic Statistics 29, 2011), though never less than that of one way.
    The count is (Σ w)² / Σ_g (Σ_{i in g} w_i)², the smaller of the two. Without clusters each value is alone.
    HerdError for values that are not finite or columns of different lengths.
    """
    d = np.asarray(values, np.float64)
    w = np.ones(d.shape) if weight is None else np.asarray(weight, np.float64)
    ways = [_numbers(way) for way in clusters] or [np.arange(d.size)]
    if d.ndim != 1 or w.shape != d.shape or any(len(way) != len(d) for way in ways) or len(ways) > 2:
        raise HerdError("a mean needs one value and one cluster of each kind for each pair")
    if not ((np.abs(d) < HUGE).all() and (w < HUGE).all() and (w >= 0).all()):
        raise HerdError("a mean needs one finite value for each pair, and weights that are not negative")
    if not w.any():
        return Mean(math.nan, math.inf, 0.0)
    w = w / w.max()
    total = float(w.sum())
    mean = float(w @ d) / total
    residual = w * (d - mean)
    parts = [_variance(residual, w, way) for way in ways]
    variances, counts, skews = zip(*parts, strict=True)
    variance = max(variances)
    if len(ways) == 2:
        both = _numbers(ways[0].astype(np.int64) * len(d) + ways[1])
        variance = max(variance, sum(variances) - _variance(residual, w, both)[0])
    return Mean(mean, math.sqrt(variance) / total, min(counts), max(skews, key=abs))


def _variance(residual: Matrix, weight: Matrix, way: NDArray[np.intp]) -> tuple[float, float, float]:
    """Of the sum of the residuals (infinite for a single cluster), the effective number of clusters, the sum's skew."""
    size = np.bincount(way, weight)
    size, sums = size[size > 0], np.bincount(way, residual)
    count = float(size.sum() ** 2 / (size @ size))
    many = len(size)
    square = float(sums @ sums)
    skew = float(((sums / math.sqrt(square)) ** 3).sum()) if square else 0.0
    return (square * many / (many - 1) if many > 1 else math.inf), count, skew


def _numbers(labels: Clusters) -> NDArray[np.intp]:
    if isinstance(labels, np.ndarray):
        return np.unique(labels, return_inverse=True)[1]
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.intp)


@dataclass(frozen=True)
class Comparison:
    """Who of a and b is better. estimate, low, high: a's share of the votes less ½, a tie being half a vote for each, in
    -½ … ½; the interval is valid at any time, the estimate None without votes. votes: those that say who is better;
    both_bad: those that say neither. needed: about how many more would decide if the estimate held; None when it is
    decided, or out of reach. sentence: all this for a person."""

    decision: Outcome
    estimate: float | None
    low: float
    high: float
    votes: int
    both_bad: int
    needed: int | None
    sentence: str


def better(votes: Votes, a: int, b: int, *, alpha: float = 0.05, margin: float = 0.0) -> Comparison:
    """Is names[a] better than names[b]? "A" or "B" when the interval of a's share excludes ½, "EQUAL" when it lies
    within ½ ± margin (so never at margin 0), "NOT ENOUGH DATA" until then.

    Looking after each vote and stopping at will, equals are called unequal with probability at most alpha. Votes of one
    conversation or of one voter may depend on each other; with fewer than `least_clusters` voters the answer is about
    these voters, and says so. Raises HerdError for targets that are not there or the same.
    """
    names = votes.names
    if not (0 <= a < len(names) and 0 <= b < len(names)) or a == b:
        raise HerdError("a comparison needs two of the targets")
    if not 0 <= margin < math.inf:
        raise HerdError("a margin is a number from 0 on")
    straight, swapped = (votes.a == a) & (votes.b == b), (votes.a == b) & (votes.b == a)
    here, says = (straight | swapped) & (votes.weight > 0), votes.outcome != BOTH_BAD
    bad, here = int((here & ~says).sum()), here & says
    rows, forward = votes.where(here), straight[here]
    lead = np.where(rows.outcome == TIE, 0.0, np.where((rows.outcome == A) == forward, 0.5, -0.5))
    people = len(np.unique(rows.voter))
    enough = people >= least_clusters(alpha)
    ways = (rows.conversation, rows.voter) if enough else (rows.conversation,)
    mean = clustered_mean(lead, *ways, weight=rows.weight)
    # As if one more cluster had differed: unanimous votes have no variance, and are not certain for that.
    spread = math.hypot(mean.error, 0.5 / mean.count) if math.isfinite(mean.error) else 0.5
    mean = Mean(mean.value if len(rows) else 0.5, spread, max(mean.count, 1.0))
    low, high = (min(max(end, -0.5), 0.5) for end in mean.interval(alpha))

    decision: Outcome = "A" if low > 0 else "B" if high < 0 else "NOT ENOUGH DATA"
    if -margin < low and high < margin:
        decision = "EQUAL"
    needed = None
    if decision == "NOT ENOUGH DATA":
        total = mean.needed(max(abs(mean.value), margin - abs(mean.value)), alpha)
        more = math.inf if total is None else (total / mean.count - 1) * max(len(rows), 1)
        needed = max(1, math.ceil(more)) if more < MOST else None
    estimate = mean.value if len(rows) else None
    found = Comparison(decision, estimate, low, high, len(rows), bad, needed, "")
    only = "" if enough or people == len(rows) else f"; of {people} voter{'s' * (people != 1)} only"
    return replace(found, sentence=_sentence(found, names[a], names[b], alpha, margin) + only)


def _sentence(found: Comparison, a: str, b: str, alpha: float, margin: float) -> str:
    """What was found, from the side of whoever leads."""
    more = f"about {rounded(found.needed)} more votes may decide" if found.needed else "too close to say when"
    if found.estimate is None:
        return f"Not decided between {a} and {b}: no votes yet; {more}"
    ahead = found.decision == "A" or (found.decision != "B" and found.estimate >= 0)
    first, second = (a, b) if ahead else (b, a)
    low, lead, high = (
        100 * (0.5 + x) for x in sorted(x if ahead else -x for x in (found.low, found.estimate, found.high))
    )
    evidence = f"{lead:.0f} % of {found.votes} votes" + f" for {first}" * (found.decision not in ("A", "B"))
    evidence += f", {100 * (1 - alpha):g} % interval {low:.0f} to {high:.0f} %, valid at any time"
    if found.decision == "EQUAL":
        return f"{a} and {b} are equal within {100 * margin:g} points: {evidence}"
    if found.decision == "NOT ENOUGH DATA":
        return f"Not decided between {a} and {b}: {evidence}; {more}"
    return f"{first} beats {second}: {evidence}"


def rounded(number: int) -> str:
    """Two figures, as no more is known."""
    return f"{int(float(f'{number:.1e}')):,}"
