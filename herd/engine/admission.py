"""The server's side of the engine's queue: who finds a place in it, and when to come again for who does not."""

from __future__ import annotations

import asyncio
from collections import Counter

from herd.errors import HerdError

MAX_QUEUE = 256  # requests that have not started
MAX_QUEUE_TOKENS = 1 << 20  # of their prompts, by estimate
RETRY = (1, 60)  # seconds that a refused caller is asked to wait: least, most


class Admission:
    """Counts the requests that have not started, by salt (a caller's key), so that a busy engine need not be asked.

    The rule is `herd.engine.waiting`'s.
    """

    def __init__(self, most: int = MAX_QUEUE) -> None:
        self.most = most
        self._lines: Counter[str] = Counter()  # by salt; and who was admitted in this round of the loop
        self._tokens: Counter[str] = Counter()  # of their prompts
        self._ended = 0.0  # when the last request did
        self._gap = 0.2  # seconds between the ends of two requests, lately

    def full(self, salt: str, tokens: int = 0) -> HerdError | None:
        """The 429 for another request of `salt`, if there is no place for it in the queue now.

        Returned and not raised: a traceback's frames are garbage in cycles, and under an overload there are hundreds a
        second.
        """
        count = self._lines.total()
        no_place = count >= self.most and (self._lines[salt] >= self.most // 8 or count >= 2 * self.most)
        waiting, mine = self._tokens.total(), self._tokens[salt] + tokens
        too_long = waiting + tokens > MAX_QUEUE_TOKENS and (
            mine > MAX_QUEUE_TOKENS // 8 or waiting + tokens > 2 * MAX_QUEUE_TOKENS
        )
        if no_place or (waiting and too_long):
            wait = self.retry_after
            message = f"the queue is full; try again in {wait} s"
            return HerdError(message, code="queue_full", status=429, retry_after=wait)
        return None

    def admit(self, salt: str) -> None:
        """Keep a place until the event loop's next round, in which a request takes it. Raises HerdError 429."""
        if full := self.full(salt):
            raise full
        self.enter(salt, 0)
        asyncio.get_running_loop().call_soon(self.leave, salt, 0)

    def enter(self, salt: str, tokens: int) -> None:
        """A request waits, whose prompt has so many tokens; `leave` when it has started or is gone."""
        self._lines[salt] += 1
        self._tokens[salt] += tokens

    def leave(self, salt: str, tokens: int) -> None:
        self._lines[salt] -= 1
        self._tokens[salt] -= tokens
        if not self._lines[salt]:
            del self._lines[salt], self._tokens[salt]

    def ended(self, sent: float) -> None:
        """A request that was `sent` then, by the loop's clock, is done."""
        now = asyncio.get_running_loop().time()
        gap = now - max(self._ended, sent)  # not the time in which nobody asked for anything
        self._gap += 0.1 * (min(gap, RETRY[1]) - self._gap)
        self._ended = now

    @property
    def retry_after(self) -> int:
        """Seconds after which a request that is refused now may be taken: for Retry-After."""
        return min(max(round(self._lines.total() * self._gap), RETRY[0]), RETRY[1])
