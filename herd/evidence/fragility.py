"""How many votes a rank hangs on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from herd.errors import HerdError
from herd.evidence.bradley_terry import Fit, Matrix, fit
from herd.evidence.ratings import Ratings
from herd.evidence.votes import Counts

FEW = 8  # votes: up to here they are removed one at a time


@dataclass(frozen=True)
class Flip:
    """Without `votes` of all votes, a `share` of them, `below` would stand above `above`. None: no removal that was
    found turns them (as where each stands by votes that say only that)."""

    above: str
    below: str
    votes: int | None
    share: float | None


def fragility(counts: Counts, ratings: Ratings, most: int | None = None) -> list[Flip]:
    """`flip` of each two neighbours in rating, of one component; of the `most` highest alone, if given."""
    flips = []
    for c in np.unique(ratings.component):
        places = np.flatnonzero((ratings.component == c) & np.isfinite(ratings.rating))
        order = places[np.argsort(-ratings.rating[places], kind="stable")]
        flips += [flip(counts, ratings, int(i), int(j)) for i, j in pairwise(order[:most])]
    return flips


def flip(counts: Counts, ratings: Ratings, above: int, below: int) -> Flip:
    """The fewest votes whose removal puts the lower of two above the other.

    Votes of one pair and outcome are alike. The kinds of most influence on the difference, (y - p)(R_i - R_j) / (1 - h) with
    R the inverse information applied to the pair (Broderick, Giordano and Meager, "An automatic finite-sample robustness
    metric", 2020), go first; the influences are taken anew as they go, and the number returned was confirmed by a fit
    without those votes. Another choice might need fewer. Votes of fractional weight count by their weight, rounded up.
    Raises HerdError for two whose ratings cannot be compared.
    """
    if not np.isfinite(ratings.covariance[above, below]):
        raise HerdError(f"{ratings.names[above]!r} and {ratings.names[below]!r} have no ratings to compare")
    if ratings.rating[above] < ratings.rating[below]:
        above, below = below, above
    places = np.flatnonzero(np.isfinite(ratings.covariance[above]))
    among = np.ix_(places, places)
    wins, ties = counts.wins[among], counts.ties[among]
    votes = _fewest(wins, ties, *(int(np.searchsorted(places, x)) for x in (above, below)))
    share = None if votes is None else votes / float(wins.sum() + ties.sum() / 2)
    return Flip(ratings.names[above], ratings.names[below], votes, share)


def _fewest(wins: Matrix, ties: Matrix, i: int, j: int) -> int | None:
    """Votes to remove until j stands above i, who stands above j now."""
    votes = _greedy(wins, ties, i, j, 0)
    if votes is None or not 2 < votes <= FEW:
        return votes
    return min(votes, *(_greedy(wins, ties, i, j, first) or votes for first in range(1, 4)))


def _greedy(wins: Matrix, ties: Matrix, i: int, j: int, first: int) -> int | None:
    """The same, beginning with the kind of votes that comes at place `first` in influence."""
    left, removed, chunk, most = np.stack([wins, np.triu(ties)]), 0, 1.0, math.inf
    before, theta = (left, 0), None
    while True:
        fitted, same, turned = _without(left, i, j, theta)
        if turned and chunk <= 1:
            return removed
        if turned:  # too many at once
            most, (left, removed) = chunk // 2, before
            fitted, same, _ = _without(left, i, j, theta)
        theta, p = fitted.theta, fitted.chance
        inverse = np.linalg.inv(fitted.information)
        own, toward = np.diag(inverse), inverse[i] - inverse[j]
        kept = 1 - p * (1 - p) * (own[:, None] + own - 2 * inverse)  # 1 - h; 0: it alone connects two parts
        usable = (left > 0) & same & (kept > 1e-6)
        moved = np.stack([1 - p, 0.5 - p]) * (toward[:, None] - toward) / np.maximum(kept, 1e-6)
        effect = np.where(usable, moved, 0.0).ravel()
        # of an eighth of the largest influence or more: the rest has its turn when these are gone
        some = np.flatnonzero(effect > max(1e-12, float(effect.max()) / 8))
        order = some[np.argsort(-effect[some], kind="stable")][first:]
        if not (same[i, j] and len(order)):
            return None
        there = left.ravel()[order]
        votes, sums = (np.append(0, np.cumsum(x)) for x in (there, effect[order] * there))
        predicted = float(np.interp(theta[i] - theta[j], sums, votes))
        first, chunk = 0, min(max(1.0, predicted * 3 // 4 if predicted > FEW else 1.0), most)
        before, left = (left, removed), left.copy()
        taken = np.diff(np.minimum(votes, chunk))
        left.reshape(-1)[order] -= taken
        left[left < 1e-9] = 0  # what is left over of fractions that do not add up
        removed += math.ceil(round(float(taken.sum()), 6))


def _without(left: Matrix, i: int, j: int, start: Matrix | None) -> tuple[Fit, NDArray[np.bool_], bool]:
    """The fit of the votes left [2, k, k] (wins, and ties above the diagonal), within each set whose ratings stay
    finite; who is in one set; and whether j stands above i now, by its rating or because only it leads to the other."""
    scores = left[0] + (left[1] + left[1].T) / 2
    edges = csr_array(scores > 0)
    _, label = connected_components(edges, directed=True, connection="strong")
    same = np.equal(label[:, None], label)
    fitted = fit(np.where(same, scores, 0.0), same / same.sum(1), start)
    if same[i, j]:
        return fitted, same, bool(fitted.theta[i] - fitted.theta[j] < -1e-9)
    return fitted, same, i in breadth_first_order(edges, j, return_predecessors=False)
