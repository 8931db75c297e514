"""Tool calls in a reply's text: what is shown of it, and the calls that are whole."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from itertools import pairwise

from herd.engine.text import Decoder
from herd.protocol.types import ToolCall

# What matters to where a call and its parts end: outside of strings, and inside of one.
_MARKS = {
    "": re.compile(r"""["',\[\]{}()]"""),
    '"': re.compile(r'["\\]'),
    "'": re.compile(r"['\\]"),
}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_PYTHON = {"True": "true", "False": "false", "None": "null"}


class Head:
    """What a reply that calls begins with: any of some sequences of pieces, with white space between them."""

    def __init__(self, sequences: Iterable[Iterable[str]]) -> None:
        self._sequences = [list(sequence) for sequence in sequences]

    @property
    def pattern(self) -> str:
        """As a regular expression of a grammar."""
        gap = r"[ \t\n\r]*"
        return "|".join(gap + gap.join(map(re.escape, pieces)) for pieces in self._sequences)

    def begins(self, text: str) -> bool | None:
        """Whether text begins with it; None when that is not decided yet."""
        found = [_begins(text, pieces) for pieces in self._sequences]
        return True if True in found else None if None in found else False


def _begins(text: str, pieces: Iterable[str]) -> bool | None:
    for piece in pieces:
        text = text.lstrip(" \t\n\r")
        if not text.startswith(piece):
            return None if piece.startswith(text) else False
        text = text[len(piece) :]
    return True


class CallText:
    """A decoder whose text leaves out the tool calls, which are in `calls` once they are whole.

    Calls begin where the reply begins with `head`, at `marker`, or at once if they are `forced`; from there on
    the grammar allows nothing but calls in one format, so that a call is whole where its bracket closes. Only an
    object that `head` took for a call may turn out to be one of the caller's own format, and is text.
    `key`: of a JSON call's arguments; None where calls are written Python's way, f(x=1).
    """

    def __init__(
        self, decoder: Decoder, head: Head | None, marker: str, key: str | None, forced: bool
    ) -> None:
        self._decoder, self._head, self._marker, self._key = decoder, head, marker, key
        self._text = ""  # not shown, and not part of a call that is whole
        self._blank = True  # nothing but white space so far
        self._at, self._depth, self._quote = 0, 0, ""  # how far a call is read
        self._cuts: list[int] = []  # where it opens, and the commas between its parts
        self.calling = forced
        self.calls: list[ToolCall] = []

    @property
    def held(self) -> int:
        """Characters that may be shown yet."""
        return 0 if self.calling else len(self._text)

    @property
    def cut(self) -> bool:
        """A call has begun and is not whole. (In Python's form its name comes before its bracket.)"""
        return self.calling and (self._depth > 0 or (self._key is None and bool(self._text.strip(" \n,[]"))))

    def push(self, token: int) -> str:
        return self._read(self._decoder.push(token))

    def finish(self) -> str:
        text = self._read(self._decoder.finish())
        if not self.calling:
            text, self._text = text + self._text, ""
        return text

    def _read(self, text: str) -> str:
        self._text += text
        shown = "" if self.calling or not text else self._show()
        if self.calling:
            self._scan()
            if not self.calling:  # it was none
                shown += self._show()
        return shown

    def _show(self) -> str:
        """The text that is surely no call's, nor white space before one."""
        if self._blank and self._head:
            begins = self._head.begins(self._text)
            if begins is not False:
                self.calling = bool(begins)
                return ""
        before, marker, after = self._text.partition(self._marker)
        if marker:
            self.calling, self._text = True, after
            return before.rstrip()
        whole = before[: len(before) - _overlap(before, self._marker)].rstrip()
        self._text = self._text[len(whole) :]
        self._blank = self._blank and not whole
        return whole

    def _scan(self) -> None:
        """Read on, to the end of each call."""
        while mark := _MARKS[self._quote].search(self._text, self._at):
            char, self._at = mark[0], mark.end()
            if char == "\\":
                self._at += 1  # past the escaped character, which may not have come yet
            elif self._quote:
                self._quote = ""
            elif self._depth == 0:
                if char == ("(" if self._key is None else "{"):
                    self._depth, self._cuts = 1, [mark.start()]
            elif char in "\"'":
                self._quote = char
            elif char in "[{(":
                self._depth += 1
            elif char == ",":
                self._cuts += [mark.start()] if self._depth == 1 else []
            else:
                self._depth -= 1
                if self._depth == 0 and not self._end():
                    self.calling, self._head, self._at = False, None, 0
                    return
        self._at = max(self._at, len(self._text))

    def _end(self) -> bool:
        """Take the call that ends here; whether it was one."""
        parts = [self._text[a + 1 : b] for a, b in pairwise([*self._cuts, self._at - 1])]
        if self._key is None:
            found = self._text[: self._cuts[0]].lstrip(" \n,["), _python_arguments(parts)
        elif (members := _json_call(parts, self._key)) is None:
            return False
        else:
            found = members
        self.calls.append(ToolCall("call_" + secrets.token_hex(12), *found))
        self._text, self._at = self._text[self._at :], 0
        return True


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins the marker."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)


def _json_call(members: Iterable[str], key: str) -> tuple[str, str] | None:
    """Name and arguments, these as they were written; None for another object."""
    pairs = (member.partition(":") for member in members)
    table = {name.strip(): value.strip() for name, _, value in pairs}
    if table.keys() - {'"type"'} != {'"name"', f'"{key}"'} or not table['"name"'].startswith('"'):
        return None
    return json.loads(table['"name"']), table[f'"{key}"']


def _python_arguments(parts: Iterable[str]) -> str:
    """The JSON of `key=value` each; values are JSON, or Python's constants and strings in quotes."""
    pairs = (part.partition("=") for part in parts if part.strip())
    return (
        "{"
        + ", ".join(f"{json.dumps(key.strip())}: {_json_value(value.strip())}" for key, _, value in pairs)
        + "}"
    )


def _json_value(value: str) -> str:
    if value.startswith("'"):
        plain = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), value[1:-1], flags=re.S)
        return json.dumps(plain, ensure_ascii=False)
    return _PYTHON.get(value, value)
