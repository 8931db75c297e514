"""Who does not vote like the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from herd.errors import HerdError
from herd.evidence.ratings import SCALE, points
from herd.evidence.votes import BOTH_BAD, TIE, A, B, Votes

LEAST = 10  # votes of a voter before there is anything to suspect
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

    Null: given the pair, a voter's outcomes (one wins, the other, tie, both bad) are drawn as everybody's are. How that
    is, is not known but estimated from the *other* voters, so their likelihood is the predictive one: a Dirichlet prior
    about what the ratings expect of the pair, as strong as fits the pairs best, the others' votes on the pair, and the
    voter's own so far. Under it the e-value, a mixture of other behaviours' likelihoods over that, has mean 1, whatever
    the number of votes; a test statistic multiplied up from estimated shares has not.

    Flagged are the k largest of V e-values that are at least V / (k alpha) (e-BH; Wang and Ramdas, JRSS B 84, 2022):
    with any dependence between voters at most about a share alpha of the flagged are wronged, and of honest voters
    alone anybody is flagged with probability at most about alpha. V counts voters of at least `LEAST` votes. Many
    voters who act alike are "the others" to each other and go unseen. Raises HerdError for alpha outside 0 … 1.
    """
    if not 0 < alpha < 1:
        raise HerdError("alpha lies between 0 and 1")
    votes = votes.where(votes.weight > 0)
    if not len(votes):
        return {}
    voters, voter = np.unique(votes.voter, return_inverse=True)
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
    swapped = votes.a > votes.b
    # Of the pair, not of the places: 0 the lower-numbered target wins, 1 the higher.
    said = np.where(votes.outcome < TIE, votes.outcome ^ swapped, votes.outcome)
    pairs, pair = np.unique(low * k + high, return_inverse=True)
    groups, group = np.unique(voter * len(pairs) + pair, return_inverse=True)  # one voter's votes on one pair
    of_voter, of_pair = groups // len(pairs), groups % len(pairs)
    own = _table(group, said, len(groups))
    whole = _table(pair, said, len(pairs))
    prior = _prior(votes, pairs, whole)
    known = (prior + whole)[of_pair] - own
    null = _log_predictive(known, own)

    expected = known / known.sum(1, keepdims=True)  # [groups, 4]
    seen = expected[group, said]  # what the others make of each vote
    likelihoods = [(name, q) for name, q in _behaviours(expected[group], said, votes.outcome)]
    kinds, found = [], []
    families = len(likelihoods) + 2
    base = np.bincount(of_voter, null, count)
    for name, likelihood in likelihoods:
        for kept in KEPT:
            log_q = np.bincount(voter, np.log(kept * likelihood + (1 - kept) * seen), count)
            kinds.append(name)
            found.append(log_q - base - math.log(families * len(KEPT)))
    best = np.argmax(found, 0)
    names = [kinds[i] for i in best]
    log_e, top = np.logaddexp.reduce(found, 0), np.max(found, 0)

    # For or against one target: other pairs say nothing, so each target needs the pairs it is in.
    targets = np.concatenate([pairs[of_pair] // k, pairs[of_pair] % k])
    keys, key = np.unique(np.concatenate([of_voter, of_voter]) * k + targets, return_inverse=True)
    who = keys // k
    share = -np.log(np.bincount(who, minlength=count) * families * len(KEPT))[who]
    for kept in KEPT:
        wins = [
            np.bincount(group, np.log(kept * (said == side) + (1 - kept) * seen), len(groups)) - null
            for side in (0, 1)
        ]
        for word, (first, second) in (("for", wins), ("against", wins[::-1])):
            ratio = np.bincount(key, np.concatenate([first, second])) + share
            np.logaddexp.at(log_e, who, ratio)
            for i in np.flatnonzero(ratio > top[who]):
                if ratio[i] > top[who[i]]:
                    top[who[i]], names[who[i]] = ratio[i], f"{word} {votes.names[keys[i] % k]}"
    return log_e, names


def _behaviours(
    expected: Matrix, said: NDArray[np.int8], outcome: NDArray[np.int8]
) -> list[tuple[str, Matrix | NDArray[np.bool_]]]:
    """The likelihood of each vote when the voter always does so. expected [n, 4]: of the others."""
    decided = said < TIE
    mine = np.where(decided, said, 0)
    rows = np.arange(len(said))
    other, this = expected[rows, 1 - mine], expected[rows, mine]
    return [
        ("random", np.full(len(said), 0.25)),
        ("random", np.where(decided, (this + other) / 2, expected[rows, said])),
        ("always left", outcome == A),
        ("always right", outcome == B),
        ("always tie", outcome == TIE),
        ("always both bad", outcome == BOTH_BAD),
        ("against the others", np.where(decided, other, expected[rows, said])),
        ("against the others", decided & ((this < other) | ((this == other) & (said == 0)))),
    ]


def _prior(votes: Votes, pairs: NDArray[np.int64], whole: Matrix) -> Matrix:
    """[pairs, 4], in votes: what the ratings expect of each pair, and as strong as explains the pairs best. Never
    stronger than the votes there are for each number estimated."""
    k = len(votes.names)
    rating = points(votes.counts())
    gap = (rating[pairs // k] - rating[pairs % k]) / SCALE
    chance = np.clip(expit(np.nan_to_num(gap, posinf=0, neginf=0)), 0.01, 0.99)
    share = whole.sum(0) + 1
    share = share / share.sum()
    decided = share[0] + share[1]
    ties = np.broadcast_to(share[2:], (len(pairs), 2))
    mean = np.column_stack([decided * chance, decided * (1 - chance), ties])
    most = max(2.0, len(votes) / (k + 3))
    strengths = [s for s in 2.0 ** np.arange(1, 11) if s <= most]
    fit = [_log_predictive(s * mean, whole).sum() for s in strengths]
    return mean * strengths[int(np.argmax(fit))]


def _log_predictive(known: Matrix, own: Matrix) -> Matrix:
    """Dirichlet-multinomial: log probability of a series of outcomes with counts own [g, 4], after known [g, 4]."""
    total = gammaln(known.sum(1)) - gammaln((known + own).sum(1))
    each: Matrix = (gammaln(known + own) - gammaln(known)).sum(1) + total
    return each


def _table(row: NDArray[np.intp], outcome: NDArray[np.int8], rows: int) -> Matrix:
    return np.bincount(row * 4 + outcome, minlength=4 * rows).reshape(rows, 4).astype(np.float64)
