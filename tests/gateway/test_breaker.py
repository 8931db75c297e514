"""Places and circuits: how many at a time, and when an address is left alone; by a clock of their own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from herd.gateway import breaker
from herd.gateway.attempts import Alarm
from herd.gateway.keys import Principal
from herd.protocol import Failed

from .fakes import Fake, FakeLocal, Made, config, fails, hangs, route, run, says, text


def test_places_of_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at a time, twelve wait, and who waits for too long is told so."""
    a = Fake("a", *[says("Hi", delay=4)] * 30)
    made = Made(a, routes=(route("r", "a/m", concurrency=3),))

    async def flood() -> list[Any]:
        return [items for _, items in await asyncio.gather(*(made.ask("r") for _ in range(20)))]

    ends = run(flood(), monkeypatch)
    refused = [items for items in ends if isinstance(items[-1], Failed)]
    assert a.most == 3 and len(refused) == 5 + 6  # of those who wait, 3 come in after 4 s, and 3 after 8 s
    assert all(items[0].status == 429 and items[0].retry_after for items in refused)
    assert len(made.store.kept) == 0  # an overload costs no generations
    assert made.gateway._places["r"].used == 0


def test_places_of_an_address_and_the_least_busy_one() -> None:
    a = Fake("a", *[says("Hi", delay=1)] * 8, urls=("https://one.example", "https://two.example"))
    made = Made(a, routes=(route("r", "a/m"),))

    async def flood() -> None:
        await made.gateway.apply(config(a, routes=(route("r", "a/m"),), concurrency=2))
        await asyncio.gather(*(made.ask("r") for _ in range(8)))

    run(flood())
    urls = [call.url for _, call in a.calls]
    assert a.most == 4 and urls.count("https://one.example") == 4
    assert {state for _, state in made.ledger.states} == {"done"}


def test_a_place_given_to_one_who_leaves_is_given_on() -> None:
    async def work() -> int:
        places, order = breaker.Places(1), list[int]()

        async def take(number: int) -> None:
            async with places.one("x", Alarm().wait):
                order.append(number)
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(take(number)) for number in range(5)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        tasks[3].cancel()
        await asyncio.wait(tasks)
        assert order == [0, 2, 4]
        return places.used

    assert run(work()) == 0


def test_the_circuit_opens_rests_and_tries_one() -> None:
    bad, good = "https://bad.example", "https://good.example"
    a = Fake("a", urls=(bad, good))
    a.by_url = {bad: fails(), good: says("Hi")}
    made = Made(a, routes=(route("r", "a/m", retries=1),))

    async def work() -> None:
        for _ in range(60):
            _, items = await made.ask("r")
            assert text(items) == "Hi"  # the other address answers
        state = {one["url"]: one["state"] for one in made.gateway.health()}
        assert state == {"": "closed", bad: "open", good: "closed"}
        assert [call.url for _, call in a.calls].count(bad) == 5
        await asyncio.sleep(5.1)
        assert made.gateway.health()[1]["state"] == "half-open"
        a.by_url[bad] = says("Hi", delay=1)
        a.by_url[good] = fails()
        for _ in range(5):
            await made.ask("r")
        state = {one["url"]: one["state"] for one in made.gateway.health()}
        assert state[bad] == "closed"

    run(work())


def test_a_probe_that_fails_doubles_the_rest() -> None:
    async def work() -> list[float]:
        clock, rests = [0.0], list[float]()
        replica = breaker.Replica("a", "https://a.example", lambda: clock[0])
        for _ in range(breaker.IN_A_ROW - 1):
            replica.failed("x")
        assert replica.state == "closed"
        replica.failed("x")
        for _ in range(6):
            assert replica.state == "open"
            rests.append(replica.rests)
            clock[0] += replica.rests
            assert replica.state == "half-open"
            assert replica.begin()
            assert replica.state == "open"  # for all others
            replica.ended(probe=False)  # of one that began before
            assert replica.state == "open" and not replica.begin()
            replica.failed("x", probe=True)
        clock[0] += 100
        assert replica.begin()
        replica.ended(probe=True)  # the caller of the probe has left
        assert replica.state == "half-open"
        assert replica.begin()
        replica.succeeded(0.1)
        assert replica.state == "open"  # what began before it says nothing about now
        replica.succeeded(0.1, probe=True)
        assert replica.state == "closed"
        return rests

    assert run(work()) == [5, 10, 20, 40, 60, 60]


def test_half_of_many_failures_opens_it_too() -> None:
    replica = breaker.Replica("a", "https://a.example", lambda: 0.0)
    for _ in range(9):
        replica.succeeded(None)
        replica.failed("x")
        assert replica.state == "closed"
    replica.succeeded(None)
    replica.failed("x")
    assert replica.state == "open"


def test_where_all_rest_the_caller_is_told_how_long() -> None:
    a, b = Fake("a"), Fake("b", says("Hi"))
    a.by_url = {"https://a.example": fails()}
    made = Made(a, b, routes=(route("r", "a/m", retries=4), route("s", "a/m", fallbacks=("b/m",))))

    async def work() -> tuple[Any, Any]:
        assert made.gateway.ready
        await made.ask("r")
        alone = (await made.ask("r"))[1]
        assert made.gateway.ready  # by b
        return alone, (await made.ask("s"))[1]

    alone, helped = run(work())
    assert alone[0].status == 503 and alone[0].code == "upstream_resting" and 4 < alone[0].retry_after <= 6
    assert text(helped) == "Hi" and len(a.calls) == 5


def test_busy_and_wrong_requests_say_nothing_against_an_address() -> None:
    a = Fake("a", *[fails(429)] * 10, *[fails(400, retryable=False)] * 10)
    made = Made(a, routes=(route("r", "a/m", retries=0),))

    async def work() -> None:
        for _ in range(20):
            await made.ask("r")

    run(work())
    assert made.gateway.health()[1]["state"] == "closed"


def test_the_engine_has_no_circuit_and_a_full_queue_goes_elsewhere() -> None:
    local, b = FakeLocal(*[fails(429, retry_after=7.0)] * 50), Fake("b")
    made = Made(b, routes=(route("r", "cria", fallbacks=("b/m",)),), local=local)

    async def work() -> None:
        for _ in range(20):
            assert text((await made.ask("r"))[1]) == "ok"
        assert isinstance((await made.ask("cria"))[1][0], Failed)

    run(work())
    assert len(local.calls) == 21 and made.gateway.health()[0]["state"] == "closed"


@pytest.mark.parametrize("how", ["late", "revoked"])
def test_waiting_for_a_place_ends_with_the_reply(how: str) -> None:
    made = Made(Fake("a", hangs("one ")), routes=(route("r", "a/m", concurrency=1),))

    async def work() -> None:
        first = asyncio.create_task(made.gateway.finish(made.begin("r")))
        await asyncio.sleep(0.1)
        reply, began = made.begin("r", who=Principal("key")), asyncio.get_running_loop().time()
        reply.route = replace(reply.route, total=2.0)
        waiting = asyncio.create_task(made.gateway.finish(reply))
        await asyncio.sleep(0.1)
        if how == "revoked":
            made.gateway.revoke("key")
        await waiting
        assert reply.failed and reply.failed.code == {"late": "timeout", "revoked": "invalid_api_key"}[how]
        assert asyncio.get_running_loop().time() - began < 3
        first.cancel()
        await asyncio.wait({first})

    run(work())


def test_a_place_is_given_up_as_another_becomes_free() -> None:
    """The waiting one is cancelled, and taken out of the queue by who leaves, before it runs again."""

    async def work() -> tuple[int, Any]:
        places = breaker.Places(1)

        async def take() -> None:
            async with places.one("x", Alarm().wait):
                await asyncio.sleep(1)

        first, second = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0.5)
        assert places.wanted == 2
        second.cancel()
        places._wake()  # nothing is free; then a place is
        places.most = 2
        places._wake()
        await asyncio.wait({first, second})
        return places.used, second.cancelled()

    assert run(work()) == (0, True)
