"""The votes and what they say, kept up with the store."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from herd.arena import standings
from herd.arena.columns import PEOPLE, Chosen, Columns, counts_of
from herd.arena.history import history
from herd.evidence.anomaly import Suspicion, suspects
from herd.evidence.bradley_terry import Graph, Matrix, bread, fit, graph
from herd.evidence.ratings import CENTRE, SCALE, Ratings, points, rate
from herd.evidence.sequences import Comparison
from herd.evidence.votes import Counts
from herd.store import Store

AT_ONCE = 20_000  # votes in one read
QUICK = 0.05  # seconds; what takes longer is not made again at once
REST = 10  # times as long as it took, it is kept instead
ABOUT = 5.0  # seconds for which what is known of a target is kept
RECENT = 0.1  # seconds for which the board may be old that a vote reveals
SMALL = 0.02  # a first step in log odds that is right to a tenth of a point
CLOSE = 1e-3  # a step in log odds, after which ratings are right to a thousandth of a point
GLANCE = 10.0  # seconds for which a decision may be old that is shown after a vote

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

    def age(self, name: Hashable) -> float:
        """Seconds since it was made; infinite if it was not."""
        entry = self._entries.get(name)
        return time.monotonic() - entry.made if entry else math.inf


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
    inverse: Matrix  # [r, r] of the information of the rated

    def step(self, i: int, j: int, outcome: str, weight: float) -> Matrix:
        """[r]: how far one more vote on i and j moves the rated, in log odds: Newton's first step, of which the error is
        its square (Sherman and Morrison, Annals of Mathematical Statistics 21, 1950)."""
        at, other = np.searchsorted(self.graph.rated, (i, j))
        chance = expit((self.ratings.rating[i] - self.ratings.rating[j]) / SCALE)
        pull = self.inverse[at] - self.inverse[other]
        said = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(outcome, chance)
        own = (
            weight * chance * (1 - chance) * (pull[at] - pull[other])
        )  # how much of itself the vote takes away
        moved: Matrix = pull * (weight * (said - chance) / (1 + own))
        return moved

    @property
    def rated(self) -> set[int]:
        """The places of those in the largest component that have a rating."""
        return {int(i) for i in self.graph.rated if self.graph.component[i] == 0}

    def games(self, name: str) -> int:
        """A target's votes, of what they weigh."""
        names = self.counts.names
        return round(float(self.counts.games[names.index(name)].sum())) if name in names else 0


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
        self.standing = self._stand()  # of the last refresh; a little older where there are very many votes

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
                self.standing = self.kept.get("standing", columns.n, self._stand, quick=0.0)
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
        self.suspects()
        key = ("history", *sorted(options.items()))
        return self._pages.get(key, self.version, lambda: history(self, **options))

    def compare(self, a: str, b: str, raters: str = PEOPLE) -> dict[str, Any]:
        """See `standings.compare`."""
        self.suspects()
        make = lambda: standings.compare(self, a, b, raters)  # noqa: E731
        return self._pages.get(("compare", a, b, raters), self.version, make)

    def decision(self, a: str, b: str) -> Comparison:
        """Which of two that people have voted on is better, and how many votes are missing: some seconds old, as it is
        asked for with every vote."""
        make = lambda: standings.decision(self.chosen(), a, b)  # noqa: E731
        return self.kept.get(("decision", a, b), self.version, make, least=GLANCE)

    def at_hand(self, a: str, b: str) -> bool:
        """Whether what a vote on them reveals is here, and recent enough: it takes no time."""
        ages = (self.kept.age(("about", a)), self.kept.age(("about", b)), self.kept.age(("decision", a, b)))
        limits = (ABOUT, ABOUT, GLANCE)
        recent = time.monotonic() < self._refreshed + RECENT
        return recent and all(age < limit for age, limit in zip(ages, limits, strict=True))

    # --- ratings

    def _stand(self) -> Standing:
        n = self._columns.n
        counts = self._columns.choose(0, self._flagged).votes.counts()
        ratings, of = rate(counts), graph(counts)
        fitted = fit(of.scores, of.gauge, (ratings.rating[of.rated] - CENTRE) / SCALE)
        return Standing(n, counts, ratings, of, bread(fitted)[0])

    def after(self, vote: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
        """What a person's vote, a row of the store, changes: for "left" and "right" each {"rating", "before", "change",
        "low", "high"}, None where there is no rating, or no change to speak of, as the mean is of others now. For it,
        earlier votes on the same prompt keep their weights."""
        standing, place = self.standing, self._columns.place(vote["id"])
        known = place is not None and place < standing.n
        pair, old = (vote["a_target"], vote["b_target"]), standing.counts.names
        counts = counts_of(standing.counts, list(dict.fromkeys((*old, *pair))))
        i, j = map(counts.names.index, pair)
        new = [math.nan] * (len(counts.names) - len(old))
        now = np.append(standing.ratings.rating, new)
        half = np.append(standing.ratings.high, new) - now
        other = now.copy()
        if vote["void"] is None and vote["rater"] is None and i != j and not self.is_flagged(vote["voter"]):
            weight = 1 / math.sqrt(self._columns.alike(vote))
            changed = _with(counts, i, j, vote["outcome"], -weight if known else weight)
            if not known and {i, j} <= standing.rated:  # who is comparable with whom stays as it is
                rated, start = standing.graph.rated, (now[standing.graph.rated] - CENTRE) / SCALE
                theta = start + standing.step(i, j, vote["outcome"], weight)
                if np.abs(theta - start).max() > SMALL:
                    scores = (changed.wins + changed.ties / 2)[np.ix_(rated, rated)]
                    theta = fit(scores, standing.graph.gauge, theta, enough=CLOSE).theta
                other[rated] = CENTRE + SCALE * theta
            else:
                other = points(changed, now)
        before, after = (other, now) if known else (now, other)
        component = np.append(standing.ratings.component, new)
        if component[i] != component[j] or (np.isfinite(before) != np.isfinite(after)).any():
            change = np.full(len(now), math.nan)  # the mean is of others now, and moves everybody
        else:
            change = after - before
        numbers = {
            "rating": after,
            "before": before,
            "change": change,
            "low": after - half,
            "high": after + half,
        }
        return {
            side: {name: standings.finite(of[at]) for name, of in numbers.items()}
            for side, at in (("left", i), ("right", j))
        }

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
            self.standing = self._stand()
            self.version += 1
        return found


def _with(counts: Counts, i: int, j: int, outcome: str, weight: float) -> Counts:
    """The counts with one vote more, or less."""
    wins, ties = counts.wins.copy(), counts.ties.copy()
    if outcome == "tie":
        ties[i, j] = ties[j, i] = max(ties[i, j] + weight, 0.0)
    elif outcome != "both_bad":
        place = (i, j) if outcome == "a" else (j, i)
        wins[place] = max(wins[place] + weight, 0.0)
    return replace(counts, wins=wins, ties=ties)
