"""A tiny random Llama with a tokenizer trained here, small enough to know everything about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from herd.engine import kernels, native
from herd.engine.eager import Eager
from herd.engine.engine import Engine, drain
from herd.engine.step import Adapter
from herd.model import hf
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.lora import ALL
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.protocol.types import Delta, Event, Failed, Finished, Request, Sampling, Usage

from ..tiny import tiny_config, tiny_llama

TEXT = "The little llama went up the hill. She saw a big tree, and the tree said: hello, little llama! " * 4


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT, "Grüße, Österreich! 🦙🌲 日本語"], 340)


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> Config:
    return tiny_config(tokenizer, dim=64, head_dim=16, ffn_dim=160, max_positions=1024)


def make_model(config: Config, dtype: torch.dtype = torch.float32) -> Llama:
    model = tiny_llama(config, seed=3, spread=5).to(dtype)
    model.freq = Llama(config).freq
    model.dtype = dtype
    return model


def make_adapter(config: Config, seed: int, rank: int = 3, layers: Sequence[str] = ALL) -> Adapter:
    """Random, and large enough to change what is said."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: m.weight.shape for n, m in Llama(config).named_modules() if n.rpartition(".")[2] in layers}
    a = {n: torch.randn(rank, inputs, generator=generator) for n, (_, inputs) in shapes.items()}
    b = {n: torch.randn(outputs, rank, generator=generator) for n, (outputs, _) in shapes.items()}
    return Adapter(0.02, a, b)


@pytest.fixture(scope="session")
def model(config: Config) -> Llama:
    return make_model(config)


@pytest.fixture
def engine(model: Llama, tokenizer: Tokenizer) -> Callable[..., Engine]:
    """Makes engines on the model; keyword arguments are Engine's."""
    return lambda **options: Engine(
        Eager(options.pop("model", model)),
        tokenizer,
        ChatTemplate(LLAMA3_TEMPLATE),
        **{"slots": 4, **options},
    )


@pytest.fixture(scope="session")
def model_dir(model: Llama, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    hf.save(
        model, directory, tokenizer=tokenizer, template=ChatTemplate(LLAMA3_TEMPLATE), dtype=torch.float32
    )
    return directory


def ask(prompt: str | tuple[int, ...] = "The little", **options: object) -> Request:
    """A completion; options are Sampling's, but for n and echo. Greedy and 12 tokens long if nothing else is said."""
    outer = {k: options.pop(k) for k in ("n", "echo") if k in options}
    return Request(
        "",
        "completion",
        prompt=prompt,
        sampling=Sampling(**{"temperature": 0, "max_tokens": 12, **options}),
        **outer,
    )


class Reply:
    """What one request's events add up to; checks that they come in the order that the protocol promises."""

    def __init__(self, events: list[Event], index: int = 0) -> None:
        self.events = events
        deltas = [e for e in events if isinstance(e, Delta) and e.index == index]
        self.text = "".join(d.text for d in deltas)
        self.tokens = [t for d in deltas for t in d.tokens]
        self.logprobs = [p for d in deltas for p in d.logprobs]
        self.finish = next((e.reason for e in events if isinstance(e, Finished) and e.index == index), None)
        self.usage = events[-1] if isinstance(events[-1], Usage) else None
        self.failed = events[-1] if isinstance(events[-1], Failed) else None
        assert self.usage or self.failed
        assert not any(isinstance(e, (Usage, Failed)) for e in events[:-1])


def run(engine: Engine, *requests: Request) -> list[Reply]:
    for i, request in enumerate(requests):
        engine.submit(str(i), request)
    events: dict[str, list[Event]] = {str(i): [] for i in range(len(requests))}
    for id, event in drain(engine):
        events[id].append(event)
    return [Reply(e) for e in events.values()]


RUNNABLE = [name for name, needs in kernels.FEATURES.items() if set(needs) <= kernels.cpu_flags()]


@pytest.fixture(params=RUNNABLE)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each library that this CPU can run."""
    if kernels.available() is None:
        pytest.skip("the kernels are not built")
    caches = (kernels.choose, kernels.team, native.library)
    monkeypatch.setenv("HERD_KERNELS", request.param)
    for cache in caches:
        cache.cache_clear()
    yield request.param
    for cache in caches:
        cache.cache_clear()
