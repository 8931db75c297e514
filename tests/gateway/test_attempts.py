"""Retries, fallbacks, time limits, cancellation and revocation, by a clock of their own."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway import breaker
from herd.gateway.keys import Principal
from herd.gateway.limits import Limit
from herd.gateway.provider import UpstreamError
from herd.protocol import Delta, Failed, Finished, Started, Usage

from .fakes import Fake, Made, config, fails, hangs, route, run, says, text, until


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_tried_again_with_growing_pauses(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.25 s, then twice as long each time, and up to a quarter more."""
    a = Fake("a", *[fails()] * 4, says("Hi"))
    made = Made(a, routes=(route("r", "a/m", retries=4),))
    reply, items = run(made.ask("r", stream=stream), monkeypatch)
    assert text(items) == "Hi" and reply.attempts == 5 and reply.failed is None
    pauses = [later - sooner for sooner, later in zip(a.times, a.times[1:], strict=False)]
    for pause, least in zip(pauses, (0.25, 0.5, 1, 2), strict=True):
        assert least <= pause <= 1.25 * least + 0.1
    assert [state for _, state in made.ledger.states] == ["failed"] * 4 + ["done"]
    assert [row["attempt"].number for row in made.ledger.rows] == [0, 1, 2, 3, 4]


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Fake("a", fails(429, retry_after=7.0))
    reply, items = run(Made(a, routes=(route("r", "a/m"),)).ask("r"), monkeypatch)
    assert text(items) == "ok" and 7 <= a.times[1] <= 9


def test_no_pause_goes_beyond_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Fake("a", fails(429, retry_after=50.0, code="busy"))
    reply, items = run(Made(a, routes=(route("r", "a/m", total=40.0),)).ask("r"), monkeypatch)
    assert items == [Failed("it answered 429", "busy", 429, 50.0)] and len(a.calls) == 1


def test_a_fallback_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Fake("a", fails(429, retry_after=60.0)), Fake("b", says("Hi"))
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",), retries=3),))
    reply, items = run(made.ask("r"), monkeypatch)
    assert text(items) == "Hi" and len(a.calls) == 1 and b.calls[0][0] - a.calls[0][0] < 1
    assert made.ledger.states == [("a/m", "refused"), ("b/m", "done")] and reply.target.name == "b/m"


def test_fallbacks_come_in_their_order_and_the_last_error_is_told() -> None:
    a, b, c = (Fake(name, *[fails(code=name)] * 2) for name in "abc")
    made = Made(a, b, c, routes=(route("r", "a/m", fallbacks=("b/m", "c/m")),))
    reply, items = run(made.ask("r"))
    assert items == [Failed("it answered 502", "c", 502)]
    assert [target for target, _ in made.ledger.states] == ["a/m", "a/m", "b/m", "b/m", "c/m", "c/m"]
    ((row, _),) = made.store.kept
    assert row["finish"] == "error" and row["attempts"] == 6


def test_what_is_wrong_everywhere_is_tried_once() -> None:
    a, b = Fake("a", fails(400, code="bad", retryable=False)), Fake("b")
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",)),))
    _, items = run(made.ask("r"))
    assert items == [Failed("it answered 400", "bad", 400)] and not b.calls


def test_never_two_answers_in_one_stream() -> None:
    a, b = Fake("a", fails(after=("Once ",))), Fake("b")
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",)),))
    reply, items = run(made.ask("r"))
    assert items == [Delta(0, "Once "), Failed("it answered 502", "upstream_error", 502)] and not b.calls
    row = made.ledger.rows[0]
    assert row["usage"].estimated and row["usage"].completion_tokens == 2 and row["cost"] > 0
    assert made.store.kept[0][0]["reply"] == "Once " and made.store.kept[0][0]["finish"] == "error"


def test_what_nobody_has_seen_may_be_begun_anew() -> None:
    """A caller who does not stream has seen nothing of the broken half, and gets nothing of it."""
    a, b = Fake("a", *[fails(after=("Once ",))] * 2), Fake("b", says("Hi"))
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",)),))
    reply, items = run(made.ask("r", stream=False))
    assert text(items) == "Hi" and made.ledger.rows[-1]["generation_row"]["reply"] == "Hi"
    assert reply.cost == sum(row["cost"] for row in made.ledger.rows)


@pytest.mark.parametrize("script", [says("Hi", ends=False), says(ends=False)])
@pytest.mark.parametrize("stream", [True, False])
def test_half_an_answer_is_none(script: Any, stream: bool) -> None:
    made = Made(Fake("a", script), routes=(route("r", "a/m", retries=0),))
    _, items = run(made.ask("r", stream=stream))
    assert isinstance(items[-1], Failed) and items[-1].code == "upstream_incomplete"
    assert not any(isinstance(item, (Usage, Finished)) for item in items)


def test_one_choice_of_two_is_half_an_answer() -> None:
    made = Made(Fake("a", says("Hi")), routes=(route("r", "a/m", retries=0),))
    made.providers["a"].script[0] = lambda call: says("Hi")(type(call)(made.begin("r").request, call.target))  # type: ignore[index]
    _, items = run(made.ask("r", n=2))
    assert isinstance(items[-1], Failed)


def test_the_first_token_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Fake("a", hangs(), hangs()), Fake("b", *[says("Hi", delay=50)] * 2)
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",), first_token=20.0),))
    reply, items = run(made.ask("r"), monkeypatch)
    assert isinstance(items[-1], Failed) and items[-1].status == 504 and items[-1].code == "upstream_timeout"
    assert 20 <= a.times[1] <= 22 and a.ended == b.ended == 2
    assert all(row["usage"].prompt_tokens for row in made.ledger.rows)  # it may be billed


def test_later_tokens_have_more() -> None:
    a = Fake("a", says(*["word "] * 5, delay=15))
    _, items = run(Made(a, routes=(route("r", "a/m", first_token=20.0),)).ask("r"))
    assert text(items) == "word " * 5


def test_the_whole_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Fake("a", says(*["word "] * 100, delay=1))
    made = Made(a, routes=(route("r", "a/m", total=10.5),))
    _, items = run(made.ask("r"), monkeypatch)
    assert text(items) == "word " * 10 and isinstance(items[-1], Failed) and items[-1].code == "timeout"
    assert a.running == 0 and made.ledger.states == [("a/m", "failed")]
    _, whole = run(Made(Fake("a", hangs()), routes=(route("r", "a/m", total=5.0),)).ask("r", stream=False))
    assert whole == [Failed("no whole reply within 5 s", "timeout", 504)]


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_caller_who_leaves_stops_the_provider_and_pays(seen: int) -> None:
    a = Fake("a", hangs("one ", "two ", "three ") if seen else hangs())
    made = Made(a, routes=(route("r", "a/m"),))

    async def leave() -> None:
        async def read() -> None:
            async with aclosing(made.gateway.events(made.begin("r"))) as items:
                async for _ in items:
                    pass

        task = asyncio.create_task(read())
        await until(lambda: a.running)
        for _ in range(9):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    run(leave())
    (row,) = made.ledger.rows
    assert a.ended == 1 and row["state"] == "cancelled" and row["status"] == 499
    assert row["usage"].prompt_tokens and (row["usage"].completion_tokens > 0) == (seen > 0)
    kept = made.store.kept[0][0]
    assert kept["finish"] == "cancelled" and not made.ledger.open_
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (
        row["usage"].prompt_tokens,
        row["usage"].completion_tokens,
    )
    assert made.gateway.in_flight == 0


def test_a_revoked_key_ends_what_it_has_running() -> None:
    a = Fake("a", hangs("one "), hangs("one "))
    made = Made(a, routes=(route("r", "a/m"),))

    async def revoke() -> list[Any]:
        async def read(id: str) -> list[Any]:
            return (await made.ask("r", who=Principal(id)))[1]

        good, bad = (asyncio.create_task(read(id)) for id in ("good", "bad"))
        await until(lambda: a.running == 2)
        made.gateway.revoke("bad")
        items = await bad
        assert not good.done()
        good.cancel()
        await asyncio.wait({good})
        return items

    items = run(revoke())
    assert isinstance(items[-1], Failed) and items[-1].status == 401
    assert sorted(state for _, state in made.ledger.states) == ["cancelled", "failed"]


def test_a_budget_that_is_spent_is_no_attempt() -> None:
    a, b = Fake("a"), Fake("b")
    made = Made(a, b, routes=(route("r", "a/m", fallbacks=("b/m",)),))
    made.ledger.refuse = HerdError("spent", status=429, code="budget_exhausted")
    _, items = run(made.ask("r", who=Principal("k", limits=(Limit("tokens", 9, "day"),))))
    assert items == [Failed("spent", "budget_exhausted", 429)] and not a.calls and not b.calls
    assert not made.ledger.rows and not made.store.kept


def test_room_is_reserved_only_where_something_is_limited() -> None:
    made = Made(Fake("a"), routes=(route("r", "a/m"),))

    async def work() -> None:
        await made.ask("r")
        await made.ask("r", who=Principal("k", limits=(Limit("dollars", 9, "day"),)))

    run(work())
    (none, some) = made.ledger.reserved
    assert none == (0, 0) and some[0] > 1024 and some[1] == some[0] * 10**6


def test_an_error_of_ours_is_an_event_and_is_settled() -> None:
    async def breaks(call: Any) -> Any:
        yield Delta(0, "Once ")
        raise ZeroDivisionError

    made = Made(Fake("a", breaks), routes=(route("r", "a/m"),))
    _, items = run(made.ask("r"))
    assert isinstance(items[-1], Failed) and items[-1].status == 500
    assert made.ledger.states == [("a/m", "failed")] and not made.ledger.open_


def test_upstream_errors_know_themselves() -> None:
    error = UpstreamError("x", retry_after=3.0)
    assert (error.status, error.retryable, error.retry_after) == (502, True, 3.0)


def test_a_busy_provider_is_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited for a place in vain has asked nobody: the attempt at the fallback is the first, which limits count."""
    monkeypatch.setattr(breaker, "PATIENCE", 0.1)
    a, b = Fake("a", hangs("one ")), Fake("b", says("Hi"))
    rules = route("r", "a/m", fallbacks=("b/m",), retries=0)
    made = Made(a, b, routes=(rules,))

    async def work() -> None:
        await made.gateway.apply(config(a, b, routes=(rules,), concurrency=1))
        first = asyncio.create_task(made.ask("r"))
        await until(lambda: a.running)
        reply, items = await made.ask("r")
        assert text(items) == "Hi" and reply.attempts == 1
        assert [row["attempt"].number for row in made.ledger.rows] == [0]
        first.cancel()
        await asyncio.wait({first})

    run(work())


def test_what_was_never_sent_costs_nothing() -> None:
    """A caller may leave while room for his request is reserved."""
    made = Made(Fake("a"), routes=(route("r", "a/m"),))

    async def leave() -> None:
        async def never(*_: Any, **__: Any) -> None:
            made.ledger.open_[_[0].id] = _[0]
            await asyncio.Event().wait()

        monkey = made.ledger
        monkey.open = never  # type: ignore[method-assign]
        task = asyncio.create_task(made.ask("r", who=Principal("k", limits=(Limit("tokens", 10**6, "day"),))))
        await until(lambda: monkey.open_)
        task.cancel()
        await asyncio.wait({task})

    run(leave())
    (row,) = made.ledger.rows
    assert row["state"] == "cancelled" and row["cost"] == 0 and row["usage"] is None


def test_counting_tokens_costs_nothing() -> None:
    async def counts(call: Any) -> Any:
        yield Started(1000)
        yield Usage(1000, 0)

    made = Made(Fake("a", counts), routes=(route("r", "a/m"),))
    who = Principal("k", limits=(Limit("dollars", 10**12, "day"),))
    reply, items = run(made.ask("r", count=True, stream=False, who=who))
    assert items[-1] == Usage(1000, 0) and reply.failed is None
    (row,) = made.ledger.rows
    assert row["cost"] == 0 and row["usage"] is None and made.ledger.reserved == [(0, 0)]


def test_a_key_revoked_while_its_request_was_read_gets_no_reply() -> None:
    """The door let it in, then its body took half a minute."""
    a = Fake("a", hangs("one "))
    made = Made(a, routes=(route("r", "a/m"),))
    made.gateway.revoke("bad")
    _, items = run(made.ask("r", who=Principal("bad")))
    assert isinstance(items[-1], Failed) and items[-1].status == 401 and not a.running
