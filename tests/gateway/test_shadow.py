"""Shadows: sampled, bounded, never shown, and paid by an experiment."""

from __future__ import annotations

import asyncio
from typing import Any

from herd.errors import HerdError
from herd.gateway.keys import Principal
from herd.gateway.route import Shadow
from herd.protocol import Failed

from .fakes import Fake, Made, fails, hangs, route, run, says, text


def _made(shadow: Shadow, *script: Any) -> Made:
    return Made(Fake("a"), Fake("b", *script), routes=(route("r", "a/m", shadow=shadow, keep="text"),))


async def _all(made: Made, times: int, **fields: Any) -> list[str]:
    said = [text((await made.ask("r", **fields))[1]) for _ in range(times)]
    while made.gateway.shadows._tasks:
        await asyncio.sleep(0)
    return said


def test_a_copy_is_sent_kept_and_booked_to_the_experiment() -> None:
    made = _made(Shadow("b/m", 1.0, budget=2.5), says("the candidate's"))
    assert run(_all(made, 1)) == ["ok"]
    shown, copy = made.ledger.rows
    one, two = shown["generation_row"], copy["generation_row"]
    assert two["shadow_of"] == one["id"] and two["reply"] == "the candidate's" and two["key"] is None
    assert two["route"] == "r" and two["conversation"] == one["conversation"] and copy["keep"] == "text"
    attempt = copy["attempt"]
    assert attempt.shadow and attempt.owner == "experiment:r"
    ((limit,),) = [attempt.limits]
    assert (limit.unit, limit.amount, limit.period) == ("dollars", 25 * 10**11, "day")
    assert made.seen.counts["shadow", "done"] == 1


def test_about_the_share_is_sampled() -> None:
    made = _made(Shadow("b/m", 0.3, concurrency=1000))
    run(_all(made, 400))
    sent = len(made.providers["b"].calls)
    assert 80 < sent < 160  # five deviations of 9.2 around 120
    made = _made(Shadow("b/m", 0.0))
    run(_all(made, 50))
    assert not made.providers["b"].calls


def test_one_that_fails_or_hangs_is_never_noticed() -> None:
    made = _made(Shadow("b/m", 1.0, concurrency=2), fails(), hangs(), hangs())

    async def work() -> list[str]:
        said = [text((await made.ask("r"))[1]) for _ in range(6)]
        await asyncio.sleep(1)
        assert made.providers["b"].running == 2 and made.gateway.in_flight == 2
        await made.gateway.close()
        return said

    assert run(work()) == ["ok"] * 6
    assert made.seen.counts["shadow", "failed"] >= 1 and made.seen.counts["shadow", "dropped"] >= 1
    assert not made.ledger.open_ and made.providers["b"].running == 0
    assert {row["attempt"].number for row in made.ledger.rows} == {0}  # a copy is tried once


def test_a_bad_candidate_does_not_close_its_address_to_others() -> None:
    bad = [fails()] * 20
    made = Made(
        Fake("a"), Fake("b", *bad), routes=(route("r", "a/m", shadow=Shadow("b/m", 1.0)), route("s", "b/m"))
    )

    async def work() -> None:
        for _ in range(10):
            await _all(made, 1)
        made.providers["b"].script.clear()
        assert text((await made.ask("s"))[1]) == "ok"

    run(work())
    assert made.gateway.health()[-1]["state"] == "closed"


def test_one_without_money_is_left_out() -> None:
    made = _made(Shadow("b/m", 1.0, budget=1.0))
    opened = made.ledger.open

    async def open(attempt: Any, **amounts: int) -> None:
        if attempt.shadow:
            raise HerdError("spent", status=429, code="budget_exhausted")
        await opened(attempt, **amounts)

    made.ledger.open = open  # type: ignore[method-assign]
    assert run(_all(made, 3)) == ["ok"] * 3
    assert made.seen.counts["shadow", "dropped"] == 3 and not made.providers["b"].calls


def test_no_copy_of_what_nobody_was_answered() -> None:
    made = _made(Shadow("b/m", 1.0))
    made.providers["a"].script.extend([fails(400, retryable=False)])

    async def work() -> None:
        assert isinstance((await made.ask("r"))[1][-1], Failed)
        await made.ask("r", count=True, stream=False)
        await asyncio.sleep(1)

    run(work())
    assert not made.providers["b"].calls


def test_a_key_that_keeps_nothing_has_no_copy_kept() -> None:
    made = _made(Shadow("b/m", 1.0))
    run(_all(made, 1, who=Principal("k", keep="none", use=frozenset())))
    assert [row["keep"] for row in made.ledger.rows] == ["none", "none"]
    assert made.ledger.rows[1]["generation_row"]["use"] == []
