"""The ledger against sums of its own rows: whatever is opened, settled, cancelled and killed at once, no unit is lost.

Amounts are chosen so that floats could not add them up: primes near 2⁵³ and odd amounts of 10⁻¹² dollars.
"""

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import literal, select

from herd.errors import HerdError
from herd.gateway import ledger as module
from herd.gateway.ledger import Attempt, Ledger
from herd.gateway.limits import Limit, LimitError, Period
from herd.protocol import Usage
from herd.store import Store
from herd.store.engines import database_url, make_engine
from herd.store.tables import attempts, quotas

PRIME = 9_007_199_254_740_881  # the largest prime below 2⁵³
NOON = 1_798_761_600.0  # 2027-01-01T00:00:00Z: a minute, an hour, a day, a month and a year begin
LIMITS = (
    Limit("requests", 7, "minute"),
    Limit("tokens", 10_007, "hour"),
    Limit("dollars", PRIME, "day"),
    Limit("dollars", 3 * PRIME + 1, "total"),
)


def attempt(id: str, *, limits: tuple[Limit, ...] = LIMITS, at: float = NOON, number: int = 0) -> Attempt:
    names = {"route": "r", "target": "t", "provider": "p", "url": "u", "key": "k", "application": "app"}
    return Attempt(
        id=id, generation=f"g-{id}", number=number, shadow=False, owner="key:k", limits=limits, created=at, **names
    )  # fmt: skip


def check(database: str, limits: tuple[Limit, ...] = LIMITS, *, over: bool = False) -> list[Any]:
    """Every quota against the rows, with SQL and Python's integers alone. `over`: actual costs passed the estimates."""
    engine = make_engine(database_url(database))  # whose reads are of one moment
    with engine.connect() as connection:
        rows = connection.execute(select(attempts)).all()
        kept = connection.execute(select(quotas)).all()
    engine.dispose()
    reserved: Counter[Any] = Counter()
    spent: Counter[Any] = Counter()
    for row in rows:
        used = {"tokens": (row.prompt_tokens or 0) + (row.completion_tokens or 0), "dollars": row.cost}
        for owner, unit, period, start, amount in row.reserved:
            if row.state == "open":
                reserved[owner, unit, period, start] += amount
            else:
                spent[owner, unit, period, start] += used.get(unit, amount)
    amounts = {(limit.unit, limit.period): limit.amount for limit in limits}
    for quota in kept:
        place = tuple(quota[:4])
        assert (quota.reserved, quota.spent) == (reserved.pop(place, 0), spent.pop(place, 0)), place
        assert over or quota.reserved + quota.spent <= amounts[quota.unit, quota.period]
    assert not +reserved and not +spent  # nothing booked that no quota knows
    return list(rows)


def usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt, completion, cached_tokens=prompt // 2)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many write at once here, also on a busy machine: a lock may take its time."""
    monkeypatch.setattr("herd.store.engines.PATIENCE", 120.0)


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    store = Store.open(database)
    yield Ledger(store, name="here")
    store.close()


RUNS = itertools.count()
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "settle", "cancel", "again", "crash", "wait"]),
        st.integers(0, 10**6),
    ),
    max_size=30,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)  # fmt: skip
@given(steps=STEPS)
def test_any_order_of_events_adds_up(database: str, ledger: Ledger, steps: list[tuple[str, int]]) -> None:
    """Opened, settled, settled again, cancelled while it opens, left behind by a crash, across ends of periods."""

    async def play() -> None:
        nonlocal ledger
        alive: list[Attempt] = []
        now = NOON - 30.0
        for place, (what, number) in enumerate(steps):
            one = attempt(f"{run}-{place}", at=now, number=number % 3)
            if what == "wait":
                now += number % 4000
            elif what == "open" or what == "cancel":
                task = asyncio.create_task(
                    ledger.open(one, tokens=number % 5003, cost=number * 7_919_000_003)
                )
                if what == "cancel":
                    await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                    alive.append(one)
                except LimitError:
                    pass
                except asyncio.CancelledError:
                    await ledger.settle(one, state="cancelled", usage=usage(number % 7, 1), cost=number % 11)
            elif what == "crash":
                ledger = Ledger(ledger.store, name="here")
                await ledger.recover()
            elif alive:
                one = alive[number % len(alive)] if what == "again" else alive.pop(number % len(alive))
                used = usage(number % 2003, number % 1999)
                await ledger.settle(one, state="done", usage=used, cost=number * 7_919_000_003 % PRIME // 5)

    run = next(RUNS)
    asyncio.run(play())
    check(database, over=True)
    asyncio.run(ledger.recover())


def test_many_at_once_never_pass_a_limit(database: str, ledger: Ledger) -> None:
    """Two thousand attempts from eight threads, four gateways; actual costs stay within the estimates."""
    others = [Ledger(Store.open(database), name=f"g{n}") for n in range(3)]
    refused: Counter[str] = Counter()

    async def one(here: Ledger, id: str, dice: random.Random) -> None:
        tokens, cost = dice.randrange(1, 61), dice.randrange(1, PRIME // 97)
        this = attempt(id, at=NOON + dice.randrange(-90, 90))
        try:
            opening = asyncio.create_task(here.open(this, tokens=tokens, cost=cost))
            await asyncio.sleep(dice.choice([0, 0, 0.001]))
            if dice.random() < 0.1:
                opening.cancel()
            await opening
        except LimitError as error:
            refused[error.code] += 1
            return
        except asyncio.CancelledError:
            await here.settle(this, state="cancelled", usage=usage(0, 1), cost=1)
            return
        await asyncio.sleep(dice.choice([0, 0.002]))
        done = usage(dice.randrange(tokens // 2 + 1), dice.randrange(tokens // 2 + 1))
        await here.settle(this, state="done", usage=done, cost=dice.randrange(cost + 1))

    async def many(here: Ledger, worker: int) -> None:
        dice = random.Random(worker)
        await asyncio.gather(*(one(here, f"{worker}-{i}", dice) for i in range(250)))

    threads = [
        threading.Thread(target=asyncio.run, args=(many(here, 2 * place + half),))
        for place, here in enumerate([ledger, *others])
        for half in (0, 1)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        check(database)  # in the middle of it
    for other in others:
        other.store.close()
    rows = check(database)
    assert {row.state for row in rows} == {"done", "cancelled"} or {row.state for row in rows} == {"done"}
    assert sum(refused.values()) + len(rows) >= 1800 and refused["rate_limit_exceeded"] > 100


CHILD = """
import asyncio, itertools, random, sys, time
from herd.gateway.ledger import Attempt, Ledger, Limit
from herd.protocol import Usage
from herd.store import Store

async def main():
    url, name, seed = sys.argv[1], sys.argv[2], sys.argv[3]
    dice, ledger = random.Random(seed), Ledger(Store.open(url), name=name)
    limits = (Limit("dollars", 2**62, "total"), Limit("tokens", 2**62, "minute"), Limit("requests", 2**62, "month"))
    async def work(worker):
        for i in itertools.count():
            id, cost = f"{seed}-{worker}-{i}", dice.randrange(1, 2**48)
            one = Attempt(id, id, 0, "r", "t", "p", "u", "k", "a", False, "key:k", limits, time.time())
            await ledger.open(one, tokens=dice.randrange(10**6), cost=cost)
            row = {"id": id, "route": "r", "request": {}, "reply": "said"}
            print("open", id, flush=True)
            await ledger.settle(one, state="done", usage=Usage(dice.randrange(10**5), 7), cost=cost // 3, generation_row=row)
            print("done", id, flush=True)
    await asyncio.gather(*(work(n) for n in range(6)))
asyncio.run(main())
"""
UNLIMITED = (
    Limit("dollars", 2**62, "total"),
    Limit("tokens", 2**62, "minute"),
    Limit("requests", 2**62, "month"),
)


@pytest.mark.slow
def test_kill_9_at_any_moment(database: str) -> None:
    """A gateway opens and settles as fast as it can, and is killed again and again; another one, where the database can
    be shared, goes on beside it."""
    store = Store.open(database)
    command = [sys.executable, "-c", CHILD, database]
    steady = subprocess.Popen([*command, "steady", "s"], stdout=subprocess.DEVNULL) if store.shared else None
    dice, said, killed = random.Random(7), set[tuple[str, str]](), 0
    for turn in range(12):
        child = subprocess.Popen([*command, "there", str(turn)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(dice.randrange(1, 40))]
        time.sleep(dice.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
        said |= {
            (what, id)
            for what, _, id in (line.strip().partition(" ") for line in lines if line.endswith("\n"))
        }
        check(database, UNLIMITED)
        killed += asyncio.run(Ledger(store, name="there").recover())
        rows = {row.id: row for row in check(database, UNLIMITED) if row.gateway == "there"}
        assert all(row.state in ("done", "lost") for row in rows.values())
        assert all(rows[id].state == "done" if what == "done" else id in rows for what, id in said)
        kept = {row["id"] for row in store.generations(limit=10**6) if row["id"][0] != "s"}
        assert kept == {id for id, row in rows.items() if row.state == "done"}  # both or neither
    assert killed > 12
    if steady is not None:
        assert steady.poll() is None
        steady.kill()
        steady.wait()
        asyncio.run(Ledger(store, name="steady").recover())
        others = [row for row in check(database, UNLIMITED) if row.gateway == "steady"]
        assert len([row for row in others if row.state == "lost"]) <= 6 < len(others)
    lost = [row for row in rows.values() if row.state == "lost"]
    assert len(lost) == killed and all(row.estimated and row.code == "lost" for row in lost)
    store.close()


def test_a_gateway_that_lives_keeps_what_it_has_open(
    database: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ledger.store.shared:
        return
    now = NOON

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr(module, "_NOW", select(literal(now)))

    async def play() -> None:
        passes(0)
        other = Ledger(Store.open(database), name="there")
        gone = Ledger(other.store, name="gone")
        await gone.recover()
        for place, here in enumerate((ledger, other, gone)):
            await here.open(attempt(f"a{place}"), tokens=5, cost=11)
        lost = 0
        for _ in range(12):  # `gone` gives no sign any more
            lost += await ledger.recover() + await other.recover()
            passes(module.BEAT)
        states = {row.id: row.state for row in check(database)}
        assert lost == 1 and states == {"a0": "open", "a1": "open", "a2": "lost"}
        await gone.settle(attempt("a2"), state="done", usage=usage(1, 1), cost=1)  # it was only asleep
        passes(module.LEASE + module.BEAT)  # nobody could reach the database
        assert await ledger.recover() == 0
        for place, here in enumerate((ledger, other)):
            await here.settle(attempt(f"a{place}"), state="done", usage=usage(1, 1), cost=1)
        other.store.close()

    asyncio.run(play())
    assert Counter(row.state for row in check(database)) == {"done": 2, "lost": 1}


def test_limits_are_said_with_their_periods(database: str, ledger: Ledger) -> None:
    async def play() -> None:
        for n in range(7):
            await ledger.open(attempt(f"a{n}", at=NOON + 15.0), tokens=1, cost=1)
        with pytest.raises(LimitError, match="7 requests a minute is reached") as caught:
            await ledger.open(attempt("b", at=NOON + 15.0), tokens=1, cost=1)
        assert caught.value.code == "rate_limit_exceeded" and caught.value.retry_after == 45.0
        assert caught.value.status == 429
        await ledger.open(attempt("c", at=NOON + 60.0), tokens=1, cost=1)  # the next minute
        await ledger.open(attempt("c-again", at=NOON + 61.0, number=1), tokens=1, cost=1)
        with pytest.raises(LimitError, match="10007 tokens a hour|10007 tokens an hour") as caught:
            await ledger.open(attempt("d", at=NOON + 61.0), tokens=10_008, cost=1)
        assert caught.value.code == "budget_exhausted" and caught.value.retry_after is None
        with pytest.raises(LimitError, match="dollars a day is reached") as caught:
            await ledger.open(attempt("e", at=NOON + 61.0), tokens=1, cost=PRIME - 3)
        assert caught.value.code == "budget_exhausted"
        # More than was reserved: booked in full, and then nothing is left.
        await ledger.settle(attempt("c"), state="done", usage=usage(20_000, 1), cost=2 * PRIME)
        with pytest.raises(LimitError):
            await ledger.open(attempt("f", at=NOON + 120.0), tokens=1, cost=0)

    asyncio.run(play())
    check(database, over=True)


def test_the_row_of_an_attempt(database: str, ledger: Ledger) -> None:
    async def play() -> None:
        free = replace(attempt("a", limits=()), key=None, owner="key:")
        await ledger.open(free, tokens=9, cost=9)
        row = {"id": "g-a", "route": "r", "request": {"messages": []}, "reply": "text", "conversation": "c"}
        used = Usage(10, 20, 3, 4, 5, True)
        await ledger.settle(
            free, state="failed", usage=used, cost=7, status=502, code="upstream_error", error="it broke",
            first_token_ms=1.5, total_ms=2.5, generation_row=row, keep="metadata",
        )  # fmt: skip
        await ledger.settle(free, state="done", usage=used, cost=99)  # once only
        broken = attempt("b")
        await ledger.open(broken, tokens=9, cost=9)
        with pytest.raises(HerdError):
            await ledger.settle(
                broken, state="done", usage=used, cost=7, generation_row={**row, "request": {1, 2}}
            )

    asyncio.run(play())
    first, second = sorted(check(database, over=True), key=lambda row: row.id)
    assert (first.state, first.status, first.code, first.error) == (
        "failed",
        502,
        "upstream_error",
        "it broke",
    )
    assert (first.prompt_tokens, first.completion_tokens, first.cached_tokens) == (10, 20, 3)
    assert (first.written_tokens, first.reasoning_tokens, first.estimated, first.cost) == (4, 5, True, 7)
    assert (first.first_token_ms, first.total_ms, first.gateway, first.key) == (1.5, 2.5, "here", None)
    kept = ledger.store.get_generation("g-a")
    assert kept is not None and kept["reply"] == ""
    assert (second.state, second.cost) == (
        "done",
        7,
    )  # spent is spent, though its generation could not be kept
    assert [row["id"] for row in ledger.store.attempts("g-a")] == ["a"]


def test_spend(ledger: Ledger) -> None:
    now = time.time()
    limits = (Limit("dollars", 100, "total"), Limit("tokens", 50, "month"))

    async def play() -> list[dict[str, Any]]:
        await ledger.open(attempt("a", limits=limits, at=now), tokens=10, cost=20)
        await ledger.open(attempt("b", limits=limits, at=now), tokens=5, cost=6)
        await ledger.settle(attempt("a"), state="done", usage=usage(1, 2), cost=4)
        return await ledger.spend("key:k", (*limits, Limit("requests", 3, "week")))

    total, month, week = asyncio.run(play())
    assert total == {
        "unit": "dollars",
        "period": "total",
        "amount": 100,
        "start": 0,
        "spent": 4,
        "reserved": 6,
    }
    assert (month["spent"], month["reserved"], month["amount"]) == (3, 5, 50)
    assert time.gmtime(month["start"])[2:6] == (1, 0, 0, 0) and month["start"] <= now
    assert (week["spent"], week["reserved"]) == (0, 0)
    assert time.gmtime(week["start"])[3:7] == (0, 0, 0, 0) and 0 <= now - week["start"] < 7 * 86400


@pytest.mark.parametrize("at", [0.0, 951_782_399.0, 951_782_400.0, NOON - 0.5, NOON])
def test_periods_hold_their_moments(at: float) -> None:
    for period in get_args(Period):
        start = Limit("requests", 1, period).start(at)
        assert start <= at and Limit("requests", 1, period).start(start) == start
        seconds = {"minute": 60, "hour": 3600, "day": 86400, "week": 604_800, "month": 31 * 86400}.get(period)
        assert seconds is None or at - start < seconds


def test_the_sign_of_life_takes_no_attempt_that_is_being_settled(ledger: Ledger) -> None:
    """`recover` runs beside `settle`: what it finds open may be booked by the very next write."""

    async def play() -> None:
        one = attempt("beside")
        await ledger.open(one, tokens=10, cost=1000)
        lost = asyncio.create_task(ledger.recover())
        await asyncio.sleep(0)  # it is on its way to the writer
        await ledger.settle(one, state="done", usage=usage(3, 4), cost=77)
        assert await lost == 0
        (row,) = await asyncio.to_thread(ledger.store.attempts, "g-beside")
        assert (row["state"], row["cost"], row["prompt_tokens"], row["estimated"]) == ("done", 77, 3, False)
        assert await ledger.recover() == 0 and not ledger._open

    asyncio.run(play())


def test_what_may_need_more_than_a_column_holds(ledger: Ledger) -> None:
    """A caller may ask for 2⁶² tokens: that is too much where they are limited, and nothing to reserve where they are not."""
    requests, tokens = Limit("requests", 7, "minute"), Limit("tokens", 2**62, "day")

    async def play() -> None:
        await ledger.open(attempt("free", limits=(requests,)), tokens=2**63, cost=2**80)
        with pytest.raises(LimitError) as refused:
            await ledger.open(attempt("bound", limits=(requests, tokens)), tokens=2**63, cost=2**80)
        assert refused.value.code == "budget_exhausted"
        await Ledger(ledger.store, name="here").recover()
        (row,) = await asyncio.to_thread(ledger.store.attempts, "g-free")
        assert (row["state"], row["cost"], row["prompt_tokens"]) == ("lost", 0, 0)

    asyncio.run(play())
