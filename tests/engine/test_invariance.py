"""DESIGN's second promise: a request's tokens and logprobs are its own, whatever the schedule."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.engine import kernels, native, sampler
from herd.engine.cache import needed
from herd.engine.eager import Eager
from herd.engine.engine import Engine
from herd.engine.pace import Pace
from herd.engine.packed import pack
from herd.engine.step import Runner
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.config import Config
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Event, Request

from ..tiny import tiny_config
from .conftest import Reply, ask, make_adapter, make_model

WORDS = "She saw a big tree, and the tree said: hello, little llama! She saw a big tree, and went up the hill. ".split()
CONTEXT = 192


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("fp32", marks=pytest.mark.slow),
        pytest.param("bf16", marks=pytest.mark.slow),
        "native bf16",
        "native int8",
        "native int4",
    ],
)
def world(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> World:
    if request.param.startswith("native") and not kernels.available():
        pytest.skip("no kernels here")
    config = tiny_config(tokenizer, dim=64, head_dim=16, ffn_dim=160, max_positions=CONTEXT)
    return World(config, tokenizer, request.param)


class World:
    """A model behind a runner, its adapters, and what each request answers when it is alone in a large engine."""

    def __init__(self, config: Config, tokenizer: Tokenizer, weights: str) -> None:
        self.tokenizer, self.draw = tokenizer, sampler.draw
        model = make_model(config, torch.float32 if weights == "fp32" else torch.bfloat16)
        self.runner: Runner
        if weights.startswith("native"):
            self.runner, self.draw = native.Native(model, weights.split()[1]), native.draw
        else:
            if weights == "bf16":
                pack(model)
            self.runner = Eager(model)
        self.adapters = [None, make_adapter(config, seed=1), make_adapter(config, seed=2)]
        self.known: dict[int, list[Reply]] = {}

    def engine(self, **options: int) -> Engine:
        """With a cache of its own; one engine of a world runs at a time."""
        template = ChatTemplate(LLAMA3_TEMPLATE)
        return Engine(self.runner, self.tokenizer, template, draw=self.draw, **options)

    def expected(self, plan: Ask) -> list[Reply]:
        if plan.key not in self.known:
            alone = self.engine(slots=4)
            alone.pace.draft = lambda *_: 0  # type: ignore[method-assign]
            alone.submit("x", plan.request, adapter=self.adapters[plan.adapter])
            events = []
            while not alone.idle:
                events += [e for _, e in alone.step()]
            self.known[plan.key] = replies(plan, events)
        return self.known[plan.key]


@dataclass(frozen=True)
class Ask:
    """A request that arrives before step `arrives` and is cancelled before step `cancelled`, if at all."""

    key: int
    arrives: int
    cancelled: int | None
    salt: str

    @property
    def adapter(self) -> int:
        return self.key % 3

    @property
    def request(self) -> Request:
        first, size = self.key % 7, 3 + 11 * (self.key % 5)
        return ask(
            " ".join((WORDS * 4)[first : first + size]),
            temperature=(0, 0.7, 1.4)[self.key % 3],
            top_p=(1.0, 0.8)[self.key % 2],
            frequency_penalty=(0.0, 0.5)[self.key % 4 == 0],
            seed=self.key,
            n=(1, 3)[self.key % 6 == 0],
            echo=self.key % 8 == 7,
            max_tokens=(40, 9)[self.key % 2],
            logprobs=1,
        )


def replies(plan: Ask, events: list[Event]) -> list[Reply]:
    return [Reply(events, i) for i in range(plan.request.n)]


asks = st.builds(
    Ask,
    key=st.integers(0, 41),
    arrives=st.integers(0, 25),
    cancelled=st.none() | st.none() | st.integers(1, 60),
    salt=st.sampled_from("ab"),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    plans=st.lists(asks, min_size=1, max_size=9),
    blocks=st.integers(0, 8),
    slots=st.integers(1, 8),
    chunk=st.sampled_from([3, 16, 37, 256]),
    drafts=st.lists(st.integers(0, 8), min_size=1, max_size=5),
)
def test_any_schedule_gives_the_same_replies(
    world: World, plans: list[Ask], blocks: int, slots: int, chunk: int, drafts: list[int]
) -> None:
    if not world.runner.invariant:
        pytest.skip("this machine's products do not promise it")
    expected = [world.expected(plan) for plan in plans]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "learn", lambda *_: None)
        guesses = iter(drafts * 10_000)
        patch.setattr(Pace, "draft", lambda *_: next(guesses))
        crowd = world.engine(slots=slots, blocks=needed(CONTEXT) + blocks)
        crowd.pace.chunk = crowd.pace.chunk_alone = chunk
        events: dict[int, list[Event]] = {i: [] for i in range(len(plans))}
        step = 0
        while not crowd.idle or step <= 25:
            for i, plan in enumerate(plans):
                if plan.arrives == step:
                    crowd.submit(str(i), plan.request, salt=plan.salt, adapter=world.adapters[plan.adapter])
                if plan.cancelled == step:
                    crowd.cancel(str(i))
            for id, event in crowd.step():
                events[int(id)].append(event)
            step += 1
            assert step < 5000, "no progress"
    assert crowd.scheduler.cache.usage == 0
    for i, plan in enumerate(plans):
        for got, whole in zip(replies(plan, events[i]), expected[i], strict=True):
            if got.finish == "cancelled":
                assert whole.tokens[: len(got.tokens)] == got.tokens
                assert whole.logprobs[: len(got.logprobs)] == got.logprobs
            else:
                assert (got.tokens, got.text, got.finish) == (whole.tokens, whole.text, whole.finish)
                assert got.logprobs == whole.logprobs  # to the last bit


def test_preemption_happens_and_nothing_is_said_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "draft", lambda *_: 0)
    tight = world.engine(slots=6, blocks=needed(CONTEXT))
    requests = [
        ask(f"{i} {' '.join(WORDS[:6])}", max_tokens=150, stop=(), temperature=1.2, seed=i) for i in range(6)
    ]
    for i, request in enumerate(requests):
        tight.submit(str(i), request)
    events: dict[str, list[Event]] = {str(i): [] for i in range(6)}
    while not tight.idle:
        for id, event in tight.step():
            events[id].append(event)
    assert tight.metrics()["num_preemptions"] > 3
    for i, request in enumerate(requests):
        roomy = world.engine(slots=1)
        roomy.submit("x", request)
        whole = []
        while not roomy.idle:
            whole += [e for _, e in roomy.step()]
        assert Reply(events[str(i)]).tokens == Reply(whole).tokens
        assert events[str(i)][-1].completion_tokens == whole[-1].completion_tokens
