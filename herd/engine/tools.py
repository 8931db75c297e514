"""Tools: how a model's family writes calls, and the grammar that makes each call valid.

The family is known by the chat template's own text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from herd.engine.calls import CallText, Head
from herd.engine.grammar import Source, json_rule
from herd.engine.schema import clean
from herd.engine.text import Decoder
from herd.errors import HerdError
from herd.protocol.types import Format, Request, Tool

MAX_TOOLS = 128
MAX_CALLS = 16  # of a reply
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}")
PYTHON_TAG = "<|python_tag|>"
_PYTHONIC = re.compile(r"\[\w*func\w*\(")  # a template that explains calls as [function_name(…
_JSON = ("json_object", "json_schema")
_ONLY_ONE = "single tool"  # Llama's templates refuse to render several calls of a message

# Python's constants and strings, where the schema says no more than a type.
_TYPED = {
    "boolean": '"True" | "False" | "true" | "false"',
    "null": '"None" | "null"',
    "string": r"""/'([^'\\\x00-\x1f\x7f]|\\['"\\nrtbf])*'/ | /"([^"\\\x00-\x1f\x7f]|\\["\\\/nrtbf])*"/""",
}


@dataclass(frozen=True)
class Style:
    """How calls are written. `key`: of a JSON call's arguments; `marker`: what they follow."""

    name: str
    key: str = "arguments"
    marker: str = ""
    after: str = ""  # behind each call
    parallel: bool = True


LLAMA = Style("llama", key="parameters")
PYTHONIC = Style("pythonic")
HERMES = Style("hermes", marker="<tool_call>", after="</tool_call>")
MISTRAL = Style("mistral", marker="[TOOL_CALLS]")


def style_of(template: str) -> Style:
    """The style of the models that a chat template is for."""
    for style in (HERMES, MISTRAL):
        if style.marker in template:
            return style
    if _PYTHONIC.search(template):
        return PYTHONIC
    return replace(LLAMA, parallel=_ONLY_ONE not in template)


@dataclass(frozen=True)
class Calls:
    """What a request's replies may call, and how."""

    style: Style
    tools: tuple[Tool, ...]
    forced: bool
    parallel: bool
    format: Format | None = None

    @classmethod
    def of(cls, request: Request, template: str) -> Calls | None:
        """None when nothing may be called. Raises HerdError (400) for tools that cannot be what they say."""
        if not request.tools or request.tool_choice == "none":
            return None
        tools = request.tools
        if len(tools) > MAX_TOOLS:
            raise _wrong(f"tools: {len(tools)} of them; at most {MAX_TOOLS} can be offered")
        names = [tool.name for tool in tools]
        for i, name in enumerate(names):
            if not NAME.fullmatch(name):
                raise _wrong(f"tools[{i}]: the name {name!r:.80} must be 1 to 64 letters, digits, _, . or -")
            if name in names[:i]:
                raise _wrong(f"tools[{i}]: the name {name!r} is there twice")
        for tool in tools:
            _parameters(tool)
        if request.tool_choice == "required" and request.tool_name is not None:
            if request.tool_name not in names:
                raise _wrong(f"tool_choice: no tool is called {request.tool_name!r:.80}")
            tools = tuple(tool for tool in tools if tool.name == request.tool_name)
        style = style_of(template)
        forced = request.tool_choice == "required"
        parallel = request.parallel_tool_calls and style.parallel
        return cls(style, tools, forced, parallel, None if forced else request.format)

    def reader(self, decoder: Decoder) -> CallText:
        """What tells a reply's text from its calls."""
        key = None if self.style == PYTHONIC else self.style.key
        return CallText(decoder, self._head(), self.style.marker or PYTHON_TAG, key, self.forced)

    def _head(self) -> Head | None:
        if self.style.name == "llama":
            return Head([["{", '"name"', ":"], ["{", '"type"', ":", '"function"', ",", '"name"', ":"]])
        if self.style == PYTHONIC:
            return Head([["[", tool.name, "("] for tool in self.tools])
        return None

    def source(self, format: Source | None) -> Source:
        """The grammar of a whole reply; `format` is that of its text, if it is not free."""
        calls, bare = self._calls()
        if self.forced:
            options = [calls if bare else f"MARKER {calls}"]
        elif format is None:
            options = ["TEXT", f"marked {calls}", *([calls] if bare else [])]
        elif self.style.name == "llama" and self.format and self.format.kind in _JSON:
            options = [json_rule(self._either(self.format)), f"MARKER {calls}"]
        else:
            options = ["@format", f"MARKER {calls}", *([calls] if bare else [])]
        start = "start: " + " | ".join(options)
        lark = "\n".join(["%llguidance {}", start, *self._text_rules(), *self._call_rules()])
        if "@format" not in options or format is None:
            return Source(lark)
        parts = [{"name": "reply", "lark_grammar": lark}, {"name": "format", "lark_grammar": format.text}]
        return Source(json.dumps({"grammars": parts}), format.limits)

    def _calls(self) -> tuple[str, bool]:
        """The rule of all calls, and whether they may stand at the reply's begin without a marker."""
        between = {"hermes": "MARKER", "llama": "SEPARATOR"}.get(self.style.name, "COMMA")
        more = f"({between} call){{0,{MAX_CALLS - 1}}}" if self.parallel else ""
        forms = {
            "hermes": f"call {more}",
            "mistral": f"OPENED call {more} CLOSED",
            "pythonic": f"begun {more} CLOSED",
            "llama": f"call {more}",
        }
        return forms[self.style.name], not self.style.marker

    def _either(self, format: Format) -> dict[str, Any]:
        """A schema of the reply's own format or of one call: both begin with a brace, so that one rule must hold them."""
        own = {"type": "object"} if format.kind == "json_object" else format.schema
        options = [clean(own, "the schema", "#/anyOf/0")]
        for i, tool in enumerate(self.tools, 1):
            parameters = _parameters(tool, f"#/anyOf/{i}/properties/{self.style.key}")
            options.append(
                {
                    "type": "object",
                    "properties": {"name": {"const": tool.name}, self.style.key: parameters},
                    "required": ["name", self.style.key],
                    "additionalProperties": False,
                }
            )
        return {"anyOf": options}

    def _text_rules(self) -> Iterable[str]:
        """Free text, which never begins as a call does, and text up to a marker, which ends there at once."""
        marker = json.dumps(self.style.marker or PYTHON_TAG)
        head = self._head()
        yield "TEXT: /(?s:.*)/" + (f" & ~/({head.pattern})(?s:.*)/" if head else "")
        yield f"marked[lazy]: TEXT {marker}"
        yield f"MARKER: W {marker}"
        yield 'OPENED: W "["'
        yield 'CLOSED: W "]"'
        yield 'COMMA: W "," W'
        yield 'SEPARATOR: W ";" W'
        yield "W: /[ \\n]{0,2}/"

    def _call_rules(self) -> Iterable[str]:
        yield "call: " + " | ".join(f"call_{i}" for i in range(len(self.tools)))
        if self.style == PYTHONIC:
            yield "begun: " + " | ".join(f"begun_{i}" for i in range(len(self.tools)))
            for i, tool in enumerate(self.tools):
                yield from _python_rules(i, tool, _parameters(tool))
            return
        for i, tool in enumerate(self.tools):
            kind = 'W "{" W ("\\"type\\"" W ":" W "\\"function\\"" W "," W)? "\\"name\\"" W ":" W'
            name, key = json.dumps(json.dumps(tool.name)), json.dumps(json.dumps(self.style.key))
            yield f'OPEN_{i}: {kind} {name} W "," W {key} W ":" W'
            yield f"call_{i}: OPEN_{i} {json_rule(_parameters(tool))} CLOSE"
        after = f" W {json.dumps(self.style.after)}" if self.style.after else ""
        yield f'CLOSE: W "}}"{after}'


def _wrong(message: str) -> HerdError:
    return HerdError(message, code="invalid_tools")


def _parameters(tool: Tool, base: str = "#") -> dict[str, Any]:
    """The schema of the arguments, at a place in a larger one: an object always, and without any where none is said."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if tool.parameters.get("type", "object") != "object":
        raise _wrong(f"tools: {tool.name}: parameters must be of type 'object'")
    return dict(clean({"type": "object", **tool.parameters}, f"tools: {tool.name}: parameters", base))


def _python_rules(i: int, tool: Tool, schema: dict[str, Any]) -> Iterable[str]:
    """Arguments in the schema's order, those that are not required at will."""
    where = f"tools: {tool.name}: parameters"
    known = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
    if others := schema.keys() - known:
        raise _wrong(f"{where}: {min(others)!r} is not supported with the calls of this model")
    properties = dict(schema.get("properties", {}))
    required = schema.get("required", [])
    properties.update({name: {} for name in required if name not in properties})
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    yield f'call_{i}: NAME_{i} first_{i}_0 ")"'
    yield f'begun_{i}: BEGIN_{i} first_{i}_0 ")"'
    yield f"NAME_{i}: {json.dumps(tool.name + '(')}"
    yield f'BEGIN_{i}: W "[" W NAME_{i}'
    for j, (key, value) in enumerate(properties.items()):
        if not key.isidentifier():
            raise _wrong(f"{where}: {key!r:.80} cannot be named in the calls of this model")
        if '"$ref": "#/properties' in json.dumps(value) or '"$ref": "#"' in json.dumps(value):
            raise _wrong(f"{where}: {key}: references to properties are not supported with this model")
        skip = "" if key in required else f" | first_{i}_{j + 1}"
        rest = "" if key in required else f" | rest_{i}_{j + 1}"
        yield f"value_{i}_{j}: {_python_value(value, definitions)}"
        yield f"KEY_{i}_{j}: {json.dumps(key + '=')}"
        yield f"first_{i}_{j}: KEY_{i}_{j} value_{i}_{j} rest_{i}_{j + 1}{skip}"
        yield f"rest_{i}_{j}: COMMA KEY_{i}_{j} value_{i}_{j} rest_{i}_{j + 1}{rest}"
    yield f'first_{i}_{len(properties)}: ""'
    yield f'rest_{i}_{len(properties)}: ""'


def _python_value(schema: Any, definitions: dict[str, Any]) -> str:
    if isinstance(schema, dict) and schema.keys() == {"type"} and schema["type"] in _TYPED:
        return _TYPED[schema["type"]]
    if isinstance(schema, dict) and (options := _strings(schema)):
        return " | ".join(
            f"{_literal(json.dumps(o, ensure_ascii=False))} | {_literal(_single(o))}" for o in options
        )
    return json_rule({**schema, **definitions} if isinstance(schema, dict) else schema)


def _strings(schema: dict[str, Any]) -> Sequence[str]:
    """The texts of an enum of nothing else."""
    options = schema.get("enum", ())
    plain = schema.keys() <= {"type", "enum"} and schema.get("type", "string") == "string"
    return options if plain and all(isinstance(o, str) and o.isprintable() for o in options) else ()


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _literal(text: str) -> str:
    """A string of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)
