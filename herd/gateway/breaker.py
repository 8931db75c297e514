"""How the addresses of providers are: which to ask next, how many at a time, and when to leave one alone."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Literal

from herd.gateway.provider import UpstreamError

IN_A_ROW, OF_LAST, SHARE = 5, 20, 0.5  # failures that open a circuit: so many, or this share of the last ones
# Seconds that it stays open at first, and at most: twice as long after each probe that fails.
REST = (5.0, 60.0)
PATIENCE = 10.0  # seconds to wait for a place
QUEUE = 4  # requests that may wait for each place

Clock = Callable[[], float]


class Busy(UpstreamError):
    """No place has become free."""

    def __init__(self, what: str) -> None:
        message = f"{what} answers as many requests at a time as it may; try again later"
        super().__init__(message, status=429, code="too_many_requests", retry_after=1.0)


class Places:
    """At most `most` at a time (None: any number); others wait in turn, not for ever and not in any number."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.used = most, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self, what: str, wait: Callable[[Awaitable[None]], Awaitable[None]]) -> AsyncIterator[None]:
        """A place while the block runs; `wait` may end the waiting for it. Raises Busy, and what `wait` does."""
        await wait(self._take(what))
        try:
            yield
        finally:
            self.used -= 1
            self._wake()

    async def _take(self, what: str) -> None:
        if self._free and not self._waiting:
            self.used += 1
            return
        if self.most is not None and len(self._waiting) >= QUEUE * self.most:
            raise Busy(what)
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(PATIENCE):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():  # it was given at the same moment
                self.used -= 1
            elif place in self._waiting:  # whoever woke others may have passed it over already
                self._waiting.remove(place)
            self._wake()
            if isinstance(error, TimeoutError):
                raise Busy(what) from None
            raise

    @property
    def wanted(self) -> int:
        """How many have one or wait for one."""
        return self.used + len(self._waiting)

    @property
    def _free(self) -> bool:
        return self.most is None or self.used < self.most

    def _wake(self) -> None:
        while self._waiting and self._free:
            place = self._waiting.popleft()
            if not place.done():
                self.used += 1
                place.set_result(None)


class Replica:
    """One address of a provider. Failures in a row open its circuit; after a rest one request tries whether it closes."""

    def __init__(self, provider: str, url: str, clock: Clock) -> None:
        self.provider, self.url, self._clock = provider, url, clock
        self.places = Places()
        self.error: str | None = None  # the last
        self.latency: float | None = None  # seconds to the first token, a moving average
        self._last: deque[bool] = deque(maxlen=OF_LAST)
        self._until: float | None = None  # when an open circuit lets a probe through
        self._rest = REST[0]
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if self._until is None:
            return "closed"
        return "open" if self._probing or self._clock() < self._until else "half-open"

    @property
    def rests(self) -> float:
        """Seconds until it may be asked."""
        return 0.0 if self._until is None else max(self._until - self._clock(), 1.0 if self._probing else 0.0)

    def begin(self) -> bool:
        """Whether this request is a probe, to be said again at its end: others that began earlier may end meanwhile."""
        probe = self._until is not None and not self._probing
        self._probing = self._probing or probe
        return probe

    def succeeded(self, latency: float | None, probe: bool = False) -> None:
        if probe:
            self._until, self._rest = None, REST[0]
            self._last.clear()
        self._last.append(True)
        self.ended(probe)
        if latency is not None:
            self.latency = latency if self.latency is None else 0.8 * self.latency + 0.2 * latency

    def failed(self, error: str, probe: bool = False) -> None:
        self.error = error
        self._last.append(False)
        if probe:
            self._rest = min(2 * self._rest, REST[1])
        last = list(self._last)
        many = len(last) == OF_LAST and last.count(False) >= SHARE * OF_LAST
        # The local engine, whose address is "", has a supervisor of its own.
        if self.url and (probe or many or (len(last) >= IN_A_ROW and not any(last[-IN_A_ROW:]))):
            self._until = self._clock() + self._rest
        self.ended(probe)

    def ended(self, probe: bool) -> None:
        """By itself: it was neither good nor bad; the caller left, say."""
        self._probing = self._probing and not probe

    def describe(self) -> dict[str, Any]:
        return {
            "provider": self.provider, "url": self.url, "state": self.state, "in_flight": self.places.used,
            "error": self.error, "latency_ms": None if self.latency is None else round(self.latency * 1000, 1),
        }  # fmt: skip


class Replicas:
    """All addresses, by provider; what is known of one outlives a change of the configuration."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[tuple[str, str], Replica] = {}

    def of(self, provider: str, urls: tuple[str, ...]) -> list[Replica]:
        found = []
        for url in urls:
            if (key := (provider, url)) not in self._all:
                self._all[key] = Replica(provider, url, self._clock)
            found.append(self._all[key])
        return found

    def keep(self, named: Collection[tuple[str, str]]) -> None:
        """Forget all others."""
        self._all = {key: replica for key, replica in self._all.items() if key in named}

    def choose(self, provider: str, urls: tuple[str, ...], tried: Collection[str] = ()) -> Replica:
        """The one with the least to do of those that are well, if possible one not `tried` yet.

        Raises UpstreamError 503 if all rest.
        """
        every = self.of(provider, urls)
        well = [replica for replica in every if replica.state != "open"]
        if not well:
            rest = min(replica.rests for replica in every)
            message = f"{provider} has failed too often and is left alone for {rest:.0f} s"
            raise UpstreamError(message, status=503, code="upstream_resting", retry_after=max(rest, 1.0))
        random.shuffle(well)
        return min(well, key=lambda r: (r.url in tried, r.state != "closed", r.places.wanted))
