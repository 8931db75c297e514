"""Two replies shown at one pace, so that neither side's speed says who it is.

As long as both sides have something to say, each tick shows the same number of characters of both: what the slower one
has ready. The first are shown, and a failure is told, when both have something or have ended. Whoever goes on alone is shown at a
steady pace somewhat below the common one, whether it was the faster or the slower, so that it has a reserve either way.
That a text has ended is told a while after its last character, since of the slower one it is not known any sooner.

What remains to be seen: how long each text is, the speed of the slower one (but not which that is), and that a side has
failed. A side that goes on alone and is slower than its steady pace, or that stalls there, shows that.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from herd.errors import HerdError

TICK = 0.05  # seconds
STEP = 60  # characters a tick, at most
ALONE = 0.7  # of the common pace: that of a side that goes on alone …
SLOWEST, FASTEST = 40.0, 400.0  # … within these, in characters a second
AHEAD = 64 * 1024  # characters that wait to be shown; a side that is further ahead waits, too
NEITHER = "neither side could answer; try again, or begin a new battle"
GRACE = 0.5  # seconds from a text's last character to its end
QUIET = 15.0  # seconds without an event after which there is a sign of life


@dataclass(frozen=True, slots=True)
class End:
    """How a side ended: the reason of its finish, or an error that names nobody."""

    finish: str = "stop"
    failed: HerdError | None = None


@dataclass
class Side:
    name: str
    source: AsyncGenerator[str | End, None]
    waiting: str = ""
    end: End | None = None
    told: bool = False  # its end
    at: float = math.inf  # when something of it was shown last
    room: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        async with aclosing(self.source) as items:
            async for item in items:
                if isinstance(item, End):
                    self.end = item
                    return
                self.waiting += item
                if len(self.waiting) >= AHEAD:
                    self.room.clear()
                    await self.room.wait()
        self.end = End(failed=HerdError("this side stopped before its end", status=502, code="side_failed"))

    def over(self, now: float) -> bool:
        return self.end is not None and not self.waiting and now >= self.at + GRACE

    def show(self, most: int, now: float) -> dict[str, Any]:
        self.at = now
        shown, self.waiting = self.waiting[:most], self.waiting[most:]
        if len(self.waiting) < AHEAD:
            self.room.set()
        return {"type": "text", "side": self.name, "text": shown}

    def ended(self) -> dict[str, Any]:
        assert self.end is not None
        self.told = True
        if self.end.failed is not None:
            return {"type": "failed", "side": self.name, "message": str(self.end.failed)}
        return {"type": "finish", "side": self.name, "finish": self.end.finish}


async def paced(
    sources: Mapping[str, AsyncGenerator[str | End, None]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The events of both sides: "text", "finish" and "failed" with their `side`; None as a sign of life.

    Raises what a source raised, which concerns both, and HerdError if both fail before either has said anything. Closing
    it closes both sources.
    """
    sides = [Side(name, source) for name, source in sources.items()]
    readers = [asyncio.ensure_future(side.read()) for side in sides]
    pace = _Pace(clock)
    said = clock()
    try:
        while not all(side.told for side in sides):
            for reader in readers:
                if reader.done():
                    reader.result()
            events = _step(sides, pace)
            for event in events:
                yield event
            if events:
                said = clock()
            elif clock() - said >= QUIET:
                said = clock()
                yield None
            if not all(side.told for side in sides):
                await sleep(TICK)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


class _Pace:
    """How fast what was said together was said, and how much a side alone may say by now. `shows`: both have begun."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.shows = clock, False
        self.began = self.last = 0.0  # of what was shown together
        self.shared = 0
        self.alone: float | None = None  # characters a second
        self.allowed, self.at = 0.0, 0.0

    def together(self, count: int) -> None:
        self.last = self.clock()
        self.began = self.began if self.shared else self.last
        self.shared += count

    def on_its_own(self) -> int:
        """How many characters a side that is alone may say now."""
        now = self.clock()
        if self.alone is None:
            seconds = max(self.last - self.began, 0.5)
            self.alone = min(max(ALONE * self.shared / seconds, SLOWEST), FASTEST)
            self.at = now
        # A stall is not caught up at once.
        self.allowed, self.at = min(self.allowed + (now - self.at) * self.alone, STEP), now
        return int(self.allowed)


def _step(sides: list[Side], pace: _Pace) -> list[dict[str, Any]]:
    """The events of one tick. Raises HerdError if both have failed before they said anything."""
    now = pace.clock()
    if not pace.shows:
        if not all(side.waiting or side.end for side in sides):
            return []
        if all(side.end and side.end.failed and not side.waiting for side in sides):
            raise HerdError(NEITHER, status=502, code="sides_failed")
        pace.shows = True
        for side in sides:
            side.at = now
    talking = [side for side in sides if not side.over(now)]
    events = []
    if len(talking) == len(sides):
        count = min(STEP, *(len(side.waiting) for side in sides))
        if count:
            pace.together(count)
            events += [side.show(count, now) for side in sides]
    elif talking:
        count = min(pace.on_its_own(), len(talking[0].waiting))
        if count:
            pace.allowed -= count
            events.append(talking[0].show(count, now))
    return events + [side.ended() for side in sides if side.over(now) and not side.told]
