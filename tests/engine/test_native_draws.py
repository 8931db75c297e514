"""Drawing and log-probabilities by the kernels, against their definitions."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch

from herd.engine import kernels, native
from herd.protocol.types import Sampling

best = pytest.mark.skipif(kernels.available() is None, reason="no kernels here")


def kept(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """The distribution by its definition, from a whole sort; of equals the lowest ids first."""
    x = logits.astype(np.float64) / s.temperature
    p = np.exp(x - x.max())
    order = np.argsort(-p, kind="stable")
    ranked = p[order]
    ranked[s.top_k or len(p) :] = 0
    ranked /= ranked.sum()
    if s.top_p < 1:
        ranked[np.cumsum(ranked) - ranked >= s.top_p] = 0
    ranked[ranked < s.min_p * ranked[0]] = 0
    p[order] = ranked
    return p / p.sum()


def random_logits(rng: np.random.Generator, size: int, style: int) -> np.ndarray:
    logits = rng.standard_normal(size) * rng.choice([0.1, 1, 4, 30])
    if style == 1:
        logits = logits.round()  # ties
    if style == 2:
        logits[rng.random(size) < 0.5] = -np.inf  # a grammar's mask
        logits[rng.integers(size)] = 1
    return logits.astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 17, 340, 8192, 40000])
def test_draws_invert_the_distribution(library: ctypes.CDLL, size: int) -> None:
    rng = np.random.default_rng(size)
    for turn in range(24):
        logits = random_logits(rng, size, turn % 3)
        s = Sampling(
            temperature=float(rng.choice([0.3, 1, 2])),
            top_k=int(rng.choice([0, 0, 1, 5, 50, 3000])),
            top_p=float(rng.choice([1, 0.95, 0.5, 0.1])),
            min_p=float(rng.choice([0, 0, 0.05, 0.5])),
        )
        u = rng.random(20)
        got = native.draw(torch.from_numpy(np.tile(logits, (20, 1))), range(20), [s] * 20, u.tolist())
        # Where the limit lies within rounding of a token's own share, either side will do.
        near = {min(s.top_p * (1 + e), 1.0) for e in (-1e-6, 0, 1e-6)} if s.top_p < 1 else {1.0}
        assert any(inverts(kept(logits, replace(s, top_p=top_p)), u, got) for top_p in near)


def inverts(p: np.ndarray, u: np.ndarray, tokens: list[int | None]) -> bool:
    end = p.cumsum()[tokens]
    return bool(((p[tokens] > 0) & (end - p[tokens] <= u + 1e-5) & (u <= end + 1e-5)).all())


def test_the_ends_of_the_distribution_are_reached(library: ctypes.CDLL) -> None:
    logits = torch.tensor([[-torch.inf, 0, 0, -torch.inf]])
    for s in (Sampling(), Sampling(top_p=0.999), Sampling(top_k=3), Sampling(min_p=0.1)):
        assert native.draw(logits, [0], [s], [0.0]) == [1]
        assert native.draw(logits, [0], [s], [np.nextafter(1.0, 0.0)]) == [2]
    greedy = Sampling(temperature=0)
    assert native.draw(torch.tensor([[1.0, 3, 3, 2]]), [0], [greedy], [0.5]) == [1]
    assert native.draw(torch.tensor([[1.0, 3, 3, 2]]), [0], [Sampling(top_p=0)], [0.99]) == [1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-7])
def test_temperatures_that_no_number_can_hold_are_none(library: ctypes.CDLL, temperature: float) -> None:
    logits = torch.tensor([[1.0, 3, 2, 0]])
    for limits in ({}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}):
        assert native.draw(logits, [0], [Sampling(temperature=temperature, **limits)], [0.99]) == [1]


def test_rows_have_their_own_limits_and_broken_ones_are_reported(library: ctypes.CDLL) -> None:
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[0.0, 9, 0], [0, nan, 9], [inf, 0, 0], [-inf] * 3, [5, 0, -inf]])
    limits = [Sampling(temperature=0), Sampling(), Sampling(temperature=0), Sampling(), Sampling(top_k=1)]
    assert native.draw(logits, range(5), limits, [0.99] * 5) == [1, None, None, None, 0]
    order = [4, 1, 0, 3, 2]
    assert native.draw(logits, order, [limits[i] for i in order], [0.99] * 5) == [0, None, 1, None, None]


@best
@pytest.mark.parametrize(
    "s", [Sampling(), Sampling(top_k=4), Sampling(temperature=0.7, top_p=0.8, min_p=0.02)]
)
def test_draws_follow_the_distribution(s: Sampling) -> None:
    logits = np.random.default_rng(3).standard_normal(12).astype(np.float32)
    n, p = 20_000, kept(logits, s)
    u = np.random.default_rng(4).random(n).tolist()
    drawn = native.draw(torch.from_numpy(logits).expand(n, -1), range(n), [s] * n, u)
    counts = np.bincount(np.array(drawn), minlength=12)
    some = p > 0
    assert counts[~some].sum() == 0
    chi2 = ((counts[some] - n * p[some]) ** 2 / (n * p[some])).sum()
    assert chi2 < 33  # of 11 degrees of freedom at most: exceeded once in 1,800 runs, but the seed is fixed


def test_logprobs(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    for size, k in ((1, 5), (30, 20), (1000, 0), (40000, 20)):
        logits = torch.from_numpy(np.stack([random_logits(rng, size, style) for style in range(3)]))
        chosen = rng.integers(0, size, 3).tolist()
        expected = torch.log_softmax(logits.double(), -1)
        for row, at, (value, top) in zip(expected, chosen, native.logprobs(logits, chosen, k), strict=True):
            assert value == pytest.approx(float(row[at]), abs=1e-4)
            order = np.argsort(-row.numpy(), kind="stable")[:k].tolist()
            assert [id for id, _ in top] == order
            assert [v for _, v in top] == pytest.approx(row[order].tolist(), abs=1e-4)
