"""Which pair is shown next."""

import numpy as np
import pytest

from herd.errors import HerdError
from herd.evidence.pairing import pair_weights
from herd.evidence.ratings import rate
from herd.evidence.votes import Counts, Votes

from .votes_made import cast, counted, names, outcomes, truth


def test_weights_are_chances_of_pairs() -> None:
    rng = np.random.default_rng(0)
    weights = pair_weights(cast(rng, truth(rng, 7), 90).counts())
    assert weights.sum() == pytest.approx(1)
    assert (weights[np.triu_indices(7, 1)] > 0).all() and (np.tril(weights) == 0).all()
    assert pair_weights(counted([[0, 0], [0, 0]])).tolist() == [[0, 1], [0, 0]]
    for k in (0, 1):
        with pytest.raises(HerdError, match="two targets"):
            pair_weights(Votes.of(names(k), [], [], []).counts())


def test_the_formula_where_votes_are_many() -> None:
    n = np.array([400, 900, 1600.0])  # of the pairs 01, 02, 12: evenly split, then 9 to 1, then all ties
    counts = counted([[0, 200, 810], [200, 0, 0], [90, 0, 0]], [[0, 0, 0], [0, 0, 1600], [0, 1600, 0]])
    error = np.sqrt([0.25, 0.09, 0.0])
    expected = error / np.sqrt(n) - error / np.sqrt(n + 1)
    weights = pair_weights(counts, new=0)[np.triu_indices(3, 1)]
    assert weights[:2] / weights[0] == pytest.approx(expected[:2] / expected[0], rel=0.01)
    assert weights[2] < 0.05 * weights[0]


def test_unseen_pairs_and_new_targets_come_first() -> None:
    wins = np.full((4, 4), 30.0) * (1 - np.eye(4))
    wins[0, 1] = wins[1, 0] = 0  # never met, though each has many votes
    weights = pair_weights(counted(wins.tolist()))
    assert weights[0, 1] > 20 * weights[0, 2]
    wins = np.full((4, 4), 30.0) * (1 - np.eye(4))
    wins[3] = wins[:, 3] = 5
    wins[3, 3] = 0
    counts = counted(wins.tolist())
    plain, boosted = pair_weights(counts, boost=1), pair_weights(counts, boost=3)
    assert boosted[0, 3] / boosted[0, 1] == pytest.approx(3 * plain[0, 3] / plain[0, 1])


def test_it_levels_the_errors_of_the_pairs() -> None:
    """Against choosing pairs evenly, from a lopsided start."""
    spread = []
    for even in (True, False):
        rng = np.random.default_rng(1)
        theta = np.array([1.0, 0.5, 0.0, -0.5, -1.0])
        start = cast(rng, theta[:3], 600).counts()
        counts = Counts(
            tuple(names(5)), *(np.pad(m, (0, 2)) for m in (start.wins, start.ties, start.both_bad))
        )
        for _ in range(300):
            p = np.triu(np.ones((5, 5)), 1) / 10 if even else pair_weights(counts)
            a, b = np.unravel_index(rng.choice(25, p=p.ravel()), (5, 5))
            said = outcomes(rng, 1 / (1 + np.exp(theta[[b]] - theta[[a]])))
            counts = counts + Votes.of(names(5), [a], [b], said).counts()
        spread.append(rate(counts).error.max())
    assert spread[1] < 0.9 * spread[0]
