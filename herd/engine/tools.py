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
from herd.protocol.fields import NAME
from herd.protocol.types import Format, Request, Tool

MAX_TOOLS = 128
MAX_CALLS = 16  # of a reply
PYTHON_TAG = "<|python_tag|>"
_PYTHONIC = re.compile(r"\[\w*func\w*\(")  # a template that explains calls as [function_name(…
_ONLY_ONE = "single tool"  # Llama's templates refuse to render several calls of a message

# Python's constants and strings, where the schema says no more than a type.
_TYPED = {
    "boolean": '"True" | "False" | "true" | "false"',
    "null": '"None" | "null"',
    "string": r"""/'([^'\\\x00-\x1f\x7f]|\\['"\\nrtbf])*'/ | /"([^"\\\x00-\x1f\x7f]|\\["\\\/nrtbf])*"/""",
}


@dataclass(frozen=True)
class Style:
    """How a family writes calls: what it is told, what its grammar allows and how a reply is read follow from it.

    `marker`: what calls follow; where there is none, they may begin a reply as they are. `key`: of a JSON call's
    arguments; None for calls in Python's way, f(x=1).
    """

    name: str
    key: str | None = "arguments"
    marker: str = ""
    opening: str = ""  # before all calls
    after: str = ""  # behind each
    between: str = ", "
    closing: str = ""
    parallel: bool = True

    def write(self, calls: Iterable[tuple[str, dict[str, Any]]]) -> str:
        """Calls, each a name and its arguments, as the model is to write them."""
        written = []
        for name, arguments in calls:
            if self.key is None:
                values = [
                    f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items()
                ]
                written.append(f"{name}({', '.join(values)})")
            else:
                written.append(
                    json.dumps({"name": name, self.key: arguments}, ensure_ascii=False) + self.after
                )
        return self.marker + self.opening + self.between.join(written) + self.closing


LLAMA = Style("llama", key="parameters", between="; ")
PYTHONIC = Style("pythonic", key=None, opening="[", closing="]")
HERMES = Style("hermes", marker="<tool_call>", after="</tool_call>", between="<tool_call>")
MISTRAL = Style("mistral", marker="[TOOL_CALLS]", opening="[", closing="]")


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
        style, names = style_of(template), [tool.name for tool in tools]
        for i, name in enumerate(names):
            if not NAME.fullmatch(name):
                raise _wrong(f"tools[{i}]: the name {name!r:.80} must be 1 to 128 letters, digits, _ and -")
            if style.key is None and not re.match("[a-zA-Z_]", name):
                why = "must begin with a letter or _: this model calls as Python does"
                raise _wrong(f"tools[{i}]: the name {name!r:.80} {why}")
            if name in names[:i]:
                raise _wrong(f"tools[{i}]: the name {name!r} is there twice")
        for tool in tools:
            _parameters(tool)
        if request.tool_choice == "required" and request.tool_name is not None:
            if request.tool_name not in names:
                raise _wrong(f"tool_choice: no tool is called {request.tool_name!r:.80}")
            tools = tuple(tool for tool in tools if tool.name == request.tool_name)
        forced = request.tool_choice == "required"
        named = forced and request.tool_name is not None  # just the call that was asked for
        parallel = request.parallel_tool_calls and style.parallel and not named
        return cls(style, tools, forced, parallel, None if forced else request.format)

    @property
    def marker(self) -> str:
        return self.style.marker or PYTHON_TAG

    @property
    def head(self) -> Head | None:
        """What a reply that calls without a marker begins with."""
        if self.style.marker:
            return None
        if self.style.key is None:
            return Head([["[", tool.name, "("] for tool in self.tools])
        return Head([["{", '"name"', ":"], ["{", '"type"', ":", '"function"', ",", '"name"', ":"]])

    def reader(self, decoder: Decoder) -> CallText:
        """What tells a reply's text from its calls."""
        return CallText(decoder, self.head, self.marker, self.style.key, self.forced)

    def source(self, format: Source | None) -> Source:
        """The grammar of a whole reply; `format` is that of its text, if it is not free."""
        style, head, marker = self.style, self.head, _quoted(self.marker)
        first = "begun" if style.key is None else "OPENED call" if style.opening else "call"
        more = f"(BETWEEN call){{0,{MAX_CALLS - 1}}}" if self.parallel else ""
        calls = f"{first} {more}" + (" CLOSED" if style.closing else "")
        marked, bare = f"MARKER {calls}", [calls] if head else []
        if self.forced:
            options = bare or [marked]
        elif format is None:
            options = ["TEXT", f"marked {calls}", *bare]
        elif head and style.key and self.format and self.format.kind.startswith("json"):
            options = [json_rule(self._either(self.format)), marked]
        else:
            options = ["@format", marked, *bare]
        # Free text never begins as a call does, and text up to a marker ends there at once.
        rules = [
            "%llguidance {}",
            "start: " + " | ".join(options),
            "TEXT: /(?s:.*)/" + (f" & ~/({head.pattern})(?s:.*)/" if head else ""),
            f"marked[lazy]: TEXT {marker}",
            f"MARKER: W {marker}",
            "OPENED: W " + _quoted(style.opening),
            f"BETWEEN: W {_quoted(style.between.strip())} W",
            "CLOSED: W " + _quoted(style.closing),
            r"W: /[ \n]{0,2}/",
            *(_json_rules(self.tools, style.key, style.after) if style.key else _python_rules(self.tools)),
        ]
        lark = "\n".join(rules)
        if "@format" not in options or format is None:
            return Source(lark)
        parts = [{"name": "reply", "lark_grammar": lark}, {"name": "format", "lark_grammar": format.text}]
        return Source(json.dumps({"grammars": parts}), format.limits)

    def _either(self, format: Format) -> dict[str, Any]:
        """A schema of the reply's own format or of one call: both begin with a brace, so that one rule must hold them."""
        own = {"type": "object"} if format.kind == "json_object" else format.schema
        options = [clean(own, "the schema", "#/anyOf/0")]
        for i, tool in enumerate(self.tools, 1):
            call = {"name": {"const": tool.name}}
            call[str(self.style.key)] = _parameters(tool, f"#/anyOf/{i}/properties/{self.style.key}")
            options.append(
                {"type": "object", "properties": call, "required": list(call), "additionalProperties": False}
            )
        return {"anyOf": options}


def _wrong(message: str) -> HerdError:
    return HerdError(message, code="invalid_tools")


def _parameters(tool: Tool, base: str = "#") -> dict[str, Any]:
    """The schema of the arguments, at a place in a larger one: an object always, and without any where none is said."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kind = tool.parameters.get("type", "object")
    if "object" not in (kind if isinstance(kind, list) else [kind]):
        raise _wrong(f"tools: {tool.name}: parameters must be of type 'object'")
    return dict(clean({**tool.parameters, "type": "object"}, f"tools: {tool.name}: parameters", base))


def _choice(rule: str, tools: Sequence[Tool]) -> str:
    return f"{rule}: " + " | ".join(f"{rule}_{i}" for i in range(len(tools)))


def _json_rules(tools: Sequence[Tool], key: str, after: str) -> Iterable[str]:
    kind = 'W "{" W ("\\"type\\"" W ":" W "\\"function\\"" W "," W)? "\\"name\\"" W ":" W'
    yield _choice("call", tools)
    for i, tool in enumerate(tools):
        name = _quoted(_quoted(tool.name))
        yield f'OPEN_{i}: {kind} {name} W "," W {_quoted(_quoted(key))} W ":" W'
        yield f"call_{i}: OPEN_{i} {json_rule(_parameters(tool))} CLOSE"
    yield 'CLOSE: W "}"' + (f" W {_quoted(after)}" if after else "")


def _python_rules(tools: Sequence[Tool]) -> Iterable[str]:
    yield _choice("call", tools)
    yield _choice("begun", tools)
    yield 'COMMA: W "," W'
    for i, tool in enumerate(tools):
        yield f'call_{i}: NAME_{i} first_{i}_0 ")"'
        yield f'begun_{i}: BEGIN_{i} first_{i}_0 ")"'
        yield f"NAME_{i}: {_quoted(tool.name + '(')}"
        yield f'BEGIN_{i}: W "[" W NAME_{i}'
        yield from _python_arguments(i, f"tools: {tool.name}: parameters", _parameters(tool))


def _python_arguments(i: int, where: str, schema: dict[str, Any]) -> Iterable[str]:
    """Arguments in the schema's order, those that are not required at will."""
    known = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
    if others := schema.keys() - known:
        raise _wrong(f"{where}: {min(others)!r} is not supported with the calls of this model")
    required = schema.get("required", [])
    named = schema.get("properties", {})
    properties = {**named, **{name: {} for name in required if name not in named}}
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    for j, (key, value) in enumerate(properties.items()):
        if not key.isidentifier():
            raise _wrong(f"{where}: {key!r:.80} cannot be named in the calls of this model")
        if re.search(r'"\$ref": "#("|/properties)', json.dumps(value)):
            raise _wrong(f"{where}: {key}: references to properties are not supported with this model")
        yield f"value_{i}_{j}: {_python_value(value, definitions)}"
        yield f"KEY_{i}_{j}: {_quoted(key + '=')}"
        for rule, comma in (("first", ""), ("rest", "COMMA ")):
            skip = "" if key in required else f" | {rule}_{i}_{j + 1}"
            yield f"{rule}_{i}_{j}: {comma}KEY_{i}_{j} value_{i}_{j} rest_{i}_{j + 1}{skip}"
    yield f'first_{i}_{len(properties)}: ""'
    yield f'rest_{i}_{len(properties)}: ""'


def _python_value(schema: Any, definitions: dict[str, Any]) -> str:
    if not isinstance(schema, dict):
        return json_rule(schema)
    if schema.keys() == {"type"} and schema["type"] in _TYPED:
        return _TYPED[schema["type"]]
    texts = schema.get("enum", ())
    only = schema.keys() <= {"type", "enum"} and schema.get("type", "string") == "string"
    if texts and only and all(isinstance(text, str) and text.isprintable() for text in texts):
        return " | ".join(f"{_quoted(_quoted(text))} | {_quoted(_single(text))}" for text in texts)
    return json_rule({**schema, **definitions})


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    """A string of JSON, or of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)
