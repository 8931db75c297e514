"""The probe's own schemas and tools, and the part of JSON schema that they use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from herd.cli.probe.finding import quote

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool,
    "null": type(None),
}  # fmt: skip


def shape(required: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The schema of an object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": dict(required),
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def one_of(*values: Any) -> dict[str, Any]:
    return {"type": "string" if isinstance(values[0], str) else "integer", "enum": list(values)}


def within(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


BOOLEAN = {"type": "boolean"}
LEAF = shape({"leaf": BOOLEAN})
LEAVES = {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}
EASY = shape({"name": one_of("Ann", "Bob"), "age": one_of(7, 30)})
HARD = shape(
    {
        "kind": one_of('a "quoted" \\ one', "żółw 🐢"),
        "sizes": {"type": "array", "items": within(10, 12), "minItems": 3, "maxItems": 3},
        "either": {"anyOf": [{"type": "null"}, shape({"on": BOOLEAN})]},
        "code": {"type": "string", "pattern": "^[A-C]{2}-[0-9]{3}$"},
    }
)
NESTED = shape(
    {"tree": {"$ref": "#/$defs/node"}},
    **{"$defs": {"node": shape({"leaf": BOOLEAN, "children": LEAVES}), "leaf": LEAF}},
)
# Tools: the name of each, what it is for, its parameters.
SCHEMAS = {
    "weather": shape({"city": one_of("Oslo", "Lima"), "days": within(1, 7)}),
    "clock": shape({"zone": one_of("UTC", "CET")}),
}
ABOUT = {"weather": "The weather of a city.", "clock": "The time in a zone."}


def json_schema(schema: Mapping[str, Any], name: str = "answer") -> dict[str, Any]:
    """A response_format of chat completions."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def no_match(text: str, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a text that must be JSON of this schema, or None."""
    try:
        return violation(json.loads(text), schema)
    except (ValueError, RecursionError):
        return f"no JSON: {quote(text)!r}"


def violation(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> str | None:
    """What is wrong with a value, or None if it is valid."""
    root = schema if root is None else root
    if "$ref" in schema:
        return violation(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        wrong = [violation(value, option, root) for option in schema["anyOf"]]
        return None if None in wrong else f"{value!r:.40} is none of anyOf"
    kind = schema.get("type")
    if kind and (
        not isinstance(value, TYPES[kind]) or isinstance(value, bool) and kind in ("integer", "number")
    ):
        return f"{value!r:.40} is no {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{value!r:.40} is not in the enum"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        return f"{value!r:.40} does not match the pattern"
    if isinstance(value, int | float):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            return f"{value!r:.40} is out of range"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{len(value)} items"
        return _first(violation(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if missing := set(schema.get("required", ())) - value.keys():
            return f"{min(missing)} is missing"
        if schema.get("additionalProperties") is False and value.keys() - known.keys():
            return f"{min(value.keys() - known.keys())!r:.40} is not a property"
        return _first(violation(item, known.get(name, {}), root) for name, item in value.items())
    return None


def _first(found: Any) -> str | None:
    return next(filter(None, found), None)
