"""Prompt-lookup speculation: the same tokens, sooner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from herd.engine.engine import Engine, drain
from herd.engine.pace import MAX_DRAFT, Pace
from herd.engine.speculate import HOPE, Drafter, draft
from herd.model.llama import Llama
from herd.protocol.types import Delta
from herd.server.metrics import ENGINE

from .conftest import ask, run

Make = Callable[..., Engine]
SAID = "the tree said: hello, little llama! " * 8


def test_a_guess_goes_on_as_the_last_such_place_did() -> None:
    tokens = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3]
    start = Drafter().find(tokens)
    assert start == 8 and draft(tokens, start, 3) == [6, 7, 1]
    assert Drafter().find([1, 2, 3, 4]) is None and Drafter().find([1]) is None
    loop = [9, 1, 2, 1, 2, 1, 2]
    start = Drafter().find(loop)
    assert start is not None and draft(loop, start, 5) == [1, 2, 1, 2, 1]


def test_what_is_found_step_by_step_is_what_is_found_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (200,), generator=generator).tolist()
    growing = Drafter()
    for end in range(1, len(tokens)):
        some = tokens[:end]
        places = [i for i in range(3, end) if tokens[i - 3 : i] == some[-3:]]
        assert growing.find(some) == (places[-1] if places else None) == Drafter().find(some)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "seed": 3}, {"frequency_penalty": 0.3}])
def test_tokens_are_those_without_speculation_and_come_in_fewer_steps(
    engine: Make, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    monkeypatch.setattr(Pace, "learn", lambda *_: None)  # prompts are read in as many steps
    steps = {}
    for name, length in (("plain", 0), ("drafted", 6)):
        monkeypatch.setattr(Pace, "draft", lambda *_, k=length: k)
        one = engine()
        count, hidden = [0], one.runner.hidden

        def counted(*args: object, count: list[int] = count, hidden: Callable = hidden) -> torch.Tensor:
            count[0] += 1
            return hidden(*args)

        monkeypatch.setattr(one.runner, "hidden", counted)
        reply = run(one, ask(SAID, max_tokens=80, stop=(), logprobs=2, **options))[0]
        steps[name] = reply.tokens, reply.logprobs, count[0]
        metrics = one.metrics()
    assert steps["plain"][:2] == steps["drafted"][:2]
    drafted = metrics["spec_decode_num_draft_tokens"]
    accepted = metrics["spec_decode_num_accepted_tokens"]
    assert 0 < accepted <= drafted
    assert 0 < metrics["spec_decode_num_drafts"] <= drafted <= length * metrics["spec_decode_num_drafts"]
    assert set(ENGINE) <= set(metrics)  # what the server shows is counted
    assert steps["drafted"][2] == steps["plain"][2] - accepted
    assert metrics["generation_tokens"] >= len(steps["plain"][0])


@pytest.mark.slow
def test_the_distribution_is_the_models(engine: Make, model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand replies of four tokens from {5, 9}, always drafted: their counts against exact probabilities."""
    monkeypatch.setattr(Pace, "draft", lambda *_: 3)
    prompt = (5, 5, 5, 9, 5, 9, 9, 9, 5, 5, 9)  # holds every three of them, so that there is always a guess
    temperature, n = 2.0, 2000
    one = engine(slots=64, budget=1024)
    one.pace.chunk_alone = 1024
    monkeypatch.setattr(Pace, "learn", lambda *_: None)
    replies: dict[str, list[int]] = {str(i): [] for i in range(n)}
    for i in range(n):
        options = {"temperature": temperature, "seed": i, "logit_bias": {"5": 100.0, "9": 100.0}}
        one.submit(str(i), ask(prompt, max_tokens=4, stop=(), **options))
        if i % 50 == 49:  # together, so that no prompt is read while others draft
            for id, event in drain(one):
                replies[id] += event.tokens if isinstance(event, Delta) else ()
    assert one.metrics()["spec_decode_num_accepted_tokens"] > n / 2
    chi2 = 0.0
    for reply in itertools.product((5, 9), repeat=4):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply[:-1]]))[0, len(prompt) - 1 :].double()
        pairs = torch.softmax(logits[:, [5, 9]] / temperature, -1)
        expected = n * math.prod(float(pairs[i, (5, 9).index(t)]) for i, t in enumerate(reply))
        chi2 += (sum(tuple(r) == reply for r in replies.values()) - expected) ** 2 / expected
    assert chi2 < 37.7  # 99.9 % of a chi-square with 15 degrees of freedom


def test_drafts_are_made_where_they_pay() -> None:
    pace = Pace(32, 512, 4)
    pace.learn(1, 0, 0, 0.01)
    assert pace.draft(1, HOPE) == MAX_DRAFT  # what a row more costs is not known: try
    for rows in [1, 9] * 40:  # eight rows more cost a tenth
        pace.learn(1, rows - 1, 0, 0.01 * (1 + 0.1 * (rows > 1)))
    assert pace.draft(1, 0.9) == MAX_DRAFT and 0 < pace.draft(1, 0.2) <= 3 and pace.draft(1, 0.001) == 0
    wide = Pace(32, 512, 4)
    for rows in [16, 32] * 40:  # a row costs what it costs
        wide.learn(rows, 0, 0, 0.001 * rows)
    assert wide.draft(32, 0.9) == 0


def test_poor_guesses_are_given_up_and_tried_again_after_a_while() -> None:
    drafter = Drafter()
    for _ in range(20):
        drafter.learn(1, 0)
    assert drafter.acceptance < 0.1
    for _ in range(1000):
        drafter.forgo()
    assert drafter.acceptance > 0.4
    drafter.learn(4, 4)
    good = drafter.acceptance
    drafter.learn(4, 0)
    assert drafter.acceptance < good
