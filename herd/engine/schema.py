"""JSON schemas as the grammar can hold a reply to: everything in them is enforced, or refused by name.

The keywords are those of draft 2020-12, with `definitions` and lists of `items` from older ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from herd.errors import HerdError

MAX_BYTES = 256 << 10
MAX_DEPTH = 64
MAX_PATTERN = 16 << 10  # characters of a regular expression: the work may grow with their square
MAX_MULTIPLE = 1000  # as many states has the automaton of a number's remainder
EXACT = 2**53  # the grammar's numbers are doubles

# Say nothing about what is valid, so nothing is lost with them.
ANNOTATIONS = frozenset(
    "$schema $comment $anchor title description default example examples readOnly writeOnly deprecated discriminator"
    " contentMediaType contentEncoding".split()
)
ONE = frozenset({"additionalItems", "additionalProperties"})  # keywords that hold a schema
MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})  # a list of schemas
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # schemas by name
COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"})
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
APPLICATORS = frozenset({"anyOf", "oneOf", "allOf", "$ref"})
SILENT = frozenset({"$defs", "definitions"})  # constrain nothing by being there
# Looking around, words' edges and references back: after no backslash, and not among a class's characters.
NOT_REGULAR = re.compile(
    r"(?s:[^\\\[(]|\((?!\?<?[=!])|\\[^bBk1-9]|\[(?:[^\\\]]|\\.)*\])*(\(\?<?[=!]|\\[bBk1-9])"
)
FORMATS = frozenset("duration ipv4 ipv6 uuid uri".split())  # the compiler's own
TYPES = frozenset("null boolean integer number string array object".split())
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26]|0[48])00)-02-29"
_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP})"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-zA-Z0-9](-?[a-zA-Z0-9]){0,30}"
_HOST = rf"{_LABEL}(\.{_LABEL}){{0,2}}"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,31}"
# Formats whose texts are those of a pattern; without leap seconds, and with the lengths that the standards allow.
PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "hostname": _HOST,
    "email": rf"{_ATOM}(\.{_ATOM})?@{_HOST}",
}
INTEGERS = {
    "int32": 31,
    "int64": 53,
}  # OpenAPI's formats, and the bits of a number in them that is exact here


def clean(schema: Any, where: str, base: str = "#") -> Any:
    """The schema without annotations, to be put at JSON pointer `base` of a larger one.

    An object that names its properties and does not speak of additional ones gets none: every reply is still valid,
    and none goes on for the sake of properties that nobody asked for.

    Raises HerdError (400) that names what is wrong or not supported, and where (`where` is the schema's own name).
    """
    try:
        size = len(json.dumps(schema, allow_nan=False).encode())
    except (RecursionError, TypeError, ValueError):
        raise _refused(where, "is not JSON, or nested too deep") from None
    if size > MAX_BYTES:
        raise _refused(where, f"has {size} bytes; at most {MAX_BYTES} are compiled")
    walk = _Walk(where, base)
    cleaned = walk.schema(schema, "#", 0)
    following = {path.removesuffix("/$ref"): unquote(target) for target, path in walk.references}
    for target, path in walk.references:
        if unquote(target) not in walk.places:
            raise walk.wrong(path, f"{target!r} is not a schema of this document")
        at, passed = unquote(target), set[str]()
        while at in following and at not in passed:
            passed.add(at)
            at = following[at]
        if at in passed:
            raise walk.wrong(path, "leads back to itself")
    if not walk.mixed:
        for place in walk.objects:
            place["additionalProperties"] = False
    return cleaned


def _refused(path: str, problem: str) -> HerdError:
    return HerdError(f"{path} {problem}", code="unsupported_schema")


class _Walk:
    """One reading of a document; paths are JSON pointers from its root, '#'."""

    def __init__(self, where: str, base: str) -> None:
        self.where, self.base = where, base
        self.places: set[str] = set()
        self.references: list[tuple[str, str]] = []  # (target, path of the $ref)
        self.objects: list[dict[str, Any]] = []  # that can be closed, unless…
        self.mixed = False  # …one schema adds to another

    def wrong(self, path: str, problem: str) -> HerdError:
        return _refused(f"{self.where}: {path}", problem)

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        self.places.add(path)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise self.wrong(path, "must be an object or a boolean")
        if depth > MAX_DEPTH:
            raise self.wrong(path, f"is nested deeper than {MAX_DEPTH} schemas")
        result: dict[str, Any] = {}
        for key, value in schema.items():
            if not self._annotation(key, value, path):
                result[key] = self._value(key, value, f"{path}/{_escaped(key)}", depth)
        if (form := result.pop("format", None)) in INTEGERS:
            _narrow(result, INTEGERS[form])
        elif form in FORMATS:
            result["format"] = form
        self._note(result)
        if "integer" in result.get("type", ()):  # as many digits as every reader of JSON keeps
            _narrow(result, INTEGERS["int64"])
        if form in PATTERNS:  # behind _note: it narrows strings alone, and no object
            pattern = f"^({PATTERNS[form]})$"
            if "pattern" in result:
                result["allOf"] = [*result.get("allOf", []), {"pattern": pattern}]
            else:
                result["pattern"] = pattern
        return result

    def _annotation(self, key: str, value: Any, path: str) -> bool:
        """Whether the keyword constrains nothing here."""
        if key in ("$id", "id"):
            return path == "#"  # elsewhere it changes what a reference means
        if key == "uniqueItems":
            return value is False
        return key in ANNOTATIONS or (key.startswith("x-") and key != "x-guidance")

    def _note(self, result: dict[str, Any]) -> None:
        """Whether the object may be closed, and whether any may."""
        applied = APPLICATORS & result.keys()
        others = result.keys() - SILENT
        if {"allOf", "oneOf"} & applied or (applied and len(others) > 1):
            self.mixed = True
        elif "properties" in result and "additionalProperties" not in result:
            # What is required, or counted, may be a property that is not named.
            if not {"minProperties", "patternProperties"} & others and (
                set(result.get("required", ())) <= result["properties"].keys()
            ):
                self.objects.append(result)

    def _value(self, key: str, value: Any, path: str, depth: int) -> Any:
        if key in ONE or (key == "items" and not isinstance(value, list)):
            return self.schema(value, path, depth + 1)
        if key in MANY or key == "items":
            if not isinstance(value, list) or not (value or key == "prefixItems"):
                raise self.wrong(path, "must be a list of schemas")
            return [self.schema(item, f"{path}/{i}", depth + 1) for i, item in enumerate(value)]
        if key in NAMED:
            if not isinstance(value, Mapping):
                raise self.wrong(path, "must be an object of schemas")
            return {k: self.schema(v, f"{path}/{_escaped(k)}", depth + 1) for k, v in value.items()}
        return self._leaf(key, value, path)

    def _leaf(self, key: str, value: Any, path: str) -> Any:
        """A keyword that holds no schema."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key == "$ref":
            return self._reference(value, path)
        if key in ("const", "enum"):
            if key == "enum" and not (isinstance(value, list) and value):
                raise self.wrong(path, "must be a list of values")
            self._exact(value, path)
        elif key == "type":
            types = value if isinstance(value, list) else [value]
            if not types or any(not isinstance(t, str) or t not in TYPES for t in types):
                raise self.wrong(path, f"must be of {', '.join(sorted(TYPES))}, or a list of them")
        elif key in BOUNDS:
            if not number and not (key.startswith("exclusive") and isinstance(value, bool)):
                raise self.wrong(path, "must be a number")
            self._exact(value, path)
            if key == "multipleOf" and not 0 < _whole(value) <= MAX_MULTIPLE:
                raise self.wrong(
                    path, f"must be above 0, and at most {MAX_MULTIPLE} without its decimal point"
                )
        elif key in COUNTS:
            if not number or value < 0 or value != int(value):
                raise self.wrong(path, "must be a whole number, at least 0")
            return min(int(value), 2**31)
        elif key == "required":
            if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
                raise self.wrong(path, "must be a list of names")
        elif key == "pattern":
            if not isinstance(value, str):
                raise self.wrong(path, "must be a regular expression")
            if len(value) > MAX_PATTERN:
                raise self.wrong(path, f"has {len(value)} characters; at most {MAX_PATTERN} are compiled")
            if found := NOT_REGULAR.match(value):
                raise self.wrong(path, f"has {found[1]!r}, which no grammar can hold a reply to")
        elif key == "format":
            if not isinstance(value, str) or value not in {*FORMATS, *PATTERNS, *INTEGERS, "float", "double"}:
                known = ", ".join(sorted({*FORMATS, *PATTERNS}))
                raise self.wrong(path, f"{value!r:.40} is not supported; it may be {known}")
        else:
            raise self.wrong(path, f"the keyword {key!r:.60} is not supported")
        return value

    def _reference(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise self.wrong(path, "must point into this document (#/…)")
        self.references.append((value, path))
        return self.base + value[1:]

    def _exact(self, value: Any, path: str) -> None:
        """Refuse numbers that the grammar would round."""
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                self._exact(item, path)
        elif isinstance(value, (int, float)) and abs(value) > EXACT:
            raise self.wrong(path, f"has a number above 2^{EXACT.bit_length() - 1}, which is not supported")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _whole(value: float) -> int:
    """The number without its decimal point: 25 of 0.25."""
    decimal = Decimal(str(value)).normalize()
    return int(decimal.scaleb(max(-int(decimal.as_tuple().exponent), 0)))


def _narrow(schema: dict[str, Any], bits: int) -> None:
    """Add the bounds of an integer with so many bits and a sign."""
    schema["minimum"] = max(schema.get("minimum", -(2**bits)), -(2**bits))
    schema["maximum"] = min(schema.get("maximum", 2**bits - 1), 2**bits - 1)
