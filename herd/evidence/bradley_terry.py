"""What a Bradley–Terry fit is made of: who can be compared, Newton's method, and the parts of the sandwich."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from herd.errors import HerdError
from herd.evidence.votes import BOTH_BAD, Counts, Votes

Matrix = NDArray[np.float64]
UNEVEN = "the weights of the votes differ by too many orders of magnitude for ratings"


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
        gauge: Matrix = same / same.sum(1)
        return gauge


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
    step. Where a step is too long (the likelihood falls steeply at its end) it is halved. Raises HerdError where the
    weights of votes differ by more orders of magnitude than numbers hold.
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
        try:
            step = cho_solve(cho_factor(information, check_finite=False), slope, check_finite=False)
        except LinAlgError:
            raise HerdError(UNEVEN) from None
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
    else:
        raise HerdError(UNEVEN)
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
