"""Ratings against evalica, closed forms, the bootstrap and simulation; and what is said where votes say too little."""

import json
import math
from pathlib import Path

import evalica
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binom

from herd.errors import HerdError
from herd.evidence.ratings import SCALE, points, rate, rate_clustered
from herd.evidence.votes import Counts, Votes

from .votes_made import cast, counted, llmfao, names, truth

WINNERS = (evalica.Winner.X, evalica.Winner.Y, evalica.Winner.Draw)


def by_evalica(votes: Votes) -> np.ndarray:
    """Log odds with the mean 0, by its own algorithm."""
    result = evalica.bradley_terry(
        [votes.names[a] for a in votes.a],
        [votes.names[b] for b in votes.b],
        [WINNERS[o] for o in votes.outcome],
        tolerance=1e-12,
        limit=100_000,
    )
    theta = np.log(result.scores[list(votes.names)].to_numpy())
    return theta - theta.mean()


def test_the_crowds_votes_give_the_scores_of_evalica(shared_data: Path) -> None:
    votes = llmfao(shared_data)
    ratings = rate(votes.counts())
    assert np.abs((ratings.rating - 1000) / SCALE - by_evalica(votes)).max() < 1e-9
    assert ratings.problems == () and (ratings.component == 0).all()


@pytest.mark.parametrize(("k", "n"), [(2, 30), (5, 200), (30, 3000)])
def test_random_votes_give_the_scores_of_evalica(k: int, n: int) -> None:
    rng = np.random.default_rng(k)
    votes = cast(rng, truth(rng, k), n)
    assert np.abs((rate(votes.counts()).rating - 1000) / SCALE - by_evalica(votes)).max() < 1e-9


@pytest.mark.parametrize(("won", "lost", "tied"), [(7, 3, 0), (120, 40, 60), (1, 1, 0), (0, 0, 5), (2, 0, 1)])
def test_two_targets_have_a_closed_form(won: int, lost: int, tied: int) -> None:
    ratings = rate(counted([[0, won], [lost, 0]], [[0, tied], [tied, 0]]))
    n, p = won + lost + tied, (won + tied / 2) / (won + lost + tied)
    between = ratings.difference(0, 1)
    assert between.estimate == pytest.approx(SCALE * math.log(p / (1 - p)), abs=1e-9)
    # of the logit of a mean score; the vote's own pull is 1/n of the pair's information
    squares = won * (1 - p) ** 2 + lost * p**2 + tied * (0.5 - p) ** 2 + p * (1 - p)
    half = 1.959964 * SCALE * math.sqrt(squares) / (n * p * (1 - p))
    assert between.high - between.low == pytest.approx(2 * half, rel=1e-6)
    assert ratings.chance(0, 1) == pytest.approx(p)
    assert ratings.rating.mean() == pytest.approx(1000)


def test_the_bootstrap_agrees_with_the_sandwich() -> None:
    rng = np.random.default_rng(0)
    votes = cast(rng, truth(rng, 8), 2500)
    ratings = rate(votes.counts())
    again = [points(votes.where(rng.integers(0, 2500, 2500)).counts(), ratings.rating) for _ in range(600)]
    assert np.std(again, axis=0).mean() == pytest.approx(ratings.error.mean(), rel=0.04)
    cross = np.cov(np.transpose(again))
    assert np.corrcoef(cross.ravel(), ratings.covariance.ravel())[0, 1] > 0.98


def test_a_bootstrap_of_voters_agrees_with_the_clustered_sandwich() -> None:
    rng = np.random.default_rng(1)
    votes = cast(rng, truth(rng, 5), 3000, voter=rng.integers(0, 100, 3000))
    taste = rng.normal(0, 1.0, (100, 5))  # of each voter, who then do not vote as independent coins
    chance = 1 / (1 + np.exp(taste[votes.voter, votes.b] - taste[votes.voter, votes.a]))
    votes = Votes.of(votes.names, votes.a, votes.b, rng.random(3000) > chance, voter=votes.voter)
    clustered, plain = rate_clustered(votes, "voter"), rate(votes.counts())
    of = [np.flatnonzero(votes.voter == v) for v in range(100)]
    again = [
        points(votes.where(np.concatenate([of[v] for v in rng.integers(0, 100, 100)])).counts())
        for _ in range(400)
    ]
    assert np.allclose(clustered.rating, plain.rating)
    assert np.std(again, axis=0).mean() == pytest.approx(clustered.error.mean(), rel=0.06)
    assert clustered.error.mean() > 1.5 * plain.error.mean()


def test_single_votes_as_clusters_are_the_plain_sandwich() -> None:
    rng = np.random.default_rng(2)
    votes = cast(rng, truth(rng, 6), 4000)
    clustered = rate_clustered(votes, "conversation")
    assert np.allclose(clustered.covariance, rate(votes.counts()).covariance * 4000 / 3999, rtol=1e-3)
    assert clustered.degrees == 3999


@pytest.mark.parametrize(("k", "n"), [(2, 12), (6, 60), (12, 600)])
def test_intervals_cover(k: int, n: int) -> None:
    rng, inside = np.random.default_rng(k), []
    for _ in range(400):
        theta = truth(rng, k)
        ratings = rate(cast(rng, theta, n).counts())
        if np.isfinite(ratings.rating).all():
            true = 1000 + SCALE * theta
            inside.append(((ratings.low <= true) & (true <= ratings.high)).mean())
    assert len(inside) > 350
    assert 0.935 <= np.mean(inside) <= 0.975


square = st.integers(2, 6).flatmap(lambda k: arrays.arrays(np.int64, (3, k, k), elements=st.integers(0, 4)))


def of(cube: np.ndarray) -> Counts:
    off = cube * (1 - np.eye(cube.shape[1], dtype=int))
    ties, bad = (np.triu(m) + np.triu(m).T for m in off[1:])
    return Counts(tuple(names(cube.shape[1])), *(m.astype(float) for m in (off[0], ties, bad)))


@settings(max_examples=150, deadline=None)
@given(square, st.randoms(use_true_random=False))
def test_whatever_the_counts_ratings_are_finite_or_say_why_not(cube: np.ndarray, random: object) -> None:
    counts = of(cube)
    ratings = rate(counts)
    k = len(counts.names)
    rated = np.array([why is None for why in ratings.separated])
    assert (np.isfinite(ratings.rating) == rated).all() and (np.isfinite(ratings.error) == rated).all()
    assert (ratings.error[rated] > 0).all()
    assert (np.isfinite(ratings.low) & np.isfinite(ratings.high))[rated].all()
    assert not (np.isfinite(ratings.low) & np.isfinite(ratings.high))[~rated].any()
    assert rated.all() or ratings.problems
    for i in np.flatnonzero(~rated):
        text = " ".join(ratings.problems)
        assert counts.names[i] in text
    for c in np.unique(ratings.component[rated]):
        inside = rated & (ratings.component == c)
        assert ratings.rating[inside].mean() == pytest.approx(1000)
        theta = ratings.rating[inside] / SCALE
        won = (counts.wins + counts.ties / 2)[np.ix_(inside, inside)]
        chance = 1 / (1 + np.exp(theta - theta[:, None]))
        assert np.allclose(won.sum(1), ((won + won.T) * chance).sum(1))  # the likelihood's equation
        assert (ratings.best[inside] >= 1).all() and (ratings.worst[inside] <= inside.sum()).all()
    order = list(range(k))
    random.shuffle(order)  # type: ignore[attr-defined]
    at = np.ix_(order, order)
    other = rate(
        Counts(tuple(counts.names[i] for i in order), counts.wins[at], counts.ties[at], counts.both_bad[at])
    )
    same = [(ratings.component == c).sum() for c in ratings.component]
    if (
        len(set(same)) == len(np.unique(ratings.component)) and rated.all()
    ):  # no two sets of one size to choose among
        assert np.allclose(other.rating, ratings.rating[order])
        assert np.allclose(other.error, ratings.error[order])


@settings(max_examples=50, deadline=None)
@given(square)
def test_a_target_that_nobody_met_changes_nothing_for_the_others(cube: np.ndarray) -> None:
    counts = of(cube)
    wider = Counts(
        (*counts.names, "new"), *(np.pad(m, (0, 1)) for m in (counts.wins, counts.ties, counts.both_bad))
    )
    before, after = rate(counts), rate(wider)
    for field in ("rating", "low", "high", "best", "worst"):
        assert np.array_equal(getattr(before, field), getattr(after, field)[:-1], equal_nan=True), field
    assert after.separated[-1] == "no votes"


def test_who_stands_at_the_left_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    votes = cast(rng, truth(rng, 5), 300, voter=rng.integers(0, 20, 300))
    swapped = Votes.of(
        votes.names, votes.b, votes.a, np.array([1, 0, 2, 3])[votes.outcome], voter=votes.voter
    )
    for one, two in (
        (rate(votes.counts()), rate(swapped.counts())),
        (rate_clustered(votes, "voter"), rate_clustered(swapped, "voter")),
    ):
        assert np.allclose(one.rating, two.rating) and np.allclose(one.covariance, two.covariance)


def test_both_bad_is_apart() -> None:
    votes = Votes.of(["x", "y"], [0] * 8, [1] * 8, [0, 0, 1, 2, 3, 3, 3, 3])
    without = votes.where(votes.outcome != 3)
    for field in ("rating", "error", "games"):
        assert np.array_equal(getattr(rate(votes.counts()), field), getattr(rate(without.counts()), field))


def test_an_anchor_moves_the_ratings_and_not_the_intervals() -> None:
    rng = np.random.default_rng(4)
    counts = cast(rng, truth(rng, 4), 200).counts()
    free, tied = rate(counts), rate(counts, anchor=("t2", 1200))
    assert tied.rating[2] == pytest.approx(1200)
    assert np.allclose(tied.rating - free.rating, 1200 - free.rating[2])
    assert np.allclose(tied.high - tied.low, free.high - free.low)
    assert tied.difference(0, 1) == pytest.approx(free.difference(0, 1))
    assert "t2 is 1200" in tied.gauge and "mean" in tied.gauge and "1000" in free.gauge
    for anchor in (("nobody", 1000), ("t0", math.nan)):
        with pytest.raises(HerdError):
            rate(counts, anchor=anchor)
    with pytest.raises(HerdError, match="no rating"):
        rate(counted([[0, 3], [0, 0]]), anchor=("t0", 1000))


def test_a_warm_start_ends_at_the_same_place() -> None:
    rng = np.random.default_rng(5)
    votes = cast(rng, truth(rng, 20), 1000)
    before = points(votes.where(np.arange(999)).counts())
    assert np.allclose(points(votes.counts(), before), rate(votes.counts()).rating, atol=1e-8)
    assert np.allclose(points(votes.counts(), np.full(20, np.nan)), points(votes.counts()), atol=1e-8)


def test_components_are_rated_on_their_own() -> None:
    rng = np.random.default_rng(6)
    one, two = cast(rng, truth(rng, 4), 200).counts(), cast(rng, truth(rng, 3), 100).counts()
    both = Counts(
        tuple(names(7)),
        *(
            np.block([[a, np.zeros((3, 4))], [np.zeros((4, 3)), b]])
            for a, b in ((two.wins, one.wins), (two.ties, one.ties), (two.both_bad, one.both_bad))
        ),
    )
    ratings = rate(both)
    assert np.allclose(ratings.rating, np.r_[rate(two).rating, rate(one).rating])
    assert np.allclose(ratings.error, np.r_[rate(two).error, rate(one).error])
    assert ratings.component.tolist() == [1, 1, 1, 0, 0, 0, 0]  # the largest first
    assert ratings.worst.max() == 4
    assert "No votes connect" in ratings.problems[0]
    assert math.isnan(ratings.difference(0, 3).estimate) and ratings.difference(0, 3).high == math.inf


def test_one_that_won_everything_has_a_bound_and_no_rating() -> None:
    counts = counted(
        [[0, 6, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0], [12, 0, 0, 0]]
    )  # t3 beat t0 12 times, t2 lost 3
    ratings = rate(counts)
    assert ratings.separated == (None, None, "lost all", "won all")
    assert ratings.rating[0] - ratings.rating[1] == pytest.approx(SCALE * math.log(6 / 4))
    assert ratings.high[3] == math.inf and ratings.low[2] == -math.inf
    chance = 1 / (1 + 10 ** ((ratings.rating[0] - ratings.low[3]) / 400))
    assert binom.pmf(12, 12, chance) == pytest.approx(0.025)
    chance = 1 / (1 + 10 ** ((ratings.high[2] - ratings.rating[0]) / 400))
    assert binom.pmf(3, 3, chance) == pytest.approx(0.025)
    assert (ratings.best[2:] == 0).all()
    assert ["t3" in p and "won every" in p for p in ratings.problems] == [True, False]


def test_a_set_that_beat_the_others_is_told_apart_from_them() -> None:
    wins = np.zeros((5, 5))
    wins[0, 1] = wins[1, 2] = wins[2, 0] = 2  # a cycle of three
    wins[3, 4] = wins[4, 3] = 5
    wins[3, 0] = wins[4, 1] = 3  # and two that lost none to it
    ratings = rate(counted(wins.tolist()))
    assert ratings.separated == (None, None, None, "won all", "won all")
    assert np.allclose(ratings.rating[:3], 1000)
    assert np.isfinite(ratings.low[3:]).all()


def test_the_smallest_boards() -> None:
    nothing = Votes.of([], [], [], []).counts()
    assert rate(nothing).names == () and points(nothing).shape == (0,)
    assert rate(Votes.of(["x"], [], [], []).counts()).separated == ("no votes",)
    one = rate(Votes.of(["x", "y"], [0], [1], [0]).counts())
    assert one.separated == ("won all", "lost all") and len(one.problems) == 2
    tie = rate(Votes.of(["x", "y"], [0], [1], [2]).counts())
    assert tie.rating.tolist() == [1000, 1000] and (tie.error > 100).all()  # one vote is no certainty
    assert tie.best.tolist() == [1, 1] and tie.worst.tolist() == [2, 2]
    bad = rate_clustered(Votes.of(["x", "y"], [0], [1], [3]), "voter")
    assert bad.separated == ("no votes", "no votes")
    same = rate_clustered(Votes.of(["x", "y"], [0] * 9, [1] * 9, [0, 1, 2] * 3, voter=[7] * 9), "voter")
    assert (same.error > 0).all() and "one voter" in same.problems[0]
    three = rate_clustered(
        Votes.of(["x", "y"], [0] * 9, [1] * 9, [0, 1, 2] * 3, voter=[1, 2, 3] * 3), "voter"
    )
    assert np.allclose(three.error, same.error) and "3 voters" in three.problems[0]


def test_weights_count_as_parts_of_votes_and_absurd_ones_are_refused() -> None:
    whole = Votes.of(["x", "y"], [0, 0, 0], [1, 1, 1], [0, 0, 1])
    halves = Votes.of(["x", "y"], [0] * 6, [1] * 6, [0, 0, 1] * 2, weight=[0.5] * 6)
    assert np.allclose(rate(whole.counts()).covariance, rate(halves.counts()).covariance)
    with pytest.raises(HerdError, match="orders of magnitude"):
        rate(counted([[0, 1], [1e-300, 0]]))


def test_extreme_counts_still_reach_the_maximum() -> None:
    ratings = rate(counted([[0, 1e6], [1, 0]]))
    assert ratings.difference(0, 1).estimate == pytest.approx(400 * 6, abs=1e-6)
    json.dumps([float(x) for x in ratings.rating], allow_nan=False)


def test_a_sentence_names_a_few_and_counts_the_rest() -> None:
    names = tuple(f"m{i}" for i in range(40))
    wins = np.zeros((40, 40))
    wins[0, 1:38] = wins[1:38, 0] = wins[38, 39] = wins[39, 38] = 2.0
    none = np.zeros((40, 40))
    (said,) = rate(Counts(names, wins, none, none)).problems
    assert said == "No votes connect [m0, m1, m2, m3, m4 and 33 more] with [m38, m39]: ratings compare only within each"  # fmt: skip
