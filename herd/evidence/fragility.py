"""How many votes a rank hangs on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from herd.evidence.bradley_terry import Fit, Matrix, fit
from herd.evidence.ratings import Ratings
from herd.evidence.votes import Counts


@dataclass(frozen=True)
class Flip:
    """Without `votes` of all votes, a `share` of them, `below` would stand above `above`. None: no removal that was
    found turns them (as where each stands by votes that say only that)."""

    above: str
    below: str
    votes: int | None
    share: float | None


def fragility(counts: Counts, ratings: Ratings) -> list[Flip]:
    """For each two neighbours in rank, of one component, the fewest votes whose removal puts the lower above the upper.

    Votes of one pair and outcome are alike. Each kind's influence on the difference, (y - p)(R_i - R_j) / (1 - h) with
    R the inverse information applied to the pair, orders the kinds (Broderick, Giordano and Meager, "An automatic
    finite-sample robustness metric", 2020); the most influential go first, the influences are taken anew as they go,
    and the number returned was confirmed by a fit without those votes. It is an upper bound of the fewest: where many
    small influences add up, another choice might need fewer.
    """
    flips = []
    for c in np.unique(ratings.component):
        places = np.flatnonzero((ratings.component == c) & np.isfinite(ratings.rating))
        order = places[np.argsort(-ratings.rating[places], kind="stable")]
        among = np.ix_(order, order)
        wins, ties = counts.wins[among], counts.ties[among]
        total = float(wins.sum() + ties.sum() / 2)
        for at in range(len(order) - 1):
            votes = _fewest(wins, ties, at, at + 1)
            above, below = (ratings.names[order[at + i]] for i in (0, 1))
            flips.append(Flip(above, below, votes, None if votes is None else votes / total))
    return flips


def _fewest(wins: Matrix, ties: Matrix, i: int, j: int) -> int | None:
    """Votes to remove until j stands above i, who stands above j now."""
    wins, ties = wins.copy(), ties.copy()
    k, removed = len(wins), 0
    fitted, turned = _without(wins, ties, i, j, None)
    while not turned:
        p, inverse = fitted.chance, np.linalg.inv(fitted.information)
        own = np.diag(inverse)
        keeps = 1 - p * (1 - p) * (
            own[:, None] + own - 2 * inverse
        )  # 1 - h; 0: the only vote that connects two parts
        toward = (inverse[i] - inverse[j])[:, None] - (inverse[i] - inverse[j])
        effect = np.stack([(1 - p) * toward, (0.5 - p) * toward])
        left = np.stack([wins, np.triu(ties)])
        effect = np.where((left > 0) & (keeps > 1e-6), effect / np.maximum(keeps, 1e-6), 0.0).ravel()
        order = np.argsort(-effect, kind="stable")[: int((effect > 1e-12).sum())]
        if not len(order):
            return None
        sums = np.cumsum(effect[order] * left.ravel()[order])
        gap = max(float(fitted.theta[i] - fitted.theta[j]), 0.0)
        votes = np.cumsum(left.ravel()[order])
        predicted = float(np.interp(gap, sums, votes))
        budget = max(1.0, predicted // 2 if predicted > 4 else 1.0)
        for kind in order:
            outcome, a, b = np.unravel_index(kind, (2, k, k))
            take = min(budget, float(left[outcome, a, b]))
            if outcome == 0:
                wins[a, b] -= take
            else:
                ties[a, b] -= take
                ties[b, a] -= take
            budget -= take
            removed += 1 if take < 1 else round(take)
            if budget < 1:
                break
        fitted, turned = _without(wins, ties, i, j, fitted.theta)
    return removed


def _without(wins: Matrix, ties: Matrix, i: int, j: int, start: Matrix | None) -> tuple[Fit, bool]:
    """The fit of what is left, and whether j stands above i. Where what is left separates, a ridge too small to matter
    keeps the fit finite, and j stands above only if wins or ties lead from j to i."""
    scores = wins + ties / 2
    edges = csr_array(scores > 0)
    whole = connected_components(edges, directed=True, connection="strong")[0] == 1
    gauge = np.full(scores.shape, 1 / len(scores) if whole else 0.0)
    fitted = fit(scores, gauge, start, ridge=0.0 if whole else 1e-6)
    turned = fitted.theta[i] - fitted.theta[j] < -1e-9
    return fitted, bool(turned and (whole or i in breadth_first_order(edges, j, return_predecessors=False)))
