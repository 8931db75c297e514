"""Vectors of prompts, penalties and biases, through the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from herd.engine.engine import Engine
from herd.engine.pace import Pace
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.mask import attend, causal
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Embedded, Event, Failed, Request, Sampling, Usage

from .conftest import ask, make_model, run

Make = Callable[..., Engine]
LONG = "She saw a big tree, and the tree said: hello. " * 6


def vector(engine: Engine, text: str | tuple[int, ...] = LONG) -> tuple[float, ...]:
    engine.submit("v", Request("", "embedding", prompt=text))
    events: list[Event] = []
    while not engine.idle:
        events += [e for id, e in engine.step() if id == "v"]
    embedded, usage = events[-2:]
    assert isinstance(embedded, Embedded) and isinstance(usage, Usage) and len(events) == 3
    assert usage.completion_tokens == 0 < usage.prompt_tokens
    return embedded.vector


def test_an_embedding_is_the_mean_of_the_final_states(
    engine: Make, model: Llama, tokenizer: Tokenizer
) -> None:
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(LONG)]])
    with torch.no_grad():
        states = model.hidden(ids, torch.arange(ids.shape[1])[None], attend(causal()))[0].double()
    mean = states.mean(0)
    got = torch.tensor(vector(engine()), dtype=torch.float64)
    torch.testing.assert_close(got, mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_an_embedding_may_fill_the_context(engine: Make) -> None:
    whole, ids = engine(), tuple(range(20, 60))
    full = engine(max_len=len(ids))

    def events(one: Engine, ids: tuple[int, ...]) -> list[Event]:
        one.submit("v", Request("", "embedding", prompt=ids))
        found: list[Event] = []
        while not one.idle:
            found += [event for _, event in one.step()]
        return found

    assert events(full, ids) == events(whole, ids)
    assert [type(e) for e in events(full, (*ids, 60))] == [Failed]


def test_what_is_refused_of_an_embedding_is_its_input_not_a_reply(engine: Make) -> None:
    def refused(prompt: str | tuple[int, ...]) -> str:
        return str(run(engine(max_len=32), Request("", "embedding", prompt=prompt))[0].failed.message)

    for prompt in ("llama " * 60, " " * 1_000_000):
        assert "context is 32; shorten" in refused(prompt)
    assert refused((10**9,)).startswith("input: token ids")


@pytest.mark.parametrize("chunk", [4, 33, 512])
def test_an_embedding_does_not_depend_on_chunks_company_or_prefixes(
    engine: Make, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vector(engine())
    monkeypatch.setattr(Pace, "learn", lambda *_: None)
    busy = engine()
    busy.pace.chunk = busy.pace.chunk_alone = chunk
    run(busy, ask(LONG))
    busy.submit("a", ask(LONG[5:], max_tokens=50, stop=()))
    busy.step()
    assert vector(busy) == expected


def test_damaged_weights_give_no_vector(engine: Make, config: Config) -> None:
    model = make_model(config)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    assert run(engine(model=model), Request("", "embedding", prompt="The"))[0].failed.status == 500


def test_penalties_and_biases_reach_every_draw(engine: Make, config: Config) -> None:
    plain = run(engine(), ask(max_tokens=30, stop=()))[0]
    once = run(engine(), ask(max_tokens=30, stop=(), presence_penalty=2.0, frequency_penalty=2.0))[0]
    assert len(set(once.tokens)) > len(set(plain.tokens))
    forced = run(engine(), ask(max_tokens=5, logprobs=1, logit_bias={"7": 100.0}))[0]
    assert set(forced.tokens) == {7}
    assert all(p.logprob < -0.01 for p in forced.logprobs)  # the model's own, not the bias's
    banned = run(engine(), ask(max_tokens=5, logit_bias={str(plain.tokens[0]): -100.0}))[0]
    assert plain.tokens[0] not in banned.tokens


def test_a_bias_beyond_the_vocabulary_is_refused(engine: Make, config: Config) -> None:
    request = ask(logit_bias={str(config.vocab_size): 1.0})
    failed = run(engine(), request)[0].failed
    assert failed.status == 400 and "logit_bias" in failed.message
    last = {str(config.vocab_size - 1): 1.0}
    assert run(engine(), replace(request, sampling=Sampling(logit_bias=last, max_tokens=1)))[0].usage


def test_an_embedding_is_not_guessed_on(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (*range(20, 37), *range(20, 36))  # its end has been there before
    whole, cut = vector(engine(), ids), engine()
    monkeypatch.setattr(Pace, "draft", lambda *_: 4)
    monkeypatch.setattr(Pace, "learn", lambda *_: None)
    cut.pace.chunk_alone = 32  # one row is left for the second step
    assert vector(cut, ids) == pytest.approx(whole, abs=1e-6)


def test_a_vocabulary_wider_than_the_tokenizer(engine: Make, config: Config) -> None:
    wide = engine(model=make_model(replace(config, vocab_size=config.vocab_size + 24)))
    (reply,) = run(wide, ask(logit_bias={str(config.vocab_size + 3): 100.0}, logprobs=2))
    assert reply.usage and reply.text == "" and len(reply.tokens) == 12
