"""Bradley–Terry ratings from counts of votes, with intervals, and with what they cannot say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit, ndtri, stdtrit

from herd.errors import HerdError
from herd.evidence.ranks import rank_bounds
from herd.evidence.votes import BOTH_BAD, Counts, Votes

SCALE = 400 / math.log(10)  # rating points of one unit of log odds
CENTRE = 1000.0
Matrix = NDArray[np.float64]
Anchor = tuple[str, float] | None


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratings:
    """The ratings of k targets in points: 400 points are odds of ten to one.

    rating, low, high, error [k]: the rating, its 1 - alpha interval and its standard error. covariance [k, k]: of the
    ratings; NaN between targets that no votes connect. best, worst [k]: bounds of the rank among the rated targets of
    one component, all holding at once (`ranks.rank_bounds`). games [k]: votes that compare (not "both bad").
    component [k]: targets connected by votes have one number, 0 is the largest.

    separated [k]: None for a target that has a rating, else why the votes give it none: "won all" or "lost all"
    (against the rated ones its rating would be infinite), "not comparable", "no votes". Then rating and error are NaN,
    best and worst are 0, and low or high is finite where the votes bound it from one side, else infinite.

    gauge says where the scale is fixed. Intervals are always those about the mean of the component: an anchor moves
    all ratings alike and does not make its own interval empty and the others' wider.
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


class Graph(NamedTuple):
    """Which of k targets votes connect (component [k]) and which get finite ratings (rated, places in order): of each
    component the largest set in which everyone is reached from everyone by wins and ties (Ford, American Mathematical
    Monthly 64, 1957). separated [k] says why the others get none. scores [r, r]: wins and half ties among the rated."""

    component: NDArray[np.int64]
    rated: NDArray[np.intp]
    separated: tuple[str | None, ...]
    scores: Matrix

    @property
    def gauge(self) -> Matrix:
        """[r, r]: the projection onto what votes cannot see, one common shift a component."""
        of = self.component[self.rated]
        same = (of[:, None] == of).astype(np.float64)
        return same / same.sum(1) if len(of) else same


def quantile(alpha: float, degrees: float) -> float:
    return float(ndtri(1 - alpha / 2) if math.isinf(degrees) else stdtrit(degrees, 1 - alpha / 2))


def graph(counts: Counts) -> Graph:
    scores = counts.wins + counts.ties / 2
    games = counts.games.sum(1)
    edges = csr_array(scores > 0)
    count, label = connected_components(edges, directed=False)
    order = np.argsort(-np.bincount(label, minlength=count), kind="stable")
    component = np.argsort(order)[label].astype(np.int64)
    _, strong = connected_components(edges, directed=True, connection="strong")
    size, played = np.bincount(strong), np.bincount(strong, games)
    # of each component the largest set, of equal ones that with the most votes; a set of one says nothing
    main = [
        max(np.unique(strong[component == c]), key=lambda s: (size[s], played[s], -s)) for c in range(count)
    ]
    chosen = strong == np.array(main, int)[component] if count else np.zeros(0, bool)
    rated = np.flatnonzero(chosen & (size[strong] > 1)) if count else np.zeros(0, np.intp)
    inside = scores[np.ix_(rated, rated)]
    if len(rated) == len(component):
        return Graph(component, rated, (None,) * len(rated), inside)
    separated: list[str | None] = ["not comparable"] * len(component)
    reaches = np.eye(len(component), dtype=bool) | (scores > 0)
    for _ in range(max(1, math.ceil(math.log2(max(2, len(component)))))):  # by squaring: paths of any length
        reaches = (reaches.astype(np.float32) @ reaches.astype(np.float32)) > 0
    for i in range(len(component)):
        core = rated[component[rated] == component[i]]
        others = core if len(core) else np.flatnonzero((component == component[i]) & (strong != strong[i]))
        if i in core:
            separated[i] = None
        elif not games[i]:
            separated[i] = "no votes"
        elif reaches[i, others].all():
            separated[i] = "won all"
        elif reaches[others, i].all():
            separated[i] = "lost all"
    return Graph(component, rated, tuple(separated), inside)


class Fit(NamedTuple):
    theta: Matrix  # [r] log odds, mean zero in each component
    weight: Matrix  # [r, r] the information of each pair: games p (1 - p)
    chance: Matrix  # [r, r]
    information: Matrix  # [r, r] the Laplacian of the weights (and the ridge), made invertible by the gauge


def fit(
    scores: Matrix,
    gauge: Matrix,
    start: Matrix | None = None,
    *,
    ridge: float = 0.0,
    centre: Matrix | None = None,
) -> Fit:
    """Newton's method for Σ scores[i, j] ln σ(θ_i - θ_j) - ridge/2 Σ (θ_i - centre_i)².

    The Hessian is the Laplacian of the graph whose edges weigh games · p (1 - p), so one factorisation of [r, r] a
    step. Where a step is too long (the likelihood falls steeply at its end) it is halved.
    """
    theta = np.zeros(len(scores)) if start is None else start - gauge @ start
    centre = np.zeros(len(scores)) if centre is None else centre
    games = scores + scores.T

    def at(theta: Matrix) -> tuple[Matrix, Matrix]:
        chance = expit(theta[:, None] - theta)
        return chance, (scores - games * chance).sum(1) - ridge * (theta - centre)

    chance, slope = at(theta)
    for _ in range(200):
        weight = games * chance * (1 - chance)
        information = np.diag(weight.sum(1) + ridge) - weight
        information += gauge * max(float(np.trace(information)) / max(len(scores), 1), 1e-300)
        if not len(scores):
            break
        step = cho_solve(cho_factor(information, check_finite=False), slope, check_finite=False)
        longest = float(np.abs(step).max())
        step *= min(1.0, 2 / longest) if longest else 1.0
        along = float(slope @ step)
        for _ in range(30):
            chance, slope = at(theta + step)
            if float(slope @ step) >= -along / 2 or longest < 1e-8:
                break
            step /= 2
        theta = theta + step
        if longest < 1e-8:  # the step that was taken leaves an error of its square
            break
    return Fit(theta, weight, chance, information)


def laplacian(weight: Matrix) -> Matrix:
    return np.diag(weight.sum(1)) - weight


def bread(fitted: Fit) -> tuple[Matrix, Matrix]:
    """The inverse of the information, and what the middle of the sandwich gets for the pull of each vote, both [r, r].

    h = p (1 - p) · resistance is how much of its own residual a vote takes away by being fitted, so h · weight is put
    back (in expectation as HC2 does; MacKinnon and White, J. Econometrics 29, 1985). It also leaves no pair, say of
    ties alone, with an error of zero, and vanishes with many votes.
    """
    if not len(fitted.theta):
        return np.zeros((0, 0)), np.zeros((0, 0))
    inverse = np.linalg.inv(fitted.information)
    inverse = (inverse + inverse.T) / 2
    own = np.diag(inverse)
    pull = fitted.chance * (1 - fitted.chance) * (own[:, None] + own - 2 * inverse)
    return inverse, np.minimum(pull, 1) * fitted.weight


def squares(chance: Matrix, wins: Matrix, ties: Matrix) -> Matrix:
    """[r, r]: the sum of the squared residuals of each pair. A tie's is (½ - p)², far less than a win's."""
    return wins * (1 - chance) ** 2 + wins.T * chance**2 + ties * (0.5 - chance) ** 2


def rate(
    counts: Counts, *, anchor: Anchor = None, alpha: float = 0.05, start: Matrix | None = None
) -> Ratings:
    """Bradley–Terry ratings: P(i preferred to j) = 1 / (1 + 10^((rating_j - rating_i) / 400)).

    A tie counts as half a win for each, "both bad" not at all. The covariance is the sandwich H⁻¹BH⁻¹ (White,
    Econometrica 50, 1982) for votes that are independent; H⁻¹ alone is too wide with ties. Fractions of votes count as
    such. Every component has
    the mean 1000 over its rated targets, unless `anchor` (name, points) fixes one target of it. start [k]: ratings
    from which to begin. Raises HerdError for an anchor that is not there or has no rating.
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

    The middle of the sandwich sums the scores of a cluster before it squares them, times G/(G - 1), and intervals take
    Student's t with G - 1 degrees (Cameron and Miller, J. Human Resources 50, 2015). With one cluster nothing is known
    of how clusters differ: its votes then count as independent, and `problems` says so. Raises as `rate` does.
    """
    counts = votes.counts()
    parts = graph(counts)
    fitted = fit(parts.scores, parts.gauge, _start(start, parts))
    used, a, b = rated_rows(votes, parts)
    residual = votes.weight[used] * (said(votes.outcome[used]) - fitted.chance[a, b])
    middle, clusters = clustered(getattr(votes, by)[used], a, b, residual, len(parts.rated))
    if clusters < 2:
        ratings = rate(counts, anchor=anchor, alpha=alpha, start=start)
        alone = f"all votes are of one {by}: the intervals take them as independent"
        return replace(ratings, problems=(*ratings.problems, alone)) if clusters else ratings
    inverse, pull = bread(fitted)
    covariance = inverse @ (middle + laplacian(pull)) @ inverse
    return assemble(counts, parts, fitted.theta, covariance, anchor=anchor, alpha=alpha, degrees=clusters - 1)


def said(outcome: NDArray[np.int8]) -> Matrix:
    """[n]: 1 where a was preferred, ½ for a tie, 0 for b."""
    return np.array([1, 0, 0.5, np.nan])[outcome]


def rated_rows(votes: Votes, parts: Graph) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Which votes [n] the fit sees, and the places [m] of their sides among the rated."""
    place = np.full(len(votes.names), -1)
    place[parts.rated] = np.arange(len(parts.rated))
    a, b = place[votes.a], place[votes.b]
    used = (a >= 0) & (b >= 0) & (votes.outcome != BOTH_BAD) & (votes.weight > 0)
    return used, a[used], b[used]


def clustered(
    cluster: NDArray[np.int64],
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    residual: Matrix,
    r: int,
    covariates: Matrix | None = None,
) -> tuple[Matrix, int]:
    """The cluster-robust covariance of the score, [r + c, r + c], and the number of clusters."""
    numbers, group = np.unique(cluster, return_inverse=True)
    c = 0 if covariates is None else covariates.shape[1]
    row, column, value = [group, group], [a, b], [residual, -residual]
    for i in range(c):
        row, column = [*row, group], [*column, np.full(len(a), r + i)]
        value.append(residual * covariates[:, i])  # type: ignore[index]
    entries = (np.concatenate(value), (np.concatenate(row), np.concatenate(column)))
    scores = coo_array(entries, shape=(len(numbers), r + c)).tocsr()
    return (scores.T @ scores).toarray() * len(numbers) / max(len(numbers) - 1, 1), len(numbers)


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
    rating, error = np.full((2, k), np.nan)
    best, worst = np.zeros((2, k), np.int64)
    between = np.full((k, k), np.nan)
    rating[rated] = CENTRE + SCALE * theta
    shift, gauge = _shift(counts.names, rating, anchor)
    of = component[rated]
    for c in np.unique(of):
        inside = of == c
        places = rated[inside]
        between[np.ix_(places, places)] = SCALE**2 * covariance[np.ix_(inside, inside)]
        if anchor is not None and counts.names.index(anchor[0]) in places:
            rating[places] += shift
        bounds = rank_bounds(rating[places], between[np.ix_(places, places)], alpha, degrees)
        best[places], worst[places] = bounds
    error = np.sqrt(np.maximum(np.diag(between), 0))
    half = quantile(alpha, degrees) * error
    low, high = rating - half, rating + half
    for i in np.flatnonzero(np.isnan(rating)):
        low[i], high[i] = _bounds(counts, rating, int(i), alpha)
    return Ratings(
        counts.names,
        rating,
        low,
        high,
        error,
        between,
        best,
        worst,
        counts.games.sum(1),
        component,
        parts.separated,
        problems(counts.names, parts),
        gauge,
        alpha,
        degrees,
    )


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

    reach = 40 + float(np.abs(gap).max()) + 4 / float(games.sum())
    bound = CENTRE + sign * SCALE * float(brentq(excess, -reach, reach))
    return (bound, math.inf) if sign > 0 else (-math.inf, bound)


def problems(names: tuple[str, ...], parts: Graph) -> tuple[str, ...]:
    """What the votes cannot say, in sentences."""
    found = []
    for why, text in (
        ("won all", "won every vote against the rest: the rating has no upper bound"),
        ("lost all", "lost every vote against the rest: the rating has no lower bound"),
        (
            "not comparable",
            "won or lost everything against others that are not ordered among themselves: no rating",
        ),
        ("no votes", "have no votes yet"),
    ):
        if which := [name for name, said in zip(names, parts.separated, strict=True) if said == why]:
            found.append(f"{', '.join(which)}: {text}")
    voted = [c for c in np.unique(parts.component) if (parts.component == c).sum() > 1]
    if len(voted) > 1:
        groups = [", ".join(names[i] for i in np.flatnonzero(parts.component == c)) for c in voted]
        found.append(
            f"no votes connect {' with '.join(f'[{g}]' for g in groups)}: ratings compare only within each"
        )
    return tuple(found)
