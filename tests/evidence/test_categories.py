"""Categories: by simulation nearer to the truth than their own votes or the overall ratings alone."""

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence.categories import by_category
from herd.evidence.ratings import SCALE, Ratings, rate
from herd.evidence.votes import Votes

from .votes_made import cast, names, outcomes, pairs, truth

K, SHARES = 6, np.array([0.4, 0.3, 0.2, 0.1])


def sorted_votes(rng: np.random.Generator, tau: float, n: int = 1500) -> tuple[Votes, np.ndarray, np.ndarray]:
    """Votes, their membership, and each category's true ratings."""
    deviation = rng.normal(0, 1, (len(SHARES), K)) * tau
    theta = truth(rng, K) + deviation - deviation.mean(1, keepdims=True)
    category = rng.choice(len(SHARES), n, p=SHARES)
    a, b = pairs(rng, K, n)
    chance = 1 / (1 + np.exp(theta[category, b] - theta[category, a]))
    votes = Votes.of(names(K), a, b, outcomes(rng, chance))
    return votes, category[:, None] == np.arange(len(SHARES)), 1000 + SCALE * theta


def rates(votes: Votes, member: np.ndarray) -> tuple[Ratings, list[Ratings]]:
    overall = rate(votes.counts())
    return overall, list(by_category(votes, member, list("abcd"), overall).values())


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.6])
def test_intervals_cover_and_shrinking_helps(tau: float) -> None:
    rng, inside, errors = np.random.default_rng(0), [], []
    for _ in range(40):
        votes, member, true = sorted_votes(rng, tau)
        overall, categories = rates(votes, member)
        own = [rate(votes.where(member[:, c]).counts()) for c in range(len(SHARES))]
        for ratings, alone, goal in zip(categories, own, true, strict=True):
            inside.append(((ratings.low <= goal) & (goal <= ratings.high)).mean())
            if np.isfinite(alone.rating).all():
                errors.append([((r.rating - goal) ** 2).mean() for r in (ratings, alone, overall)])
    shrunk, alone_, overall_ = np.sqrt(np.mean(errors, 0))
    assert 0.91 <= np.mean(inside) <= 0.995
    assert shrunk <= 1.02 * alone_ and shrunk <= 1.15 * overall_
    assert shrunk < 0.8 * max(alone_, overall_)


def test_a_category_without_votes_is_the_overall_with_an_interval_wider_by_the_spread() -> None:
    spread = []
    for seed in range(30):
        votes, member, _ = sorted_votes(np.random.default_rng(seed), 0.3)
        member = member & (np.arange(4) != 3)
        overall, categories = rates(votes, member)
        empty = categories[3]
        assert np.allclose(empty.rating, overall.rating)
        assert any("no votes" in p for p in empty.problems)
        assert (empty.games == 0).all() and categories[0].games.sum() == 2 * member[:, 0].sum()
        wider = np.diag(empty.covariance) - np.diag(overall.covariance)
        assert np.allclose(wider, wider[0]) and wider[0] > 0
        spread.append(wider[0] / SCALE**2 * K / (K - 1))
    assert 0.2 < np.sqrt(np.mean(spread)) < 0.33  # of 0.3 about the truth, less about their own mean


def test_many_votes_speak_for_themselves() -> None:
    rng = np.random.default_rng(2)
    votes, member, _ = sorted_votes(rng, 0.6, n=60_000)
    _, categories = rates(votes, member)
    alone = rate(votes.where(member[:, 0]).counts())
    assert np.abs(categories[0].rating - alone.rating).max() < 2
    assert np.allclose(categories[0].error, alone.error, rtol=0.12)


def test_an_anchor_and_the_unrated_carry_over() -> None:
    rng = np.random.default_rng(3)
    votes = cast(rng, truth(rng, 4), 300)
    wider = Votes.of(
        [*votes.names, "champion", "nobody"],
        np.append(votes.a, [4] * 5),
        np.append(votes.b, [0] * 5),
        np.append(votes.outcome, [0] * 5),
    )
    overall = rate(wider.counts(), anchor=("t1", 1500))
    ratings = by_category(wider, np.ones((305, 1), bool), ["all"], overall)["all"]
    assert np.allclose(ratings.rating[:4], overall.rating[:4], atol=15)
    assert ratings.gauge == overall.gauge and ratings.separated == overall.separated
    assert ratings.low[4] > overall.rating[0] - 400 and ratings.high[4] == np.inf
    assert np.isnan(ratings.rating[5])


def test_no_categories_no_votes_and_bad_input() -> None:
    votes = Votes.of(["x", "y"], [], [], [])
    overall = rate(votes.counts())
    assert by_category(votes, np.zeros((0, 0), bool), [], overall) == {}
    assert by_category(votes, np.zeros((0, 1), bool), ["c"], overall)["c"].separated == ("no votes",) * 2
    with pytest.raises(HerdError, match="one column"):
        by_category(votes, np.zeros((0, 2), bool), ["c"], overall)
    with pytest.raises(HerdError, match="same targets"):
        by_category(Votes.of(["x", "z"], [], [], []), np.zeros((0, 1), bool), ["c"], overall)
