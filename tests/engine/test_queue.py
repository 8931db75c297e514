"""Who is served when not all can be, and what they are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from herd.engine import engine as engine_module
from herd.engine.client import EngineClient
from herd.engine.engine import Engine
from herd.protocol.types import Delta, Event, Failed, Finished, Request, Sampling, Started, Usage

from .conftest import ask

Make = Callable[..., Engine]


def started(engine: Engine) -> list[str]:
    order = []
    while not engine.idle:
        order += [id for id, event in engine.step() if isinstance(event, Started)]
    return order


def test_keys_take_turns_and_each_key_is_first_come_first_served(engine: Make) -> None:
    one = engine(slots=1)
    for i in range(6):
        one.submit(f"many{i}", ask(max_tokens=1), salt="many")
    for i in range(2):
        one.submit(f"few{i}", ask(max_tokens=1), salt="few")
    one.submit("last", ask(max_tokens=1), salt="last")
    assert started(one) == ["many0", "few0", "last", "many1", "few1", "many2", "many3", "many4", "many5"]


def test_a_key_that_has_all_places_gives_some_to_others_once(engine: Make) -> None:
    def tokens(events: list[tuple[str, Event]]) -> None:
        for id, event in events:
            if isinstance(event, Delta):
                said.setdefault(id, []).extend(event.tokens)

    def request(i: int) -> Request:
        return ask((5 + i, 6, 7), max_tokens=20)

    said: dict[str, list[int]] = {}
    one = engine(slots=4)
    for i in range(6):
        one.submit(f"many{i}", request(i), salt="many")
    for _ in range(5):
        tokens(one.step())
    assert [c.job.salt for c in one.running] == ["many"] * 4
    for i in range(3):
        one.submit(f"few{i}", request(10 + i), salt="few")
    tokens(one.step())
    assert Counter(c.job.salt for c in one.running) == {"many": 2, "few": 2}
    assert [c.job.id for c in one.running if c.job.salt == "many"] == ["many0", "many1"]  # the oldest stay
    while not one.idle:
        tokens(one.step())
    assert one.metrics()["num_preemptions"] == 2
    alone, together, said = engine(slots=1), said, {}
    for i in [*range(6), 10, 11, 12]:
        alone.submit(f"many{i}" if i < 10 else f"few{i - 10}", request(i))
    while not alone.idle:
        tokens(alone.step())
    assert together == said and len(said) == 9


def test_a_full_queue_still_has_a_place_for_a_key_that_is_not_in_it(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING", 8)
    one = engine(slots=1)
    for salt in ("many", "few"):
        for i in range(10):
            one.submit(f"{salt}{i}", ask(max_tokens=1), salt=salt)
    refused = Counter(id.rstrip("0123456789") for id, e in one.step() if isinstance(e, Failed))
    assert refused == {"many": 2, "few": 9}
    while not one.idle:
        one.step()


def test_tokens_are_shared_by_keys_as_places_are(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING_TOKENS", 800)
    one = engine(slots=1)
    for i in range(3):
        one.submit(f"many{i}", ask(tuple([5] * 350), max_tokens=1), salt="many")
    one.submit("long", ask(tuple([6] * 150), max_tokens=1), salt="few")
    for i in range(3):
        one.submit(f"short{i}", ask(tuple([7] * 40), max_tokens=1), salt="few")
    refused = {id for id, e in one.step() if isinstance(e, Failed)}
    assert refused == {"many2", "long", "short2"}  # an eighth is 100
    while not one.idle:
        one.step()


def test_prompts_of_keys_are_read_in_turn(engine: Make) -> None:
    one = engine(slots=8, budget=64)
    for i in range(6):
        one.submit(f"many{i}", ask(tuple([5 + i] * 400), max_tokens=1), salt="many")
    one.submit("few", ask(tuple([50] * 60), max_tokens=1), salt="few")
    ended = []
    while not one.idle:
        ended += [id for id, event in one.step() if isinstance(event, Finished)]
    assert ended == ["few", *(f"many{i}" for i in range(6))]


def test_what_is_cancelled_while_it_waits_leaves_the_line(engine: Make) -> None:
    one = engine(slots=1)
    for id, salt in (("a", "x"), ("b", "x"), ("c", "y")):
        one.submit(id, ask(max_tokens=2), salt=salt)
    one.cancel("a")
    assert started(one) == ["b", "c"] and not len(one.waiting) and one.waiting.tokens == 0


def test_refusals_come_at_once_while_the_engine_is_busy(model_dir: Path) -> None:
    """Ten times more than the queue holds: whoever finds no place hears so before any other has a reply."""
    request = Request("t", "completion", prompt="She saw", sampling=Sampling(temperature=1, max_tokens=30))

    ends: list[Event] = []

    async def one(client: EngineClient, number: int) -> None:
        events = [event async for event in client.generate("t", request, salt=str(number % 2))]
        ends.append(events[-1])

    async def work() -> None:
        client = EngineClient(max_queue=16)
        await client.start()
        try:
            await client.load("t", model_dir)
            await asyncio.gather(*(one(client, i) for i in range(160)))
            assert all(isinstance(end, Failed) and end.status == 429 for end in ends[:144])
            assert all(isinstance(end, Usage) for end in ends[144:]) and len(ends) == 160
            assert 1 <= client.admission.retry_after <= 60
        finally:
            await client.close()

    asyncio.run(work())


def test_a_count_is_answered_while_the_queue_is_full(model_dir: Path, engine: Make) -> None:
    count = Request("t", "completion", prompt="She saw a big tree", count=True)
    slow = Request(
        "t", "completion", prompt="She saw", sampling=Sampling(temperature=1, seed=1, max_tokens=900)
    )

    async def work() -> None:
        client = EngineClient(max_queue=0)
        await client.start()
        try:
            await client.load("t", model_dir)
            assert [type(e) async for e in client.generate("t", slow)] == [Failed]
            events = [e async for e in client.generate("t", count)]
            assert events == [Started(events[0].prompt_tokens), Usage(events[0].prompt_tokens, 0)]
        finally:
            await client.close()

    asyncio.run(work())
    one = engine(slots=1)
    one.submit("x", ask("She saw a big tree", max_tokens=1))
    (whole,) = [e for _, e in one.step() if isinstance(e, Started)]
    one.submit("n", count)
    assert ("n", Started(whole.prompt_tokens)) in one.take()
    long = Request("", "completion", prompt="a " * 9000, count=True)  # whether it fits is what is asked
    one.submit("l", long)
    assert any(isinstance(e, Started) and e.prompt_tokens > one.context for _, e in one.take())
    while not one.idle:
        assert not any(id == "n" and isinstance(e, Finished) for id, e in one.step())
