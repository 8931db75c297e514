"""A dataclass from a TOML file: types checked, an unknown key refused with the nearest known one."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from herd.errors import HerdError


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. HerdError if there is no such file or it is malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise HerdError(f"{path}: no such file", status=404) from None
    except ValueError as error:
        raise HerdError(f"{path}: not valid TOML ({error})") from None


def build(kind: Any, value: Any, where: str) -> Any:
    """A value of type `kind` (a dataclass, a plain type, or a list, tuple or `| None` of them) from TOML.

    HerdError says where it is something else, what is missing, or which key is not known.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else build(inner[0], value, where)
    if origin in (list, tuple) and isinstance(value, list):
        kinds = inner if origin is tuple else inner * len(value)
        if len(value) != len(kinds):
            raise HerdError(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return origin(build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for key in value:
            if key not in hints:
                near = difflib.get_close_matches(key, hints, 1, 0.0)[0]
                raise HerdError(f"{where}: unknown key {key!r}; did you mean {near!r}?")
        for f in fields(kind):
            if f.name not in value and f.default is MISSING and f.default_factory is MISSING:
                raise HerdError(f"{where}: {f.name!r} is missing")
        return cast(Any, kind)(**{key: build(hints[key], v, f"{where}: {key}") for key, v in value.items()})
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    name = "table" if is_dataclass(kind) else "list" if origin else kind.__name__
    raise HerdError(f"{where}: expected a {name}, found {value!r}")
