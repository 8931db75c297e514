"""Who votes: known by a salted hash only, and so often an hour."""

import hashlib
import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from herd.gateway.limits import LimitError

HOUR = 3600.0
MOST = 20_000  # voters whose last hour is remembered; the one that was quiet the longest is forgotten first


def voter_hash(salt: str, *who: str) -> str:
    """HMAC-SHA256 of who votes, 32 hexadecimal digits: the same one is known again, and nobody finds out who it is."""
    text = "\0".join(who).encode("utf-8", "surrogatepass")
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:32]


class Hourly:
    """At most so many a voter in each stretch of an hour. In this process's memory: several gateways count each for
    itself, and a restart begins anew."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self._clock = what, clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, voter: str, most: int) -> None:
        """Count one more. Raises LimitError with the seconds until there is room."""
        now = self._clock()
        times = self._seen.setdefault(voter, deque())
        self._seen.move_to_end(voter)
        while times and times[0] <= now - HOUR:
            times.popleft()
        if len(times) >= most:
            wait = times[len(times) - most] + HOUR - now
            message = f"the limit of {most} {self.what} an hour is reached; try again later"
            raise LimitError(message, "rate_limit_exceeded", wait)
        times.append(now)
        while len(self._seen) > MOST:
            self._seen.popitem(last=False)

    def give_back(self, voter: str) -> None:
        """What was counted last did not come to be."""
        if times := self._seen.get(voter):
            times.pop()
