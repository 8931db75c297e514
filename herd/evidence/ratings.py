"""Bradley–Terry ratings from counts of votes, with intervals, and with what they cannot say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_expit, ndtri, stdtrit

from herd.errors import HerdError
from herd.evidence.bradley_terry import FEW, Graph, Matrix, Rows, bread, fit, graph, laplacian, squares
from herd.evidence.ranks import rank_bounds
from herd.evidence.votes import Counts, Votes

SCALE = 400 / math.log(10)  # rating points of one unit of log odds
CENTRE = 1000.0
LISTED = 5  # names in a sentence
Anchor = tuple[str, float] | None


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratings:
    """The ratings of k targets in points: 400 points are odds of ten to one.

    rating, low, high, error [k]: the rating, its 1 - alpha interval and its standard error. covariance [k, k]: NaN between
    targets that no votes connect. best, worst [k]: bounds of the rank among the rated of one component, all holding at
    once (`ranks.rank_bounds`). games [k]: votes that compare (not "both bad"). component [k]: targets connected by votes
    have one number, 0 is the largest. separated [k]: None for a target that has a rating, else why the votes give it
    none: "won all", "lost all" (its rating would be infinite), "not comparable", "no votes". Then rating and error are
    NaN, best and worst 0, and low or high is finite where the votes bound it from one side, else infinite. gauge: where
    the scale is fixed. Intervals are about the mean of the component: an anchor moves all ratings alike, and does not
    make its own interval empty and the others' wider.
    """

    names: tuple[str, ...]
    rating: Matrix
    low: Matrix
    high: Matrix
    error: Matrix
    covariance: Matrix
    best: NDArray[np.int64]
    worst: NDArray[np.int64]
    games: Matrix
    component: NDArray[np.int64]
    separated: tuple[str | None, ...]
    problems: tuple[str, ...]
    gauge: str
    alpha: float
    degrees: float  # of freedom of the errors: infinite, or clusters - 1

    def difference(self, i: int, j: int) -> Interval:
        """rating[i] - rating[j] with its own 1 - alpha interval; NaN and infinite where they cannot be compared."""
        estimate = float(self.rating[i] - self.rating[j])
        variance = float(self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j])
        if not math.isfinite(variance):
            return Interval(math.nan, -math.inf, math.inf)
        half = quantile(self.alpha, self.degrees) * math.sqrt(max(variance, 0.0))
        return Interval(estimate, estimate - half, estimate + half)

    def chance(self, i: int, j: int) -> float:
        """That i is preferred to j, a tie as half; NaN where they cannot be compared."""
        return float(expit(self.difference(i, j).estimate / SCALE))


def quantile(alpha: float, degrees: float) -> float:
    return float(ndtri(1 - alpha / 2) if math.isinf(degrees) else stdtrit(degrees, 1 - alpha / 2))


def rate(
    counts: Counts, *, anchor: Anchor = None, alpha: float = 0.05, start: Matrix | None = None
) -> Ratings:
    """Bradley–Terry ratings: P(i preferred to j) = 1 / (1 + 10^((rating_j - rating_i) / 400)).

    A tie counts as half a win for each, "both bad" not at all. The covariance is the sandwich H⁻¹BH⁻¹ (White,
    Econometrica 50, 1982) for votes that are independent; H⁻¹ alone is too wide with ties. Fractions of votes count as
    such. Every component has the mean 1000 over its rated targets, unless `anchor` (name, points) fixes one target of
    it. start [k]: ratings from which to begin. Raises HerdError for an anchor that is not there or has no rating, and
    for weights of votes that no numbers hold.
    """
    parts = graph(counts)
    of = np.ix_(parts.rated, parts.rated)
    fitted = fit(parts.scores, parts.gauge, _start(start, parts))
    inverse, pull = bread(fitted)
    middle = laplacian(squares(fitted.chance, counts.wins[of], counts.ties[of]) + pull)
    return assemble(counts, parts, fitted.theta, inverse @ middle @ inverse, anchor=anchor, alpha=alpha)


def points(counts: Counts, start: Matrix | None = None) -> Matrix:
    """The ratings [k] alone, NaN for a target that has none: for the change after one vote, from the ratings before."""
    parts = graph(counts)
    rating = np.full(len(counts.names), np.nan)
    rating[parts.rated] = CENTRE + SCALE * fit(parts.scores, parts.gauge, _start(start, parts)).theta
    return rating


def _start(start: Matrix | None, parts: Graph) -> Matrix | None:
    return None if start is None else np.nan_to_num((start[parts.rated] - CENTRE) / SCALE)


def rate_clustered(
    votes: Votes,
    by: Literal["voter", "conversation"],
    *,
    anchor: Anchor = None,
    alpha: float = 0.05,
    start: Matrix | None = None,
) -> Ratings:
    """The same ratings with intervals for votes that depend on each other within a voter or a conversation.

    Intervals take Student's t with one degree less than there are clusters (`Rows.sandwich`). With fewer than
    `FEW` clusters it is not known how they differ: votes then count as independent, and `problems` says so. Raises as `rate` does.
    """
    counts = votes.counts()
    parts = graph(counts)
    theta = fit(parts.scores, parts.gauge, _start(start, parts)).theta
    rows = Rows.of(votes, parts, by, np.zeros((len(votes), 0)))
    covariance, degrees = rows.sandwich(theta)
    ratings = assemble(counts, parts, theta, covariance, anchor=anchor, alpha=alpha, degrees=degrees)
    return replace(ratings, problems=(*ratings.problems, *few_clusters(rows, by)))


def few_clusters(rows: Rows, by: str | None) -> list[str]:
    if not 0 < rows.clusters < FEW:
        return []
    who = f"one {by}" if rows.clusters == 1 else f"{rows.clusters} {by}s"
    return [f"all votes are of {who}: the intervals take them as independent"]


def assemble(
    counts: Counts,
    parts: Graph,
    theta: Matrix,
    covariance: Matrix,
    *,
    anchor: Anchor = None,
    alpha: float = 0.05,
    degrees: float = math.inf,
) -> Ratings:
    """Ratings from log odds theta [r] of the rated and their covariance [r, r], mean zero in each component."""
    k, rated, component = len(counts.names), parts.rated, parts.component
    rating = np.full(k, np.nan)
    best, worst = np.zeros((2, k), np.int64)
    between = np.full((k, k), np.nan)
    rating[rated] = CENTRE + SCALE * theta
    shift, gauge = _shift(counts.names, rating, anchor)
    if anchor is not None:
        rating[component == component[counts.names.index(anchor[0])]] += shift
    for c in np.unique(component[rated]):
        inside = component[rated] == c
        places = rated[inside]
        within = SCALE**2 * covariance[np.ix_(inside, inside)]
        between[np.ix_(places, places)] = within
        best[places], worst[places] = rank_bounds(rating[places], within, alpha, degrees)
    error = np.sqrt(np.maximum(np.diag(between), 0))
    half = quantile(alpha, degrees) * error
    low, high = rating - half, rating + half
    for i in np.flatnonzero(np.isnan(rating)):
        low[i], high[i] = _bounds(counts, rating, int(i), alpha)
    said = problems(counts.names, parts)
    fixed = (counts.games.sum(1), component, parts.separated, said, gauge, alpha, degrees)
    return Ratings(counts.names, rating, low, high, error, between, best, worst, *fixed)


def _shift(names: tuple[str, ...], rating: Matrix, anchor: Anchor) -> tuple[float, str]:
    if anchor is None:
        return 0.0, f"the mean is {CENTRE:.0f}"
    name, at = anchor
    if name not in names:
        raise HerdError(f"there is no target {name!r} to anchor the ratings at")
    place = names.index(name)
    if math.isnan(rating[place]) or not math.isfinite(at):
        raise HerdError(f"{name!r} cannot be the anchor: its votes give it no rating")
    return at - float(rating[place]), f"{name} is {at:g}; the intervals are about the mean"


def _bounds(counts: Counts, rating: Matrix, i: int, alpha: float) -> tuple[float, float]:
    """Of a target without a rating that won, or lost, every vote against rated ones: the rating at which that has a
    probability of alpha/2, the others' taken as known (as Clopper and Pearson bound a share of 1)."""
    rated = np.isfinite(rating)
    won, lost = counts.wins[i, rated], counts.wins[rated, i]
    sign, games = (1, won) if won.sum() else (-1, lost)
    if not games.sum():
        return -math.inf, math.inf
    gap = sign * (rating[rated] - CENTRE) / SCALE

    def excess(x: float) -> float:
        return float(games @ log_expit(x - gap)) - math.log(alpha / 2)

    total = float(games.sum())
    reach = 40 + float(np.abs(gap).max()) + math.log1p(total) - math.log(alpha / 2) / total
    bound = CENTRE + sign * SCALE * float(brentq(excess, -reach, reach))
    return (bound, math.inf) if sign > 0 else (-math.inf, bound)


def _listed(names: Sequence[str]) -> str:
    """A few of them; of hundreds nobody reads all."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")


def problems(names: tuple[str, ...], parts: Graph) -> tuple[str, ...]:
    """What the votes cannot say, in sentences."""
    found = []
    for why, text in (
        ("won all", "won every vote against the rest: the rating has no upper bound"),
        ("lost all", "lost every vote against the rest: the rating has no lower bound"),
        ("not comparable", "not ordered against all the rest: no rating"),
        ("no votes", "no vote yet says better or worse"),
    ):
        if which := [name for name, said in zip(names, parts.separated, strict=True) if said == why]:
            found.append(f"{', '.join(which)}: {text}")
    voted = [c for c in np.unique(parts.component) if (parts.component == c).sum() > 1]
    if len(voted) > 1:
        groups = [_listed([names[i] for i in np.flatnonzero(parts.component == c)]) for c in voted]
        found.append(
            f"No votes connect {' with '.join(f'[{g}]' for g in groups)}: ratings compare only within each"
        )
    return tuple(found)
