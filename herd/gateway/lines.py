"""In which line of a TOML text something stands; tomllib says it for errors of syntax only."""

import re
from collections.abc import Sequence

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]\]?[ \t]*(?:#.*)?$")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_LONG = re.compile(r'"""(?:[^\\]|\\.)*?"""|' r"'''.*?'''", re.DOTALL)


def line_of(text: str, path: Sequence[str | int], value: object = None) -> int:
    """The line, from 1, of the key at `path`, or of the nearest table around it.

    A key in an inline table or list is looked for by its name, and an item of a list by its `value`, from the line on
    at which the whole begins.
    """
    lines = _LONG.sub(lambda match: "\n" * match[0].count("\n"), text).split("\n")
    names = [part for part in path if isinstance(part, str)]
    table: list[str] = []
    best, at, end = 0, 1, len(lines)
    for number, line in enumerate(lines, 1):
        if header := _HEADER.match(line):
            table = found = _split(header[1])
        elif key := _KEY.match(line):
            found = table + _split(key[1])
        else:
            continue
        if best and end == len(lines) and found[:best] != names[:best]:
            end = number - 1
        if best < len(found) <= len(names) and found == names[: len(found)]:
            best, at, end = len(found), number, len(lines)
    words = [*names[best:], *([str(value)] if value is not None else [])]
    for word in words[-1:]:
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        at = next((n for n in range(at, end + 1) if pattern.search(lines[n - 1])), at)
    return at


def _split(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, dotted)]
