"""Who votes: known by a salted hash only, and so often an hour."""

import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from herd.gateway.limits import LimitError
from herd.store import Store

HOUR = 3600.0
MOST = 20_000  # voters whose last hour is remembered; the one that was quiet the longest is forgotten first


def voter_salt(store: Store) -> str:
    """One for all gateways of a store, made once."""
    return store.setting("voter_salt", lambda: secrets.token_hex(32))


def voter_hash(salt: str, *who: str) -> str:
    """HMAC-SHA256 of who votes, 32 hexadecimal digits: the same one is known again, and nobody finds out who it is."""
    text = "\0".join(who).encode("utf-8", "surrogatepass")
    return hmac.digest(salt.encode(), text, "sha256").hex()[:32]


class Hourly:
    """At most so many a voter in each stretch of an hour. In this process's memory: several gateways count each for
    itself, and a restart begins anew. For any thread."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self._clock = what, clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, voter: str, most: int) -> None:
        """Count one more. Raises LimitError with the seconds until there is room."""
        with self._lock:
            self._take(voter, most)

    def _take(self, voter: str, most: int) -> None:
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
        with self._lock:
            if times := self._seen.get(voter):
                times.pop()
