"""The pipe between a server and its engine process: frames of a 4-byte big-endian length and that much JSON.

The events of a step go in one message; the commonest, text without logprobs, is [id, index, text, tokens] there, any
other [id, its JSON form].
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from herd.protocol.types import Delta, Event, event_from_json

MAX_FRAME = 32 << 20  # a 4 MiB body grows at most sixfold when JSON escapes it
HEADER = struct.Struct(">I")


def pack(message: Mapping[str, Any]) -> bytes:
    """One frame. Raises ValueError if the message is larger than MAX_FRAME."""
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    return HEADER.pack(checked(len(body))) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The message of a frame's body. Raises ValueError if it is not a JSON object."""
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a frame holds a JSON object")
    return message


def events(events: Iterable[tuple[str, Event]]) -> dict[str, Any]:
    """The message that brings events, each with the id of its request."""
    return {
        "op": "events",
        "events": [
            [id, e.index, e.text, e.tokens] if type(e) is Delta and not e.logprobs else [id, e.to_json()]
            for id, e in events
        ],
    }


def read_events(message: Mapping[str, Any]) -> Iterator[tuple[str, Event]]:
    """What `events` put into a message."""
    for id, *rest in message["events"]:
        if len(rest) == 3:
            yield id, Delta(rest[0], rest[1], tuple(rest[2]))
        else:
            yield id, event_from_json(rest[0])


def checked(length: int) -> int:
    """`length`, or ValueError if no frame may be that long."""
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME} are allowed")
    return length


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message of a blocking socket; None when the other side has closed."""
    header = _exactly(connection, HEADER.size)
    if header is None:
        return None
    body = _exactly(connection, checked(HEADER.unpack(header)[0]))
    return None if body is None else unpack(body)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)
