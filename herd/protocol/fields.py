"""What the dialects' request codecs share: the treatment of every field, and readers of values that name the field."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

from herd.nearest import nearest
from herd.protocol.types import Effort, Format, Image, ProtocolError, Sampling, Tool

MAX_MESSAGES = 4096  # each costs time before its tokens can be counted
MAX_STOPS, MAX_STOP_LENGTH = 64, 1000  # each costs half a microsecond a token, on hostile text 3
MAX_BIASES = 4096
MAX_TOOLS = 128
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # pairs, characters
Treatment = Literal["honoured", "recorded", "refused"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
DETAILS = ("auto", "low", "high", "original")
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_TYPES: dict[str, type] = {"str": str, "dict": dict, "bool": bool, "list": list}
_WORDS = {dict: "an object", str: "a string", bool: "true or false", list: "a list"}


class Field(NamedTuple):
    """`accepts`: the type of a recorded field, or the only values that are taken; () for a honoured field that takes
    more than a few, and a refused one that takes none.

    Refused is a field by the local engine; to a provider of the caller's own dialect it is passed on.
    """

    treatment: Treatment
    accepts: type | tuple[Any, ...] = ()


def table(honoured: str, recorded: str = "", refused: str = "") -> dict[str, Field]:
    """The fields of an object, by name. Each is given as its name, as "name:str" (or dict, bool, list) where values of a
    type are taken, or as "name=this|that" where only these are: words, or JSON without spaces."""
    found = {}
    given: dict[Treatment, str] = {"honoured": honoured, "recorded": recorded, "refused": refused}
    for treatment, words in given.items():
        for word in words.split():
            name, _, values = word.partition("=")
            name, _, kind = name.partition(":")
            accepts = tuple(map(_value, values.split("|"))) if values else _TYPES.get(kind, ())
            found[name] = Field(treatment, accepts)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Notes(NamedTuple):
    """What a body says that no field of the canonical request holds, by path: recorded fields, and those that only a
    provider of the dialect may know."""

    labels: dict[str, Any]
    extra: dict[str, Any]


def notes() -> Notes:
    return Notes({}, {})


class Given(dict[str, Any]):
    """The fields of an object that are not null, and readers that name the field they refuse.

    `where`: the object's path, "" for a whole body. All readers raise ProtocolError.
    """

    __slots__ = ("notes", "where")

    def __init__(self, fields: Mapping[str, Any], where: str, notes: Notes | None) -> None:
        super().__init__(fields)
        self.where, self.notes = where, notes

    def at(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def part(self, name: str, table: Mapping[str, Field], default: Any = None) -> "Given":
        return known(self.get(name, default), table, self.at(name), self.notes)

    def string(self, name: str, default: Any = None) -> str:
        value = self.get(name, default)
        return value if isinstance(value, str) else string(value, self.at(name))

    def text(self, name: str) -> str | None:
        return self.string(name) if name in self else None

    def listed(self, name: str, most: int, default: Any = None) -> list[tuple[str, Any]]:
        """Each with its path."""
        where = self.at(name)
        return [(f"{where}[{i}]", item) for i, item in enumerate(items(self.get(name, default), where, most))]

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise bad(self.at(name), "must be true or false")
        return value

    def integer(self, name: str, low: int, high: int = 2**31 - 1) -> int | None:
        value: int | None = self._within(name, "an integer", (int,), low, high)
        return value

    def number(self, name: str, low: int, high: int) -> float | None:
        value = self._within(name, "a number", (int, float), low, high)
        return None if value is None else float(value)

    def _within(self, name: str, kind: str, types: tuple[type, ...], low: int, high: int) -> Any:
        value = self.get(name)
        if value is not None and type(value) not in types:
            raise bad(self.at(name), f"must be {kind}")
        if value is not None and not low <= value <= high:  # so is NaN refused
            raise bad(self.at(name), f"must be from {low} to {high}")
        return value

    def tool_name(self) -> str:
        value = self.get("name")
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise bad(self.at("name"), "must be 1 to 128 letters, digits, underscores and dashes")
        return value


def known(value: Any, table: Mapping[str, Field], where: str = "", notes: Notes | None = None) -> Given:
    """The fields that are not null; what they say beside go to `notes`. `where`: the path of an object inside the body.

    Raises ProtocolError for an unknown field or a wrong type; without `notes` for refused fields too.
    """
    body = mapping(value, where)
    for name, value in body.items():
        if name not in table:
            raise unknown(name, table, f" in {where}" if where else "")
        if not where:  # what lies deeper is checked with it
            check_json(name, value)
        path = f"{where}.{name}" if where else name
        treatment, accepts = table[name]
        if value is None or (treatment == "honoured" and not accepts):
            continue
        if isinstance(accepts, type):
            if not isinstance(value, accepts):
                raise bad(path, f"must be {_WORDS[accepts]}")
        elif not any(_same(value, only) for only in accepts):
            if treatment == "honoured" or notes is None:
                raise unsupported(path, refusal(accepts))
            notes.extra[path] = value
            continue
        if treatment == "recorded" and notes is not None:
            notes.labels[path] = value
    return Given({name: value for name, value in body.items() if value is not None}, where, notes)


def opened(body: Mapping[str, Any], table: Mapping[str, Field]) -> tuple[Given, Notes]:
    """The fields of a whole body, and notes of them. Raises as `known`."""
    found = notes()
    return known(body, table, notes=found), found


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


def refusal(accepts: tuple[Any, ...]) -> str:
    if not accepts:
        return "is not supported: leave it out"
    return f"is supported only as {' or '.join(map(json.dumps, accepts))}: leave it out"


def unknown(name: str, names: Any, where: str = "") -> ProtocolError:
    close = nearest(name[:100], names)
    hint = f"; did you mean {close!r}?" if close else ""
    return ProtocolError(f"unknown field {name[:100]!r}{where}{hint}", name[:100], "unknown_field")


def bad(param: str, message: str, code: str = "invalid_value") -> ProtocolError:
    return ProtocolError(f"{param} {message}", param, code)


def unsupported(param: str, message: str) -> ProtocolError:
    return bad(param, message, "unsupported_field")


def mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    return value


def items(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise bad(where, "must be a list")
    if len(value) > most:
        raise bad(where, f"has {len(value):,} entries; at most {most:,} are taken")
    return value


def string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise bad(where, "must be a string")
    return value


def one_of(value: Any, where: str, options: Collection[str]) -> Any:
    if not isinstance(value, str) or value not in options:
        raise bad(where, f"must be one of {', '.join(options)}")
    return value


def model(given: Given) -> str:
    value = given.get("model")
    if not isinstance(value, str) or not value:
        raise bad("model", "must name a model; GET /v1/models lists them")
    return value


def messages(given: Given) -> list[tuple[str, Any]]:
    """Each with its path."""
    if given.get("messages") == [] or not isinstance(given.get("messages"), list):
        raise bad("messages", "must be a list with at least one message")
    return given.listed("messages", MAX_MESSAGES)


def sampling(given: Given, *, hottest: int = 2, **own: Any) -> dict[str, Any]:
    """`sampling` and `explicit` of a Request. `own`: the fields of Sampling that the dialects spell differently."""
    top_k = given.integer("top_k", -1)
    values = {
        "temperature": given.number("temperature", 0, hottest),
        "top_k": 0 if top_k == -1 else top_k,  # vLLM spells "off" as -1
        "top_p": given.number("top_p", 0, 1),
        "min_p": given.number("min_p", 0, 1),
        "seed": given.integer("seed", -(2**63), 2**63 - 1),
        "frequency_penalty": given.number("frequency_penalty", -2, 2),
        "presence_penalty": given.number("presence_penalty", -2, 2),
        "logit_bias": _biases(given.get("logit_bias")),
        **own,
    }
    explicit = {name: value for name, value in values.items() if value is not None}
    return {"sampling": Sampling(**explicit), "explicit": frozenset(explicit)}


def _biases(value: Any) -> dict[str, float] | None:
    if not value and value in (None, {}):
        return None
    table = mapping(value, "logit_bias")
    if len(table) > MAX_BIASES:
        raise bad("logit_bias", f"has {len(table):,} tokens; at most {MAX_BIASES:,} are taken")
    for id, bias in table.items():
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", id):
            raise bad("logit_bias", f"has the key {id!r:.40}, which is no token id")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise bad("logit_bias", f"of token {id} must be a number from -100 to 100")
    return {id: float(bias) for id, bias in table.items()}


def stops(given: Given, name: str = "stop") -> tuple[str, ...] | None:
    if name not in given:
        return None
    strings = [given[name]] if isinstance(given[name], str) else given[name]
    if not isinstance(strings, list) or not all(isinstance(stop, str) for stop in strings):
        raise bad(name, "must be a string or a list of strings")
    if len(strings) > MAX_STOPS:
        raise bad(name, f"has {len(strings)} strings; at most {MAX_STOPS} are possible")
    if not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in strings):
        raise bad(name, f"must be strings of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(strings)


def metadata(given: Given) -> None:
    """Refuse what is not a few short texts by short names."""
    for key, text in items(list(given.get("metadata", {}).items()), "metadata", MAX_METADATA):
        if len(key) > MAX_KEY or not isinstance(text, str) or len(text) > MAX_VALUE:
            limits = f"keys of at most {MAX_KEY} characters and strings of at most {MAX_VALUE}"
            raise bad("metadata", f"must have {limits}; {key[:MAX_KEY]!r} is not so")


def effort(notes: Notes, given: Given, name: str) -> Effort | None:
    """How much to reason; it is no foreign field, though the local engine refuses it."""
    notes.extra.pop(given.at(name), None)
    value: Effort | None = one_of(given[name], given.at(name), EFFORTS) if name in given else None
    return value


def content(value: Any, where: str, read: Callable[[Any, str], str | Image]) -> tuple[str, tuple[Image, ...]]:
    """A string, or parts by `read`, joined."""
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, list) or not value:
        raise bad(where, "must be a string or a list of text parts")
    return joined(read(part, f"{where}[{i}]") for i, part in enumerate(value))


def joined(parts: Iterable[str | Image]) -> tuple[str, tuple[Image, ...]]:
    """The texts joined as they are, and the images between them."""
    texts: list[str] = []
    images: list[Image] = []
    length = 0
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            length += len(part)
        else:
            images.append(replace(part, at=length))
    return "".join(texts), tuple(images)


def text_part(value: Any, where: str, table: Mapping[str, Field], notes: Notes) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind != "text":
        raise unsupported(where, f"is of type {kind!r:.60}; only text parts are supported")
    if len(value) > 2:  # more than type and text: a long list of texts is read in little time
        known(value, table, where, notes)
    return string(value.get("text"), f"{where}.text")


def image(where: str, name: str, url: Any, detail: Any = None) -> Image:
    """The image of the part `where`; `name`: where that has its address."""
    if not isinstance(url, str) or not url.startswith(("https://", "http://", "data:image/")):
        why = "must be the address of an image, with https://, or a data URL that holds it"
        raise bad(f"{where}.{name}", why)
    if detail not in (None, *DETAILS):
        raise bad(where, f"has a detail that is none of {', '.join(DETAILS)}")
    return Image(url, detail=detail or "auto", path=where)


def tools(given: Given, read: Callable[[dict[str, Any], str], Tool]) -> tuple[Tool, ...]:
    """Each item by `read`; names must differ."""
    found: dict[str, Tool] = {}
    for where, item in given.listed("tools", MAX_TOOLS, []):
        tool = read(mapping(item, where), where)
        if tool.name in found:
            raise bad(where, f"has the name {tool.name!r} a second time")
        found[tool.name] = tool
    return tuple(found.values())


def tool(given: Given, schema: str = "parameters") -> Tool:
    """`schema`: what the dialect calls the parameters."""
    given.flag("strict")  # arguments are always valid, asked for or not
    description = given.string("description", "")
    parameters = mapping(given.get(schema, NO_PARAMETERS), given.at(schema))
    return Tool(given.tool_name(), description, parameters)


def one_of_tools(tools: Iterable[Tool], given: Given) -> str:
    """The tool that the object names."""
    name, names = given.get("name"), [tool.name for tool in tools]
    if name not in names:
        close = nearest(str(name)[:100], names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise bad(given.at("name"), f"names {name!r:.100}, which is not one of the tools{hint}")
    return str(name)


def allowed_tools(
    given: Given, tools: tuple[Tool, ...], name: Callable[[dict[str, Any], str], str]
) -> tuple[str, tuple[Tool, ...]]:
    """Only the tools that may be called are shown to the model, and whether one must be. `name`: of a tool it names."""
    mode = given.get("mode")
    if mode not in ("auto", "required"):
        raise bad(given.at("mode"), "must be auto or required")
    names = {name(mapping(item, where), where) for where, item in given.listed("tools", MAX_TOOLS)}
    return mode, tuple(tool for tool in tools if tool.name in names)


def chosen(tools: tuple[Tool, ...], wish: Any, name: str | None) -> dict[str, Any]:
    """The tools that may be called, whether one must be, and which: a Request's fields."""
    if wish not in ("none", "auto", "required"):
        why = "must be none, auto, required, or an object that names a function or allowed tools"
        raise bad("tool_choice", why)
    if wish == "required" and not tools:
        raise bad("tool_choice", "needs tools")
    return {"tools": tools, "tool_choice": wish, "tool_name": name}


def named_schema(given: Given) -> Format:
    given.tool_name()
    given.flag("strict")  # the schema always holds, asked for or not
    return schema_format(given)


def schema_format(given: Given, name: str = "schema") -> Format:
    return Format("json_schema", schema=mapping(given.get(name), given.at(name)))
