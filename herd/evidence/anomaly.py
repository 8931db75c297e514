"""Who does not vote like the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, xlogy

from herd.errors import HerdError
from herd.evidence.ratings import SCALE, points
from herd.evidence.votes import BOTH_BAD, TIE, A, B, Votes

LEAST = 10  # votes of a voter before there is anything to suspect
ODD = 0.1  # the share of voters that may be odd without others being taken to be as odd
KEPT = (0.9, 0.5)  # how constantly a voter behaves otherwise; the rest of the time as the others do

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

    Null: given the pair, a voter's outcomes (one wins, the other, tie, both bad) are drawn as everybody's are, or else
    winners are, and how often none is named differs between voters as it does between all. What everybody does is not
    known but estimated from the *other* voters, so the likelihood is the predictive one: a Dirichlet prior about what
    the ratings expect of the pair, as strong as fits the pairs best, the others' votes on the pair, and the voter's own
    so far. Under either the e-value, a mixture of other behaviours' likelihoods over the larger of the two, has a mean
    of at most 1, whatever the number of votes; a statistic multiplied up from estimated shares has not.

    Flagged are the k largest of V e-values that are at least V / (k alpha) (e-BH; Wang and Ramdas, JRSS B 84, 2022):
    with any dependence between voters at most about a share alpha of the flagged are wronged, and of honest voters
    alone anybody is flagged with probability at most about alpha. V counts voters of at least `LEAST` votes. Many
    voters who act alike are "the others" to each other and go unseen. Raises HerdError for alpha outside 0 … 1.
    """
    if not 0 < alpha < 1:
        raise HerdError("alpha lies between 0 and 1")
    votes = votes.where(votes.weight > 0)
    voters, voter = np.unique(votes.voter, return_inverse=True)
    if len(voters) < 2:
        return {}
    many = np.bincount(voter)
    log_e, kinds = _evidence(votes, voter, len(voters))
    log_e[many < LEAST] = -math.inf
    order = np.argsort(-log_e)
    bar = np.log((many >= LEAST).sum() / (np.arange(1, len(voters) + 1) * alpha) + 1e-300)
    passed = np.flatnonzero(log_e[order] >= bar)
    flagged = order[: passed[-1] + 1] if len(passed) else order[:0]
    return {
        int(voters[v]): Suspicion(
            math.exp(log_e[v]) if log_e[v] < 709 else math.inf, float(log_e[v]), kinds[v], int(many[v])
        )
        for v in flagged
    }


def _evidence(votes: Votes, voter: NDArray[np.intp], count: int) -> tuple[Matrix, list[str]]:
    """log e and the likeliest behaviour of each of `count` voters."""
    k = len(votes.names)
    low, high = np.minimum(votes.a, votes.b).astype(np.int64), np.maximum(votes.a, votes.b)
    # Of the pair, not of its sides: 0 the lower-numbered target wins, 1 the higher.
    said = np.where(votes.outcome < TIE, votes.outcome ^ (votes.a > votes.b), votes.outcome)
    pairs, pair = np.unique(low * k + high, return_inverse=True)
    groups, group = np.unique(voter * len(pairs) + pair, return_inverse=True)  # one voter's votes on one pair
    of_voter, of_pair = groups // len(pairs), groups % len(pairs)
    own, whole = _table(group, said, len(groups)), _table(pair, said, len(pairs))
    known = (_prior(votes, pairs, whole) + whole)[of_pair] - own
    null = _log_predictive(known, own)
    expected = (known / known.sum(1, keepdims=True))[group]  # [n, 4]: what the others make of each vote
    seen = expected[np.arange(len(said)), said]

    behaviours = _behaviours(expected, seen, said, votes.outcome)
    share = math.log((len(behaviours) + 2) * len(KEPT))
    nothing = np.bincount(of_voter, null, count) + share
    logs = [
        np.logaddexp.reduce(
            [np.bincount(voter, np.log(kept * q + (1 - kept) * seen), count) for kept in KEPT], 0
        )
        - nothing
        for _, q in behaviours
    ]
    log_e, top, kind = np.logaddexp.reduce(logs, 0), np.max(logs, 0), np.argmax(logs, 0)
    names = [name for name, _ in behaviours]

    # For or against one target: a pair without it says nothing, so each target of a voter has sums of its own.
    targets = np.concatenate([pairs[of_pair] // k, pairs[of_pair] % k])
    keys, key = np.unique(np.tile(of_voter, 2) * k + targets, return_inverse=True)
    who = keys // k
    share_of_target = share + np.log(np.bincount(who, minlength=count))[who]
    for kept in KEPT:
        wins = [
            np.bincount(group, np.log(kept * (said == side) + (1 - kept) * seen), len(groups)) - null
            for side in (0, 1)
        ]
        for word, sides in (("for", wins), ("against", wins[::-1])):
            ratio = np.bincount(key, np.concatenate(sides)) - share_of_target
            np.logaddexp.at(log_e, who, ratio)
            better = np.flatnonzero(ratio > top[who])
            better = better[np.argsort(ratio[better])]  # of one voter's the last, the largest, stays
            top[who[better]], kind[who[better]] = ratio[better], len(names) + keys[better] % k
            names += [f"{word} {name}" for name in votes.names]
    # Voters differ in how often they name a winner: the null is also that this one does, and is like the others in whom.
    kinds = _table(voter, np.maximum(said, 1) - 1, count, 3)
    mean = np.tile((kinds.sum(0) + 1) / (len(votes) + 3), (count, 1))
    tolerant = _log_predictive(_fitted(mean, kinds, odd=ODD), kinds)
    tolerant += np.bincount(of_voter, _log_predictive(known[:, :TIE], own[:, :TIE]), count)
    log_e -= np.maximum(tolerant - np.bincount(of_voter, null, count), 0)
    return log_e, [names[i] for i in kind]


def _behaviours(
    expected: Matrix, seen: Matrix, said: NDArray[np.int8], outcome: NDArray[np.int8]
) -> list[tuple[str, Matrix | NDArray[np.bool_]]]:
    """How likely each vote is of one who always votes so. expected [n, 4], seen [n]: how likely, of the others."""
    decided = said < TIE
    other = np.where(decided, expected[np.arange(len(said)), 1 - np.minimum(said, 1)], seen)
    worse = decided & ((seen < other) | ((seen == other) & (said == 0)))
    return [
        ("random", np.full(len(said), 0.25)),
        ("random", (seen + other) / 2),
        ("always left", outcome == A),
        ("always right", outcome == B),
        ("always tie", outcome == TIE),
        ("always both bad", outcome == BOTH_BAD),
        ("against the others", other),
        ("against the others", worse),
    ]


def _prior(votes: Votes, pairs: NDArray[np.int64], whole: Matrix) -> Matrix:
    """[pairs, 4], in votes: what the ratings expect of each pair, and as strong as explains the pairs best. Never
    stronger than the votes there are for each number estimated."""
    k = len(votes.names)
    rating = points(votes.counts())
    gap = (rating[pairs // k] - rating[pairs % k]) / SCALE
    alone = (whole[:, A] + 1) / (
        whole[:, A] + whole[:, B] + 2
    )  # where there are no ratings: they won or lost all
    chance = np.where(np.isfinite(gap), expit(gap), alone)
    share = (whole.sum(0) + 1) / (whole.sum() + 4)
    decided = share[A] + share[B]
    mean: Matrix = np.column_stack(
        [decided * chance, decided * (1 - chance), np.tile(share[TIE:], (len(pairs), 1))]
    )
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
