"""The pipe between a server and its engine process: a message is one line of JSON.

The events of a step go in one message; the commonest, text without logprobs, is [id, index, text, tokens] there, any
other [id, its JSON form].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from herd.protocol.types import Delta, Event, event_from_json

MAX_FRAME = 32 << 20  # bytes: a 4 MiB body grows at most sixfold when JSON escapes it

Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """The message's line. Raises ValueError if it is longer than MAX_FRAME."""
    line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_FRAME:
        raise ValueError(f"a message of {len(line)} bytes; at most {MAX_FRAME} are allowed")
    return line


def unpack(line: bytes) -> Message:
    """What `pack` was given. Raises ValueError if the line is not a JSON object, or was cut."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message


def events(events: Iterable[tuple[str, Event]]) -> Message:
    """The message that brings events, each with the id of its request."""
    return {
        "op": "events",
        "events": [
            [id, e.index, e.text, e.tokens] if type(e) is Delta and not e.logprobs else [id, e.to_json()]
            for id, e in events
        ],
    }


def read_events(message: Message) -> Iterator[tuple[str, Event]]:
    """What `events` put into a message."""
    for id, *rest in message["events"]:
        if len(rest) == 3:
            yield id, Delta(rest[0], rest[1], tuple(rest[2]))
        else:
            yield id, event_from_json(rest[0])
