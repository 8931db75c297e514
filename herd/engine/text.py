"""From tokens to text: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    def push(self, token: int) -> str: ...
    def finish(self) -> str: ...


class StopText:
    """The text of one reply as it may be shown.

    A stop string is matched on text, across token boundaries. What could still become one is held back until it is
    decided; `stop` is the first that was found, and nothing from its first character on is ever given out.
    """

    def __init__(self, decoder: Decoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = tuple(s for s in stops if s)
        self._longest = max(map(len, self._stops), default=0)
        self._by_first: dict[str, list[str]] = {}  # most characters begin none, however many there are
        for stop in self._stops:
            self._by_first.setdefault(stop[0], []).append(stop)
        self._held = ""
        self.decoded = 0  # characters so far, shown, held or dropped
        self.stop: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, token: int) -> str:
        """The text that `token` releases; may be empty."""
        return self._release(self._decoder.push(token))

    def finish(self) -> str:
        """What was held back, when no token follows."""
        return self._release(self._decoder.finish()) + self.flush()

    def flush(self) -> str:
        """What was held back, when no text follows that could be one with it."""
        text, self._held = self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self.decoded += len(text)
        if not self._stops:
            return text
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.stop = min(found, key=lambda pair: pair[0])
            self._held = ""
            return text[:at]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for start in range(max(len(text) - self._longest + 1, 0), len(text)):
            rest = text[start:]
            if any(stop.startswith(rest) for stop in self._by_first.get(rest[0], ())):
                return len(rest)
        return 0
