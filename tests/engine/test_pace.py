"""How much of a prompt is read beside replies, on machines that are a formula."""

import itertools

import pytest

from herd.engine.pace import BRIEF, LONGEST, Pace

PROMPT = 4096


def read(base: float, row: float, far: float) -> tuple[list[float], list[int]]:
    """Seconds of each step of one reply while a prompt is read, and the rows of each.

    A row takes `row` seconds and `far` more for each position before it.
    """
    pace, seconds, rows, done = Pace(64, 512, 5), [], [], 0
    for _ in range(100):
        pace.learn(1, 0, 0, base)
    while done < PROMPT:
        n = min(pace.room(1), PROMPT - done)
        seconds.append(base + n * (row + far * done))
        rows.append(n)
        pace.learn(1, 0, n, seconds[-1])
        done += n
    return seconds, rows


@pytest.mark.parametrize("base", [0.0003, 0.003, 0.015])
@pytest.mark.parametrize("row", [0.01, 0.05, 0.3, 0.6])
@pytest.mark.parametrize("far", [0, 1 / 1000])
def test_a_long_prompt_slows_a_reply_within_bounds(base: float, row: float, far: float) -> None:
    seconds, rows = read(base, row * base, far * row * base)
    assert sorted(seconds)[int(0.95 * len(seconds))] <= 2 * base
    assert sum(seconds) <= 1.9 * base * len(seconds)
    assert max(seconds) <= LONGEST
    pauses = [len(list(same)) for read, same in itertools.groupby(rows, bool) if not read]
    assert max(pauses, default=0) * base <= 25 * BRIEF
    alone = sum(row * base * (1 + far * at) for at in range(PROMPT))
    assert sum(seconds) <= max(4 * alone, 100 * base)


def test_a_slow_machine_reads_at_every_step() -> None:
    """Where even replies alone take long, a prompt that waited for many of their steps would starve."""
    seconds, rows = read(0.15, 0.1, 0)
    assert sum(n == 0 for n in rows) <= len(rows) / 8


def test_a_machine_that_got_slower_goes_on_reading() -> None:
    pace = Pace(64, 512, 5)
    for _ in range(100):
        pace.learn(1, 0, 0, 0.01)
    read = 0
    for _ in range(1000):
        n = pace.room(1)
        pace.learn(1, 0, n, 0.03 + 0.001 * n)
        read += n
    assert read > 1000 * 8
