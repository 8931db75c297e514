"""The canonical request, and the events that answer it: what every dialect is translated to and from.

All types are frozen dataclasses with `to_json()` (a dict of JSON types) and `from_json()`; the same form goes
over the engine's pipe and into the store.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from herd.errors import HerdError

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]
Dialect = Literal["chat", "completion", "embedding", "responses", "messages"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ProtocolError(HerdError):
    """A request that its dialect refuses; `param` names the field."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_request", status: int = 400
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.param = param


class Wire:
    """Gives a dataclass `to_json` and `from_json`, by its annotations."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {name: _dump(getattr(self, name)) for name in _hints(type(self))}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises ValueError or TypeError if `value` was not written by `to_json`; absent fields get defaults."""
        hints = _hints(cls)  # type: ignore[arg-type]
        if unknown := value.keys() - hints.keys() - {"type"}:
            raise ValueError(f"{cls.__name__} has no field {min(unknown)!r}")
        return cls(**{name: _load(hint, value[name]) for name, hint in hints.items() if name in value})


@dataclass(frozen=True, slots=True)
class Tool(Wire):
    """A function that the model may ask for; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall(Wire):
    """`arguments`: the JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Format(Wire):
    """What a reply's text must be: any JSON object, JSON of a schema, a whole match of a regular expression, or a
    sentence of a grammar in llguidance's form of Lark.

    `path`: where the caller's body has it, if that is not where its dialect has it.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    schema: Mapping[str, Any] | None = None  # of json_schema
    text: str = ""  # of regex and lark
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Image(Wire):
    """`url`: where it is, or its bytes as "data:image/png;base64,…"; it stands before character `at` of the content.

    `path`: where the caller's body has it.
    """

    url: str
    at: int = 0
    detail: Literal["auto", "low", "high", "original"] = "auto"
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Message(Wire):
    """`tool_calls` are an assistant's; `tool_call_id` says which call a message of role "tool" answers."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()
    reasoning: str = ""  # what an assistant thought before it said `content`
    signature: str = ""  # with which a provider knows its own reasoning again


@dataclass(frozen=True, slots=True)
class Sampling(Wire):
    """How tokens are drawn. `top_k` 0, `top_p` 1 and `min_p` 0 are off; `temperature` 0 is greedy, and so is `top_p` 0.

    Raises ValueError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None  # None: up to the end of the context
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: off; k: the chosen token's and those of the k best
    frequency_penalty: float = 0.0  # taken from a token's logit for each time that the reply holds it
    presence_penalty: float = 0.0  # taken once from the logits of all tokens that the reply holds
    logit_bias: Mapping[str, float] = field(default_factory=dict)  # by token id, added to its logit

    def __post_init__(self) -> None:
        rules = {
            "temperature must be from 0 to 2": 0 <= self.temperature <= 2,
            "top_k must not be negative": self.top_k >= 0,
            "top_p must be from 0 to 1": 0 <= self.top_p <= 1,
            "min_p must be from 0 to 1": 0 <= self.min_p <= 1,
            "seed must be a number of 64 bits": -(2**63) <= (self.seed or 0) < 2**63,
            "max_tokens must not be negative": (self.max_tokens or 0) >= 0,
            "stop must not be empty": all(self.stop),
            "logprobs must be from 0 to 20": 0 <= (self.logprobs or 0) <= 20,
            "frequency_penalty must be from -2 to 2": -2 <= self.frequency_penalty <= 2,
            "presence_penalty must be from -2 to 2": -2 <= self.presence_penalty <= 2,
            "logit_bias must give token ids values from -100 to 100": all(
                id.isdecimal() and -100 <= bias <= 100 for id, bias in self.logit_bias.items()
            ),
        }
        for rule, good in rules.items():
            if not good:
                raise ValueError(rule)


@dataclass(frozen=True, slots=True)
class Request(Wire):
    """An "embedding" answers with a vector of `prompt`, then of each of `more`; `count` asks only how many tokens the
    prompt has."""

    route: str
    kind: Literal["chat", "completion", "embedding"]
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    more: tuple[str | tuple[int, ...], ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    tool_name: str | None = None  # with "required": the only tool that may be called
    parallel_tool_calls: bool = True
    format: Format | None = None
    count: bool = False
    sampling: Sampling = Sampling()
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    store: bool = True
    labels: Mapping[str, Any] = field(default_factory=dict)  # recorded fields: user, metadata, …
    effort: Effort | None = None  # how much to reason before the reply
    # Fields that only providers of the caller's own dialect may know, by path, as in "tools[0].type"; values as given.
    extra: Mapping[str, Any] = field(default_factory=dict)
    explicit: frozenset[str] = frozenset()  # fields of `sampling` that the caller set
    dialect: Dialect | None = field(
        default=None, compare=False
    )  # in which it was said; a refusal names fields by it

    def for_target(self, system: str | None, sampling: Mapping[str, Any]) -> "Request":
        """The request with a target's defaults where the caller said nothing.

        The target's system prompt applies to a chat without a system message of its own, its sampling values to
        the fields not in `explicit`. Raises ProtocolError (status 500) for a sampling value of a wrong type.
        """
        messages = self.messages
        if system and self.kind == "chat" and not any(m.role == "system" for m in messages):
            messages = (Message("system", system), *messages)
        try:
            defaults = Sampling.from_json(sampling)
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                f"the target's sampling is wrong: {error}", "sampling", "bad_target", 500
            ) from None
        missing = {name: getattr(defaults, name) for name in sampling.keys() - self.explicit}
        return replace(self, messages=messages, sampling=replace(self.sampling, **missing))


@dataclass(frozen=True, slots=True)
class TokenLogprob(Wire):
    token: str
    id: int
    bytes: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


class _Event(Wire):
    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {"type": type(self).__name__.lower(), **Wire.to_json(self)}


@dataclass(frozen=True, slots=True)
class Started(_Event):
    """The prompt is read: its length in tokens, and how many of them a cache already held."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta(_Event):
    index: int
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoned(_Event):
    """A piece of what the model thinks before it answers; `signature` comes with the last one, if at all."""

    index: int
    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Called(_Event):
    """A whole tool call, valid against the tool's schema."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Embedded(_Event):
    """The prompt's vector, of length 1."""

    index: int
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finished(_Event):
    """`stop`: the stop string that ended the text, if one did."""

    index: int
    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Usage(_Event):
    """Sums over all choices; the last event of a whole answer.

    `cached_tokens`, read from a cache, and `written_tokens`, put into one, are part of `prompt_tokens`;
    `reasoning_tokens` are part of `completion_tokens`. `estimated`: the provider did not say; these are guesses.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @classmethod
    def total(cls, parts: Iterable["Usage"]) -> "Usage":
        """Of all parts together."""
        prompt, completion, cached, written, reasoning, guessed = map(
            sum, zip(*map(astuple, parts), strict=True)
        )
        return cls(prompt, completion, cached, written, reasoning, bool(guessed))


@dataclass(frozen=True, slots=True)
class Failed(_Event):
    """The answer ends here and is not complete; `status` is the HTTP status to give if none was sent yet, `param` the
    field of the caller's that is wrong, if one is known to be."""

    message: str
    code: str = "engine_error"
    status: int = 500
    retry_after: float | None = None  # seconds
    param: str | None = None


Event = Started | Delta | Reasoned | Called | Embedded | Finished | Usage | Failed
_EVENTS: dict[str, type[Event]] = {cls.__name__.lower(): cls for cls in get_args(Event)}


def event_from_json(value: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote; ValueError for anything else."""
    cls = _EVENTS.get(value.get("type", ""))
    if cls is None:
        raise ValueError(f"no event of type {value.get('type')!r}")
    return cls.from_json(value)


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _dump(value: Any) -> Any:
    if isinstance(value, Wire):
        return value.to_json()
    if isinstance(value, (tuple, bytes)):
        return [_dump(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value


def _load(hint: Any, value: Any) -> Any:
    """`value` (JSON types) as an instance of `hint`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _load(option, value)
            except (TypeError, ValueError):
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_load(args[0], item) for item in value)
    elif origin is frozenset and isinstance(value, (list, frozenset)):
        return frozenset(value)
    elif origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    elif hint is bytes and isinstance(value, list):
        return bytes(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return hint.from_json(value)  # type: ignore[attr-defined]
    elif hint in (int, str, bool, types.NoneType) and type(value) is hint:
        return value
    raise ValueError(f"{value!r:.60} is not a {getattr(hint, '__name__', hint)}")
