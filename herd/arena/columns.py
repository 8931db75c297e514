"""All votes in memory, as columns of numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from herd.errors import HerdError
from herd.evidence.votes import BOTH_BAD, OUTCOMES, Counts, Votes

PEOPLE = "people"
JUDGE = "judge:"  # before a judge's name
MOST_TARGETS = 1000  # the work grows with their cube
TOO_MANY = "too many targets"  # why a vote on any other is void
NO_STYLE = "[NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN]"
KINDS: dict[str, Any] = {
    **dict.fromkeys(("a", "b", "tags", "rater", "void"), np.int32),
    **dict.fromkeys(("id", "voter", "conversation", "prompt"), np.int64),
    "outcome": np.int8,
    "created": np.float64,
    "style": np.float32,  # [n, 8]
}


class Numbers(dict[Any, int]):
    """Numbers things in the order in which they come."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = number = len(self)
        return number


@dataclass(frozen=True)
class Chosen:
    """The votes of people, or of one judge, between different targets. created [n]; style [n, 2, 4]: features of the
    reply at the left and at the right, NaN where not known; tags [n]: places in `groups`, each the names of categories;
    valid [n]: those that are not void."""

    votes: Votes
    created: NDArray[np.float64]
    style: NDArray[np.float32]
    tags: NDArray[np.int32]
    groups: tuple[frozenset[str], ...]
    valid: NDArray[np.bool_]

    def member(self, category: str) -> NDArray[np.bool_]:
        return np.array([category in group for group in self.groups], bool)[self.tags]

    def of(self, category: str | None) -> Chosen:
        """Those of one category; all for None."""
        if not category:
            return self
        which = self.member(category)
        parts = {name: getattr(self, name)[which] for name in ("created", "style", "tags", "valid")}
        return replace(self, votes=self.votes.where(which), **parts)

    def plain(self) -> Votes:
        """The same with each vote that counts at a weight of one."""
        return replace(self.votes, weight=(self.votes.weight > 0).astype(np.float64))


class Columns:
    """Rows are added by one thread at a time; any may read. What was added does not change, and is never moved.

    A void vote and one of a flagged voter weigh nothing. m votes on the same pair of targets and the same first prompt
    weigh 1/√m each, so √m together: they say more than one vote, but less than m on different prompts.
    """

    def __init__(self) -> None:
        self.rowid = self.n = 0
        self._lock = threading.Lock()
        self._columns = {
            name: np.zeros((1024, 8) if name == "style" else 1024, kind) for name, kind in KINDS.items()
        }
        self._names, self._tags = Numbers(), Numbers()
        self._groups: list[frozenset[str]] = []  # what the numbers of tags mean
        self._raters, self._voids = Numbers({None: 0}), Numbers({None: 0})

    def take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of `Store.votes_after`."""
        (rowid, a, b, outcome, _, rater, voter, conversation, prompt, _, tags, style, void, created, id) = (
            zip(*rows, strict=True)
        )
        n, end = self.n, self.n + len(rows)
        pairs = [(self._target(i), self._target(j)) for i, j in zip(a, b, strict=True)]
        void = tuple(TOO_MANY if None in pair else one for pair, one in zip(pairs, void, strict=True))
        pairs = [(0, 1) if None in pair else pair for pair in pairs]
        new = {
            "a": [i for i, _ in pairs],
            "b": [j for _, j in pairs],
            "outcome": [OUTCOMES.index(one) for one in outcome],
            "rater": [self._raters[one] for one in rater],
            "void": [self._voids[one] for one in void],
            "tags": [self._tags[one] for one in tags],
            # Numbers by Python's own hash, of 64 bits and secretly seeded; whoever is not known is alone.
            "id": [hash(of) for of in id],
            "voter": [hash(one or of) for one, of in zip(voter, id, strict=True)],
            "conversation": [hash(one or of) for one, of in zip(conversation, id, strict=True)],
            "prompt": [hash(one) if one else 0 for one in prompt],
            "created": created,
            "style": _style(style),
        }
        with self._lock:
            self._groups += map(_names, list(self._tags)[len(self._groups) :])
            for name, column in self._columns.items():
                if end > len(column):
                    room = np.zeros((max(2 * len(column), end), *column.shape[1:]), column.dtype)
                    room[:n] = column[:n]
                    self._columns[name] = room
                self._columns[name][n:end] = new[name]
            self.rowid, self.n = rowid[-1], end

    def _target(self, name: str) -> int | None:
        return self._names[name] if name in self._names or len(self._names) < MOST_TARGETS else None

    def _snapshot(self) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
        """The columns as they are now, and the targets' names: rows are added behind, none is changed."""
        with self._lock:
            return {name: column[: self.n] for name, column in self._columns.items()}, tuple(self._names)

    @property
    def raters(self) -> list[str]:
        return [PEOPLE, *sorted(JUDGE + name for name in list(self._raters) if name is not None)]

    def number(self, raters: str) -> int:
        """Of "people" or "judge:NAME". Raises HerdError 404."""
        name = raters.removeprefix(JUDGE) if raters.startswith(JUDGE) else None
        number = self._raters.get(name)
        if number is None or (name is None and raters != PEOPLE):
            there = f"no rater {raters!r:.100}; there are {', '.join(self.raters)}"
            raise HerdError(there, status=404, code="not_found")
        return number

    def place(self, id: str) -> int | None:
        """Where the vote stands, if it is here."""
        columns, _ = self._snapshot()
        found = np.flatnonzero(columns["id"] == hash(id))
        return int(found[0]) if len(found) else None

    def choose(self, rater: int, flagged: NDArray[np.int64]) -> Chosen:
        """flagged: numbers of voters whose votes weigh nothing."""
        columns, names = self._snapshot()
        which = np.flatnonzero((columns["rater"] == rater) & (columns["a"] != columns["b"]))
        part = {name: column[which] for name, column in columns.items()}
        valid = part["void"] == 0
        counts = valid & ~np.isin(part["voter"], flagged)
        weight = counts.astype(np.float64)
        asked = np.flatnonzero(counts & (part["prompt"] != 0))
        low, high = np.minimum(part["a"], part["b"])[asked], np.maximum(part["a"], part["b"])[asked]
        group = part["prompt"][asked] ^ (low.astype(np.int64) << 32 | high)
        _, of, size = np.unique(group, return_inverse=True, return_counts=True)
        weight[asked] = 1 / np.sqrt(size[of])
        votes = Votes(names, weight=weight, **{name: part[name] for name in ("a", "b", "outcome", "conversation", "voter")})  # fmt: skip
        groups = tuple(self._groups)
        style = part["style"].reshape(-1, 2, 4)
        return Chosen(votes, part["created"], style, part["tags"], groups, valid)

    def alike(self, vote: Mapping[str, Any]) -> int:
        """How many of people's votes, this one too, are on its pair and its prompt."""
        if not vote["prompt"]:
            return 1
        columns, _ = self._snapshot()
        same = np.flatnonzero(columns["prompt"] == hash(vote["prompt"]))
        a, b, rater, void, id = (columns[name][same] for name in ("a", "b", "rater", "void", "id"))
        i, j = self._names.get(vote["a_target"]), self._names.get(vote["b_target"])
        pair = ((a == i) & (b == j)) | ((a == j) & (b == i))
        return 1 + int((pair & (rater == 0) & (void == 0) & (id != hash(vote["id"]))).sum())

    def totals(self, flagged: NDArray[np.int64]) -> dict[str, Any]:
        """What there is, also of what does not count."""
        columns, _ = self._snapshot()
        people = columns["rater"] == 0
        counts = np.bincount(columns["void"][people], minlength=1).tolist()
        void = {str(why): n for why, n in zip(list(self._voids), counts, strict=False) if why and n}
        if alike := int((people & (columns["a"] == columns["b"])).sum()):
            void["same target"] = alike
        of_flagged = people & np.isin(columns["voter"], flagged)
        return {
            "votes": len(people), "people": int(people.sum()), "judges": int((~people).sum()),
            "both_bad": int((people & (columns["outcome"] == BOTH_BAD)).sum()), "void": void,
            "flagged_voters": len(flagged), "flagged_votes": int(of_flagged.sum()),
            "voters": len(np.unique(columns["voter"][people])),
        }  # fmt: skip


def _style(texts: Sequence[str | None]) -> NDArray[np.float32]:
    """[n, 8]; NaN for what is not eight counts."""
    try:
        with np.errstate(over="ignore"):
            found = np.array(json.loads(f"[{','.join(text or NO_STYLE for text in texts)}]"), np.float32)
    except (ValueError, TypeError, OverflowError):
        found = np.zeros(0, np.float32)
    if found.shape != (len(texts), 8):  # somebody's import
        if len(texts) == 1:
            return np.full((1, 8), np.nan, np.float32)
        return np.concatenate([_style([text]) for text in texts])
    found[~(found < np.inf).all(1) | (found < 0).any(1)] = np.nan
    return found


def _names(text: str | None) -> frozenset[str]:
    found = json.loads(text) if text else []
    return frozenset(n for n in found if isinstance(n, str)) if isinstance(found, list) else frozenset()


def counts_of(counts: Counts, names: Sequence[str]) -> Counts:
    """The counts of these targets; zeros for one on which nobody has voted."""
    if tuple(names) == counts.names:
        return counts
    place = {name: i for i, name in enumerate(counts.names)}
    at = [place.get(name, len(place)) for name in names]  # zeros stand there
    parts = (np.pad(part, (0, 1))[np.ix_(at, at)] for part in (counts.wins, counts.ties, counts.both_bad))
    return Counts(tuple(names), *parts)
