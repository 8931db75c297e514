"""The OpenAI dialect, Responses: request bodies to `Request`; what a stored one gives to the next and shows later.

Every field is in `FIELDS`, as for chat completions. A response may continue a stored one (`previous_response_id`): it
takes that one's messages and reply, but not its instructions. Tools are the caller's functions: this server runs none
of its own. What comes back is in `responses_reply`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from herd.protocol.fields import Field, bad, flag, integer, known, number, unknown
from herd.protocol.responses_reply import ResponseStream, encode_items, encode_stored
from herd.protocol.types import Format, Message, ProtocolError, Request, Role, Sampling, Tool, ToolCall

__all__ = ["FIELDS", "Asked", "ResponseStream", "decode_response", "encode_items", "encode_stored", "history"]

MAX_MESSAGES = 4096  # each costs time before its tokens can be counted
MAX_TOOLS = 128
MAX_NAME = 64
LOGPROBS = "message.output_text.logprobs"
INCLUDES = (LOGPROBS, "reasoning.encrypted_content")  # models here do not reason apart: there is none to include

_HONOURED, _LABEL, _REFUSED = Field("honoured"), Field("recorded", str), Field("refused")
FIELDS: dict[str, dict[str, Field]] = {
    "response": {
        "model": _HONOURED,
        "input": _HONOURED,
        "instructions": _HONOURED,
        "previous_response_id": _HONOURED,
        "tools": _HONOURED,
        "tool_choice": _HONOURED,
        "parallel_tool_calls": _HONOURED,
        "text": _HONOURED,
        "max_output_tokens": _HONOURED,
        "temperature": _HONOURED,
        "top_p": _HONOURED,
        "top_logprobs": _HONOURED,
        "frequency_penalty": _HONOURED,
        "presence_penalty": _HONOURED,
        "include": _HONOURED,
        "stream": _HONOURED,
        "stream_options": _HONOURED,
        "store": _HONOURED,
        "background": _HONOURED,
        "reasoning": _HONOURED,
        "user": _LABEL,
        "metadata": Field("recorded", dict),
        "safety_identifier": _LABEL,
        "prompt_cache_key": _LABEL,
        "prompt_cache_retention": _LABEL,
        "prompt_cache_options": Field("recorded", dict),
        "service_tier": Field("recorded", ("auto", "default")),
        "truncation": Field("refused", ("disabled",)),
        "access_programs": _REFUSED,
        "background_options": _REFUSED,
        "context_management": Field("refused", ([],)),
        "conversation": _REFUSED,
        "image": _REFUSED,
        "max_tool_calls": _REFUSED,
        "moderation": _REFUSED,
        "prompt": _REFUSED,
    }
}
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True)
class Asked:
    """A request whose messages are the instructions and this turn's input; `after` puts the history between."""

    request: Request
    said: tuple[Message, ...]
    previous: str | None
    background: bool
    shown: Mapping[str, Any]  # fields that the response repeats

    def after(self, past: Sequence[Message]) -> Request:
        """The whole request. Raises ProtocolError for an output of a call that nobody made, or too many messages."""
        messages = (*past, *self.said)
        if len(messages) > MAX_MESSAGES:
            raise bad("input", f"makes {len(messages):,} messages; at most {MAX_MESSAGES:,} are taken")
        calls: set[str | None] = set()
        for message in messages:
            calls.update(call.id for call in message.tool_calls)
            if message.role == "tool" and message.tool_call_id not in calls:
                raise bad("input", f"answers the call {message.tool_call_id!r:.80}, which nobody made")
        lead = self.request.messages[: len(self.request.messages) - len(self.said)]
        return replace(self.request, messages=(*lead, *messages))

    def kept(self, final: Request, past: int) -> dict[str, Any]:
        """What the store keeps beside the request as the target made it (`final`): `past` messages are older."""
        sampling = final.sampling
        used = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
        }
        lead = len(final.messages) - past - len(self.said)
        return {"shown": {**self.shown, **used}, "lead": lead, "past": past, "background": self.background}


def history(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a stored response gives to the next one: its messages without instructions, and its reply.

    `row`: the generation. Raises ProtocolError if it failed.
    """
    if row["finish"] == "error":
        raise bad("previous_response_id", "names a response that failed: continue from the one before")
    messages = [Message.from_json(message) for message in row["request"]["messages"]]
    calls = tuple(ToolCall.from_json(call) for call in row["calls"] or ())
    reply = Message("assistant", row["reply"], tool_calls=calls)
    return (*messages[row["response"]["lead"] :], reply)


def decode_response(body: Mapping[str, Any]) -> Asked:
    """The body of POST /v1/responses. Raises ProtocolError naming the field."""
    given = known(body, FIELDS["response"])
    model, previous = _text(given, "model"), _text(given, "previous_response_id")
    if not model:
        raise bad("model", "must name a model; GET /v1/models lists them")
    said = _input(given.get("input"))
    instructions = _text(given, "instructions")
    tools, shown_tools = _tools(given.get("tools"))
    tools, choice, name = _choice(given.get("tool_choice"), tools)
    text, format = _format(given.get("text"))
    store, background, stream = flag(given, "store", True), flag(given, "background"), flag(given, "stream")
    if background and not store:
        raise bad("background", 'needs "store": true: its reply is fetched later')
    if background and stream:
        raise bad("stream", "cannot be combined with background: poll GET /v1/responses/{id}", "unsupported_field")
    _only(given, "stream_options", ("include_obfuscation",))
    _metadata(given.get("metadata"))
    logprobs = _logprobs(given)
    sampling = {
        "max_tokens": integer(given, "max_output_tokens", 1),
        "temperature": number(given, "temperature", 0, 2),
        "top_p": number(given, "top_p", 0, 1),
        "frequency_penalty": number(given, "frequency_penalty", -2, 2),
        "presence_penalty": number(given, "presence_penalty", -2, 2),
        "logprobs": logprobs,
    }
    if sampling["top_p"] == 0:
        raise bad("top_p", "must be more than 0; for greedy decoding set temperature to 0")
    explicit: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    parallel = flag(given, "parallel_tool_calls", True)
    labels = {n: v for n, v in given.items() if FIELDS["response"][n].treatment == "recorded"}
    lead = (Message("system", instructions),) if instructions else ()
    request = Request(
        route=model,
        kind="chat",
        messages=(*lead, *said),
        tools=tools,
        tool_choice=choice,  # type: ignore[arg-type]
        tool_name=name,
        parallel_tool_calls=parallel,
        format=format,
        sampling=Sampling(**explicit),
        stream=stream,
        store=store,
        labels=labels,
        explicit=frozenset(explicit),
    )
    shown = {
        "model": model,
        "instructions": instructions,
        "previous_response_id": previous,
        "tools": shown_tools,
        "tool_choice": given.get("tool_choice", "auto"),
        "parallel_tool_calls": parallel,
        "text": text,
        "max_output_tokens": sampling["max_tokens"],
        "top_logprobs": logprobs or 0,
        "store": store,
        "background": background,
        "reasoning": _reasoning(given.get("reasoning")),
        "metadata": given.get("metadata", {}),
        **{name: given.get(name) for name in ("user", "safety_identifier", "prompt_cache_key")},
    }
    return Asked(request, said, previous, background, shown)


def _input(value: Any) -> tuple[Message, ...]:
    """Items as messages: calls belong to the assistant's message before them."""
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise bad("input", "must be a string or a list with at least one item")
    if len(value) > MAX_MESSAGES:
        raise bad("input", f"has {len(value):,} items; at most {MAX_MESSAGES:,} are taken")
    messages: list[Message] = []
    for i, item in enumerate(value):
        where = f"input[{i}]"
        kind = _object(item, where).get("type", "message")
        if kind == "message":
            messages.append(_message(item, where))
        elif kind == "function_call":
            call = _call(item, where)
            if messages and messages[-1].role == "assistant":
                messages[-1] = replace(messages[-1], tool_calls=(*messages[-1].tool_calls, call))
            else:
                messages.append(Message("assistant", "", tool_calls=(call,)))
        elif kind == "function_call_output":
            _only_fields(item, ("type", "id", "status", "call_id", "output"), where)
            output = _content(item.get("output"), f"{where}.output", ("input_text",))
            messages.append(Message("tool", output, tool_call_id=_word(item, "call_id", where)))
        else:
            _unsupported(where, kind, "message, function_call and function_call_output")
    return tuple(messages)


def _message(item: Mapping[str, Any], where: str) -> Message:
    _only_fields(item, ("type", "id", "status", "role", "content", "phase"), where)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    part = "output_text" if role == "assistant" else "input_text"
    return Message(_ROLES[role], _content(item.get("content"), f"{where}.content", (part, "input_text")))


def _call(item: Mapping[str, Any], where: str) -> ToolCall:
    _only_fields(item, ("type", "id", "status", "call_id", "name", "arguments"), where)
    if not isinstance(arguments := item.get("arguments"), str):
        raise bad(f"{where}.arguments", "must be a string of JSON")
    return ToolCall(_word(item, "call_id", where), _word(item, "name", where), arguments)


def _content(value: Any, where: str, kinds: tuple[str, ...]) -> str:
    """A string, or text parts joined as they are."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad(where, "must be a string or a list of text parts")
    texts = []
    for i, part in enumerate(value):
        own = f"{where}[{i}]"
        if (kind := _object(part, own).get("type")) not in kinds:
            _unsupported(own, kind, " and ".join(dict.fromkeys(kinds)))
        _only_fields(part, ("type", "text", "annotations", "logprobs"), own)
        if not isinstance(part.get("text"), str):
            raise bad(f"{own}.text", "must be a string")
        texts.append(part["text"])
    return "".join(texts)


def _tools(value: Any) -> tuple[tuple[Tool, ...], list[dict[str, Any]]]:
    """The tools, and as the response shows them."""
    if not isinstance(value, list | None):
        raise bad("tools", "must be a list")
    if len(value or ()) > MAX_TOOLS:
        raise bad("tools", f"has {len(value or ())} tools; at most {MAX_TOOLS} are taken")
    tools: dict[str, Tool] = {}
    shown = []
    for i, item in enumerate(value or ()):
        where = f"tools[{i}]"
        if (kind := _object(item, where).get("type")) != "function":
            _unsupported(where, kind, "function: this server runs no tools of its own")
        _only_fields(item, ("type", "name", "description", "parameters", "strict"), where)
        name, about = _word(item, "name", where), item.get("description")
        if len(name) > MAX_NAME or not name.replace("-", "_").replace("_", "a").isalnum() or not name.isascii():
            raise bad(f"{where}.name", f"must be 1 to {MAX_NAME} letters, digits, '_' and '-'")
        if name in tools:
            raise bad(f"{where}.name", f"{name!r} is the name of an earlier tool, too")
        parameters = item.get("parameters") or {}
        strict = flag(item, "strict", True, f"{where}.")
        if not isinstance(about, str | None):
            raise bad(f"{where}.description", "must be a string")
        tools[name] = Tool(name, about or "", _object(parameters, f"{where}.parameters"))
        shown.append({**dict(type="function", name=name, description=about), "parameters": parameters, "strict": strict})
    return tuple(tools.values()), shown


def _choice(value: Any, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str, str | None]:
    """The tools that may be called, whether one must be, and which."""
    names = [tool.name for tool in tools]
    if value is None or value in ("none", "auto"):
        return tools, value or "auto", None
    if value == "required":
        if not tools:
            raise bad("tool_choice", "is required, but there are no tools")
        return tools, "required", None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function":
        _only_fields(value, ("type", "name"), "tool_choice")
        if value.get("name") not in names:
            raise bad("tool_choice.name", "must be the name of one of the tools")
        return tools, "required", value["name"]
    if kind == "allowed_tools":
        _only_fields(value, ("type", "mode", "tools"), "tool_choice")
        if value.get("mode") not in ("auto", "required"):
            raise bad("tool_choice.mode", "must be auto or required")
        allowed = value.get("tools")
        if not isinstance(allowed, list) or not allowed:
            raise bad("tool_choice.tools", "must be a list with at least one tool")
        for i, item in enumerate(allowed):
            if not isinstance(item, dict) or item.get("type") != "function" or item.get("name") not in names:
                raise bad(f"tool_choice.tools[{i}]", "must be a function that is one of the tools")
        chosen = {item["name"] for item in allowed}
        return tuple(tool for tool in tools if tool.name in chosen), value["mode"], None
    raise bad("tool_choice", "must be none, auto, required, a function or allowed_tools")


def _format(value: Any) -> tuple[dict[str, Any], Format | None]:
    """`text` as the response shows it, and the format."""
    text = _object(value or {}, "text")
    _only_fields(text, ("format", "verbosity"), "text")
    if text.get("verbosity") not in (None, "medium"):
        raise bad("text.verbosity", "is supported only as 'medium': leave it out", "unsupported_field")
    format = _object(text.get("format") or {"type": "text"}, "text.format")
    kind = format.get("type")
    found = None
    if kind == "json_schema":
        _only_fields(format, ("type", "name", "description", "schema", "strict"), "text.format")
        _word(format, "name", "text.format")
        flag(format, "strict", where="text.format.")
        found = Format("json_schema", _object(format.get("schema"), "text.format.schema"))
    elif kind in ("text", "json_object"):
        _only_fields(format, ("type",), "text.format")
        found = Format("json_object") if kind == "json_object" else None
    else:
        _unsupported("text.format", kind, "text, json_object and json_schema")
    return {"format": dict(format), "verbosity": "medium"}, found


def _logprobs(given: Mapping[str, Any]) -> int | None:
    include = given.get("include", [])
    if not isinstance(include, list):
        raise bad("include", "must be a list")
    for i, name in enumerate(include):
        if name not in INCLUDES:
            raise bad(f"include[{i}]", f"is supported only as {' or '.join(INCLUDES)}", "unsupported_field")
    top = integer(given, "top_logprobs", 0, 20) or 0
    return top if top or LOGPROBS in include else None


def _reasoning(value: Any) -> dict[str, Any]:
    reasoning = _object(value or {}, "reasoning")
    for name, wanted in reasoning.items():
        if name not in ("effort", "summary", "generate_summary"):
            raise unknown(name, ("effort", "summary"), " in reasoning")
        if wanted is not None and (name, wanted) != ("effort", "none"):
            message = "is not supported: models here do not reason apart" + "; send none" * (name == "effort")
            raise bad(f"reasoning.{name}", message, "unsupported_field")
    return {"effort": reasoning.get("effort"), "summary": None}


def _metadata(value: Any) -> None:
    pairs = (value or {}).items()
    if len(pairs) > 16 or not all(len(k) <= 64 and isinstance(v, str) and len(v) <= 512 for k, v in pairs):
        raise bad("metadata", "holds at most 16 pairs: keys of up to 64 characters, strings of up to 512")


def _only(given: Mapping[str, Any], name: str, flags: tuple[str, ...]) -> None:
    options = _object(given.get(name) or {}, name)
    for option in options:
        if option not in flags:
            raise unknown(option, flags, f" in {name}")
        flag(options, option, where=f"{name}.")


def _only_fields(item: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for name, value in item.items():
        if name not in names and value is not None:
            raise unknown(name, names, f" in {where}")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    return value


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if not isinstance(value, str | None):
        raise bad(name, "must be a string")
    return value


def _word(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise bad(f"{where}.{name}", "must be a string that is not empty")
    return value


def _unsupported(where: str, kind: Any, instead: str) -> NoReturn:
    raise ProtocolError(f"{where} is of type {kind!r:.60}; supported: {instead}", where, "unsupported_field")
