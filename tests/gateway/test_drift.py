"""Drift is found when a target has changed, told once, and not cried for a target that is only fickle or down."""

import asyncio
import json
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway import changes
from herd.gateway.changes import BASE, CONFIRM, LEAST, answers, conformance, price, speed
from herd.gateway.config import Config, DriftSpec
from herd.gateway.drift import MAX_TOKENS, PROBES, Drift
from herd.gateway.gateway import Gateway
from herd.gateway.ledger import Ledger
from herd.gateway.prices import Prices
from herd.gateway.provider import Call, UpstreamError
from herd.gateway.route import ProviderSpec, Route, TargetSpec, Weighted
from herd.protocol import Called, Delta, Event, Finished, Started, ToolCall, Usage
from herd.store import Store

pytestmark = pytest.mark.anyio
HOUR = 3600.0
WORDS = "the printing press with movable type came to Europe around 1440 1450 by Gutenberg and changed books for ever".split()

# --- the rules, on made rounds


def made(
    rng: random.Random, fickle: float, fast: float = 1.0, ok: float = 1.0, words: list[str] = WORDS
) -> dict[str, Any]:
    """A round of a target that changes each word with probability `fickle`."""
    probes = {}
    for name in PROBES:
        said = [rng.choice(words) if rng.random() < fickle else word for word in words]
        first = 300 * fast * rng.lognormvariate(0, 0.3)
        probes[name] = {"text": " ".join(said), "ok": rng.random() < ok, "first_ms": first, "per_s": 50 / fast * rng.lognormvariate(0, 0.2)}  # fmt: skip
    return {"probes": probes, "price": ["1", "2"]}


@pytest.mark.slow
@pytest.mark.parametrize("fickle", [0.0, 0.05, 0.5, 1.0])
def test_a_target_that_is_only_fickle_seldom_cries_wolf(fickle: float) -> None:
    """1,500 windows of rounds of one law: the promised rate allows one of them, and chance five."""
    rng = random.Random(5)
    pool = [made(rng, fickle) for _ in range(60)]
    false = {"answers": 0, "speed": 0, "conformance": 0}
    for _ in range(1500):
        rounds = rng.sample(pool, BASE + CONFIRM)
        for kind in false:
            false[kind] += changes.JUDGES[kind](rounds) is not None
    assert false["answers"] <= 5 and false["speed"] <= 5 and false["conformance"] == 0, false


@pytest.mark.parametrize("flaky", [0.5, 0.8, 0.9])
def test_a_probe_that_fails_now_and_then_is_not_told(flaky: float) -> None:
    rng = random.Random(6)
    pool = [made(rng, 0.0, ok=flaky) for _ in range(200)]
    false = sum(conformance(rng.sample(pool, BASE + CONFIRM)) is not None for _ in range(1000))
    assert false <= 6 * 1000 * 0.002  # six probes, at CHANCE each


@pytest.mark.parametrize("fickle", [0.0, 0.1, 0.3])
def test_other_answers_are_found(fickle: float) -> None:
    rng = random.Random(7)
    base = [made(rng, fickle) for _ in range(BASE)]
    new = [
        made(rng, fickle, words=["quite", "other", "words", "about", "1440", "books"] * 3)
        for _ in range(CONFIRM)
    ]
    found = answers([*base, *new])
    assert found is not None and found[1]["likeness"] > found[2]["likeness"]
    assert answers([*base, *new[:2], base[0]]) is None  # two of three
    assert answers([*base[: LEAST - 1], *new]) is None  # too little is known


def test_one_answer_that_changed_is_enough_where_all_were_the_same() -> None:
    rng = random.Random(8)
    base = [made(rng, 0.0) for _ in range(LEAST)]
    other = {**base[0], "probes": {**base[0]["probes"], "fact": {**base[0]["probes"]["fact"], "text": "No."}}}
    found = answers([*base, other, other, other])
    assert found is not None and "'fact'" in found[0] and found[2]["answer"] == "No."


@pytest.mark.parametrize(("factor", "is_told"), [(3.0, True), (1 / 3, True), (1.2, False)])
def test_speed_is_told_beyond_its_spread(factor: float, is_told: bool) -> None:
    rng = random.Random(9)
    base = [made(rng, 0.0) for _ in range(BASE)]
    new = [made(rng, 0.0, fast=factor) for _ in range(CONFIRM)]
    assert (speed([*base, *new]) is not None) == is_told
    assert speed([*base, *[{**one, "again": True} for one in new]]) is None


def test_conformance_and_price() -> None:
    rng = random.Random(10)
    base = [made(rng, 0.0) for _ in range(LEAST)]
    broken = [
        {**one, "probes": {**one["probes"], "schema": {**one["probes"]["schema"], "ok": False}}}
        for one in base[:3]
    ]
    found = conformance([*base, *broken])
    assert found is not None and "'schema'" in found[0]
    untested = [
        {**one, "probes": {**one["probes"], "schema": {**one["probes"]["schema"], "ok": None}}}
        for one in base
    ]
    assert conformance([*untested, *broken]) is None  # it never was
    assert price(base) is None and price([*base, {**base[0], "price": None}]) is None
    found = price([*base, {**base[0], "price": ["2", [3, 200_000, 6]]}])
    assert (
        found is not None
        and found[0] == "the price is $2 / $3 for a million tokens, before $1 / $2 for a million tokens"
    )


# --- the probes, through a gateway


ANSWERS = {"Give": '{"country": "Kenya", "capital": "Nairobi"}', "Name": "red\nyellow\nblue"}


class Vendor:
    """A provider whose answers, speed and faults the test sets."""

    def __init__(self) -> None:
        self.name, self.urls, self.passes = "vendor", ("http://vendor",), frozenset()
        self.calls: list[Call] = []
        self.fault: UpstreamError | None = None
        self.refused: dict[str, str] = {}
        self.say: Callable[[str], str] = lambda prompt: ANSWERS.get(prompt.split()[0], "391 is said")

    def unsupported(self, call: Call) -> dict[str, str]:
        return {
            name: why
            for name, why in self.refused.items()
            if name != "response_format" or call.request.format
        }

    async def generate(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        if self.fault:
            raise self.fault
        yield Started(20)
        if call.request.tools:
            yield Called(0, ToolCall("c", "weather", '{"town": "Lyon"}'))
        for word in self.say(call.request.messages[-1].content).split(" "):
            yield Delta(0, f"{word} ")
        yield Finished(0, "stop")
        yield Usage(40, 12)

    async def models(self) -> list[str]:
        return ["m"]

    async def close(self) -> None: ...


class Nothing:
    """Observes nothing, and is a local engine with nothing."""

    name, urls, passes = "local", ("",), frozenset()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self

    def target(self, name: str) -> Any:
        raise HerdError(f"no {name}", status=404)

    def names(self) -> dict[str, float]:
        return {}


class World:
    def __init__(self, store: Store, hours: float | None = 24.0) -> None:
        self.vendor, self.store, self.now = Vendor(), store, 1_800_000_000.0
        self.step = 0.0  # seconds that each sleep takes, if it is not as long as it is asked to be
        self.until = math.inf  # when time stands still
        config = Config(
            providers={"vendor": ProviderSpec("vendor", "openai", ("http://vendor",))},
            targets={"helper": TargetSpec("helper", "vendor", "m", price={"input": 0.15, "output": 0.6})},
            routes={"r": Route("r", (Weighted("vendor/other"),), fallbacks=("helper",))},
            drift=DriftSpec(hours),
        )
        self.gateway = Gateway(
            config, local=Nothing(), store=store, ledger=Ledger(store, name="t"), observe=Nothing(),
            build=lambda spec: self.vendor, price=lambda config: Prices.load(providers=config.providers),
        )  # fmt: skip
        self.drift = Drift(self.gateway, store, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        while self.step and not all(task.done() for task in self.drift._running.values()):
            await asyncio.sleep(0.001)
        self.now += self.step or seconds
        await (asyncio.sleep(0) if self.now < self.until else asyncio.Event().wait())

    async def rounds(self, count: int) -> list[dict[str, Any]]:
        return [finding for _ in range(count) for finding in await self.drift.run_once("helper")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "herd.db")
    yield store
    store.close()


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def test_a_round_is_small_booked_to_the_experiment_and_keeps_no_generation(world: World) -> None:
    assert await world.rounds(1) == []
    (row,) = world.store.probes("helper")
    assert set(row["results"]["probes"]) == set(PROBES) and all(
        p["ok"] for p in row["results"]["probes"].values()
    )
    for call in world.vendor.calls:
        sampling = call.request.sampling
        assert (sampling.temperature, sampling.max_tokens) == (
            0.0,
            MAX_TOKENS,
        ) and call.target.name == "helper"
    assert world.store.generations() == []
    with world.store._read() as connection:
        booked = connection.exec_driver_sql("SELECT route, application, shadow, cost FROM attempts").all()
    assert booked == [("drift", "drift", 1, 40 * 150_000 + 12 * 600_000)] * len(PROBES)


async def test_what_changed_is_told_once_with_before_and_after(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert await world.rounds(LEAST) == []
    old = world.vendor.say
    world.vendor.say = lambda prompt: (
        "I cannot help with that." if prompt.startswith("In one") else old(prompt)
    )
    with caplog.at_level(logging.WARNING, "herd.drift"):
        (finding,) = await world.rounds(1)  # it asks again at once
    assert len(world.store.probes("helper")) == LEAST + CONFIRM
    assert finding["kind"] == "answers" and finding["after"]["answer"].startswith("I cannot")
    assert "helper: answers differ" in caplog.text
    assert await world.rounds(2 * LEAST) == []  # from now on it is what is usual
    assert [f["id"] for f in world.store.findings()] == [finding["id"]]
    world.vendor.say = old
    assert [f["kind"] for f in await world.rounds(1)] == ["answers"]


async def test_a_schema_that_is_honoured_no_more(world: World) -> None:
    await world.rounds(LEAST)
    old = world.vendor.say
    world.vendor.say = lambda prompt: "Nairobi!" if prompt.startswith("Give") else old(prompt)
    assert {f["kind"] for f in await world.rounds(1)} == {"answers", "conformance"}


async def test_what_a_target_cannot_is_not_held_against_it(world: World) -> None:
    world.vendor.refused = {"response_format": "not known here"}
    world.vendor.say = lambda prompt: "no JSON"
    await world.rounds(1)
    assert world.store.probes("helper")[0]["results"]["probes"]["schema"]["ok"] is None


@pytest.mark.parametrize(
    ("fault", "is_gone"),
    [(UpstreamError("no such model", status=503, code="model_not_found", retryable=False), True),
     (UpstreamError("gone", status=410, code="x", retryable=False), True),
     (UpstreamError("down"), False), (UpstreamError("busy", status=429), False)],
    ids=["not found", "410", "down", "busy"],
)  # fmt: skip
async def test_retired_is_told_once_and_down_never(world: World, fault: UpstreamError, is_gone: bool) -> None:
    world.vendor.fault = fault
    assert await world.rounds(3) == []  # it never was there: a wrong name, not a change
    world.vendor.fault = None
    await world.rounds(2)
    world.vendor.fault = fault
    assert [f["kind"] for f in await world.rounds(4)] == ["retired"] * is_gone
    asked = len(world.vendor.calls)
    await world.rounds(1)
    assert len(world.vendor.calls) - asked <= len(PROBES)  # and it is not asked again and again
    world.vendor.fault = None
    assert await world.rounds(1) == []
    world.vendor.fault = fault
    assert [f["kind"] for f in await world.rounds(2)] == ["retired"] * is_gone


async def test_another_price_is_told_at_once(world: World) -> None:
    await world.rounds(1)
    config = world.gateway.now.config
    targets = {"helper": replace(config.targets["helper"], price={"input": 0.3, "output": 0.6})}
    await world.gateway.apply(replace(config, targets=targets))
    (finding,) = await world.rounds(1)
    assert finding["kind"] == "price" and "$0.3 / $0.6" in finding["said"] and await world.rounds(2) == []


async def test_another_target_of_the_same_name_has_no_past(world: World) -> None:
    await world.rounds(LEAST)
    config = world.gateway.now.config
    targets = {"helper": replace(config.targets["helper"], system="Speak Latin.")}
    await world.gateway.apply(replace(config, targets=targets))
    world.vendor.say = lambda prompt: "Non intellego."
    assert await world.rounds(4) == []


async def run_for(world: World, hours: float) -> None:
    """The loop, for so long by the world's clock, which stands still while there are probes."""
    world.until, world.step = world.now + hours * HOUR, 1800.0
    task = asyncio.create_task(world.drift.loop())
    while world.now < world.until:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_schedule_survives_a_restart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(store)
    monkeypatch.setattr("herd.store.routes.time.time", lambda: world.now)
    assert set(world.drift.targets()) == {"helper", "vendor/other"}
    await run_for(world, 2)
    assert len(store.probes("helper")) == len(store.probes("vendor/other")) == 1
    then, world = world.now, World(store)
    world.now = then
    await run_for(world, 19)
    assert len(store.probes("helper")) == 1 and world.vendor.calls == []
    await run_for(world, 8)
    assert len(store.probes("helper")) == len(store.probes("vendor/other")) == 2


async def test_it_is_off_unless_it_is_asked_for(store: Store) -> None:
    world = World(store, None)
    await run_for(world, 48)
    assert world.vendor.calls == []


def test_a_day_costs_well_under_a_cent() -> None:
    """Of models in common use, at the bundled prices: 450 tokens of prompts and 130 of replies, as they are short."""
    prices, used = Prices.load(), Usage(450, 130)
    for provider, model in (("openai", "gpt-4o-mini"), ("openai", "gpt-4o"), ("anthropic", "claude-haiku-4-5"),
                            ("anthropic", "claude-sonnet-4-5"), ("mistral", "mistral-small-latest"), ("google", "gemini-2.5-flash")):  # fmt: skip
        assert 0 < prices.cost(provider, model, used) < 10**10 / 2, model
    assert json.dumps(sorted(PROBES)) == '["arithmetic", "fact", "lines", "schema", "stop", "tool"]'
