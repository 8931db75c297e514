"""The server's event loop, which wakes less often while the engine has much to do."""

import asyncio
import selectors
import time
from collections.abc import Callable

WAKING = 0.0003  # seconds of cold caches that it costs to wake on a core of the engine's: more than a small request takes
LONGEST = 0.02  # seconds that an event may wait for that; nobody sees text come in 50 pieces a second


class Moderated(selectors.DefaultSelector):
    """Lets events gather once there are no more, as network cards spare their hosts interrupts.

    WAKING seconds for each reply in flight: one alone waits for less than a token of a small model, and of many each
    takes its time anyway.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        super().__init__()
        self.in_flight = in_flight

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            if events := super().select(0):
                return events
            pause = min(WAKING * self.in_flight(), LONGEST, timeout or LONGEST)
            if pause:
                time.sleep(pause)
                timeout = timeout and timeout - pause
        return super().select(timeout)


def runner(in_flight: Callable[[], int]) -> asyncio.Runner:
    """Runs coroutines on such a loop."""
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Moderated(in_flight)))
