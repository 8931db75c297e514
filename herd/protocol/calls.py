"""The tool calls of a conversation, and their arguments."""

import json
from typing import Any

from herd.protocol.fields import MAX_MESSAGES, bad, check_json, mapping, string

MAX_DEPTH = 64  # levels in a call's arguments


def arguments(value: Any, where: str) -> str:
    """The JSON text of a call's arguments; none at all are those of a function without parameters."""
    text = string(value, where)
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise bad(where, "must be the JSON text of an object") from None
    check_json(where, mapping(given, where))
    level = [given]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for v in level
            for part in (v.values() if isinstance(v, dict) else v)
            if isinstance(part, dict | list)
        ]
    if level:
        raise bad(where, f"is nested deeper than {MAX_DEPTH} levels")
    return text or "{}"


class Calls:
    """The tool calls of a conversation, each to be answered once at most, after it was made."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._count = 0

    def made(self, id: Any, where: str) -> str:
        if not isinstance(id, str) or not id:
            raise bad(where, "must be a string that names the call")
        if id in self._open:
            raise bad(where, f"is {id!r:.100}, as that of an earlier call without an answer")
        self._count += 1
        if self._count > MAX_MESSAGES:
            raise bad(where, f"is that of one call too many: at most {MAX_MESSAGES:,} are taken")
        self._open.add(id)
        return id

    def answered(self, id: Any, where: str) -> str:
        if not isinstance(id, str) or id not in self._open:
            raise bad(where, f"is {id!r:.100}: no call before it has this id and waits for an answer")
        self._open.remove(id)
        return id
