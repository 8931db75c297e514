"""What the leaderboard shows: ranks, pairs, comparisons, and ratings over time, as JSON has them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from herd.arena.columns import PEOPLE, Chosen
from herd.errors import HerdError
from herd.evidence.categories import by_category
from herd.evidence.fragility import Flip, fragility
from herd.evidence.medians import median
from herd.evidence.ratings import CENTRE, Interval, Ratings, rate, rate_clustered
from herd.evidence.sequences import Comparison, better, rounded
from herd.evidence.style import rate_styled
from herd.evidence.votes import Counts, Votes
from herd.nearest import nearest

if TYPE_CHECKING:
    from herd.arena.board import Board

NEW = 50  # votes; whoever has fewer is new
TOGETHER = 12  # categories whose deviations are estimated together
LOOKS = 5  # neighbours in rank of whom it is said how many votes are missing
FLIP_WORK = 4e8  # of the cube of the targets times their neighbours
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
    part, gauge = chosen.of(category), (anchor, CENTRE) if anchor else None
    styled = None
    if style:
        styled = rate_styled(part.votes, part.style.astype(np.float64), by="voter", anchor=gauge)
        ratings = styled.ratings
    else:
        ratings = rate_clustered(chosen.votes, "voter", anchor=gauge)
        if category:
            together = list(dict.fromkeys([category, *(row["name"] for row in categories[:TOGETHER])]))
            member = np.stack([chosen.member(name) for name in together], 1)
            ratings = by_category(chosen.votes, member, together, ratings)[category]
    counts, flips = part.plain().counts(), _flips(board, raters, category)
    all_ = dict.fromkeys((*ratings.names, *board.targets()))
    names = [name for name in all_ if not open or board.about(name).get("open") is True]
    rows = [_row(board, name, ratings, counts, flips) for name in names]
    rows.sort(key=lambda row: (row["rating"] is None, -(row["rating"] or 0), row["name"]))
    shown = [row["name"] for row in rows if row["name"] in ratings.names]
    return {
        "version": board.version, "at": time.time(), "raters": board.raters, "categories": categories,
        "totals": board.totals(), "rows": rows, "pairs": _pairs(part.votes.counts(), counts, shown),
        "style": styled and {
            "coefficients": [
                {"name": c.name, **{key: finite(getattr(c, key), 5) for key in Interval._fields}}
                for c in styled.coefficients
            ],
            "left_out": styled.left_out,
        },
        "gauge": ratings.gauge, "problems": list(ratings.problems),
        "progress": board.kept.get(("progress", raters, category), board.version, lambda: _progress(part.votes, rows)),
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
    i, j = votes.names.index(a), votes.names.index(b)
    found, apart = better(votes, i, j), rate_clustered(votes, "voter").difference(i, j)
    return {
        "a": a, "b": b, **asdict(found),
        **{key: finite(getattr(found, key), 5) for key in Interval._fields},
        "difference": None if math.isnan(apart.estimate) else {k: finite(x) for k, x in apart._asdict().items()},
        "flip": next((f.votes for f in _flips(board, raters, None) if {f.above, f.below} == {a, b}), None),
    }  # fmt: skip


def finite(value: float | None, digits: int = 2) -> float | None:
    """For JSON, which has neither NaN nor infinity; two digits of a point are enough."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def decision(chosen: Chosen, a: str, b: str) -> Comparison:
    votes = _with_names(chosen.votes, (a, b))
    return better(votes, votes.names.index(a), votes.names.index(b))


def _with_names(votes: Votes, names: Iterable[str]) -> Votes:
    """Also with those on whom nobody has voted."""
    return replace(votes, names=(*votes.names, *(name for name in names if name not in votes.names)))


def _categories(chosen: Chosen) -> list[Row]:
    votes: Counter[str] = Counter()
    counts = np.bincount(chosen.tags[chosen.votes.weight > 0], minlength=len(chosen.groups)).tolist()
    for group, n in zip(chosen.groups, counts, strict=True):
        votes.update(dict.fromkeys(group, n))
    found = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "votes": n} for name, n in found if n]


def _flips(board: Board, raters: str, category: str | None) -> list[Flip]:
    """Of so many neighbours from the top as can be told in seconds: of all up to about 140 targets."""

    def make() -> list[Flip]:
        counts = board.chosen(raters).of(category).plain().counts()
        most = max(10, int(FLIP_WORK / max(len(counts.names), 1) ** 3))
        return fragility(counts, rate(counts), most)

    return board.kept.get(("flips", raters, category), board.version, make)


def _row(board: Board, name: str, ratings: Ratings, counts: Counts, flips: Iterable[Flip]) -> Row:
    about = board.about(name)
    shared = {"name": name, **{key: about.get(key) for key in ("open", "licence", "card")}, **_taken(board, name)}  # fmt: skip
    if name not in ratings.names:
        none = dict.fromkeys(("rating", "low", "high", "best", "worst", "flip", "component"))
        numbers = dict.fromkeys(("votes", "wins", "losses", "ties", "both_bad"), 0)
        return {**shared, **none, **numbers, "new": True, "separated": "no votes"}
    i = ratings.names.index(name)
    flip = next((one for one in flips if one.above == name), None)
    rated = math.isfinite(ratings.rating[i])
    sums = {
        "votes": counts.games[i], "wins": counts.wins[i], "losses": counts.wins[:, i], "ties": counts.ties[i],
        "both_bad": counts.both_bad[i],
    }  # fmt: skip
    numbers = {key: round(float(part.sum())) for key, part in sums.items()}
    return {
        **shared, **numbers, "new": numbers["votes"] < NEW,
        **{key: finite(getattr(ratings, key)[i]) for key in ("rating", "low", "high")},
        **{key: int(getattr(ratings, key)[i]) if rated else None for key in ("best", "worst")},
        "component": int(ratings.component[i]), "separated": ratings.separated[i],
        "flip": flip and {"votes": flip.votes, "below": flip.below},
    }  # fmt: skip


def _taken(board: Board, name: str) -> Row:
    """The medians of what a target's replies cost (dollars) and took (milliseconds) of late."""

    def make() -> Row:
        replies = board.store.replies(name, time.time() - DAYS * 86400, REPLIES)
        found = {}
        for at, (key, unit) in enumerate((("cost", DOLLAR), ("first_token_ms", 1), ("total_ms", 1))):
            middle = median([value / unit for row in replies if (value := row[at]) is not None])
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
    low, high = (np.where(games > 0, middle + end, np.nan) for end in (-half, half))
    return {
        "names": list(names), "fraction": _matrix(share), "low": _matrix(low), "high": _matrix(high),
        "counts": np.rint((counts.games + counts.both_bad)[of]).astype(int).tolist(),
    }  # fmt: skip


def _matrix(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[round(x, 4) if x == x else None for x in row] for row in values.tolist()]


def _progress(votes: Votes, rows: Sequence[Row]) -> str:
    """Of the undecided neighbours in rank, those whom the fewest votes may decide."""
    ranked = sorted((row for row in rows if row["rating"] is not None), key=lambda row: row["component"])
    near = [(x["name"], y["name"]) for x, y in pairwise(ranked) if x["component"] == y["component"]]
    open = []
    for a, b in near[:LOOKS]:
        found = better(votes, votes.names.index(a), votes.names.index(b))
        if found.decision == "NOT ENOUGH DATA":
            open.append((found.needed or math.inf, a, b))
    if not ranked:
        return "no ratings yet: every battle that is voted on counts"
    if not open:
        return "who stands above whom at the top is decided"
    more, a, b = min(open)
    if more == math.inf:
        return f"{a} and {b} are too close to tell"
    return f"about {rounded(int(more))} more votes decide {a} against {b}"
