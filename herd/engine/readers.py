"""The threads that read the prompts of one model, so that none waits for work that is not its own."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[], None]


class Readers:
    """Three threads: for plain prompts, for those of replies in a known grammar, and for grammars that are new.

    The first two are first come, first served; new grammars are taken from the callers' lines in turn.
    """

    def __init__(self) -> None:
        self._plain = ThreadPoolExecutor(1, "prompts")
        self._constrained = ThreadPoolExecutor(1, "constrained")
        self._compiling = ThreadPoolExecutor(1, "grammars")
        self._lock = threading.Lock()
        self._lines: OrderedDict[str, deque[Work]] = OrderedDict()  # by caller

    def read(self, work: Work, *, constrained: bool) -> None:
        (self._constrained if constrained else self._plain).submit(work)

    def compile(self, work: Work, salt: str) -> None:
        """`salt`: whose work it is."""
        with self._lock:
            self._lines.setdefault(salt, deque()).append(work)
        self._compiling.submit(self._next)

    def close(self) -> None:
        """No more is taken on; what was, is done."""
        for pool in (self._plain, self._constrained, self._compiling):
            pool.shutdown(wait=False)

    def _next(self) -> None:
        with self._lock:
            salt, line = self._lines.popitem(last=False)
            work = line.popleft()
            if line:
                self._lines[salt] = line  # behind the others
        work()
