"""What the leaderboard shows: ranks, pairs, comparisons, and ratings over time, as JSON has them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from herd.arena.columns import PEOPLE, Chosen
from herd.errors import HerdError
from herd.evidence.categories import by_category
from herd.evidence.fragility import Flip, fragility
from herd.evidence.medians import median
from herd.evidence.ratings import CENTRE, Ratings, rate
from herd.evidence.sequences import Comparison, better
from herd.evidence.style import Styled, rate_styled
from herd.evidence.votes import Counts, Votes
from herd.nearest import nearest

if TYPE_CHECKING:
    from herd.arena.board import Board

NEW = 50  # votes; whoever has fewer is new
TOGETHER = 12  # categories whose deviations are estimated together
LOOKS = 5  # neighbours in rank of whom it is said how many votes are missing
DAYS, REPLIES = 30, 2000  # by which cost and latency are told
SOON = 60.0  # seconds for which those are kept
DOLLAR = 10**12
Row = dict[str, Any]


def leaderboard(
    board: Board,
    *,
    raters: str = PEOPLE,
    category: str | None = None,
    style: bool = False,
    open: bool = False,
    anchor: str | None = None,
) -> Row:
    """The whole page. Raises HerdError 404 for raters or a category that no vote has, 400 for an anchor without a rating."""
    board.suspects()
    chosen = board.chosen(raters)
    categories = _categories(chosen)
    if category and category not in {row["name"] for row in categories}:
        raise HerdError(f"no votes in the category {category!r:.100}", status=404, code="not_found")
    styled = None
    if style:
        styled = _styled(chosen, category, anchor)
    ratings = styled.ratings if styled else _ratings(chosen, category, anchor, categories)
    inside = _inside(chosen, category)
    plain, weighted = chosen.plain().where(inside), chosen.votes.where(inside)
    counts = plain.counts()
    flips = board.kept.get(("flips", raters, category), board.version, lambda: _flips(counts))
    names = [name for name in ratings.names if not open or board.about(name).get("open") is True]
    names += [
        n
        for n in board.targets()
        if n not in ratings.names and not (open and board.about(n).get("open") is not True)
    ]
    rows = [_row(board, name, ratings, counts, flips) for name in names]
    rows.sort(key=lambda row: (row["rating"] is None, -(row["rating"] or 0), row["name"]))
    shown = [row["name"] for row in rows if row["name"] in ratings.names]
    return {
        "version": board.version,
        "at": time.time(),
        "raters": board.raters,
        "categories": categories,
        "totals": board.totals(),
        "rows": rows,
        "pairs": _pairs(weighted.counts(), counts, shown),
        "style": styled and {
            "coefficients": [
                {"name": c.name, "estimate": _exact(c.estimate), "low": _exact(c.low), "high": _exact(c.high)}
                for c in styled.coefficients
            ],
            "left_out": styled.left_out,
        },
        "gauge": ratings.gauge,
        "problems": list(ratings.problems),
        "progress": board.kept.get(("progress", raters, category), board.version, lambda: _progress(weighted, rows)),
    }  # fmt: skip


def compare(board: Board, a: str, b: str, raters: str = PEOPLE) -> Row:
    """Which of two is better, and how sure. Raises HerdError 404 for a name that is not there, 400 for the same twice."""
    chosen = board.chosen(raters)
    names = chosen.votes.names
    known = dict.fromkeys((*names, *board.targets()))
    for name in (a, b):
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise HerdError(f"no target {name!r:.100}{hint}", status=404, code="not_found")
    if a == b:
        raise HerdError("a and b are the same target")
    votes = _with_names(chosen.votes, (a, b))
    found = decision(chosen, a, b)
    ratings = rate(votes.counts())
    i, j = votes.names.index(a), votes.names.index(b)
    apart = ratings.difference(i, j)
    flip = None
    for one in board.kept.get(
        ("flips", raters, None), board.version, lambda: _flips(chosen.plain().counts())
    ):
        if {one.above, one.below} == {a, b}:
            flip = one.votes
    return {
        "a": a,
        "b": b,
        "decision": found.decision,
        "sentence": found.sentence,
        "estimate": None if found.estimate is None else _exact(found.estimate),
        "low": _exact(found.low),
        "high": _exact(found.high),
        "votes": found.votes,
        "both_bad": found.both_bad,
        "needed": found.needed,
        "difference": None
        if math.isnan(apart.estimate)
        else {name: finite(getattr(apart, name)) for name in ("estimate", "low", "high")},
        "flip": flip,
    }


def finite(value: float) -> float | None:
    """For JSON, which has neither NaN nor infinity; two digits of a point are enough."""
    return round(float(value), 2) if math.isfinite(value) else None


def decision(chosen: Chosen, a: str, b: str) -> Comparison:
    votes = _with_names(chosen.votes, (a, b))
    return better(votes, votes.names.index(a), votes.names.index(b))


def _with_names(votes: Votes, names: Iterable[str]) -> Votes:
    """Also with those on whom nobody has voted."""
    return replace(votes, names=(*votes.names, *(name for name in names if name not in votes.names)))


def _exact(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def _categories(chosen: Chosen) -> list[Row]:
    votes: Counter[str] = Counter()
    for number, n in enumerate(
        np.bincount(chosen.tags[chosen.votes.weight > 0], minlength=len(chosen.groups))
    ):
        votes.update(dict.fromkeys(chosen.groups[number], int(n)))
    return [
        {"name": name, "votes": n}
        for name, n in sorted(votes.items(), key=lambda item: (-item[1], item[0]))
        if n
    ]


def _anchor(anchor: str | None) -> tuple[str, float] | None:
    return (anchor, CENTRE) if anchor else None


def _ratings(chosen: Chosen, category: str | None, anchor: str | None, categories: Sequence[Row]) -> Ratings:
    overall = rate(chosen.votes.counts(), anchor=_anchor(anchor))
    if not category:
        return overall
    names = list(dict.fromkeys([category, *(row["name"] for row in categories[:TOGETHER])]))
    member = np.stack([chosen.member(name) for name in names], 1)
    return by_category(chosen.votes, member, names, overall)[category]


def _styled(chosen: Chosen, category: str | None, anchor: str | None) -> Styled:
    """Of one category, its votes alone."""
    inside = _inside(chosen, category)
    return rate_styled(
        chosen.votes.where(inside), chosen.style[inside].astype(np.float64), anchor=_anchor(anchor)
    )


def _inside(chosen: Chosen, category: str | None) -> NDArray[np.bool_]:
    return chosen.member(category) if category else np.ones(len(chosen.votes), bool)


def _flips(counts: Counts) -> list[Flip]:
    return fragility(counts, rate(counts))


def _row(board: Board, name: str, ratings: Ratings, counts: Counts, flips: Iterable[Flip]) -> Row:
    about = board.about(name)
    shared = {
        "name": name,
        **{key: about.get(key) for key in ("open", "licence", "card")},
        **_taken(board, name),
    }
    if name not in ratings.names:
        none = dict.fromkeys(("rating", "low", "high", "best", "worst", "flip"))
        numbers = dict.fromkeys(("votes", "wins", "losses", "ties", "both_bad"), 0)
        return {**shared, **none, **numbers, "new": True, "component": None, "separated": "no votes"}
    i = ratings.names.index(name)
    games = round(float(counts.games[i].sum()))
    flip = next((one for one in flips if one.above == name), None)
    rated = math.isfinite(ratings.rating[i])
    return {
        **shared,
        **{key: finite(getattr(ratings, key)[i]) for key in ("rating", "low", "high")},
        **{key: int(getattr(ratings, key)[i]) if rated else None for key in ("best", "worst")},
        "votes": games,
        "wins": round(float(counts.wins[i].sum())),
        "losses": round(float(counts.wins[:, i].sum())),
        "ties": round(float(counts.ties[i].sum())),
        "both_bad": round(float(counts.both_bad[i].sum())),
        "new": games < NEW,
        "component": int(ratings.component[i]),
        "separated": ratings.separated[i],
        "flip": flip and {"votes": flip.votes, "below": flip.below},
    }


def _taken(board: Board, name: str) -> Row:
    """The medians of what a target's replies cost (dollars) and took (milliseconds) of late."""

    def make() -> Row:
        replies = board.store.replies(name, time.time() - DAYS * 86400, REPLIES)
        columns = zip(*replies, strict=True) if replies else ((), (), ())
        found = {}
        for key, unit, column in zip(
            ("cost", "first_token_ms", "total_ms"), (DOLLAR, 1, 1), columns, strict=True
        ):
            middle = median([value / unit for value in column if value is not None])
            found[key] = middle and middle._asdict()
        return found

    return board.kept.get(("taken", name), time.monotonic(), make, least=SOON)


def _pairs(weighted: Counts, counts: Counts, names: Sequence[str]) -> Row:
    """The share of each pair's votes that the first won, a tie being half, with Wilson's interval; votes of the same
    weight 1/√m count for the interval as what they weigh."""
    at = [counts.names.index(name) for name in names]
    of = np.ix_(at, at)
    games, won = weighted.games[of], (weighted.wins + weighted.ties / 2)[of]
    z = float(ndtri(0.975))
    with np.errstate(all="ignore"):
        share = won / games
        middle = (won + z * z / 2) / (games + z * z)
        half = z * np.sqrt(games * share * (1 - share) + z * z / 4) / (games + z * z)
    return {
        "names": list(names),
        "fraction": _matrix(share),
        "low": _matrix(np.where(games > 0, middle - half, np.nan)),
        "high": _matrix(np.where(games > 0, middle + half, np.nan)),
        "counts": np.rint((counts.games + counts.both_bad)[of]).astype(int).tolist(),
    }


def _matrix(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[round(x, 4) if x == x else None for x in row] for row in values.tolist()]


def _progress(votes: Votes, rows: Sequence[Row]) -> str:
    """Of the undecided neighbours in rank, those whom the fewest votes may decide."""
    ranked = [row["name"] for row in rows if row["rating"] is not None]
    open = []
    for a, b in zip(ranked[:LOOKS], ranked[1 : LOOKS + 1], strict=False):
        found = better(votes, votes.names.index(a), votes.names.index(b))
        if found.decision == "NOT ENOUGH DATA":
            open.append((found.needed or math.inf, a, b))
    if not ranked:
        return "no ratings yet: every battle that is voted on counts"
    if not open:
        return "who stands above whom at the top is decided"
    more, a, b = min(open)
    return (
        f"about {more:,} more votes decide {a} against {b}"
        if more < math.inf
        else f"{a} and {b} are too close to tell"
    )
