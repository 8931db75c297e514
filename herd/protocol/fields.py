"""What the dialects' request codecs share: the treatment of every field, and readers of values that name the field."""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from herd.nearest import nearest
from herd.protocol.types import ProtocolError


class Field(NamedTuple):
    """`accepts`: the type of a recorded field, or the only values that are accepted; () for honoured fields."""

    treatment: Literal["honoured", "recorded", "refused"]
    accepts: type | tuple[Any, ...] = ()


def known(body: Mapping[str, Any], table: Mapping[str, Field]) -> dict[str, Any]:
    """The fields that are not null. Raises ProtocolError for an unknown one or one that is refused."""
    for name, value in body.items():
        if name not in table:
            raise unknown(name, table)
        check_json(name, value)
        treatment, accepts = table[name]
        if value is None or treatment == "honoured":
            continue
        if isinstance(accepts, type):
            if not isinstance(value, accepts):
                raise bad(name, f"must be {'an object' if accepts is dict else 'a string'}")
        elif not any(_same(value, only) for only in accepts):
            raise bad(name, _refusal(accepts), "unsupported_field")
    return {name: value for name, value in body.items() if value is not None}


def check_json(name: str, value: Any) -> None:
    """Refuse what Python's parser takes but nothing after it can write: half a character, NaN, too deep a nesting."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise bad(name, "holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError):
        raise bad(name, "holds a number that is not finite, or is nested too deeply") from None


def _same(value: Any, default: Any) -> bool:
    """Equal as JSON values: 0 and 0.0 are, 1 and true are not."""
    return isinstance(value, bool) is isinstance(default, bool) and bool(value == default)


def _refusal(accepts: tuple[Any, ...]) -> str:
    if not accepts:
        return "is not supported: leave it out"
    return f"is supported only as {' or '.join(map(repr, accepts))}: leave it out"


def unknown(name: str, names: Any, where: str = "") -> ProtocolError:
    close = nearest(name[:100], names)
    hint = f"; did you mean {close!r}?" if close else ""
    return ProtocolError(f"unknown field {name[:100]!r}{where}{hint}", name[:100], "unknown_field")


def bad(param: str, message: str, code: str = "invalid_value") -> ProtocolError:
    return ProtocolError(f"{param} {message}", param, code)


def flag(given: Mapping[str, Any], name: str, default: bool = False, where: str = "") -> bool:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad(where + name, "must be true or false")
    return value


def integer(given: Mapping[str, Any], name: str, low: int, high: int = 2**31 - 1) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise bad(name, "must be an integer")
    if not low <= value <= high:
        raise bad(name, f"must be from {low} to {high}")
    return value


def number(given: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise bad(name, "must be a number")
    if not low <= value <= high:  # so is NaN refused
        raise bad(name, f"must be from {low:g} to {high:g}")
    return float(value)
