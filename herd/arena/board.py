"""The votes and what they say, kept up with the store."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from herd.arena import standings
from herd.arena.columns import PEOPLE, Chosen, Columns
from herd.arena.history import history
from herd.evidence.anomaly import Suspicion, suspects
from herd.evidence.bradley_terry import Graph, fit, graph
from herd.evidence.ratings import CENTRE, SCALE, Ratings, points, rate
from herd.evidence.sequences import Comparison
from herd.evidence.votes import Counts, Votes
from herd.store import Store

AT_ONCE = 20_000  # votes in one read
QUICK = 0.05  # seconds; what takes longer is not made again at once
REST = 10  # times as long as it took, it is kept instead
ABOUT = 5.0  # seconds for which what is known of a target is kept
GLANCE = 5.0  # seconds for which a decision may be old that is shown after a vote

T = TypeVar("T")


class Kept:
    """Results by name, each made anew when there is something new; but a slow one only when it has been kept for a
    while, so that many votes and many readers cannot take all the time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        name: Hashable,
        version: Hashable,
        make: Callable[[], T],
        *,
        quick: float = QUICK,
        least: float = 0.0,
        rest: float = REST,
    ) -> T:
        """What `make` gave for this version; or for an older one if it took more than `quick` seconds, or was made
        less than `least` seconds ago; the former for `rest` times as long."""
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            self._entries.move_to_end(name)
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            age = time.monotonic() - entry.made
            enough = max(least, rest * entry.took if entry.took > quick else 0.0)
            if entry.version != version and age >= enough:
                began = time.monotonic()
                entry.result, entry.version = make(), version
                entry.made = time.monotonic()
                entry.took = entry.made - began
            return entry.result  # type: ignore[no-any-return]


@dataclass
class _Entry:
    """What was made, of which version, when, and how long it took."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Hashable = field(default_factory=object)
    made: float = -math.inf
    took: float = 0.0
    result: Any = None


@dataclass(frozen=True)
class Standing:
    """What people's first `n` votes say."""

    n: int
    counts: Counts
    ratings: Ratings
    graph: Graph

    @property
    def rated(self) -> set[int]:
        """The places of those in the largest component that have a rating."""
        return {int(i) for i in self.graph.rated if self.graph.component[i] == 0}


class Board:
    """Follows the store's votes. Methods may be called from any thread; `refresh` takes in what is new."""

    def __init__(
        self,
        store: Store,
        *,
        targets: Callable[[], Iterable[str]] = tuple,
        about: Callable[[str], Mapping[str, Any]] = lambda name: {},
    ) -> None:
        """targets: the names that are shown without votes, too; about: what is known of a name (open, licence, card)."""
        self.store, self.targets, self._about = store, targets, about
        self.version = 0  # grows with every change
        self.kept, self._pages = Kept(1000), Kept(16)
        self._columns = Columns()
        self._refreshing, self._refreshed = threading.Lock(), -math.inf
        self._suspects: dict[int, Suspicion] = {}
        self._flagged: NDArray[np.int64] = np.zeros(0, np.int64)
        self._standing = self._stand()

    def refresh(self, within: float = 0.0) -> int:
        """Take in the votes that were committed since, and the version then. Cheap when nothing is new. Nothing is done
        if it was less than `within` seconds ago."""
        columns = self._columns
        if time.monotonic() < self._refreshed + within:
            return self.version
        with self._refreshing:
            self._refreshed = time.monotonic()
            before = columns.n
            while rows := self.store.votes_after(columns.rowid, AT_ONCE):
                columns.take(rows)
                if len(rows) < AT_ONCE:
                    break
            if columns.n > before:
                self._standing = self.kept.get("standing", columns.n, self._stand, quick=0.0)
                self.version += 1
            return self.version

    @property
    def raters(self) -> list[str]:
        """ "people", and each judge as "judge:NAME"."""
        return self._columns.raters

    def chosen(self, raters: str = PEOPLE) -> Chosen:
        """Raises HerdError 404 for raters that are not there."""
        number = self._columns.number(raters)
        make = lambda: self._columns.choose(number, self._flagged)  # noqa: E731
        return self.kept.get(("chosen", raters), self.version, make)

    def votes(self, raters: str = PEOPLE, category: str | None = None) -> Votes:
        """The votes with their weights; those of one category only, if it is given."""
        chosen = self.chosen(raters)
        return chosen.votes.where(chosen.member(category)) if category else chosen.votes

    def totals(self) -> dict[str, Any]:
        return self._columns.totals(self._flagged)

    # --- what the pages show

    def about(self, name: str) -> Mapping[str, Any]:
        """What is known of a target; a few seconds old, as it may be asked for with every vote."""
        return self.kept.get(("about", name), time.monotonic(), lambda: self._about(name), least=ABOUT)

    def leaderboard(self, **options: Any) -> dict[str, Any]:
        """See `standings.leaderboard`."""
        key = ("leaderboard", *sorted(options.items()))
        # What takes long in it is kept for itself: the second time is faster.
        make = lambda: standings.leaderboard(self, **options)  # noqa: E731
        return self._pages.get(key, self.version, make, rest=1.0)

    def history(self, **options: Any) -> dict[str, Any]:
        """See `history.history`."""
        key = ("history", *sorted(options.items()))
        return self._pages.get(key, self.version, lambda: history(self, **options))

    def compare(self, a: str, b: str, raters: str = PEOPLE) -> dict[str, Any]:
        """See `standings.compare`."""
        make = lambda: standings.compare(self, a, b, raters)  # noqa: E731
        return self._pages.get(("compare", a, b, raters), self.version, make)

    def decision(self, a: str, b: str) -> Comparison:
        """Which of two that people have voted on is better, and how many votes are missing: a few seconds old, as it is
        asked for with every vote."""
        make = lambda: standings.decision(self.chosen(), a, b)  # noqa: E731
        return self.kept.get(("decision", a, b), self.version, make, least=GLANCE)

    # --- ratings

    @property
    def standing(self) -> Standing:
        """Of the last refresh; a little older where there are very many votes."""
        return self._standing

    def _stand(self) -> Standing:
        n = self._columns.n
        counts = self._columns.choose(0, self._flagged).votes.counts()
        return Standing(n, counts, rate(counts), graph(counts))

    def after(self, vote: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
        """What a person's vote, a row of the store, changes: for "left" and "right" each {"rating", "before", "change",
        "low", "high"}, None where there is no rating. For it, earlier votes on the same prompt keep their weights."""
        standing = self._standing
        place = self._columns.place(vote["id"])
        known = place is not None and place < standing.n
        counts = standing.counts
        new = [name for name in (vote["a_target"], vote["b_target"]) if name not in counts.names]
        counts = _widened(counts, list(dict.fromkeys(new)))
        i, j = counts.names.index(vote["a_target"]), counts.names.index(vote["b_target"])
        now = np.append(standing.ratings.rating, [np.nan] * (len(counts.names) - len(standing.counts.names)))
        other = now
        if vote["void"] is None and vote["rater"] is None and i != j and not self.is_flagged(vote["voter"]):
            weight = 1 / math.sqrt(self._columns.alike(vote))
            changed = _with(counts, i, j, vote["outcome"], -weight if known else weight)
            other = now.copy()
            if not known and {i, j} <= standing.rated:  # who is comparable with whom stays as it is
                rated = standing.graph.rated
                scores = (changed.wins + changed.ties / 2)[np.ix_(rated, rated)]
                theta = fit(scores, standing.graph.gauge, (now[rated] - CENTRE) / SCALE).theta
                other[rated] = CENTRE + SCALE * theta
            else:
                other = points(changed, now)
        before, after = (other, now) if known else (now, other)
        half = standing.ratings.high - standing.ratings.rating
        sides = {}
        for side, at in (("left", i), ("right", j)):
            reach = half[at] if at < len(half) else math.nan
            sides[side] = {
                "rating": standings.finite(after[at]),
                "before": standings.finite(before[at]),
                "change": standings.finite(after[at] - before[at]),
                "low": standings.finite(after[at] - reach),
                "high": standings.finite(after[at] + reach),
            }
        return sides

    # --- voters

    def is_flagged(self, voter: str | None) -> bool:
        return voter is not None and hash(voter) in self._suspects

    def suspects(self) -> dict[int, Suspicion]:
        """The flagged voters by number; from then on their votes weigh nothing."""
        return self.kept.get("suspects", self._columns.n, self._suspect)

    def _suspect(self) -> dict[int, Suspicion]:
        chosen = self._columns.choose(0, np.zeros(0, np.int64))
        found = suspects(chosen.votes.where(chosen.valid))
        if found.keys() != self._suspects.keys():
            self._suspects, self._flagged = found, np.array(sorted(found), np.int64)
            self._standing = self._stand()
            self.version += 1
        return found


def _widened(counts: Counts, new: Sequence[str]) -> Counts:
    if not new:
        return counts
    wide = [np.pad(m, (0, len(new))) for m in (counts.wins, counts.ties, counts.both_bad)]
    return Counts((*counts.names, *new), *wide)


def _with(counts: Counts, i: int, j: int, outcome: str, weight: float) -> Counts:
    """The counts with one vote more, or less."""
    wins, ties = counts.wins.copy(), counts.ties.copy()
    for place in {"a": [(i, j)], "b": [(j, i)]}.get(outcome, []):
        wins[place] = max(wins[place] + weight, 0.0)
    if outcome == "tie":
        ties[i, j] = ties[j, i] = max(ties[i, j] + weight, 0.0)
    return Counts(counts.names, wins, ties, counts.both_bad)
