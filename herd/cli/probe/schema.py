"""The part of JSON schema that the probe's own schemas use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


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
