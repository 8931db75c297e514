"""Events gather while there is much in flight; with nothing in flight they do not wait, and timers never do."""

import asyncio
import itertools
import socket
import statistics
import threading
import time

import pytest

from herd.server.loop import LONGEST, runner

TRIES = 10  # a machine that stands still spoils one


async def looks(pings: int, apart: float) -> tuple[int, float]:
    """How often a loop took something off a socket that got so many bytes, and the longest that one waited."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop, sent, waits, taken = asyncio.get_running_loop(), [], [], 0
    over = loop.create_future()

    def take() -> None:
        nonlocal taken
        count = len(ours.recv(pings))
        now = time.monotonic()
        waits.extend(now - at for at in sent[len(waits) : len(waits) + count])
        taken += 1
        if len(waits) == pings:
            over.set_result(None)

    def ping() -> None:
        for _ in range(pings):
            sent.append(time.monotonic())
            theirs.send(b".")
            time.sleep(apart)

    loop.add_reader(ours, take)
    other = threading.Thread(target=ping)
    other.start()
    await over
    loop.remove_reader(ours)
    other.join()
    ours.close()
    theirs.close()
    return taken, max(waits)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_alone_nothing_waits(in_flight: int) -> None:
    with runner(lambda: in_flight) as loop:
        assert any(loop.run(looks(50, 0.005))[0] >= 30 for _ in range(TRIES))


def test_of_many_events_gather_and_none_waits_for_long() -> None:
    with runner(lambda: 1000) as loop:
        for left in reversed(range(TRIES)):
            began = time.monotonic()
            taken, longest = loop.run(looks(200, 0.001))
            took = time.monotonic() - began
            assert taken <= 2 * took / LONGEST + 2
            if longest < 0.25:
                break
            assert left, longest


def test_timers_come_in_time() -> None:
    async def woken() -> list[float]:
        found = [time.monotonic()]
        for _ in range(20):
            await asyncio.sleep(LONGEST / 10)
            found.append(time.monotonic())
        return found

    with runner(lambda: 1000) as loop:
        slept = [later - at for at, later in itertools.pairwise(loop.run(woken()))]
    assert LONGEST / 10 <= statistics.median(slept) < LONGEST
