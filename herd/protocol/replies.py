"""What the dialects' reply codecs share: the events of a whole reply sorted, and how errors are called."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from herd.errors import HerdError
from herd.protocol.types import Event, Failed, Finished, Started, Usage

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def collect(events: Iterable[Event]) -> tuple[Mapping[int, list[Any]], Usage]:
    """The events of each choice, and the usage. Raises ValueError if the reply failed or is not complete."""
    said: defaultdict[int, list[Any]] = defaultdict(list)
    usage = None
    for event in events:
        match event:
            case Failed(message):
                raise ValueError(f"the reply failed: {message}")
            case Usage():
                usage = event
            case Started():
                pass
            case _:
                said[event.index].append(event)
    if usage is None:
        raise ValueError("the reply is not complete")
    return said, usage


def prompt_tokens(events: Iterable[Event]) -> int:
    """How many tokens the prompt has. Raises ValueError if no event says so."""
    for event in events:
        if isinstance(event, Started | Usage):
            return event.prompt_tokens
    raise ValueError("the prompt was not counted")


def finished(said: Iterable[Event]) -> Finished:
    """How a choice ended. Raises ValueError if it did not."""
    for event in said:
        if isinstance(event, Finished):
            return event
    raise ValueError("the reply is not complete")


def describe(error: HerdError | Failed, types: Mapping[int, str], fault: str) -> tuple[str, str]:
    """A dialect's type of the error, and its message. `fault`: the type of other errors that are ours."""
    kind = types.get(error.status) or ("invalid_request_error" if error.status < 500 else fault)
    return kind, error.message if isinstance(error, Failed) else str(error)
