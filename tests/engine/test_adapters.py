"""LoRA adapters: read from PEFT's files, mixed in one batch, swapped while requests run."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from herd.engine.adapter import load_adapter
from herd.engine.client import EngineClient
from herd.engine.engine import Engine
from herd.engine.step import Adapter
from herd.errors import HerdError
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.lora import add_lora, load_peft, lora_parameters, merge, save_peft
from herd.protocol.types import Delta, Event, Failed, Request, Sampling, Usage

from .conftest import Reply, ask, make_adapter, run

Make = Callable[..., Engine]
LONG = "She saw a big tree, and the tree said: hello. " * 6


@pytest.fixture(scope="session")
def adapter_dir(model: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of some layers, in PEFT's files."""
    tuned = copy.deepcopy(model)
    add_lora(tuned, rank=4, alpha=8, targets=("q", "v", "o", "up", "down"))
    generator = torch.Generator().manual_seed(0)
    for p in lora_parameters(tuned):
        p.data.normal_(0, 0.2, generator=generator)
    directory = tmp_path_factory.mktemp("adapter")
    save_peft(tuned, directory, base="tiny")
    return directory


def merged(model: Llama, adapter_dir: Path) -> Llama:
    tuned = copy.deepcopy(model)
    load_peft(tuned, adapter_dir)
    merge(tuned)
    return tuned


def test_an_adapter_equals_its_merged_weights(
    engine: Make, model: Llama, config: Config, adapter_dir: Path
) -> None:
    adapter = load_adapter(config, adapter_dir)
    one = engine()
    one.submit("x", ask(LONG, max_tokens=30, logprobs=3), adapter=adapter)
    events = []
    while not one.idle:
        events += [e for _, e in one.step()]
    got = Reply(events)
    expected = run(engine(model=merged(model, adapter_dir)), ask(LONG, max_tokens=30, logprobs=3))[0]
    plain = run(engine(), ask(LONG, max_tokens=30))[0]
    assert got.tokens == expected.tokens != plain.tokens
    assert [p.logprob for p in got.logprobs] == pytest.approx(
        [p.logprob for p in expected.logprobs], abs=1e-4
    )


def test_adapters_mix_in_one_batch_and_share_no_prefix(engine: Make, config: Config) -> None:
    adapters: list[Adapter | None] = [
        None,
        make_adapter(config, 1),
        make_adapter(config, 2, layers=("q", "down")),
    ]

    def alone(adapter: Adapter | None) -> Reply:
        one = engine()
        one.submit("x", ask(LONG, logprobs=1, temperature=1, seed=1), adapter=adapter)
        events = []
        while not one.idle:
            events += [e for _, e in one.step()]
        return Reply(events)

    mixed = engine(slots=6)
    events: dict[str, list[Event]] = {}
    for turn in range(2):  # the second finds the first's prefixes
        for i, adapter in enumerate(adapters):
            mixed.submit(f"{turn}{i}", ask(LONG, logprobs=1, temperature=1, seed=1), adapter=adapter)
            events[f"{turn}{i}"] = []
        while not mixed.idle:
            for id, event in mixed.step():
                events[id].append(event)
    expected = [alone(adapter) for adapter in adapters]
    assert len({tuple(r.tokens) for r in expected}) == 3
    for turn in range(2):
        for i, whole in enumerate(expected):
            got = Reply(events[f"{turn}{i}"])
            assert (got.tokens, got.logprobs) == (whole.tokens, whole.logprobs)
            assert bool(got.usage.cached_tokens) is bool(turn)


def test_a_damaged_adapter_fails_its_own_requests_only(engine: Make, config: Config) -> None:
    good, bad = make_adapter(config, 1), make_adapter(config, 2)
    bad.b["layers.1.ffn.down"].fill_(float("nan"))
    mixed = engine(slots=4, blocks=64)
    fine: dict[str, list[Event]] = {"good": [], "bad": [], "plain": []}
    for _ in range(3):  # blocks that held what is not a number are used again
        for id, adapter in (("bad", bad), ("good", good), ("plain", None)):
            mixed.submit(id, ask(LONG, max_tokens=6), adapter=adapter)
            fine[id] = []
        while not mixed.idle:
            for id, event in mixed.step():
                fine[id].append(event)
        assert Reply(fine["bad"]).failed and Reply(fine["good"]).usage
        assert Reply(fine["plain"]).tokens == run(engine(), ask(LONG, max_tokens=6))[0].tokens


def test_an_adapter_that_does_not_fit_is_refused(adapter_dir: Path, config: Config, tmp_path: Path) -> None:
    with pytest.raises(HerdError, match="down_proj"):
        load_adapter(replace(config, ffn_dim=96), adapter_dir)
    with pytest.raises(HerdError, match="PEFT"):
        load_adapter(config, tmp_path)


def test_adapters_are_swapped_with_no_failed_request(model_dir: Path, adapter_dir: Path) -> None:
    """Keys of one model share its weights; a key leaves only after its last request."""
    request = Request("t", "completion", prompt="The little", sampling=Sampling(temperature=0, max_tokens=40))

    async def one(client: EngineClient, key: str) -> list[Event]:
        return [event async for event in client.generate(key, request)]

    async def work() -> None:
        client = EngineClient()
        await client.start()
        try:
            await asyncio.gather(
                client.load("plain", model_dir, weights="fp32"),
                client.load("old", model_dir, adapter_dir, "fp32"),
            )
            first = text(await one(client, "plain")), text(await one(client, "old"))
            models = client.status()["models"]
            assert models["plain"]["engine"] == models["old"]["engine"]
            assert models["old"]["adapter_bytes"] > 0 == models["plain"]["adapter_bytes"]
            assert models["old"]["weight_bytes"] >= 4 * models["old"]["parameters"]
            key, answers = "old", []

            async def visitors() -> None:
                for _ in range(8):
                    answers.append(await one(client, key))

            crowd = [asyncio.create_task(visitors()) for _ in range(4)]
            for number in range(3):
                await asyncio.sleep(0.1)
                await client.load(f"new{number}", model_dir, adapter_dir, "fp32")
                before, key = key, f"new{number}"
                await client.unload(before)
            await asyncio.gather(*crowd)
            assert len(answers) == 32 and all(isinstance(events[-1], Usage) for events in answers)
            assert {text(events) for events in answers} == {first[1]} != {first[0]}
            await client.unload("plain")
            assert text(await one(client, key)) == first[1]
            (gone,) = await one(client, "plain")
            assert isinstance(gone, Failed) and gone.status == 503
        finally:
            await client.close()

    asyncio.run(work())


def text(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))
