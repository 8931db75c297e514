"""A tiny random Llama with a tokenizer trained here, small enough to know everything about."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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


ROOM = Path(kernels.__file__).parent
RUNNABLE = [name for name, needs in kernels.FEATURES.items() if set(needs) <= kernels.cpu_flags()]
EMULATED = {"vnni": ["-DHERD_NO_BF16"], "avx512": [], "amx": ["-DHERD_EMULATE_AMX"]}


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """A library for which this CPU lacks instructions: its source with them in plain C. One for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "emulated"
    folder.mkdir(exist_ok=True)

    @cache
    def library(name: str) -> ctypes.CDLL:
        target, here = folder / f"libherd_{name}.so", Path(__file__).parent
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-Wno-psabi"]
        flags += ["-mavx2", "-mfma", "-mf16c", f"-I{here}", "-include", "emulate_avx512.h", *EMULATED[name]]
        with (folder / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                sources = [str(p) for p in ROOM.glob("*.cpp")]
                command = [os.environ.get("CXX", "c++"), *flags, *sources, "-o", str(target)]
                subprocess.run(command, check=True, capture_output=True)
        found = ctypes.CDLL(str(target))
        kernels.declare(found)
        assert found.herd_init() == 0
        return found

    return library


@pytest.fixture(
    params=[*RUNNABLE, *(pytest.param(n, marks=pytest.mark.slow) for n in EMULATED if n not in RUNNABLE)]
)
def library(
    request: pytest.FixtureRequest,
    emulated: Callable[[str], ctypes.CDLL],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ctypes.CDLL]:
    """Each library in turn is the one in use: those that this CPU runs, and the others emulated."""
    name = request.param
    if not list(ROOM.glob("*.so")):
        pytest.skip("the kernels are not built")
    found = kernels.load(name) if name in RUNNABLE else emulated(name)
    monkeypatch.setattr(kernels, "choose", lambda: (name, found, ""))
    caches = (kernels.team, native.library)
    for each in caches:
        each.cache_clear()
    yield found
    for each in caches:
        each.cache_clear()
