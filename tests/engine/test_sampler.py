"""Sampling against the definitions, and against `transformers`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.sampler import draw, generator, logprobs, penalise, probabilities
from herd.protocol import Sampling

LOGITS = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04]).log()


def kept(**sampling: float) -> dict[int, float]:
    p = probabilities(LOGITS[None], [Sampling(**sampling)])[0]
    return {i: round(float(x), 4) for i, x in enumerate(p / p.sum()) if x > 0}


def test_filters_keep_what_they_say() -> None:
    assert kept() == {0: 0.5, 1: 0.3, 2: 0.1, 3: 0.06, 4: 0.04}
    assert kept(top_k=2) == {0: 0.625, 1: 0.375}
    assert set(kept(top_p=0.79)) == {0, 1}
    assert set(kept(top_p=0.81)) == {0, 1, 2}
    assert set(kept(min_p=0.19)) == {0, 1, 2}
    assert set(kept(top_p=1e-9)) == set(kept(top_p=0)) == {0}
    assert set(kept(top_k=9)) == set(range(5))


@pytest.mark.parametrize("size", [50, 3000])
@pytest.mark.parametrize("temperature", [0.4, 2.0])
def test_filters_equal_those_of_transformers(size: int, temperature: float) -> None:
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)).double()
    for top_k, top_p, min_p in (
        (0, 0.9, 0.0),
        (0, 0.999, 0.0),
        (20, 0.7, 0.0),
        (40, 1.0, 0.1),
        (30, 0.95, 0.05),
        (2000, 0.9, 0.0),
    ):
        expected = TemperatureLogitsWarper(temperature)(None, logits[None])
        for warper in (
            top_k and TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            min_p and MinPLogitsWarper(min_p),
        ):
            expected = warper(None, expected) if warper else expected
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        got = probabilities(logits[None], [sampling])[0]
        torch.testing.assert_close(got / got.sum(), torch.softmax(expected[0], -1))


@pytest.mark.slow
def test_draws_follow_the_distribution() -> None:
    rng, n = generator(Sampling(seed=1), 0), 20_000
    counts = torch.bincount(
        torch.tensor([draw(LOGITS[None], [0], [Sampling()], [rng.random()])[0] for _ in range(n)]),
        minlength=5,
    )
    expected = LOGITS.exp() * n
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 < 18.47  # 99.9 % of a chi-square with 4 degrees of freedom


def test_greedy_takes_the_lowest_of_equals() -> None:
    equals = torch.tensor([[0.0, 2.0, 2.0]])
    assert draw(equals, [0], [Sampling(temperature=0.0)], [0.0]) == [1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-7])
def test_temperatures_that_no_number_can_hold_are_none(temperature: float) -> None:
    for limits in ({}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}):
        assert draw(LOGITS[None], [0], [Sampling(temperature=temperature, **limits)], [0.99]) == [
            int(LOGITS.argmax())
        ]


def test_rows_are_drawn_in_the_order_asked_for() -> None:
    logits = torch.eye(3)
    for rows in ([2, 0, 1], [1], [0, 0, 2]):
        assert draw(logits, rows, [Sampling(temperature=0.0)] * len(rows), [0.0] * len(rows)) == rows


def test_choices_of_one_seed_have_numbers_of_their_own() -> None:
    first, second, again = (generator(Sampling(seed=4), i).random() for i in (0, 1, 0))
    assert first == again != second


def test_logprobs_are_of_the_plain_distribution() -> None:
    value, best = logprobs(LOGITS, 3, 2)
    assert value == pytest.approx(float(LOGITS[3]))
    assert [i for i, _ in best] == [0, 1] and len(logprobs(LOGITS, 0, 99)[1]) == 5


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 7, 1500]),
    top_p=st.sampled_from([1.0, 0.999, 0.5]),
    min_p=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 9),
)


@settings(deadline=None)
@given(st.lists(samplings, min_size=1, max_size=6), st.sampled_from([30, 2500]))
def test_a_row_draws_the_same_in_any_company(some: list[Sampling], size: int) -> None:
    logits = torch.randn(len(some), size, generator=torch.Generator().manual_seed(size)) * 3
    uniform = [generator(s, 0).random() for s in some]
    together = draw(logits, range(len(some)), some, uniform)
    alone = [draw(logits, [i], [s], uniform[i : i + 1])[0] for i, s in enumerate(some)]
    assert together == alone
    table = probabilities(logits, [s if s.temperature else Sampling() for s in some])
    for i, s in enumerate(some):
        one = probabilities(logits[i : i + 1], [s if s.temperature else Sampling()])[0]
        assert np.array_equal(table[i].numpy(), one.numpy())


def test_penalties_and_biases_are_openais_formula() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0])
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25, logit_bias={"0": 100, "2": -1.5})
    # mu[j] - c[j] * frequency - (c[j] > 0) * presence + bias[j], for counts 0, 1, 0, 3
    assert penalise(logits, [0, 2, 1, 3, 3, 3], 2, sampling).tolist() == [101.0, 1.25, 1.5, 2.25]
    assert penalise(logits, [0], 1, Sampling(frequency_penalty=1)) is logits
    assert logits.tolist() == [1, 2, 3, 4]
