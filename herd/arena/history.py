"""Ratings over time, and how the best open model follows the best closed one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from herd.arena.columns import PEOPLE
from herd.arena.standings import finite
from herd.evidence.ratings import Ratings, rate

if TYPE_CHECKING:
    from herd.arena.board import Board

POINTS = 60


def history(board: Board, *, raters: str = PEOPLE, category: str | None = None) -> dict[str, Any]:
    """{"times", "series": one a target, "best_open", "best_closed"}: what all votes until each of at most 60 times say.

    The times are evenly spaced from the first vote to the last, or the votes' own where those are few. "best" is, at
    each time, whoever is rated highest then, with that one's interval: of those that votes connect, as others are not
    comparable.
    """
    chosen = board.chosen(raters).of(category)
    counted = chosen.votes.weight > 0
    votes, created = chosen.votes.where(counted), chosen.created[counted]
    times = np.unique(created)
    if len(times) > POINTS:
        times = np.linspace(times[0], times[-1], POINTS)
    slot, counts = np.searchsorted(times, created), votes.where(np.zeros(0, np.intp)).counts()
    ratings: list[Ratings] = []
    for at in range(len(times)):
        counts += votes.where(np.flatnonzero(slot == at)).counts()
        ratings.append(rate(counts, start=ratings[-1].rating if ratings else None))
    open_ = [board.about(name).get("open") for name in votes.names]
    kinds = {which: np.array([one is which for one in open_], bool) for which in (True, False)}
    groups = [_group(r, *kinds.values()) for r in ratings]
    series = [
        {"name": name, "open": open_[i], **_curve(ratings, [i] * len(ratings))}
        for i, name in enumerate(votes.names)
    ]

    def best(which: bool) -> dict[str, Any]:
        places = [
            _highest(r.rating, kinds[which] & (r.component == c))
            for r, c in zip(ratings, groups, strict=True)
        ]
        return {"name": [None if i is None else votes.names[i] for i in places], **_curve(ratings, places)}

    moments = [round(float(time), 3) for time in times]
    return {"times": moments, "series": series, "best_open": best(True), "best_closed": best(False)}


def _group(ratings: Ratings, *kinds: NDArray[np.bool_]) -> int:
    """The largest component with somebody rated of each kind, else of any."""
    found = [set(ratings.component[kind & np.isfinite(ratings.rating)].tolist()) for kind in kinds]
    return min(set.intersection(*found) or set.union(*found), default=0)


def _highest(rating: NDArray[np.float64], of: NDArray[np.bool_]) -> int | None:
    found = np.where(of & np.isfinite(rating), rating, -math.inf)
    return int(np.argmax(found)) if len(found) and found.max() > -math.inf else None


def _curve(ratings: list[Ratings], places: list[int | None]) -> dict[str, list[float | None]]:
    return {
        key: [None if i is None else finite(getattr(r, key)[i]) for r, i in zip(ratings, places, strict=True)]
        for key in ("rating", "low", "high")
    }
