"""Style control: against SciPy's optimiser, by simulation, and what it cannot tell."""

import numpy as np
import pytest
from scipy.optimize import minimize

from herd.errors import HerdError
from herd.evidence.ratings import SCALE, rate, rate_clustered
from herd.evidence.style import FEATURES, Styled, contrasts, rate_styled
from herd.evidence.votes import Votes

from .votes_made import cast, names, outcomes, pairs, truth

BETA, LEFT = np.array([0.25, 0.0, -0.15, 0.1]), 0.12


def replies(rng: np.random.Generator, n: int) -> np.ndarray:
    """[n, 2, 4] counts of characters, headers, lists, bold."""
    return np.concatenate([rng.gamma(2, 200, (n, 2, 1)), rng.poisson(1.5, (n, 2, 3))], 2)


def styled(rng: np.random.Generator, theta: np.ndarray, n: int) -> tuple[Votes, np.ndarray]:
    a, b = pairs(rng, len(theta), n)
    features = replies(rng, n)
    x = contrasts(features)
    odds = theta[a] - theta[b] + x / np.maximum(x.std(0), 0.1) @ BETA + LEFT
    return Votes.of(names(len(theta)), a, b, outcomes(rng, 1 / (1 + np.exp(-odds)))), features


def estimates(result: Styled) -> dict[str, float]:
    return {c.name: c.estimate for c in result.coefficients}


def test_the_contrast() -> None:
    features = np.array([[[3, 0, 2, 5], [1, 0, 0, 5]], [[np.nan, 1, 1, 1], [1, 1, 1, 1]]], float)
    assert contrasts(features)[0].tolist() == [0.5, 0, 1, 0]
    assert np.isnan(contrasts(features)[1, 0])


def test_it_is_the_maximum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    votes, features = styled(rng, truth(rng, 4), 400)
    votes = Votes.of(votes.names, votes.a, votes.b, votes.outcome, weight=rng.uniform(0.2, 1, 400))
    x = contrasts(features)
    mean = np.average(x, weights=votes.weight, axis=0)
    x = x / np.sqrt(np.average((x - mean) ** 2, weights=votes.weight, axis=0))
    y = np.array([1, 0, 0.5])[votes.outcome]

    def loss(p: np.ndarray) -> float:
        odds = p[votes.a] - p[votes.b] + x @ p[4:8] + p[8]
        return float((votes.weight * (np.logaddexp(0, odds) - y * odds)).sum() + p[:4].sum() ** 2)

    best = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-8}).x
    result = rate_styled(votes, features)
    assert [c.name for c in result.coefficients] == [*FEATURES, "left"]
    assert np.allclose(list(estimates(result).values()), best[4:], atol=1e-5)
    assert np.allclose((result.ratings.rating - 1000) / SCALE, best[:4] - best[:4].mean(), atol=1e-5)


def test_coefficients_and_ratings_are_unbiased_and_their_intervals_cover() -> None:
    rng, true, runs = np.random.default_rng(1), np.append(BETA, LEFT), 150
    found, inside, rated = [], [], []
    for _ in range(runs):
        theta = truth(rng, 5)
        result = rate_styled(*styled(rng, theta, 1500))
        found.append([c.estimate for c in result.coefficients])
        inside.append([c.low <= t <= c.high for c, t in zip(result.coefficients, true, strict=True)])
        ratings = result.ratings
        rated.append((ratings.low <= 1000 + SCALE * theta) & (1000 + SCALE * theta <= ratings.high))
    error = np.std(found, axis=0) / np.sqrt(runs)
    assert (np.abs(np.mean(found, axis=0) - true) < 4 * error + 0.03 * np.abs(true)).all()
    assert 0.93 <= np.mean(inside) <= 0.975 and 0.93 <= np.mean(rated) <= 0.975


def test_a_target_that_only_writes_longer_loses_its_lead() -> None:
    rng, n = np.random.default_rng(2), 6000
    a, b = pairs(rng, 3, n)
    features = replies(rng, n)
    features[:, 0, 0] *= np.where(a == 0, 3, 1)
    features[:, 1, 0] *= np.where(b == 0, 3, 1)
    x = contrasts(features)
    votes = Votes.of(names(3), a, b, outcomes(rng, 1 / (1 + np.exp(-1.0 * x[:, 0]))))
    plain, controlled = rate(votes.counts()), rate_styled(votes, features).ratings
    assert plain.low[0] > 1020
    assert controlled.low[0] < 1000 < controlled.high[0]


def test_clusters_widen_the_intervals_as_copies_of_votes_should() -> None:
    rng = np.random.default_rng(3)
    votes, features = styled(rng, truth(rng, 4), 2000)
    copies = Votes.of(
        votes.names,
        *(np.tile(c, 4) for c in (votes.a, votes.b, votes.outcome)),
        voter=np.tile(np.arange(2000), 4),
    )
    once = rate_styled(votes, features, by="voter")
    four = rate_styled(copies, np.tile(features, (4, 1, 1)), by="voter")
    assert np.allclose(four.ratings.error, once.ratings.error, rtol=0.01)
    for one, other in zip(once.coefficients, four.coefficients, strict=True):
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.01)
    assert once.ratings.degrees == 1999


def test_without_style_in_the_votes_it_is_the_plain_rating() -> None:
    rng = np.random.default_rng(4)
    votes = cast(rng, truth(rng, 4), 300, voter=rng.integers(0, 30, 300))
    order = rng.random(300) < 0.5  # each vote once from either side: no advantage of the left is left
    a, b = np.where(order, votes.a, votes.b), np.where(order, votes.b, votes.a)
    said = np.where(order, votes.outcome, np.array([1, 0, 2])[votes.outcome])
    both = Votes.of(
        votes.names,
        np.r_[a, b],
        np.r_[b, a],
        np.r_[said, np.array([1, 0, 2])[said]],
        voter=np.tile(votes.voter, 2),
    )
    result = rate_styled(both, np.ones((600, 2, 4)), by="voter")
    assert list(estimates(result)) == ["left"] and estimates(result)["left"] == pytest.approx(0, abs=1e-9)
    plain = rate_clustered(both, "voter")
    assert np.allclose(result.ratings.rating, plain.rating)
    assert np.allclose(
        result.ratings.error, plain.error, rtol=2e-3
    )  # the left's term takes a degree of freedom
    assert all(any(name in p and "cannot tell" in p for p in result.ratings.problems) for name in FEATURES)


def test_half_votes_count_as_in_plain_ratings() -> None:
    rng = np.random.default_rng(9)
    votes, features = styled(rng, truth(rng, 4), 500)
    columns = [np.tile(c, 2) for c in (votes.a, votes.b, votes.outcome)]
    halves = rate_styled(Votes.of(votes.names, *columns, weight=[0.5] * 1000), np.tile(features, (2, 1, 1)))
    assert np.allclose(halves.ratings.error, rate_styled(votes, features).ratings.error, rtol=1e-6)


def test_votes_without_features_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(5)
    votes, features = styled(rng, truth(rng, 4), 400)
    features[:100, 1, 2] = np.nan
    result, rest = rate_styled(votes, features), rate_styled(votes.where(np.arange(100, 400)), features[100:])
    assert result.left_out == 100 and rest.left_out == 0
    assert np.array_equal(result.ratings.rating, rest.ratings.rating)
    none = rate_styled(votes, np.full((400, 2, 4), np.nan))
    assert none.left_out == 400 and none.coefficients == () and none.ratings.separated == ("no votes",) * 4


def test_a_style_that_decides_every_vote_has_no_coefficient() -> None:
    rng = np.random.default_rng(6)
    a, b = pairs(rng, 3, 200)
    features = replies(rng, 200)
    features[:, :, 1:] = 1
    votes = Votes.of(names(3), a, b, features[:, 0, 0] < features[:, 1, 0])
    result = rate_styled(votes, features)
    assert result.coefficients == ()
    assert np.allclose(result.ratings.rating, rate(votes.counts()).rating)
    assert any("separates" in p for p in result.ratings.problems)


def test_a_place_that_never_changes_is_not_told_from_the_targets() -> None:
    rng = np.random.default_rng(7)
    votes = Votes.of(["x", "y"], [0] * 50, [1] * 50, rng.integers(0, 3, 50))
    result = rate_styled(votes, replies(rng, 50))
    assert "left" not in estimates(result) and any("left" in p for p in result.ratings.problems)


def test_few_votes_give_finite_numbers_or_none() -> None:
    rng = np.random.default_rng(8)
    for n in range(1, 40):
        votes, features = styled(rng, truth(rng, 3), n)
        result = rate_styled(votes, features, by=(None, "voter")[n % 2])
        numbers = [(c.estimate, c.low, c.high) for c in result.coefficients]
        assert np.isfinite(numbers).all() and all(low < e < high for e, low, high in numbers)
        rated = np.array([why is None for why in result.ratings.separated])
        assert np.isfinite(result.ratings.error[rated]).all() and (result.ratings.error[rated] > 0).all()
        assert len(numbers) == 5 or result.ratings.problems


def test_bad_features() -> None:
    votes = Votes.of(["x", "y"], [0], [1], [2])
    for features in (np.ones((1, 4)), -np.ones((1, 2, 4)), np.full((1, 2, 4), np.inf)):
        with pytest.raises(HerdError, match="features"):
            rate_styled(votes, features)
    assert rate_styled(Votes.of([], [], [], []), np.ones((0, 2, 4))).coefficients == ()
