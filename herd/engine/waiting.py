"""Who is next: replies that were begun before, then the callers' lines in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain

from herd.engine.choice import Choice, Job


class Waiting:
    """One line a salt (a caller's key), served round robin; within a line, first come, first served.

    Ahead of all lines stand replies that have a claim already: preempted ones, and the other choices of a request
    that runs.
    """

    def __init__(self) -> None:
        self.ahead: deque[Choice] = deque()
        self.lines: OrderedDict[str, deque[Choice]] = OrderedDict()
        self.tokens = 0  # in the lines

    def __len__(self) -> int:
        return len(self.ahead) + sum(map(len, self.lines.values()))

    def __iter__(self) -> Iterator[Choice]:
        return chain(self.ahead, *self.lines.values())

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
        self.tokens += len(choice.tokens)

    def first(self) -> Choice | None:
        if self.ahead:
            return self.ahead[0]
        return next(iter(self.lines.values()))[0] if self.lines else None

    def pop(self) -> None:
        """Take the first away; its line goes to the end."""
        if self.ahead:
            self.ahead.popleft()
            return
        salt, line = self.lines.popitem(last=False)
        self.tokens -= len(line.popleft().tokens)
        if line:
            self.lines[salt] = line

    def drop(self, job: Job) -> None:
        self.ahead = deque(c for c in self.ahead if c.job is not job)
        if line := self.lines.get(job.salt):
            kept = deque(c for c in line if c.job is not job)
            self.tokens -= sum(len(c.tokens) for c in line) - sum(len(c.tokens) for c in kept)
            if kept:
                self.lines[job.salt] = kept  # in its place
            else:
                del self.lines[job.salt]
