"""Who does not vote like the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, xlogy

from herd.errors import HerdError
from herd.evidence.ratings import SCALE, points
from herd.evidence.votes import BOTH_BAD, TIE, A, B, Votes

LEAST = 10  # votes of a voter before there is anything to suspect
ODD = 0.1  # the share of voters that may be odd without others being taken to be as odd
KEPT = (0.9, 0.5)  # how constantly an odd voter behaves so; the rest of the time as the others do
ALLOWED = 0.25  # how constantly anybody may like a target, a place or a button: tastes differ

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Suspicion:
    """The evidence against one voter. e_value: how much likelier the votes are under some other behaviour than under
    voting like the others, log_e its logarithm (e_value is infinite where it overflows). kind: the behaviour that
    explains them best: "random", "always left", "always right", "always tie", "always both bad", "against the others",
    "for NAME" or "against NAME"."""

    e_value: float
    log_e: float
    kind: str
    votes: int


def suspects(votes: Votes, *, alpha: float = 0.01) -> dict[int, Suspicion]:
    """By voter number: those who do not vote like the others. Votes of weight 0 are not looked at, other weights not used.

    Null: given the pair, a voter's outcomes (one wins, the other, tie, both bad) are drawn as everybody's are; or winners
    are, and how often none is named differs between voters as it does between all; or, in `ALLOWED` of the votes, the
    voter follows one of the behaviours of `Suspicion` (not "random", "against the others"). What everybody does is estimated from the *other* voters: a
    Dirichlet prior about what the ratings expect of the pair, as strong as fits the pairs best, and the others' votes on
    it. The likelihood is the predictive one, which learns from the voter's own votes as they come, so the e-value, a
    mixture of the behaviours' likelihoods over the largest under the null, has a mean of at most 1 whatever the number
    of votes; a statistic multiplied up from estimated shares has not.

    Flagged are the k largest of V e-values that are at least V / (k alpha) (e-BH; Wang and Ramdas, JRSS B 84, 2022):
    with any dependence between voters at most about a share alpha of the flagged are wronged, and of honest voters
    alone anybody is flagged with probability at most about alpha. V counts voters of at least `LEAST` votes. Many
    voters who act alike are "the others" to each other and go unseen. Raises HerdError for alpha outside 0 … 1.
    """
    if not 0 < alpha < 1:
        raise HerdError("alpha lies between 0 and 1")
    votes = votes.where(votes.weight > 0)
    voters, voter, many = np.unique(votes.voter, return_inverse=True, return_counts=True)
    if len(voters) < 2:
        return {}
    log_e, kinds = _evidence(votes, voter, len(voters))
    log_e[many < LEAST] = -math.inf
    order = np.argsort(-log_e)
    bar = np.log((many >= LEAST).sum() / (np.arange(1, len(voters) + 1) * alpha) + 1e-300)
    passed = np.flatnonzero(log_e[order] >= bar)
    flagged = order[: passed[-1] + 1] if len(passed) else order[:0]
    with np.errstate(over="ignore"):
        e_value = np.exp(log_e)
    return {
        int(voters[v]): Suspicion(float(e_value[v]), float(log_e[v]), kinds(v), int(many[v])) for v in flagged
    }


def _evidence(votes: Votes, voter: NDArray[np.intp], count: int) -> tuple[Matrix, Callable[[int], str]]:
    """log e of each of `count` voters, and what names the likeliest behaviour of one."""
    k, n = len(votes.names), len(votes)
    low, high = np.minimum(votes.a, votes.b).astype(np.int64), np.maximum(votes.a, votes.b)
    # Of the pair, not of its sides: 0 the lower-numbered target wins, 1 the higher.
    said = np.where(votes.outcome < TIE, votes.outcome ^ (votes.a > votes.b), votes.outcome)
    pairs, pair = np.unique(low * k + high, return_inverse=True)
    groups, group, size = np.unique(voter * len(pairs) + pair, return_inverse=True, return_counts=True)
    of_voter, of_pair = np.divmod(groups, len(pairs))  # a group: one voter's votes on one pair
    own, whole = _table(group, said, len(groups)), _table(pair, said, len(pairs))
    known = (_prior(votes, pairs, whole) + whole)[of_pair] - own
    alike = _log_predictive(known, own)
    null = (alike / size)[group]  # [n]: each vote's part of it
    expected = (known / known.sum(1, keepdims=True))[group]  # [n, 4]: what the others make of each vote
    seen, decided = expected[np.arange(n), said], said < TIE
    other = np.where(decided, expected[np.arange(n), 1 - np.minimum(said, 1)], seen)

    worse = decided & ((seen < other) | ((seen == other) & (said == 0)))

    every, none = np.arange(n), np.zeros(n, np.int64)
    # Whoever is for one target says nothing of it in votes without it: each target of a voter has sums of its own.
    one, two = [
        (rows, *np.unique(voter[rows] * k + target, return_inverse=True))
        for rows, target in ((every, none), (np.tile(every, 2), np.append(low, high)))
    ]
    # What one does, in which votes, and how likely it makes each of them.
    behaviours: list[tuple[str, tuple[NDArray[Any], ...], Matrix | NDArray[np.bool_]]] = [
        ("random", one, np.full(n, 0.25)),
        ("random", one, (seen + other) / 2),
        ("always left", one, votes.outcome == A),
        ("always right", one, votes.outcome == B),
        ("always tie", one, votes.outcome == TIE),
        ("always both bad", one, votes.outcome == BOTH_BAD),
        ("against the others", one, other),
        ("against the others", one, worse),
        ("for {}", two, np.append(said == 0, said == 1)),
        ("against {}", two, np.append(said == 1, said == 0)),
    ]
    log_e, top, honest = np.full(count, -np.inf), np.full(count, -np.inf), np.zeros(count)
    kind = np.zeros(count, np.int64)
    for number, (name, (rows, keys, key), likely) in enumerate(behaviours):
        who = keys // k
        prior = -np.log(len(behaviours) * len(KEPT) * np.bincount(who, minlength=count)[who])
        usual = seen[rows]
        allowed, *ratios = (
            np.bincount(key, np.log(kept * likely + (1 - kept) * usual) - null[rows])
            for kept in (ALLOWED, *KEPT)
        )
        if name not in ("random", "against the others"):  # a taste or a habit
            np.maximum.at(honest, who, allowed)
        for found in (ratio + prior for ratio in ratios):
            np.logaddexp.at(log_e, who, found)
            better = np.flatnonzero(found > top[who])
            better = better[np.argsort(found[better])]  # of one voter's the last, the largest, stays
            top[who[better]] = found[better]
            kind[who[better]] = number * k + keys[better] % k
    # Voters differ in how often they name a winner: the null is also that this one does, and is like the others in whom.
    kinds = _table(voter, np.maximum(said, 1) - 1, count, 3)
    mean = np.tile((kinds.sum(0) + 1) / (n + 3), (count, 1))
    tolerant = _log_predictive(_fitted(mean, kinds, odd=ODD), kinds)
    tolerant += np.bincount(of_voter, _log_predictive(known[:, :TIE], own[:, :TIE]) - alike, count)
    return log_e - np.maximum(honest, tolerant), lambda v: behaviours[kind[v] // k][0].replace(
        "{}", votes.names[kind[v] % k]
    )


def _prior(votes: Votes, pairs: NDArray[np.int64], whole: Matrix) -> Matrix:
    """[pairs, 4], in votes: what the ratings expect of each pair, and as strong as explains the pairs best. Never
    stronger than the votes there are for each number estimated."""
    k = len(votes.names)
    rating = points(votes.counts())
    gap = (rating[pairs // k] - rating[pairs % k]) / SCALE
    alone = (whole[:, A] + 1) / (whole[:, A] + whole[:, B] + 2)  # without ratings: one has won or lost all
    chance = np.where(np.isfinite(gap), expit(gap), alone)
    share = (whole.sum(0) + 1) / (whole.sum() + 4)
    decided = share[A] + share[B]
    rest = np.tile(share[TIE:], (len(pairs), 1))
    mean: Matrix = np.column_stack([decided * chance, decided * (1 - chance), rest])
    return _fitted(mean, whole, len(votes) / (k + 3))


def _fitted(mean: Matrix, counts: Matrix, most: float = 1024.0, odd: float = 0.0) -> Matrix:
    """mean [r, c] times the strength, of powers of two up to `most`, under which counts [r, c] are likeliest, leaving
    out the share `odd` of the rows that fit worst, each beside what would fit it best."""
    strengths = 2.0 ** np.arange(1, 11)
    strengths = strengths[strengths <= max(most, 2.0)]
    best = xlogy(counts, counts / np.maximum(counts.sum(1, keepdims=True), 1)).sum(1)
    fit = [np.sort(_log_predictive(s * mean, counts) - best)[int(odd * len(mean)) :].sum() for s in strengths]
    chosen: Matrix = mean * strengths[np.argmax(fit)]
    return chosen


def _log_predictive(known: Matrix, own: Matrix) -> Matrix:
    """Dirichlet-multinomial: log probability of a series of outcomes with counts own [g, c], after known [g, c]."""
    whole: Matrix = gammaln(known.sum(1)) - gammaln((known + own).sum(1))
    each: Matrix = (gammaln(known + own) - gammaln(known)).sum(1)
    return whole + each


def _table(row: NDArray[np.intp], outcome: NDArray[np.integer], rows: int, columns: int = 4) -> Matrix:
    counts = np.bincount(row * columns + outcome, minlength=columns * rows)
    return counts.reshape(rows, columns).astype(np.float64)
