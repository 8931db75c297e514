"""Fragility: against trying every removal, and a refit without the votes."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence.fragility import flip, fragility
from herd.evidence.ratings import points, rate
from herd.evidence.votes import Counts

from .votes_made import cast, counted, llmfao, truth


def less(counts: Counts, kinds: list[tuple[int, int, int]], taken: tuple[int, ...]) -> Counts:
    wins, ties = counts.wins.copy(), counts.ties.copy()
    for kind, number in zip(kinds, taken, strict=True):
        tie, a, b = kind
        (ties if tie else wins)[a, b] -= number
        if tie:
            ties[b, a] -= number
    return Counts(counts.names, wins, ties, counts.both_bad)


def stands_above(counts: Counts, i: int, j: int) -> bool:
    """By rating; or, where only one leads to the other by wins and ties, by that."""
    scores = counts.wins + counts.ties / 2
    reach = np.linalg.matrix_power(np.eye(len(scores)) + scores, len(scores)) > 0
    if not (reach[i, j] and reach[j, i]):
        return bool(reach[i, j])
    inside = np.flatnonzero(reach[i] & reach[:, i])
    at = np.ix_(inside, inside)
    part = Counts(
        tuple(counts.names[x] for x in inside), counts.wins[at], counts.ties[at], counts.ties[at] * 0
    )
    rating = rate(part).rating
    return bool(rating[inside == i][0] > rating[inside == j][0] + 1e-6)


def fewest(counts: Counts, above: int, below: int, most: int) -> int | None:
    """By trying every removal of up to `most` votes."""
    k = len(counts.names)
    kinds = [(0, a, b) for a, b in itertools.permutations(range(k), 2) if counts.wins[a, b]]
    kinds += [(1, a, b) for a, b in itertools.combinations(range(k), 2) if counts.ties[a, b]]
    there = [int((counts.ties if t else counts.wins)[a, b]) for t, a, b in kinds]
    seen = functools.cache(lambda taken: stands_above(less(counts, kinds, taken), below, above))
    for m in range(1, most + 1):
        for chosen in itertools.combinations_with_replacement(range(len(kinds)), m):
            taken = tuple(chosen.count(x) for x in range(len(kinds)))
            if all(t <= n for t, n in zip(taken, there, strict=True)) and seen(taken):
                return m
    return None


def test_no_removal_of_fewer_votes_flips_a_rank() -> None:
    rng, compared = np.random.default_rng(0), 0
    for seed in range(30):
        counts = cast(rng, truth(rng, 3), 10 + seed % 4).counts()
        ratings = rate(counts)
        if np.isnan(ratings.rating).any():
            continue
        for found in fragility(counts, ratings):
            if found.votes is not None and found.votes <= 3:
                above, below = (counts.names.index(x) for x in (found.above, found.below))
                assert fewest(counts, above, below, 3) == found.votes
                compared += 1
    assert compared > 20


@pytest.mark.parametrize(("won", "lost", "votes"), [(6, 3, 4), (9, 1, 9), (1, 1, 1)])
def test_of_two_it_is_the_lead_and_one_more(won: int, lost: int, votes: int) -> None:
    counts = counted([[0, won], [lost, 0]])
    (found,) = fragility(counts, rate(counts))
    assert (found.above, found.below, found.votes) == ("t0", "t1", votes)
    assert found.share == pytest.approx(votes / (won + lost))


def test_thousands_of_votes_are_confirmed_too() -> None:
    counts = counted([[0, 9000, 800], [6000, 0, 900], [600, 1000, 0]])
    for found in fragility(counts, rate(counts)):
        assert found.votes is not None
    direct = flip(counted([[0, 9000], [6000, 0]]), rate(counted([[0, 9000], [6000, 0]])), 0, 1)
    assert direct.votes == 3001


def test_ties_alone_cannot_be_turned() -> None:
    counts = counted([[0, 0], [0, 0]], [[0, 4], [4, 0]])
    (found,) = fragility(counts, rate(counts))
    assert found.votes is None and found.share is None


def test_neighbours_of_each_component_and_any_two() -> None:
    rng = np.random.default_rng(1)
    counts = cast(rng, truth(rng, 6), 300).counts()
    ratings = rate(counts)
    order = np.argsort(-ratings.rating)
    found = fragility(counts, ratings)
    assert [(f.above, f.below) for f in found] == [
        (counts.names[i], counts.names[j]) for i, j in itertools.pairwise(order)
    ]
    ends = flip(counts, ratings, int(order[-1]), int(order[0]))  # named in either order
    assert ends.above == counts.names[order[0]] and ends.votes > max(f.votes for f in found)
    none = counted([[0, 3], [0, 0]])
    assert fragility(none, rate(none)) == []
    with pytest.raises(HerdError, match="no ratings to compare"):
        flip(none, rate(none), 0, 1)


def test_of_the_crowds_votes_single_ones_flip_ranks_and_no_fewer_than_said(shared_data: Path) -> None:
    votes = llmfao(shared_data)
    counts = votes.counts()
    ratings = rate(counts)
    found = fragility(counts, ratings)
    assert len(found) == 58 and all(f.votes for f in found)
    for said in (1, 2):
        one = next(f for f in found if f.votes == said)
        i, j = (votes.names.index(x) for x in (one.above, one.below))
        theirs = np.flatnonzero(np.isin(votes.a, (i, j)) | np.isin(votes.b, (i, j)))
        turned = 0
        for v in theirs:
            left = points(votes.where(np.arange(len(votes)) != v).counts(), ratings.rating)
            turned += bool(left[j] > left[i])
        assert bool(turned) == (said == 1)
