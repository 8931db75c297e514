"""Who is next: the callers' lines, so that all have as many places as they need, or equally many."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import chain

from herd.engine.choice import Choice, Job


class Waiting:
    """One line a salt (a caller's key). The line whose caller has fewest places is next, in turn where these are equal.

    Within a line, first come, first served; at its front stand replies that were begun: preempted ones, and the other
    choices of a request that runs.
    """

    def __init__(self) -> None:
        self.lines: OrderedDict[str, deque[Choice]] = OrderedDict()
        self.tokens = 0  # of the prompts of those that were not begun

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def __iter__(self) -> Iterator[Choice]:
        return chain(*self.lines.values())

    def full(self, salt: str, tokens: int, most: int, most_tokens: int) -> bool:
        """Whether a request must be refused: no more room, in places or tokens, and this caller has its eighth of it."""
        line = self.lines.get(salt, ())
        queued = len(self)
        if queued >= most and (len(line) >= most // 8 or queued >= 2 * most):
            return True
        if not queued or self.tokens + tokens <= most_tokens:
            return False
        mine = tokens + sum(len(c.tokens) for c in line)
        return mine > most_tokens // 8 or self.tokens + tokens > 2 * most_tokens

    def add(self, choice: Choice) -> None:
        self.lines.setdefault(choice.job.salt, deque()).append(choice)
        self.tokens += _new(choice)

    def again(self, choice: Choice) -> None:
        """Put what was begun at the front of its caller's line."""
        self.lines.setdefault(choice.job.salt, deque()).appendleft(choice)

    def first(self, places: Mapping[str, int]) -> Choice | None:
        """Who is next, while callers have so many places."""
        salt = min(self.lines, key=lambda salt: places.get(salt, 0), default=None)
        return None if salt is None else self.lines[salt][0]

    def pop(self, salt: str) -> None:
        """Take the first of a line away; the line goes behind the others."""
        line = self.lines.pop(salt)
        self.tokens -= _new(line.popleft())
        if line:
            self.lines[salt] = line

    def drop(self, job: Job) -> None:
        if line := self.lines.get(job.salt):
            self.tokens -= sum(_new(c) for c in line if c.job is job)
            if kept := deque(c for c in line if c.job is not job):
                self.lines[job.salt] = kept  # in its place
            else:
                del self.lines[job.salt]


def _new(choice: Choice) -> int:
    """Tokens of the prompt of a request that was not begun."""
    return 0 if choice.resumed or choice.index else len(choice.tokens)
