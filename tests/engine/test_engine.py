"""What the engine promises of a request's tokens, whatever else is going on."""

from __future__ import annotations

import itertools
import random
import socket
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from herd.engine import engine as engine_module
from herd.engine import frames, pace
from herd.engine import worker as worker_module
from herd.engine.eager import keys_for
from herd.engine.engine import Engine
from herd.engine.pace import Pace
from herd.engine.packed import pack
from herd.engine.step import BLOCK
from herd.engine.worker import Worker
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Delta, Finished, Message, Request, Sampling, Started

from .conftest import Reply, ask, make_model, run

Make = Callable[..., Engine]
LONG = "She saw a big tree, and the tree said: hello. " * 9


def test_greedy_equals_transformers(engine: Make, model_dir: Path, tokenizer: Tokenizer) -> None:
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    for prompt in ("The little llama", LONG):
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        with torch.no_grad():
            out = reference.generate(
                torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=None
            )
        expected = out[0, len(ids) :].tolist()
        stops = [i for i, t in enumerate(expected) if t in tokenizer.stop_ids]
        expected = expected[: stops[0]] if stops else expected
        assert run(engine(), ask(prompt, max_tokens=40))[0].tokens == expected


def mixed(seed: int, count: int) -> list[Request]:
    rng = random.Random(seed)
    words = LONG.split()
    return [
        ask(
            " ".join(words[rng.randrange(3) : rng.randrange(4, len(words))]),
            temperature=rng.choice([0, 0.8, 1.5]),
            top_p=rng.choice([1.0, 0.8]),
            top_k=rng.choice([0, 20]),
            min_p=rng.choice([0.0, 0.05]),
            seed=i,
            max_tokens=rng.randrange(1, 25),
            logprobs=2,
        )
        for i, _ in enumerate(range(count))
    ]


@pytest.mark.parametrize(
    "dtype, packed", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_a_reply_does_not_depend_on_its_company(
    engine: Make, config: Config, dtype: torch.dtype, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(config, dtype)
    if packed:
        pack(model)
    requests = mixed(1, 9)
    alone = [run(engine(model=model), r)[0] for r in requests]
    for chunk, slots in ((16, 3), (23, 4), (512, 9)):
        monkeypatch.setattr(Pace, "learn", lambda *_: None)
        crowd = engine(model=model, slots=slots)
        crowd.pace.chunk = crowd.pace.chunk_alone = chunk
        for a, b in zip(alone, run(crowd, *requests), strict=True):
            assert a.tokens == b.tokens and a.text == b.text
            assert a.logprobs == b.logprobs  # to the last bit


def test_a_prefix_hit_equals_a_miss(engine: Make) -> None:
    warm = engine()
    first = run(warm, ask(LONG, seed=1, temperature=1, logprobs=3))[0]
    again = run(warm, ask(LONG, seed=1, temperature=1, logprobs=3))[0]
    longer = run(warm, ask(LONG + first.text + " And then", logprobs=1))[0]
    fresh = run(engine(), ask(LONG + first.text + " And then", logprobs=1))[0]
    blocks = (first.usage.prompt_tokens - 1) // BLOCK
    assert first.usage.cached_tokens == 0 < blocks
    assert again.usage.cached_tokens == blocks * BLOCK <= longer.usage.cached_tokens
    assert (again.tokens, again.logprobs) == (first.tokens, first.logprobs)
    assert (longer.tokens, longer.logprobs) == (fresh.tokens, fresh.logprobs)
    assert warm.metrics()["prefix_cache_hits"] == again.usage.cached_tokens + longer.usage.cached_tokens


def test_a_prefix_is_not_shared_across_salts(engine: Make) -> None:
    shared = engine()
    for salt, cached in (("a", False), ("b", False), ("a", True)):
        shared.submit("x", ask(LONG), salt=salt)
        started = shared.step()[0][1]
        assert isinstance(started, Started) and bool(started.cached_tokens) is cached
        while not shared.idle:
            shared.step()


def test_a_running_sequence_lends_its_prefix(engine: Make) -> None:
    two = engine()
    two.submit("a", ask(LONG, max_tokens=60, stop=()))
    two.step()
    while two.running[0].undone > 1:
        two.step()
    two.submit("b", ask(LONG[:200]))
    assert next(e for id, e in two.step() if id == "b").cached_tokens >= BLOCK
    while not two.idle:
        two.step()


def test_seeds(engine: Make) -> None:
    def tokens(seed: int | None, **more: object) -> list[int]:
        return run(engine(), ask(seed=seed, temperature=1.2, max_tokens=20, **more))[0].tokens

    assert tokens(7) == tokens(7) != tokens(8)
    assert tokens(-(2**63)) == tokens(-(2**63))
    assert len({tuple(tokens(None)) for _ in range(3)}) == 3


def test_choices_are_different_replies_and_share_the_prompt(engine: Make) -> None:
    one = engine(slots=2)
    one.submit("x", ask(LONG, n=4, seed=5, temperature=1.3))
    events = []
    while not one.idle:
        events += [e for _, e in one.step()]
    replies = [Reply(events, i) for i in range(4)]
    assert len({tuple(r.tokens) for r in replies}) == 4
    assert all(r.finish in ("length", "stop") for r in replies)
    assert replies[0].usage.completion_tokens >= sum(len(r.tokens) for r in replies)
    # Three find the whole blocks; of these, one begins while the first still runs, and so copies the last block too.
    prompt = replies[0].usage.prompt_tokens - 1
    assert one.metrics()["prefix_cache_hits"] >= 3 * (prompt // BLOCK * BLOCK)
    assert run(engine(), ask(LONG, seed=5, temperature=1.3))[0].tokens == replies[0].tokens


def test_logprobs_are_the_models_own(engine: Make, model: Llama, tokenizer: Tokenizer) -> None:
    reply = run(engine(), ask("The little", temperature=0.3, top_k=2, seed=1, logprobs=4))[0]
    ids = [tokenizer.bos_id, *tokenizer.encode("The little"), *reply.tokens]
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
    start = len(ids) - len(reply.tokens) - 1
    for i, (token, entry) in enumerate(zip(reply.tokens, reply.logprobs, strict=True)):
        row = expected[start + i]
        assert entry.id == token and entry.bytes == tokenizer.token_bytes(token)
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [t.id for t in entry.top] == row.topk(4).indices.tolist()


def test_echo_scores_the_prompt(engine: Make, model: Llama, tokenizer: Tokenizer) -> None:
    warm = engine()
    run(warm, ask(LONG))
    for prompt in (LONG, tuple(tokenizer.encode(LONG))):
        reply = run(warm, ask(prompt, echo=True, logprobs=0, max_tokens=0))[0]
        ids = tokenizer.encode(LONG)
        assert reply.text == LONG and reply.tokens == ids and reply.finish == "length"
        assert reply.usage.completion_tokens == 0
        whole = [tokenizer.bos_id, *ids] if isinstance(prompt, str) else ids
        with torch.no_grad():
            table = torch.log_softmax(model(torch.tensor([whole]))[0], -1)
        expected = [float(table[i, t]) for i, t in enumerate(whole[1:])]
        if not isinstance(prompt, str):
            assert reply.logprobs[0].logprob == -9999
        assert [p.logprob for p in reply.logprobs][-len(expected) :] == pytest.approx(expected, abs=1e-4)


def test_cancelling_frees_the_slot_at_once(engine: Make) -> None:
    one = engine(slots=1)
    one.submit("a", ask(max_tokens=500))
    one.submit("b", ask(max_tokens=3))
    one.submit("c", ask(max_tokens=3))
    one.step()
    assert [c.job.id for c in one.running] == ["a"]
    one.cancel("a")
    one.cancel("b")
    assert not one.running
    events = one.step()
    assert ("a", Finished(0, "cancelled")) in events and ("b", Finished(0, "cancelled")) in events
    assert [c.job.id for c in one.running] == ["c"]
    while not one.idle:
        one.step()
    assert one.scheduler.cache.usage == 0
    one.cancel("a")  # long gone


def test_a_full_queue_says_so(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING", 2)
    replies = run(engine(slots=1), *[ask(max_tokens=2)] * 5)
    assert [r.failed.status if r.failed else 200 for r in replies] == [200, 200, 429, 429, 429]
    monkeypatch.setattr(engine_module, "MAX_WAITING_TOKENS", 150)
    replies = run(engine(slots=1), *[ask(LONG, max_tokens=2)] * 2)
    assert [r.failed and r.failed.status for r in replies] == [None, 429]


def test_prompts_that_cannot_fit(engine: Make, tokenizer: Tokenizer) -> None:
    short = engine(max_len=32)
    for prompt in ("llama " * 60, " " * 10_000_000):
        failed = run(short, ask(prompt))[0].failed
        assert failed.status == 400 and failed.code == "context_length_exceeded" and "32" in failed.message
    assert "at least" in failed.message
    count = len(tokenizer.encode("llama " * 60)) + 1
    assert f"{count} tokens" in run(short, ask("llama " * 60))[0].failed.message
    assert run(short, ask((1,) * 32))[0].failed and run(short, ask(()))[0].failed
    assert run(short, ask((1,) * 31))[0].usage.completion_tokens == 1
    assert run(short, ask("\ud800"))[0].failed.status == 400
    assert run(short, ask((10**9,)))[0].failed.status == 400
    assert run(short, ask("The", max_tokens=10**9))[0].usage.completion_tokens <= 32


def test_chat_and_stop_tokens(engine: Make, model: Llama, tokenizer: Tokenizer) -> None:
    request = Request(
        "", "chat", messages=(Message("user", "Hi <|eot_id|>"),), sampling=Sampling(0, max_tokens=9)
    )
    plain = run(engine(), request)[0]
    assert plain.usage.prompt_tokens > len(tokenizer.encode("Hi <|eot_id|>"))
    third = plain.tokens[2]
    stopping = engine()
    stopping.stop_ids = frozenset({third})
    reply = run(stopping, request)[0]
    at = plain.tokens.index(third)
    assert reply.finish == "stop" and reply.tokens == plain.tokens[:at]
    assert reply.usage.completion_tokens == at + 1


def test_stop_strings_in_the_engine(engine: Make) -> None:
    whole = run(engine(), ask(max_tokens=30))[0]
    stop = whole.text[9:14]
    cut = run(engine(), ask(max_tokens=30, stop=(stop, "\x00never")))[0]
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop"
    assert cut.tokens == whole.tokens[: len(cut.tokens)] and len(cut.tokens) < len(whole.tokens)


def test_of_a_token_that_a_stop_string_cuts_what_is_shown_has_its_logprob(
    engine: Make, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("The little llama went up the hill.")
    text, pieces = tokenizer.decode(ids), [tokenizer.decode([id]) for id in ids]
    at = next(i for i in range(1, len(ids)) if len(pieces[i]) > 1 and len(pieces[i + 1]) > 1)
    for stop in (
        pieces[at][1:]
        + pieces[at + 1],  # what is shown of the token was shown before the stop string was whole
        pieces[at][1:],  # ends with the token that shows something
        pieces[at][1:] + pieces[at + 1][0],  # ends inside a token of which nothing is shown
    ):
        script = iter(ids)
        write = lambda *_, script=script: [next(script)]  # noqa: E731
        cut = run(engine(draw=write), ask(max_tokens=len(ids), logprobs=0, stop=(stop,)))[0]
        starts = itertools.accumulate(map(len, pieces), initial=0)
        shown = sum(start < len(cut.text) for start, _ in zip(starts, pieces, strict=False))
        assert cut.finish == "stop" and cut.text == text[: text.index(stop)]
        assert cut.tokens == ids[:shown] and [p.id for p in cut.logprobs] == cut.tokens


def test_top_p_of_nothing_is_greedy(engine: Make) -> None:
    greedy = run(engine(), ask(max_tokens=12, temperature=0))[0]
    for seed in (1, 2):
        assert run(engine(), ask(max_tokens=12, temperature=2, top_p=0, seed=seed))[0].tokens == greedy.tokens


def test_damaged_weights_fail_the_request_only(engine: Make, config: Config) -> None:
    model = make_model(config)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    reply = run(engine(model=model), ask())[0]
    assert reply.failed.status == 500 and "number" in reply.failed.message


def test_decodes_go_on_while_a_long_prompt_is_read(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "learn", lambda *_: None)
    busy = engine()
    busy.pace.chunk = busy.pace.chunk_alone = 32
    busy.submit("a", ask(max_tokens=100, stop=()))
    busy.step()
    busy.submit("b", replace(ask(LONG * 3), sampling=Sampling(0, max_tokens=1)))
    steps = 0
    while not steps or busy.running[-1].undone > 1:
        assert busy.running[0].job.id == "a"
        assert any(id == "a" and isinstance(e, (Delta, Finished)) for id, e in busy.step())
        steps += 1
    assert steps > 5


def test_a_position_reaches_itself_and_no_further_than_twice() -> None:
    assert [keys_for(p) for p in (0, 63, 64, 127, 128, 255, 256, 511, 512, 1023, 1024)] == [
        *(64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 1536)
    ]


def test_packed_weights_compute_the_same(config: Config, engine: Make) -> None:
    plain, packed = make_model(config, torch.bfloat16), make_model(config, torch.bfloat16)
    pack(packed)
    tokens = torch.arange(40)[None] % config.vocab_size
    with torch.inference_mode():
        torch.testing.assert_close(packed(tokens), plain(tokens), rtol=0.02, atol=0.1)


def test_a_prompt_is_cancelled_between_layers(engine: Make, config: Config) -> None:
    one = engine(slots=2)
    one.pace.chunk_alone = 512
    layers = 0

    def between() -> None:
        nonlocal layers
        layers += 1
        if layers == 2:
            one.cancel("a")

    one.submit("a", ask(LONG, max_tokens=3))
    one.between = between
    events = one.step()
    assert layers == 2 == config.n_layers  # the second layer's attention was not computed
    assert ("a", Finished(0, "cancelled")) in events and one.idle and one.scheduler.cache.usage == 0
    one.between = lambda: None
    alone, after = run(engine(), ask(LONG, logprobs=2))[0], run(one, ask(LONG, logprobs=2))[0]
    assert after.logprobs == alone.logprobs  # nothing half done is taken for a prefix


def test_company_goes_on_when_one_is_cancelled_between_layers(engine: Make) -> None:
    expected = run(engine(), ask(max_tokens=8))[0].tokens
    two = engine()
    two.submit("a", ask(max_tokens=8))
    two.submit("b", ask("She saw", max_tokens=500))
    events = two.step()
    two.between = lambda: two.cancel("b")
    while not two.idle:
        events += two.step()
    assert [t for id, e in events if id == "a" and isinstance(e, Delta) for t in e.tokens] == expected
    assert ("b", Finished(0, "cancelled")) in events


class Clock:
    """Time that passes only while the model computes: `base` seconds a step and `each` for every row."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, base: float, each: float) -> None:
        self.now, self.base, self.each = 0.0, base, each
        self.steps: list[tuple[int, float]] = []
        hidden = engine.runner.hidden

        def slow(tokens: list[int], *rest: object) -> torch.Tensor:
            self.steps.append((len(tokens), base + each * len(tokens)))
            self.now += self.steps[-1][1]
            return hidden(tokens, *rest)

        monkeypatch.setattr(engine.runner, "hidden", slow)
        monkeypatch.setattr(engine_module.time, "monotonic", lambda: self.now)


def test_as_many_replies_run_as_a_step_has_time_for(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    many = engine(slots=16)
    monkeypatch.setattr(Pace, "draft", lambda *_: 0)
    clock = Clock(many, monkeypatch, base=0.05, each=0.015)  # ten rows take 0.2 s
    replies = run(many, *(ask((i,), max_tokens=20, stop=()) for i in range(60)))
    assert all(r.usage for r in replies)
    settled = clock.steps[len(clock.steps) // 2 : -30]
    assert max(seconds for rows, seconds in settled) <= 0.25
    assert sorted(rows for rows, _ in settled)[len(settled) // 2] >= 8  # and no fewer than need be


def test_a_model_too_large_for_any_step_keeps_all_its_slots(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = engine(slots=16)
    monkeypatch.setattr(Pace, "draft", lambda *_: 0)
    clock = Clock(many, monkeypatch, base=1.0, each=0.01)
    run(many, ask(max_tokens=3))
    run(many, *(ask(max_tokens=20, stop=()) for _ in range(32)))
    assert sum(rows >= 16 for rows, _ in clock.steps) > 20


def test_prompts_get_long_steps_only_while_nobody_waits(
    engine: Make, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine()
    clock = Clock(one, monkeypatch, base=0.01, each=0.001)
    for i in range(6):
        run(one, ask(f"{i} {LONG} {LONG}", max_tokens=1))
    goal = pace.STEP * config.n_layers
    assert goal / 2 < max(seconds for _, seconds in clock.steps[-3:]) <= 1.2 * goal


def test_a_long_prompt_at_most_doubles_the_time_between_others_tokens(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = engine(slots=9)
    clock = Clock(busy, monkeypatch, base=0.02, each=0.0005)
    for i in range(8):
        busy.submit(str(i), ask(f"{i} The", max_tokens=400, seed=i, temperature=2, stop=()))
    for _ in range(60):
        busy.step()
    usual = max(seconds for _, seconds in clock.steps[-20:])
    clock.steps.clear()
    busy.submit("long", ask(LONG * 2, max_tokens=1))
    busy.step()
    while any(c.undone > 1 for c in busy.running):
        busy.step()
    reading = sorted(seconds for _, seconds in clock.steps)
    assert len(reading) > 3 and reading[int(0.95 * len(reading))] <= 2 * usual
    assert sum(rows for rows, _ in clock.steps) / len(reading) > 20  # and the prompt makes progress


def test_a_long_step_of_one_model_keeps_no_other_waiting(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as lines:
        worker = Worker(theirs)
        for key in ("a", "b"):
            worker._loaded(key, key, engine(), None)
            worker.engines[key].submit(key, ask(max_tokens=3))
        now = itertools.count(100)
        monkeypatch.setattr(
            worker_module.time, "monotonic", lambda: float(next(now))
        )  # each look, a second later
        worker._step("a", worker.engines["a"])
        order = []
        while not order or order[-1] != "a":
            message = frames.unpack(lines.readline())
            order += [id for id, *_ in message["events"]] if message["op"] == "events" else []
        assert order[0] == "b"
        monkeypatch.undo()
        kept = weakref.ref(worker.engines.pop("a"))
        assert kept() is None  # an unloaded model gives its memory back at once
