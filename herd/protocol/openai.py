"""The OpenAI dialect, chat completions, completions and embeddings: request bodies to `Request`.

Every field of the dialect is in `FIELDS`, those of objects inside a body in `PARTS`: honoured, recorded (it cannot
change an answer) or refused: by the local engine, and passed on to a provider of the same dialect. Refused fields are
accepted at their documented defaults, and null is accepted anywhere: it is the same as not sending the field. The
fields are those of the API reference, with vLLM's `top_k`, `min_p` and `structured_outputs`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from herd.protocol import fields
from herd.protocol.calls import Calls, arguments
from herd.protocol.fields import Field, Given, Notes, bad, known, table, unsupported
from herd.protocol.openai_reply import (
    CompletionStream,
    encode_completion,
    encode_embeddings,
    encode_error,
    encode_models,
)
from herd.protocol.types import Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "PARTS", "CompletionStream", "Embeddings", "decode_chat", "decode_completion", "decode_embeddings",
    "encode_completion", "encode_embeddings", "encode_error", "encode_models",
]  # fmt: skip

MAX_CHOICES = 8
MAX_PROMPTS = 256
MAX_INPUTS = 2048

_GENERATION = (
    "model max_tokens temperature top_p top_k min_p n seed stop stream stream_options logprobs store"
    " frequency_penalty presence_penalty logit_bias structured_outputs"
)
FIELDS: dict[str, dict[str, Field]] = {
    "chat": table(
        f"{_GENERATION} messages max_completion_tokens top_logprobs tools tool_choice parallel_tool_calls"
        " response_format",
        "user:str metadata:dict service_tier=auto|default safety_identifier:str prompt_cache_key:str"
        " prompt_cache_retention:str prompt_cache_options:dict",
        'audio function_call=none|auto functions=[] modalities=["text"] moderation prediction'
        " reasoning_effort=none verbosity=medium web_search_options",
    ),
    "completion": table(f"{_GENERATION} prompt echo", "user:str metadata:dict", 'best_of=1 suffix=""'),
    "embedding": table("model input encoding_format dimensions", "user:str"),
}
PARTS: dict[str, dict[str, Field]] = {
    "message": table(
        "role content name tool_calls tool_call_id reasoning_content",
        refused="annotations=[] audio function_call refusal",
    ),
    "text part": table("type text", "prompt_cache_breakpoint:dict"),
    "image part": table("type image_url", "prompt_cache_breakpoint:dict"),
    "image": table("url detail"),
    "tool call": table("id function type=function"),
    "called function": table("name arguments"),
    "tool": table("function type=function"),
    "function": table("name description parameters strict"),
    "tool choice": table("function allowed_tools type=function|allowed_tools"),
    "allowed tools": table("mode tools"),
    "named function": table("name"),
    "response format": table("json_schema type=text|json_object|json_schema"),
    "JSON schema": table("name schema strict", "description:str"),
    "structured outputs": table("json json_object regex choice grammar"),
    "stream options": table("include_usage", refused="include_obfuscation=false"),
}
_ROLES = ("system", "developer", "user", "assistant", "tool")


class Embeddings(NamedTuple):
    """The request, and how the vectors are to be written; `dimensions`: the length they must have."""

    request: Request
    base64: bool = False
    dimensions: int | None = None


def decode_chat(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/chat/completions. Raises ProtocolError naming the field."""
    given, notes = fields.opened(body, FIELDS["chat"])
    wanted, top = given.flag("logprobs"), given.integer("top_logprobs", 0, 20)
    if top is not None and not wanted:
        raise bad("top_logprobs", 'needs "logprobs": true')
    limit, older = given.integer("max_completion_tokens", 1), given.integer("max_tokens", 1)
    if limit is not None and older is not None and limit != older:
        raise bad("max_tokens", "differs from max_completion_tokens: send only the latter")
    calls = Calls()
    return _request(
        given,
        notes,
        {"max_tokens": older if limit is None else limit, "logprobs": (top or 0) if wanted else None},
        kind="chat",
        messages=tuple(_message(said, where, calls, notes) for where, said in fields.messages(given)),
        format=_format(given),
        effort=fields.effort(notes, given, "reasoning_effort"),
        **_tools(given),
    )


def decode_completion(body: Mapping[str, Any]) -> tuple[Request, ...]:
    """The body of POST /v1/completions: a request for each prompt. Raises ProtocolError naming the field."""
    given, notes = fields.opened(body, FIELDS["completion"])
    own = {"max_tokens": given.integer("max_tokens", 0), "logprobs": given.integer("logprobs", 0, 5)}
    prompts = _prompts(given.get("prompt"), "prompt", MAX_PROMPTS)
    one = _request(given, notes, own, kind="completion", echo=given.flag("echo"), format=_format(given))
    return tuple(replace(one, prompt=prompt) for prompt in prompts)


def decode_embeddings(body: Mapping[str, Any]) -> Embeddings:
    """The body of POST /v1/embeddings. Raises ProtocolError naming the field."""
    given, notes = fields.opened(body, FIELDS["embedding"])
    model, form = fields.model(given), given.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise bad("encoding_format", "must be float or base64")
    inputs = _prompts(given.get("input"), "input", MAX_INPUTS)
    if "" in inputs:
        raise bad("input", "holds an empty string, which has no vector")
    dimensions = given.integer("dimensions", 1)
    if dimensions is not None:  # a model that has but one length is found out by what comes of it
        notes.extra["dimensions"] = dimensions
    first, *more = inputs
    asked = Request(
        model, "embedding", prompt=first, more=tuple(more), **notes._asdict(), dialect="embedding"
    )
    return Embeddings(asked, form == "base64", dimensions)


def _request(
    given: Given, notes: Notes, own: dict[str, Any], *, kind: Literal["chat", "completion"], **special: Any
) -> Request:
    """What chat and completions share; `own`: the sampling fields that they spell differently."""
    fields.metadata(given)
    stream = given.flag("stream")
    usage = given.part("stream_options", PARTS["stream options"], {}).flag("include_usage")
    if usage and not stream:
        raise bad("stream_options", 'needs "stream": true')
    return Request(
        kind=kind,
        dialect=kind,
        route=fields.model(given),
        n=given.integer("n", 1, MAX_CHOICES) or 1,
        stream=stream,
        include_usage=usage,
        store=given.flag("store", True),
        **notes._asdict(),
        **fields.sampling(given, stop=fields.stops(given), **own),
        **special,
    )


def _message(value: Any, where: str, calls: Calls, notes: Notes) -> Message:
    role = fields.mapping(value, where).get("role")
    if role == "function":
        raise unsupported(
            f"{where}.role", "'function' is not supported: send role 'tool' with a tool_call_id"
        )
    role = fields.one_of(role, f"{where}.role", _ROLES)
    given = known(value, PARTS["message"], where, notes)
    name, thought = given.text("name"), given.string("reasoning_content", "")
    if thought and role != "assistant":
        raise bad(given.at("reasoning_content"), "can only be an assistant's")
    called: tuple[ToolCall, ...] = ()
    if given.get("tool_calls"):
        if role != "assistant":
            raise bad(given.at("tool_calls"), "can only be an assistant's")
        asked = given.listed("tool_calls", fields.MAX_TOOLS)
        called = tuple(_call(known(call, PARTS["tool call"], here), calls) for here, call in asked)
    if role == "tool":
        calls.answered(given.get("tool_call_id"), given.at("tool_call_id"))
    elif "tool_call_id" in given:
        raise bad(given.at("tool_call_id"), "belongs into a message of role 'tool'")

    def read(part: Any, here: str) -> str | Image:
        if role == "user" and isinstance(part, dict) and part.get("type") == "image_url":
            image = known(part, PARTS["image part"], here, notes).part("image_url", PARTS["image"])
            return fields.image(here, "image_url.url", image.get("url"), image.get("detail"))
        return fields.text_part(part, here, PARTS["text part"], notes)

    content = given.get("content", "" if called else None)
    text, images = fields.content(content, given.at("content"), read)
    shown: Role = "system" if role == "developer" else role
    return Message(shown, text, name, called, given.get("tool_call_id"), images, thought)


def _call(given: Given, calls: Calls) -> ToolCall:
    function = given.part("function", PARTS["called function"])
    id = calls.made(given.get("id"), given.at("id"))
    name = function.tool_name()
    return ToolCall(id, name, arguments(function.get("arguments"), function.at("arguments")))


def _tools(given: Given) -> dict[str, Any]:
    """`tools` and what is said about them, as a Request's fields."""
    tools = fields.tools(
        given,
        lambda item, here: fields.tool(known(item, PARTS["tool"], here).part("function", PARTS["function"])),
    )
    parallel = given.flag("parallel_tool_calls", True)
    wish, name = given.get("tool_choice", "auto"), None
    if isinstance(wish, dict):
        choice = given.part("tool_choice", PARTS["tool choice"])
        if len(choice) > 2:
            raise bad("tool_choice", "must have a function or allowed_tools, not both")
        if choice.get("type") == "allowed_tools":
            allowed = choice.part("allowed_tools", PARTS["allowed tools"])
            wish, tools = fields.allowed_tools(
                allowed, tools, lambda item, here: _named(known(item, PARTS["tool"], here), tools)
            )
        else:
            wish, name = "required", _named(choice, tools)
    return {**fields.chosen(tools, wish, name), "parallel_tool_calls": parallel}


def _named(given: Given, tools: tuple[Tool, ...]) -> str:
    return fields.one_of_tools(tools, given.part("function", PARTS["named function"]))


def _format(given: Given) -> Format | None:
    wanted = _response_format(given.part("response_format", PARTS["response format"], {"type": "text"}))
    if "structured_outputs" not in given:
        return wanted
    if wanted:
        raise bad("structured_outputs", "cannot be combined with response_format")
    format = _structured(given.part("structured_outputs", PARTS["structured outputs"]))
    return replace(format, path="structured_outputs")


def _response_format(given: Given) -> Format | None:
    kind = given.get("type")
    if kind == "json_schema":
        return fields.named_schema(given.part("json_schema", PARTS["JSON schema"]))
    if kind is None or "json_schema" in given:
        raise bad(given.at("type"), "must be json_schema for a schema, else text or json_object")
    return Format("json_object") if kind == "json_object" else None


def _structured(given: Given) -> Format:
    if not given.flag("json_object"):
        given.pop("json_object", None)
    if len(given) != 1:
        raise bad(given.where, f"must have one of {', '.join(PARTS['structured outputs'])}")
    (kind,) = given
    match kind:
        case "json_object":
            return Format("json_object")
        case "json":
            return fields.schema_format(given, "json")
        case "choice":
            options = [fields.string(option, given.at(kind)) for _, option in given.listed(kind, 1024)]
            if not any(options):
                raise bad(given.at(kind), "must have at least one string that is not empty")
            escaped = [re.sub(r"[][\\.+*?()|{}^$#&~-]", r"\\\g<0>", option) for option in options]
            return Format("regex", text="|".join(escaped))
    if not (text := given.string(kind)):
        raise bad(given.at(kind), "must not be empty")
    return Format("regex" if kind == "regex" else "lark", text=text)


def _prompts(value: Any, name: str, most: int) -> tuple[str | tuple[int, ...], ...]:
    """A text or token ids, or a list of them."""
    several = isinstance(value, list) and value and isinstance(value[0], str | list)
    prompts = fields.items(value, name, most) if several else [value]
    return tuple(_prompt(prompt, name) for prompt in prompts)


def _prompt(value: Any, name: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad(name, "must be a string, a list of token ids, or a list of such")
    if not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise bad(name, "must hold strings or lists of token ids, integers from 0 on")
    return tuple(value)
