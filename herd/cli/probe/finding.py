"""What a check may find, other than that all is as it should be."""

from __future__ import annotations

from typing import ClassVar, Literal

State = Literal["honoured", "ignored", "refused", "broken", "untested"]


class Finding(Exception):
    """Ends a check; the message is its evidence, one line."""

    state: ClassVar[State]

    @classmethod
    def when(cls, so: object, evidence: str) -> None:
        """Raises it if `so`."""
        if so:
            raise cls(evidence)


class Ignored(Finding):
    """The server takes what it is asked, and does not do it."""

    state = "ignored"


class Refused(Finding):
    """The server said clearly that it does not do this; the message holds its words."""

    state = "refused"


class Untested(Finding):
    """It cannot be told from outside."""

    state = "untested"


class Broken(Finding):
    """The server does what no server of its dialect may do."""

    state = "broken"


class NoAnswer(Broken):
    """Nothing came: no connection, or no end before the deadline."""


class Unreachable(NoAnswer):
    """There is no server."""


def quote(value: str | bytes | object, limit: int = 100) -> str:
    """Something of the server's, to show in one line of a terminal: printable and short."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit]) + (
        "…" if len(text) > limit else ""
    )
