"""What the dialects' request codecs share: the treatment of every field, and readers of values that name the field."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from herd.nearest import nearest
from herd.protocol.types import Effort, Format, Image, ProtocolError, Sampling, Tool

MAX_MESSAGES = 4096  # each costs time before its tokens can be counted
MAX_STOPS = 16
MAX_STOP_LENGTH = 1000
MAX_BIASES = 4096
MAX_TOOLS = 128
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # pairs, characters
EFFORTS: tuple[Effort, ...] = get_args(Effort)
DETAILS = ("auto", "low", "high", "original")
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Field(NamedTuple):
    """`accepts`: the type of a recorded field, or the only values that are taken; () for a honoured field that takes
    more than a few, and a refused one that takes none.

    Refused is a field by the local engine; to a provider of the caller's own dialect it is passed on.
    """

    treatment: Literal["honoured", "recorded", "refused"]
    accepts: type | tuple[Any, ...] = ()


def table(
    honoured: str,
    recorded: Mapping[str, type | tuple[Any, ...]] = MappingProxyType({}),
    refused: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
    **only: tuple[Any, ...],
) -> dict[str, Field]:
    """Names of honoured fields in one string, the others with what they accept; `only`: honoured for a few values."""
    return {
        **dict.fromkeys(honoured.split(), Field("honoured")),
        **{name: Field("honoured", accepts) for name, accepts in only.items()},
        **{name: Field("recorded", accepts) for name, accepts in recorded.items()},
        **{name: Field("refused", accepts) for name, accepts in refused.items()},
    }


_TYPES = {dict: "an object", str: "a string", bool: "true or false"}


class Notes(NamedTuple):
    """What a body says that no field of the canonical request holds, by path: recorded fields, and those that only a
    provider of the dialect may know."""

    labels: dict[str, Any]
    extra: dict[str, Any]


def notes() -> Notes:
    return Notes({}, {})


def known(
    body: Mapping[str, Any], table: Mapping[str, Field], where: str = "", notes: Notes | None = None
) -> dict[str, Any]:
    """The fields that are not null; what they say beside go to `notes`. `where`: the path of an object inside the body.

    Raises ProtocolError for an unknown field or a wrong type; without `notes` for refused fields too.
    """
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
                raise bad(path, f"must be {_TYPES[accepts]}")
        elif not any(_same(value, only) for only in accepts):
            if treatment == "honoured" or notes is None:
                raise unsupported(path, refusal(accepts))
            notes.extra[path] = value
            continue
        if treatment == "recorded" and notes is not None:
            notes.labels[path] = value
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
        raise bad(where, f"has {len(value):,} {where.rpartition('.')[2]}; at most {most:,} are taken")
    return value


def string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise bad(where, "must be a string")
    return value


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


def model(given: Mapping[str, Any]) -> str:
    value = given.get("model")
    if not isinstance(value, str) or not value:
        raise bad("model", "must name a model; GET /v1/models lists them")
    return value


def messages(given: Mapping[str, Any]) -> list[Any]:
    value = given.get("messages")
    if not isinstance(value, list) or not value:
        raise bad("messages", "must be a list with at least one message")
    return items(value, "messages", MAX_MESSAGES)


def sampling(given: Mapping[str, Any], *, hottest: float = 2, **own: Any) -> dict[str, Any]:
    """`sampling` and `explicit` of a Request. `own`: the fields of Sampling that the dialects spell differently."""
    top_k = integer(given, "top_k", -1)
    values = {
        "temperature": number(given, "temperature", 0, hottest),
        "top_k": 0 if top_k == -1 else top_k,  # vLLM spells "off" as -1
        "top_p": number(given, "top_p", 0, 1),
        "min_p": number(given, "min_p", 0, 1),
        "seed": integer(given, "seed", -(2**63), 2**63 - 1),
        "frequency_penalty": number(given, "frequency_penalty", -2, 2),
        "presence_penalty": number(given, "presence_penalty", -2, 2),
        "logit_bias": _biases(given.get("logit_bias")),
        **own,
    }
    if values["top_p"] == 0:
        raise bad("top_p", "must be more than 0; for greedy decoding set temperature to 0")
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


def stops(value: Any, name: str = "stop") -> tuple[str, ...] | None:
    if value is None:
        return None
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(stop, str) for stop in strings):
        raise bad(name, "must be a string or a list of strings")
    if len(strings) > MAX_STOPS:
        raise bad(name, f"has {len(strings)} strings; at most {MAX_STOPS} are possible")
    if not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in strings):
        raise bad(name, f"must be strings of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(strings)


def metadata(value: Any) -> None:
    """Refuse what is not a few short texts by short names."""
    for key, text in items(list((value or {}).items()), "metadata", MAX_METADATA):
        if len(key) > MAX_KEY or not isinstance(text, str) or len(text) > MAX_VALUE:
            limits = f"keys of at most {MAX_KEY} characters and strings of at most {MAX_VALUE}"
            raise bad("metadata", f"must have {limits}; {key[:MAX_KEY]!r} is not so")


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
        raise bad(
            f"{where}.{name}", "must be the address of an image, with https://, or a data URL that holds it"
        )
    if detail not in (None, *DETAILS):
        raise bad(where, f"has a detail that is none of {', '.join(DETAILS)}")
    return Image(url, detail=detail or "auto", path=where)


def effort(notes: Notes, given: Mapping[str, Any], name: str, where: str = "") -> Effort | None:
    """How much to reason; it is no foreign field, though the local engine refuses it."""
    notes.extra.pop(where + name, None)
    value = given.get(name)
    if value not in (None, *EFFORTS):
        raise bad(where + name, f"must be one of {', '.join(EFFORTS)}")
    return value


def tools(value: Any, read: Callable[[dict[str, Any], str], Tool]) -> tuple[Tool, ...]:
    """Each item by `read`; names must differ."""
    found: dict[str, Tool] = {}
    for i, item in enumerate(items(value, "tools", MAX_TOOLS)):
        tool = read(mapping(item, f"tools[{i}]"), f"tools[{i}]")
        if tool.name in found:
            raise bad(f"tools[{i}]", f"has the name {tool.name!r} a second time")
        found[tool.name] = tool
    return tuple(found.values())


def tool(name: Any, description: Any, parameters: Any, where: str, schema: str) -> Tool:
    """`schema`: what the dialect calls the parameters."""
    if description is not None:
        string(description, f"{where}.description")
    given = NO_PARAMETERS if parameters is None else mapping(parameters, f"{where}.{schema}")
    return Tool(tool_name(name, f"{where}.name"), description or "", given)


def tool_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise bad(where, "must be 1 to 128 letters, digits, underscores and dashes")
    return value


def one_of_tools(tools: Iterable[Tool], name: Any, where: str) -> str:
    names = [tool.name for tool in tools]
    if name not in names:
        close = nearest(str(name)[:100], names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise bad(where, f"names {name!r:.100}, which is not one of the tools{hint}")
    return str(name)


def allowed_tools(
    given: Mapping[str, Any], where: str, tools: tuple[Tool, ...], name: Callable[[dict[str, Any], str], str]
) -> tuple[str, tuple[Tool, ...]]:
    """Only the tools that may be called are shown to the model, and whether one must be. `name`: of a tool it names."""
    mode = given.get("mode")
    if mode not in ("auto", "required"):
        raise bad(f"{where}.mode", "must be auto or required")
    named = items(given.get("tools"), f"{where}.tools", MAX_TOOLS)
    names = {
        name(mapping(item, f"{where}.tools[{i}]"), f"{where}.tools[{i}]") for i, item in enumerate(named)
    }
    return mode, tuple(tool for tool in tools if tool.name in names)


def chosen(tools: tuple[Tool, ...], wish: Any, name: str | None) -> dict[str, Any]:
    """The tools that may be called, whether one must be, and which: a Request's fields."""
    if wish not in ("none", "auto", "required"):
        raise bad(
            "tool_choice", "must be none, auto, required, or an object that names a function or allowed tools"
        )
    if wish == "required" and not tools:
        raise bad("tool_choice", "needs tools")
    return {"tools": tools, "tool_choice": wish, "tool_name": name}


def schema_format(value: Any, where: str) -> Format:
    return Format("json_schema", schema=mapping(value, where))


def named_schema(value: Any, where: str, table: Mapping[str, Field], notes: Notes) -> Format:
    given = known(mapping(value, where), table, where, notes)
    tool_name(given.get("name"), f"{where}.name")
    flag(given, "strict", where=f"{where}.")  # the schema always holds, asked for or not
    return schema_format(given.get("schema"), f"{where}.schema")
