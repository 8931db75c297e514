"""What a Bradley–Terry fit is made of: who can be compared, Newton's method, and the parts of the sandwich."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.special import expit

from herd.errors import HerdError
from herd.evidence.votes import BOTH_BAD, Counts, Votes

Matrix = NDArray[np.float64]
FEW = 7  # clusters: with fewer it is not known how clusters differ
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
    sets = (np.unique(strong[component == c]) for c in range(count))
    main = [max(one, key=lambda s: (size[s], played[s], -s)) for one in sets]
    rated = np.flatnonzero((strong == np.array(main, int)[component]) & (size[strong] > 1))
    inside = scores[np.ix_(rated, rated)]
    if len(rated) == len(component):
        return Graph(component, rated, (None,) * len(rated), inside)
    separated: list[str | None] = ["not comparable"] * len(component)
    reaches = np.isfinite(shortest_path(edges, unweighted=True))
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


def newton(
    at: Callable[[Matrix], tuple[Matrix, Matrix]], beta: Matrix, *, steps: int = 200, enough: float = 1e-8
) -> Matrix | None:
    """The maximum of a concave likelihood with the slope and the information `at` a place; None where none was found.
    A step is at most 2, and is halved where it is too long (the likelihood falls steeply at its end); one shorter than
    `enough` is the last, and leaves an error of its square."""
    if not len(beta):
        return beta
    slope, information = at(beta)
    for _ in range(steps):
        try:
            step = cho_solve(cho_factor(information), slope)
        except (LinAlgError, ValueError):  # singular, or no longer finite
            return None
        longest = float(np.abs(step).max())
        step *= min(1.0, 2 / longest) if longest else 1.0
        along = float(slope @ step)
        for _ in range(30):
            slope, information = at(beta + step)
            if float(slope @ step) >= -along / 2 or longest < enough:
                break
            step /= 2
        beta = beta + step
        if longest < enough:
            return beta
    return None


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
    centre: Matrix | float = 0.0,
    enough: float = 1e-8,
) -> Fit:
    """Newton's method for Σ scores[i, j] ln σ(θ_i - θ_j) - ridge/2 Σ (θ_i - centre_i)². The Hessian is the Laplacian of
    the graph whose edges weigh games · p (1 - p). Raises HerdError where the weights of votes differ by more orders of
    magnitude than numbers hold."""
    games = scores + scores.T

    def parts(theta: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        chance = expit(theta[:, None] - theta)
        weight = games * chance * (1 - chance)
        return chance, weight, bordered(laplacian(weight) + ridge * np.eye(len(theta)), gauge)

    def at(theta: Matrix) -> tuple[Matrix, Matrix]:
        chance, _, information = parts(theta)
        return (scores - games * chance).sum(1) - ridge * (theta - centre), information

    theta = newton(at, np.zeros(len(scores)) if start is None else start - gauge @ start, enough=enough)
    if theta is None:
        raise HerdError(UNEVEN)
    chance, weight, information = parts(theta)
    return Fit(theta, weight, chance, information)


def laplacian(weight: Matrix) -> Matrix:
    return np.diag(weight.sum(1)) - weight


def bordered(information: Matrix, gauge: Matrix) -> Matrix:
    """[r + c, r + c]: made invertible by the gauge [r, r], which changes nothing that votes see."""
    r = len(gauge)
    information[:r, :r] += gauge * max(float(np.trace(information[:r, :r])) / max(r, 1), 1e-300)
    return information


def bread(fitted: Fit) -> tuple[Matrix, Matrix]:
    """The inverse of the information, and what the middle of the sandwich gets for the pull of each vote, both [r, r].

    h = p (1 - p) · resistance is how much of its own residual a vote takes away by being fitted, so h · weight is put
    back (in expectation as HC2 does; MacKinnon and White, J. Econometrics 29, 1985). It also leaves no pair, say of
    ties alone, with an error of zero, and vanishes with many votes.
    """
    inverse = np.linalg.inv(fitted.information)
    inverse = (inverse + inverse.T) / 2
    own = np.diag(inverse)
    pull = fitted.chance * (1 - fitted.chance) * (own[:, None] + own - 2 * inverse)
    return inverse, np.minimum(pull, 1) * fitted.weight


def squares(chance: Matrix, wins: Matrix, ties: Matrix) -> Matrix:
    """[r, r]: the sum of the squared residuals of each pair. A tie's is (½ - p)², far less than a win's."""
    return wins * (1 - chance) ** 2 + wins.T * chance**2 + ties * (0.5 - chance) ** 2


@dataclass(frozen=True)
class Rows:
    """m votes one by one, for what counts do not hold: covariates x [m, c] and clusters. The design, +1 at a and -1 at b
    of r targets and x, is never laid out; a parameter β is [r + c]. y [m]: 1 where a was preferred, ½ for a tie."""

    a: NDArray[np.intp]
    b: NDArray[np.intp]
    y: Matrix
    w: Matrix
    x: Matrix
    cluster: NDArray[np.intp] | None
    gauge: Matrix

    @classmethod
    def of(cls, votes: Votes, parts: Graph, by: Literal["voter", "conversation"] | None, x: Matrix) -> Rows:
        """Those votes that the fit sees."""
        place = np.full(len(votes.names), -1)
        place[parts.rated] = np.arange(len(parts.rated))
        used = (
            (place[votes.a] >= 0) & (place[votes.b] >= 0) & (votes.outcome != BOTH_BAD) & (votes.weight > 0)
        )
        votes, x = votes.where(used), x[used]
        y = np.array([1, 0, 0.5])[votes.outcome]
        cluster = None if by is None else np.unique(getattr(votes, by), return_inverse=True)[1]
        return cls(place[votes.a], place[votes.b], y, votes.weight, x, cluster, parts.gauge)

    @property
    def clusters(self) -> int:
        return 0 if self.cluster is None or not len(self.y) else int(self.cluster.max()) + 1

    def odds(self, beta: Matrix) -> Matrix:
        r = len(self.gauge)
        odds: Matrix = beta[:r][self.a] - beta[:r][self.b] + self.x @ beta[r:]
        return odds

    def score(self, residual: Matrix) -> Matrix:
        r = len(self.gauge)
        theta = np.bincount(self.a, residual, r) - np.bincount(self.b, residual, r)
        return np.concatenate([theta, residual @ self.x])

    def outer(self, weight: Matrix) -> Matrix:
        """Σ weight · z zᵀ over the rows z of the design, [r + c, r + c]."""
        r = len(self.gauge)
        pairs = np.bincount(self.a * r + self.b, weight, r * r).reshape(r, r).astype(np.float64)
        out = np.zeros((r + self.x.shape[1],) * 2)
        out[:r, :r] = laplacian(pairs + pairs.T)
        for i, column in enumerate(self.x.T, r):
            out[i] = out[:, i] = self.score(weight * column)
        return out

    def newton(self, theta: Matrix) -> Matrix | None:
        """β from the ratings alone; None where the maximum lies at infinity."""

        def at(beta: Matrix) -> tuple[Matrix, Matrix]:
            p = expit(self.odds(beta))
            information = bordered(self.outer(self.w * p * (1 - p)), self.gauge)
            return self.score(self.w * (self.y - p)), information

        beta = newton(at, np.append(theta, np.zeros(self.x.shape[1])), steps=40)
        # far out everything is flat, and no maximum
        return None if beta is None or np.abs(self.odds(beta)).max(initial=0) > 30 else beta

    def sandwich(self, beta: Matrix) -> tuple[Matrix, float]:
        """The covariance of β and its degrees of freedom, infinite for votes that are independent or of fewer than `FEW` clusters.

        Scores are summed within a cluster before they are squared, times G/(G - 1) (Liang and Zeger, Biometrika 73, 1986),
        with G - 1 degrees (Cameron and Miller, J. Human Resources 50, 2015); the pull of each vote is as in `bread`."""
        r, own = len(self.gauge), self.w * (self.y - (p := expit(self.odds(beta))))
        information = self.w * p * (1 - p)
        inverse = np.linalg.inv(bordered(self.outer(information), self.gauge))
        middle, degrees = self.outer(self.w * (self.y - p) ** 2), math.inf
        if self.cluster is not None and (count := self.clusters) >= FEW:
            c = self.x.shape[1]
            column = np.concatenate([self.a, self.b, np.repeat(np.arange(r, r + c), len(own))])
            value = np.concatenate([own, -own, (own[:, None] * self.x).T.ravel()])
            at = np.tile(self.cluster, 2 + c), column
            scores = coo_array((value, at), shape=(count, r + c)).tocsr()
            middle, degrees = (scores.T @ scores).toarray() * count / (count - 1), count - 1.0
        diagonal, a, b, x = np.diag(inverse), self.a, self.b, self.x
        across = inverse[a, r:] - inverse[b, r:]
        spread = (
            diagonal[a] + diagonal[b] - 2 * inverse[a, b] + ((2 * across + x @ inverse[r:, r:]) * x).sum(1)
        )
        middle += self.outer(information * np.minimum(p * (1 - p) * spread, 1))
        return inverse @ middle @ inverse, degrees
