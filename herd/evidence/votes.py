"""Votes as columns, and what they count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from herd.errors import HerdError

OUTCOMES = ("a", "b", "tie", "both_bad")  # of a pair, of which a stood at the left
A, B, TIE, BOTH_BAD = range(4)


@dataclass(frozen=True)
class Counts:
    """What is known of each pair of k targets. wins [k, k]: how often i was preferred to j; ties, both_bad [k, k]:
    symmetric, each such vote once at (i, j) and once at (j, i). Weighted votes give fractions."""

    names: tuple[str, ...]
    wins: NDArray[np.float64]
    ties: NDArray[np.float64]
    both_bad: NDArray[np.float64]

    @property
    def games(self) -> NDArray[np.float64]:
        """[k, k], symmetric: votes that say something of who is better, so not "both bad"."""
        return self.wins + self.wins.T + self.ties

    def __add__(self, other: Counts) -> Counts:
        """Raises HerdError for counts of other targets."""
        if self.names != other.names:
            raise HerdError("counts of different targets cannot be added")
        return Counts(
            self.names, self.wins + other.wins, self.ties + other.ties, self.both_bad + other.both_bad
        )


@dataclass(frozen=True)
class Votes:
    """n votes. Row v compares names[a[v]], which stood at the left, with names[b[v]].

    a, b: int32 [n]; outcome: int8 [n], an index into OUTCOMES; weight: float64 [n], 0 for a vote that does not count;
    conversation, voter: int64 [n], numbers of what the vote belongs to; votes of one conversation, or of one voter, may
    depend on each other.
    """

    names: tuple[str, ...]
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    outcome: NDArray[np.int8]
    weight: NDArray[np.float64]
    conversation: NDArray[np.int64]
    voter: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        a: Sequence[int] | NDArray[np.integer],
        b: Sequence[int] | NDArray[np.integer],
        outcome: Sequence[int] | NDArray[np.integer],
        *,
        weight: Sequence[float] | NDArray[np.float64] | None = None,
        conversation: Sequence[int] | NDArray[np.integer] | None = None,
        voter: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> Votes:
        """Without conversation or voter each vote is on its own. Raises HerdError for columns of different lengths,
        numbers outside their range, or a target against itself."""
        n, k = len(a), len(names)
        columns = [np.asarray(column, np.int64) for column in (a, b, outcome)]
        rest = [np.arange(n) if column is None else np.asarray(column) for column in (conversation, voter)]
        weights = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        if any(column.shape != (n,) for column in (*columns, *rest, weights)):
            raise HerdError("the columns of votes have different lengths")
        left, right, said = columns
        if n and (min(c.min() for c in columns) < 0 or max(left.max(), right.max()) >= k or said.max() > 3):
            raise HerdError("a vote names a target or an outcome that is not there")
        if (left == right).any():
            raise HerdError(f"vote {int(np.argmax(left == right))} compares a target with itself")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise HerdError("the weights of votes are finite and not negative")
        return cls(
            tuple(names),
            left.astype(np.int32),
            right.astype(np.int32),
            said.astype(np.int8),
            weights,
            rest[0].astype(np.int64),
            rest[1].astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.a)

    def where(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> Votes:
        """The votes that `which` selects: a mask [n], or places."""
        names = ("a", "b", "outcome", "weight", "conversation", "voter")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    def counts(self) -> Counts:
        """One pass over the rows."""
        k = len(self.names)
        place = (self.outcome.astype(np.intp) * k + self.a) * k + self.b
        weight = None if (self.weight == 1.0).all() else self.weight
        sums = np.bincount(place, weight, minlength=4 * k * k).astype(np.float64).reshape(4, k, k)
        first, second, tie, bad = sums
        return Counts(self.names, first + second.T, tie + tie.T, bad + bad.T)
