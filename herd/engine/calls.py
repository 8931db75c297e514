"""Tool calls in a reply's text: what is shown of it, and the calls that are whole."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable

from herd.engine.text import Decoder
from herd.protocol.types import ToolCall

_QUOTES = {'"', "'"}
_PLAIN = re.compile(r"""[^"'\\\[\]{}()]+""")  # characters that mean nothing to where a call ends
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_PYTHON = {"True": "true", "False": "false", "None": "null"}
# A JSON call up to its arguments, which are the rest but for the last brace.
_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:parameters|arguments)"\s*:\s*'
)


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
    `brackets`: what a call stands between, "{}" for JSON and "()" for Python's way.
    """

    def __init__(self, decoder: Decoder, head: Head | None, marker: str, brackets: str, forced: bool) -> None:
        self._decoder, self._head, self._marker = decoder, head, marker
        self._open = brackets[0]
        self._text = ""  # not shown, and not part of a call that is whole
        self._blank = True  # nothing but white space so far
        self._at, self._depth, self._quote = 0, 0, ""  # how far a call is read
        self.calling = forced
        self.calls: list[ToolCall] = []

    @property
    def held(self) -> int:
        """Characters that may be shown yet."""
        return 0 if self.calling else len(self._text)

    @property
    def cut(self) -> bool:
        """A call has begun and is not whole."""
        return self.calling and self._depth > 0

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
            if begins:
                self.calling = True
                return ""
            if begins is None:
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
        text, i = self._text, self._at
        while i < len(text):
            char = text[i]
            if self._quote:
                i = self._string(i)
                continue
            if self._depth and char in _QUOTES:
                self._quote = char
            elif char == self._open or (self._depth and char in "[{("):
                self._depth += 1
            elif self._depth and char in "]})":
                self._depth -= 1
                if self._depth == 0:
                    if (call := self._call(text[: i + 1])) is None:
                        self.calling, self._head, self._at = False, None, 0
                        return
                    self.calls.append(call)
                    text, i = text[i + 1 :], -1
                    self._text = text
            i += 1
            if self._depth and not self._quote and (plain := _PLAIN.match(text, i)):
                i = plain.end()
        self._at = i

    def _call(self, text: str) -> ToolCall | None:
        """The call; None for an object of the caller's own format that began like one."""
        found = _json_call(text) if self._open == "{" else _python_call(text)
        return ToolCall("call_" + secrets.token_hex(12), *found) if found else None

    def _string(self, i: int) -> int:
        """The position after the next thing of interest in a string, from its character `i` on."""
        end = re.compile(rf"[\\{self._quote}]").search(self._text, i)
        if end is None:
            return len(self._text)
        if end[0] == self._quote:
            self._quote = ""
            return end.end()
        return end.end() + 1  # also past the escaped character, which may not have come yet


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins the marker."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)


def _json_call(text: str) -> tuple[str, str] | None:
    """Name and arguments, these as they were written."""
    head = _HEAD.search(text)
    return (json.loads(head[1]), text[head.end() : -1].strip()) if head else None


def _python_call(text: str) -> tuple[str, str]:
    """Name and arguments of `name(key=value, …)`; values are JSON, or Python's constants and strings in quotes."""
    name, _, rest = text.lstrip(" \n,[").partition("(")
    members = []
    at = 0
    while match := re.compile(r"\s*,?\s*(\w+)\s*=\s*").match(rest, at):
        end = _value_end(rest, match.end())
        value = rest[match.end() : end].strip()
        members.append(f"{json.dumps(match[1])}: {_json_value(value)}")
        at = end
    return name.strip(), "{" + ", ".join(members) + "}"


def _value_end(text: str, at: int) -> int:
    """Where the value that begins at `at` ends: at the comma or bracket behind it."""
    depth, quote = 0, ""
    while at < len(text):
        char = text[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in _QUOTES:
            quote = char
        elif char in "[{(":
            depth += 1
        elif depth == 0 and char in ",)":
            break
        elif char in "]})":
            depth -= 1
        at += 1
    return at


def _json_value(value: str) -> str:
    if value.startswith("'"):
        plain = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), value[1:-1], flags=re.S)
        return json.dumps(plain, ensure_ascii=False)
    return _PYTHON.get(value, value)
