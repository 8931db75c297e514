"""Two streams at one pace: what a reader sees tells nothing of which side was the faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.arena.pace import AHEAD, End, paced
from herd.errors import HerdError


class Clock:
    """Time that passes when somebody sleeps, in the order of who wakes first."""

    def __init__(self) -> None:
        self.now, self._sleepers, self._count = 0.0, list[tuple[float, int, asyncio.Future[None]]](), 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, self._count, woken))
        await woken

    async def run(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(6):  # all that can go on without time does
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                self._sleepers.sort()
                self.now, _, woken = self._sleepers.pop(0)
                if not woken.done():
                    woken.set_result(None)
        return task.result()


async def says(
    clock: Clock,
    text: str,
    *,
    first: float,
    rate: float,
    chunk: int = 4,
    end: End | None = None,
    jitter: float = 0,
) -> AsyncGenerator[str | End, None]:
    """`text` in chunks, the first after `first` seconds, at `rate` characters a second on average."""
    draw = random.Random(f"{first} {rate}").lognormvariate
    await clock.sleep(first)
    for at in range(0, len(text), chunk):
        yield text[at : at + chunk]
        await clock.sleep(chunk / rate * draw(-(jitter**2) / 2, jitter))
    yield end or End()


def seen(left: dict[str, Any], right: dict[str, Any]) -> list[tuple[float, dict[str, Any] | None]]:
    """When each event comes."""

    async def work() -> list[tuple[float, dict[str, Any] | None]]:
        clock = Clock()

        async def collect() -> list[tuple[float, dict[str, Any] | None]]:
            sources = {"left": says(clock, **left), "right": says(clock, **right)}
            return [(clock.now, e) async for e in paced(sources, clock=clock, sleep=clock.sleep)]

        return await clock.run(collect())  # type: ignore[no-any-return]

    return asyncio.run(work())


def timeline(events: list[tuple[float, dict[str, Any] | None]]) -> list[tuple[float, str, str, int]]:
    """Everything but the words: when, what, whose, how long."""
    return [(round(at, 6), e["type"], e["side"], len(e.get("text", ""))) for at, e in events if e]


SLOW, FAST = {"first": 2.0, "rate": 60.0}, {"first": 0.2, "rate": 900.0, "chunk": 31}


@pytest.mark.parametrize(("left", "right"), [(300, 300), (300, 900), (900, 300), (40, 900), (1, 200)])
def test_which_side_is_the_slow_one_does_not_show(left: int, right: int) -> None:
    one = timeline(seen({"text": "a" * left, **SLOW}, {"text": "b" * right, **FAST}))
    other = timeline(seen({"text": "a" * left, **FAST}, {"text": "b" * right, **SLOW}))
    # The speeds are exchanged and the texts are not. With texts of one length nothing differs at all; else when each
    # part is shown differs by no more than a few ticks.
    assert [event[1:3] for event in one if event[1] != "text"] == [e[1:3] for e in other if e[1] != "text"]
    if left == right:
        assert one == other
    for at in (0.25, 0.5, 0.75, 1.0):
        assert abs(one[int(at * len(one)) - 1][0] - other[int(at * len(other)) - 1][0]) <= 0.35, at


def test_with_uneven_writers_it_does_not_show_either() -> None:
    """Somebody who looks at what comes after one has ended guesses no better than by chance that it is the slow one."""
    draw, features = random.Random(5), {True: list[list[float]](), False: list[list[float]]()}
    for i in range(60):
        slow = {"first": draw.uniform(0.3, 3), "rate": draw.uniform(60, 150), "jitter": 0.5}
        fast = {"first": draw.uniform(0.1, 1), "rate": draw.uniform(200, 600), "jitter": 0.5, "chunk": 20}
        short = draw.randint(80, 300)
        long_is_slow = bool(i % 2)
        left, right = (fast, slow) if long_is_slow else (slow, fast)
        events = timeline(seen({"text": "a" * short, **left}, {"text": "b" * (short + 200), **right}))
        ended = next(at for at, kind, *_ in events if kind == "finish")
        alone = [at for at, *_ in events if at > ended]
        gaps = np.diff(alone)
        both = [at for at, kind, side, _ in events if (kind, side) == ("text", "left")]
        relative = 200 / (alone[-1] - ended) / (short / max(both[-1] - both[0], 0.5))
        features[long_is_slow].append([gaps.max(), gaps.std(), relative, ended - both[-1], both[0]])
    one, other = (np.array(features[key])[:, None] for key in (True, False))
    auc = ((one > other.swapaxes(0, 1)) + (one == other.swapaxes(0, 1)) / 2).mean((0, 1))
    assert (abs(auc - 0.5) < 0.25).all(), auc  # over three standard errors of it


def test_together_both_show_as_much_at_the_same_moment() -> None:
    shown: dict[float, dict[str, int]] = {}
    events = seen({"text": "a" * 700, **SLOW}, {"text": "b" * 700, **FAST})
    for at, kind, side, size in timeline(events):
        if kind == "text":
            shown.setdefault(at, {})[side] = size
    assert all(one["left"] == one["right"] for one in shown.values())
    assert min(shown) >= SLOW["first"]
    assert sum(one["left"] for one in shown.values()) == 700


def test_alone_a_side_goes_on_steadily_and_not_faster_than_both_did() -> None:
    events = timeline(seen({"text": "a" * 300, **SLOW}, {"text": "b" * 3000, **FAST}))
    ended = next(at for at, kind, side, _ in events if (kind, side) == ("finish", "left"))
    alone = [(at, size) for at, kind, _, size in events if kind == "text" and at > ended]
    gaps = [b[0] - a[0] for a, b in zip(alone, alone[1:], strict=False)]
    assert max(gaps) <= 0.11
    rate = sum(size for _, size in alone) / (alone[-1][0] - ended)
    assert 0.6 * SLOW["rate"] < rate <= SLOW["rate"]


def test_an_empty_reply_ends_and_the_other_is_shown() -> None:
    events = seen({"text": "", "first": 0.1, "rate": 1}, {"text": "Hello.", **SLOW})
    assert [e[1:3] for e in timeline(events)][-1] == ("finish", "right")
    assert "".join(e["text"] for _, e in events if e and e["type"] == "text") == "Hello."
    assert min(at for at, _ in events) >= SLOW["first"]  # also that the one is empty


def test_a_failure_is_told_at_its_place_and_the_other_goes_on() -> None:
    broke = End(failed=HerdError("this side could not answer"))
    events = seen({"text": "abcd", "end": broke, **FAST}, {"text": "b" * 100, **SLOW})
    kinds = [(kind, side) for _, kind, side, _ in timeline(events)]
    assert kinds[:3] == [("text", "left"), ("text", "right"), ("failed", "left")], kinds[:5]
    assert kinds[-1] == ("finish", "right")
    assert events[0][0] >= SLOW["first"]


def test_two_failures_without_a_word_are_an_error() -> None:
    broke = End(failed=HerdError("this side could not answer"))
    with pytest.raises(HerdError) as caught:
        seen({"text": "", "end": broke, **FAST}, {"text": "", "end": broke, **SLOW})
    assert (caught.value.status, caught.value.code) == (502, "sides_failed")


def test_signs_of_life_while_nothing_is_said() -> None:
    events = seen({"text": "a", "first": 100.0, "rate": 1}, {"text": "b", **FAST})
    assert 5 <= sum(event is None for _, event in events) <= 7


def test_an_error_of_a_source_ends_both() -> None:
    async def work() -> bool:
        closed = []

        async def endless() -> AsyncGenerator[str | End, None]:
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0.001)
            finally:
                closed.append(True)

        async def wrong() -> AsyncGenerator[str | End, None]:
            yield "x"
            raise HerdError("this key was revoked", status=401)

        with pytest.raises(HerdError, match="revoked"):
            async for _ in paced({"left": endless(), "right": wrong()}):
                pass
        return bool(closed)

    assert asyncio.run(work())


def test_who_leaves_closes_both_and_who_is_far_ahead_waits() -> None:
    async def work(clock: Clock) -> tuple[int, int]:
        closed, said = [], 0

        async def endless(quick: bool) -> AsyncGenerator[str | End, None]:
            nonlocal said
            try:
                while True:
                    if quick:
                        said += 1000
                        yield "x" * 1000
                    else:
                        yield "x"
                    await clock.sleep(0.001 if quick else 0.01)
            finally:
                closed.append(True)

        sources = {"left": endless(True), "right": endless(False)}
        events = paced(sources, clock=clock, sleep=clock.sleep)
        async for _ in events:
            if clock.now > 1:
                break
        await events.aclose()
        return len(closed), said

    async def main() -> tuple[int, int]:
        clock = Clock()
        return await clock.run(work(clock))  # type: ignore[no-any-return]

    closed, said = asyncio.run(main())
    assert closed == 2
    assert AHEAD <= said <= AHEAD + 10_000


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.text(max_size=300), st.text(max_size=300)),
    st.tuples(st.floats(0, 3), st.floats(0, 3)),
    st.tuples(st.floats(5, 2000), st.floats(5, 2000)),
    st.integers(1, 80),
)
def test_nothing_is_lost_or_changed(
    texts: tuple[str, str], first: tuple[float, float], rate: tuple[float, float], chunk: int
) -> None:
    made = [
        {"text": t, "first": f, "rate": r, "chunk": chunk} for t, f, r in zip(texts, first, rate, strict=True)
    ]
    events = [event for _, event in seen(*made) if event]
    for side, text in zip(("left", "right"), texts, strict=True):
        own = [event for event in events if event["side"] == side]
        assert "".join(event.get("text", "") for event in own) == text
        assert [event["type"] for event in own if event["type"] != "text"] == ["finish"]
        assert own[-1]["type"] == "finish"
