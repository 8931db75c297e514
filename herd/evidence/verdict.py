"""One verdict decides whether a candidate replaces what is served."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from herd.errors import HerdError
from herd.evidence.sequences import clustered_mean, least_clusters

Decision = Literal["SWITCH", "STAY", "NOT ENOUGH DATA"]


@dataclass(frozen=True)
class Verdict:
    """The decision and its evidence. estimate, low, high: in the unit of the differences, None with too few clusters for an
    interval. needed: a rough total of clusters at which the interval would clear the margin if the estimate held; None
    when it is decided, or the estimate does not favour the candidate."""

    decision: Decision
    reason: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    needed: int | None = None


def verdict(
    differences: ArrayLike,
    conversations: Sequence[Hashable],
    voters: Sequence[Hashable] | None = None,
    *,
    margin: float = 0.0,
    alpha: float = 0.05,
    minimum: int | None = None,
) -> Verdict:
    """Is the candidate better than the current by more than `margin`, at whatever time one asks?

    differences [n]: candidate minus current, one per pair, larger is better. conversations, voters [n]: what each pair
    belongs to; pairs of one conversation, or of one voter, may depend on each other. SWITCH when the (1 - alpha) interval
    of the mean difference lies above the margin, STAY when it lies at or below it, NOT ENOUGH DATA when it holds the
    margin or there are fewer than `minimum` conversations (`least_clusters` unless given). A margin below zero asks only
    that the candidate be not worse by so much.

    The interval is a confidence sequence (`sequences.Mean`) with the two-way cluster-robust error: one may ask again after
    every vote, and SWITCH is ever said falsely at a rate of about alpha / 2. It is up to alpha where few conversations are
    much worse and most a little better, and more where these are so rare that none was seen: a loss in one conversation
    of ten is in none of seven every second time. A larger `minimum` guards against that. With fewer than `minimum` voters
    it is about these voters, as the reason says. HerdError for differences that are not finite or do not match their
    clusters, or a margin that is not finite.
    """
    least = max(2, least_clusters(alpha) if minimum is None else minimum)
    people = len(set(voters or ()))
    ways = (conversations,) if voters is None or people < least else (conversations, voters)
    mean = clustered_mean(differences, *ways)
    if not math.isfinite(margin) or (voters is not None and len(voters) != len(conversations)):
        raise HerdError("a verdict needs a finite margin, and one voter for each pair")
    n, count = int(np.size(differences)), len(set(conversations))
    if count < least:
        reason = f"{count} of at least {least} independent conversations"
        return Verdict("NOT ENOUGH DATA", reason, None, None, None, n, count, least)

    low, high = mean.interval(alpha)
    scale = count / mean.count  # what counts is fewer where few clusters hold most pairs
    needed = None
    if mean.value > margin and low <= margin:
        total = mean.needed(mean.value - margin, alpha)
        needed = None if total is None else max(math.ceil(total * scale), count + 1)
    if not math.isfinite(low):
        reason = f"{count} independent conversations are too few for an interval that is valid at any time"
        return Verdict("NOT ENOUGH DATA", reason, mean.value, None, None, n, count, needed or count + 1)
    evidence = f"{mean.value:+.4g}, {1 - alpha:.0%} interval {low:+.4g} to {high:+.4g}, valid at any time"
    if 0 < people < least:
        evidence += f", for {people} voter{'s' * (people != 1)}"
    decision: Decision = "SWITCH" if low > margin else "STAY" if high <= margin else "NOT ENOUGH DATA"
    word = {"SWITCH": "better", "STAY": "not better", "NOT ENOUGH DATA": "cannot tell"}[decision]
    return Verdict(decision, f"{word}: {evidence}", mean.value, low, high, n, count, needed)
