"""Judges that are models: how far they agree with people, what sways them, and what they are worth beside people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from herd.errors import HerdError
from herd.evidence.bradley_terry import Matrix
from herd.evidence.ratings import Interval
from herd.evidence.sequences import Clusters, clustered_mean
from herd.evidence.votes import BOTH_BAD, TIE, A


@dataclass(frozen=True)
class Agreement:
    """n votes that both judged: the share judged alike, and Cohen's kappa, which is 0 for what chance would give and 1
    for always. decided, share_decided, kappa_decided: of the votes where both named a winner. None where undefined."""

    n: int
    share: float | None
    kappa: float | None
    decided: int
    share_decided: float | None
    kappa_decided: float | None


@dataclass(frozen=True)
class Bias:
    """Of n pairs judged in both orders. follows_place: the share where the verdict stayed at a place when the replies
    changed theirs; to_left: how much more often at the left than at the right, in -1 … 1; length: how far the
    preference (-½ … ½) moves per unit of (longer - shorter) / (longer + shorter) in favour of the longer, None where
    all are of one length."""

    n: int
    follows_place: float
    to_left: Interval
    length: Interval | None


def agreement(human: ArrayLike, judge: ArrayLike) -> Agreement:
    """human, judge [n]: indices into OUTCOMES, said of the same battles. Cohen, "A coefficient of agreement for nominal
    scales", 1960. Raises HerdError for other numbers, or columns of different lengths."""
    x, y = _outcomes(human, judge)
    both = (x < TIE) & (y < TIE)
    return Agreement(len(x), *_kappa(x, y), int(both.sum()), *_kappa(x[both], y[both]))


def _kappa(x: NDArray[np.intp], y: NDArray[np.intp]) -> tuple[float | None, float | None]:
    if not len(x):
        return None, None
    share = float((x == y).mean())
    chance = float(np.bincount(x, minlength=4) @ np.bincount(y, minlength=4)) / len(x) ** 2
    return share, (share - chance) / (1 - chance) if chance < 1 else None


def judge_bias(
    first: ArrayLike,
    second: ArrayLike,
    lengths: ArrayLike,
    clusters: Clusters | None = None,
    *,
    alpha: float = 0.05,
) -> Bias | None:
    """first, second [n]: what the judge said of two replies with the first and then with the second at the left, as
    indices into OUTCOMES where `a` is what stood at the left, so a judge without bias swaps a and b. lengths [n, 2]: of
    the two replies, in any unit. None for no pairs at all, or one cluster only.

    The preference in `length` is the mean of both orders, so that the place cancels; it is what goes with length, and
    longer replies may be better ones. Raises HerdError for columns of different lengths or lengths below 0.
    """
    x, y = _outcomes(first, second)
    size = np.asarray(lengths, np.float64)
    if size.shape != (len(x), 2) or not (np.isfinite(size).all() and (size >= 0).all()):
        raise HerdError("lengths need two numbers, not negative, for each pair")
    groups = np.arange(len(x)) if clusters is None else clusters
    if len(set(np.asarray(groups).tolist())) < 2:
        return None
    same = (x == y) & (x < TIE)
    left = _interval(np.where(same, np.where(x == A, 1.0, -1.0), 0.0), groups, alpha)
    to_left = left._replace(low=max(left.low, -1.0), high=min(left.high, 1.0))
    lead = (_lead(x) - _lead(y)) / 2
    more = (size[:, 0] - size[:, 1]) / np.maximum(size.sum(1), 1e-300)
    return Bias(len(x), float(same.mean()), to_left, _slope(more, lead, groups, alpha))


def _slope(x: Matrix, y: Matrix, clusters: Clusters, alpha: float) -> Interval | None:
    """Of y = slope · x, through zero since swapping the replies changes the sign of both."""
    power = float(x @ x)
    if not power:
        return None
    slope = float(x @ y) / power
    return _interval(slope + x * (y - slope * x) * len(x) / power, clusters, alpha)


def calibrated(
    human: ArrayLike,
    judge_on_human: ArrayLike,
    judge_rest: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    clusters_rest: Sequence[Hashable] | None = None,
    *,
    alpha: float = 0.05,
) -> Interval:
    """The mean that people would have said of all, out of n of their votes and n + m of a judge's: prediction-powered.

    human, judge_on_human [n]: a preference as a number (1, 0, ½; or -½ … ½) of the same pairs; judge_rest [m]: the
    judge's of pairs that no person saw, of the same kind. The estimate is mean(human - λ judge) + λ mean(judge_rest):
    right whatever the judge is, and the narrower the better it follows people, since λ = cov / ((1 + n/m) var) is
    tuned to that (PPI++; Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453). Pairs of one cluster (conversation)
    may depend on each other, also between the two parts; without clusters none does. The interval is for one look.
    Raises HerdError for values that are not finite, columns of different lengths, or fewer than two people's clusters.
    """
    y, f, rest = (np.asarray(column, np.float64) for column in (human, judge_on_human, judge_rest))
    n, m = y.size, rest.size
    groups = [("human", i) for i in range(n)] if clusters is None else list(clusters)
    others = [("judge", i) for i in range(m)] if clusters_rest is None else list(clusters_rest)
    if f.shape != (n,) or y.shape != (n,) or rest.shape != (m,) or (len(groups), len(others)) != (n, m):
        raise HerdError("calibration needs one judge's value and one cluster for each person's")
    if not all(np.isfinite(column).all() for column in (y, f, rest)):
        raise HerdError("calibration needs finite values")
    if len(set(groups)) < 2:
        raise HerdError("calibration needs people's votes on at least two conversations")
    everything = np.concatenate([f, rest])
    spread = float(everything.var()) * (1 + n / m) if m else 0.0
    tuned = float(np.clip(((y - y.mean()) @ (f - f.mean())) / n / spread, 0, 1)) if spread else 0.0
    estimate = float((y - tuned * f).mean()) + (tuned * float(rest.mean()) if m else 0.0)
    own, theirs = y - tuned * f, tuned * rest
    influence = [(own - own.mean()) / n] + ([(theirs - theirs.mean()) / m] if m else [])
    return _interval(estimate + np.concatenate(influence) * (n + m), groups + others, alpha, len(set(groups)))


def _interval(values: Matrix, clusters: Clusters, alpha: float, count: float | None = None) -> Interval:
    """The t interval of a clustered mean, for one look."""
    mean = clustered_mean(values, clusters)
    half = float(stdtrit((mean.count if count is None else count) - 1, 1 - alpha / 2)) * mean.error
    return Interval(mean.value, mean.value - half, mean.value + half)


def _lead(outcome: NDArray[np.intp]) -> Matrix:
    return np.array([0.5, -0.5, 0.0, 0.0])[outcome]


def _outcomes(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    columns = [np.asarray(column) for column in (x, y)]
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape:
        raise HerdError("outcomes need one of each rater for each pair")
    if len(columns[0]) and not all(np.isin(column, range(BOTH_BAD + 1)).all() for column in columns):
        raise HerdError(f"an outcome is a number from 0 to {BOTH_BAD}")
    return columns[0].astype(np.intp), columns[1].astype(np.intp)
