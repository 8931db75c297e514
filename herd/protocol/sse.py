"""Server-sent events out of bytes, as they come over the network."""

import re
from typing import NamedTuple

MAX_EVENT = 16 * 2**20  # bytes; a vector or a tool's arguments may be long, an endless line is a fault
_LINES = re.compile("\r\n|\n|\r")
_BLANK = re.compile(
    rb"\n(?:\r?\n|\r(?!\n))|\r(?!\n)(?:\r?\n|\r(?!\n))"
)  # the end of a line, and then another


class ServerSent(NamedTuple):
    """An event's name (None: it has none), its data, and its bytes with the blank line that ends it."""

    event: str | None
    data: str
    raw: bytes


class Parser:
    """Bytes in, whole events out. Comments and events without data say nothing, and are left out."""

    def __init__(self, most: int = MAX_EVENT) -> None:
        self.most = most
        self._rest = b""
        self._searched = 0  # so many bytes of `_rest` have no blank line

    def feed(self, data: bytes) -> list[ServerSent]:
        """The events that are whole now. Raises ValueError for one that is longer than `most` bytes, or no UTF-8."""
        rest, at, found = self._rest + data, 0, []
        plain = b"\r" not in rest  # so nearly everyone sends it, and it is found sooner
        while end := _end(rest, max(at, self._searched), plain):
            if event := _event(rest[at:end]):
                found.append(event)
            at, self._searched = end, 0
        self._rest = rest[at:]
        self._searched = max(0, len(self._rest) - 3)
        if len(self._rest) > self.most:
            raise ValueError(f"the provider sent an event of more than {self.most:,} bytes")
        return found

    def end(self) -> list[ServerSent]:
        """What is left when all bytes are there: an event without its blank line."""
        return self.feed(b"\n\n") if self._rest else []


def _end(rest: bytes, at: int, plain: bool) -> int:
    """Where the next blank line ends; 0 if there is none yet."""
    if plain:
        found = rest.find(b"\n\n", at)
        return 0 if found < 0 else found + 2
    match = _BLANK.search(rest, at)
    if match is None or (match.end() == len(rest) and rest.endswith(b"\r")):
        return 0  # after "\r" its "\n" may be under way
    return match.end()


def _event(raw: bytes) -> ServerSent | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("the provider sent an event that is no UTF-8") from None
    name, data = None, []
    text = text.removeprefix("\ufeff")
    for line in _LINES.split(text) if "\r" in text else text.split("\n"):
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value or None
    return ServerSent(name, "\n".join(data), raw) if data else None
