"""The OpenAI dialect, chat completions, completions and embeddings: request bodies to `Request`.

Every field of the dialect is in `FIELDS`, those of objects inside a body in `PARTS`: honoured, recorded (it cannot
change an answer) or refused: by the local engine, and passed on to a provider of the same dialect. Refused fields are
accepted at their documented defaults, and null is accepted anywhere: it is the same as not sending the field. The fields are those of the API reference, with vLLM's `top_k`, `min_p` and
`structured_outputs`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from herd.protocol import fields
from herd.protocol.calls import Calls, arguments
from herd.protocol.fields import Field, Notes, bad, flag, integer, known, table, unsupported
from herd.protocol.openai_reply import (
    ChatStream,
    CompletionStream,
    encode_chat,
    encode_completion,
    encode_embeddings,
    encode_error,
    encode_models,
)
from herd.protocol.types import Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "PARTS", "ChatStream", "CompletionStream", "Embeddings", "decode_chat", "decode_completion",
    "decode_embeddings", "encode_chat", "encode_completion", "encode_embeddings", "encode_error", "encode_models",
]  # fmt: skip

MAX_CHOICES = 8
MAX_PROMPTS = 256
MAX_INPUTS = 2048

_GENERATION = (
    "model max_tokens temperature top_p top_k min_p n seed stop stream stream_options logprobs store"
    " frequency_penalty presence_penalty logit_bias structured_outputs"
)
_LABELS: dict[str, type] = {"user": str, "metadata": dict}
FIELDS: dict[str, dict[str, Field]] = {
    "chat": table(
        f"{_GENERATION} messages max_completion_tokens top_logprobs tools tool_choice parallel_tool_calls"
        " response_format",
        {
            **_LABELS,
            "service_tier": ("auto", "default"),
            "safety_identifier": str,
            "prompt_cache_key": str,
            "prompt_cache_retention": str,
            "prompt_cache_options": dict,
        },
        {
            "audio": (),
            "function_call": ("none", "auto"),
            "functions": ([],),
            "modalities": (["text"],),
            "moderation": (),
            "prediction": (),
            "reasoning_effort": ("none",),
            "verbosity": ("medium",),
            "web_search_options": (),
        },
    ),
    "completion": table(f"{_GENERATION} prompt echo", _LABELS, {"best_of": (1,), "suffix": ("",)}),
    "embedding": table("model input encoding_format dimensions", {"user": str}),
}
PARTS: dict[str, dict[str, Field]] = {
    "message": table(
        "role content name tool_calls tool_call_id reasoning_content",
        refused={"annotations": ([],), "audio": (), "function_call": (), "refusal": ()},
    ),
    "text part": table("type text", {"prompt_cache_breakpoint": dict}),
    "image part": table("type image_url", {"prompt_cache_breakpoint": dict}),
    "image": table("url detail"),
    "tool call": table("id function", type=("function",)),
    "called function": table("name arguments"),
    "tool": table("function", type=("function",)),
    "function": table("name description parameters strict"),
    "tool choice": table("function allowed_tools", type=("function", "allowed_tools")),
    "allowed tools": table("mode tools"),
    "named function": table("name"),
    "response format": table("json_schema", type=("text", "json_object", "json_schema")),
    "JSON schema": table("name schema strict", {"description": str}),
    "structured outputs": table("json json_object regex choice grammar"),
    "stream options": table("include_usage", refused={"include_obfuscation": (False,)}),
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class Embeddings(NamedTuple):
    """One request an input, and how the vectors are to be written; `dimensions`: the length they must have."""

    requests: tuple[Request, ...]
    base64: bool = False
    dimensions: int | None = None


def decode_chat(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/chat/completions. Raises ProtocolError naming the field."""
    notes = fields.notes()
    given = known(body, FIELDS["chat"], notes=notes)
    logprobs = None
    wanted, top = flag(given, "logprobs"), integer(given, "top_logprobs", 0, 20)
    if wanted:
        logprobs = top or 0
    elif top is not None:
        raise bad("top_logprobs", 'needs "logprobs": true')
    limit, older = integer(given, "max_completion_tokens", 1), integer(given, "max_tokens", 1)
    if limit is not None and older is not None and limit != older:
        raise bad("max_tokens", "differs from max_completion_tokens: send only the latter")
    calls = Calls()
    return _request(
        given,
        notes,
        {"max_tokens": older if limit is None else limit, "logprobs": logprobs},
        kind="chat",
        messages=tuple(
            _message(message, f"messages[{i}]", calls, notes)
            for i, message in enumerate(fields.messages(given))
        ),
        format=_format(given, notes),
        effort=fields.effort(notes, given, "reasoning_effort"),
        **_tools(given),
    )


def decode_completion(body: Mapping[str, Any]) -> tuple[Request, ...]:
    """The body of POST /v1/completions: a request for each prompt. Raises ProtocolError naming the field."""
    notes = fields.notes()
    given = known(body, FIELDS["completion"], notes=notes)
    own = {"max_tokens": integer(given, "max_tokens", 0), "logprobs": integer(given, "logprobs", 0, 5)}
    return tuple(
        _request(
            given,
            notes,
            own,
            kind="completion",
            prompt=prompt,
            echo=flag(given, "echo"),
            format=_format(given, notes),
        )
        for prompt in _prompts(given.get("prompt"), "prompt", MAX_PROMPTS)
    )


def decode_embeddings(body: Mapping[str, Any]) -> Embeddings:
    """The body of POST /v1/embeddings. Raises ProtocolError naming the field."""
    notes = fields.notes()
    given = known(body, FIELDS["embedding"], notes=notes)
    model, form = fields.model(given), given.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise bad("encoding_format", "must be float or base64")
    inputs = _prompts(given.get("input"), "input", MAX_INPUTS)
    if "" in inputs:
        raise bad("input", "holds an empty string, which has no vector")
    dimensions = integer(given, "dimensions", 1)
    if dimensions is not None:  # a model that has but one length is found out by what comes of it
        notes.extra["dimensions"] = dimensions
    one = Request(model, "embedding", **notes._asdict(), dialect="embedding")
    return Embeddings(tuple(replace(one, prompt=text) for text in inputs), form == "base64", dimensions)


def _request(
    given: dict[str, Any],
    notes: Notes,
    own: dict[str, Any],
    *,
    kind: Literal["chat", "completion"],
    **special: Any,
) -> Request:
    """What chat and completions share; `own`: the sampling fields that they spell differently."""
    fields.metadata(given.get("metadata"))
    stream = flag(given, "stream")
    wanted = _include_usage(given.get("stream_options"), stream, notes)
    return Request(
        kind=kind,
        dialect=kind,
        route=fields.model(given),
        n=integer(given, "n", 1, MAX_CHOICES) or 1,
        stream=stream,
        include_usage=wanted,
        store=flag(given, "store", True),
        **notes._asdict(),
        **fields.sampling(given, stop=fields.stops(given.get("stop")), **own),
        **special,
    )


def _message(value: Any, where: str, calls: Calls, notes: Notes) -> Message:
    role = fields.mapping(value, where).get("role")
    if role == "function":
        raise unsupported(
            f"{where}.role", "'function' is not supported: send role 'tool' with a tool_call_id"
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    given = known(value, PARTS["message"], where, notes)
    name, thought = given.get("name"), given.get("reasoning_content", "")
    if name is not None:
        fields.string(name, f"{where}.name")
    if fields.string(thought, f"{where}.reasoning_content") and role != "assistant":
        raise bad(f"{where}.reasoning_content", "can only be an assistant's")
    called: tuple[ToolCall, ...] = ()
    if given.get("tool_calls"):
        if role != "assistant":
            raise bad(f"{where}.tool_calls", "can only be an assistant's")
        asked = fields.items(given["tool_calls"], f"{where}.tool_calls", fields.MAX_TOOLS)
        called = tuple(_call(call, f"{where}.tool_calls[{i}]", calls) for i, call in enumerate(asked))
    if role == "tool":
        calls.answered(given.get("tool_call_id"), f"{where}.tool_call_id")
    elif "tool_call_id" in given:
        raise bad(f"{where}.tool_call_id", "belongs into a message of role 'tool'")
    content = given.get("content")
    if content is None and called:
        content = ""

    def read(part: Any, here: str) -> str | Image:
        if role == "user" and isinstance(part, dict) and part.get("type") == "image_url":
            return _image(part, here, notes)
        return fields.text_part(part, here, PARTS["text part"], notes)

    text, images = fields.content(content, f"{where}.content", read)
    return Message(_ROLES[role], text, name, called, given.get("tool_call_id"), images, thought)


def _image(part: dict[str, Any], where: str, notes: Notes) -> Image:
    given, name = known(part, PARTS["image part"], where, notes), f"{where}.image_url"
    image = known(fields.mapping(given.get("image_url"), name), PARTS["image"], name)
    return fields.image(where, "image_url.url", image.get("url"), image.get("detail"))


def _call(value: Any, where: str, calls: Calls) -> ToolCall:
    given = known(fields.mapping(value, where), PARTS["tool call"], where)
    function = known(
        fields.mapping(given.get("function"), f"{where}.function"),
        PARTS["called function"],
        f"{where}.function",
    )
    return ToolCall(
        calls.made(given.get("id"), f"{where}.id"),
        fields.tool_name(function.get("name"), f"{where}.function.name"),
        arguments(function.get("arguments"), f"{where}.function.arguments"),
    )


def _tools(given: dict[str, Any]) -> dict[str, Any]:
    """`tools` and what is said about them, as a Request's fields."""
    tools = fields.tools(given.get("tools", []), _tool)
    parallel = flag(given, "parallel_tool_calls", True)
    wish, name = given.get("tool_choice", "auto"), None
    if isinstance(wish, dict):
        choice = known(wish, PARTS["tool choice"], "tool_choice")
        if len(choice) > 2:
            raise bad("tool_choice", "must have a function or allowed_tools, not both")
        if choice.get("type") == "allowed_tools":
            where = "tool_choice.allowed_tools"
            given = known(fields.mapping(choice.get("allowed_tools"), where), PARTS["allowed tools"], where)
            wish, tools = fields.allowed_tools(
                given, where, tools, lambda item, here: _named(known(item, PARTS["tool"], here), tools, here)
            )
        else:
            wish, name = "required", _named(choice, tools, "tool_choice")
    return {**fields.chosen(tools, wish, name), "parallel_tool_calls": parallel}


def _tool(value: dict[str, Any], where: str) -> Tool:
    given, where = known(value, PARTS["tool"], where), f"{where}.function"
    function = known(fields.mapping(given.get("function"), where), PARTS["function"], where)
    flag(function, "strict", where=f"{where}.")  # arguments are always valid, asked for or not
    return fields.tool(
        function.get("name"), function.get("description"), function.get("parameters"), where, "parameters"
    )


def _named(choice: Mapping[str, Any], tools: tuple[Tool, ...], where: str) -> str:
    where = f"{where}.function"
    function = known(fields.mapping(choice.get("function"), where), PARTS["named function"], where)
    return fields.one_of_tools(tools, function.get("name"), f"{where}.name")


def _format(given: dict[str, Any], notes: Notes) -> Format | None:
    wanted = _response_format(given["response_format"], notes) if "response_format" in given else None
    if "structured_outputs" not in given:
        return wanted
    if wanted:
        raise bad("structured_outputs", "cannot be combined with response_format")
    return _structured(given["structured_outputs"])


def _response_format(value: Any, notes: Notes) -> Format | None:
    where = "response_format"
    given = known(fields.mapping(value, where), PARTS["response format"], where)
    kind = given.get("type")
    if kind == "json_schema":
        return fields.named_schema(
            given.get("json_schema"), f"{where}.json_schema", PARTS["JSON schema"], notes
        )
    if kind is None or "json_schema" in given:
        raise bad("response_format.type", "must be json_schema for a schema, else text or json_object")
    return Format("json_object") if kind == "json_object" else None


def _structured(value: Any) -> Format | None:
    where = "structured_outputs"
    given = known(fields.mapping(value, where), PARTS["structured outputs"], where)
    if not flag(given, "json_object", where=f"{where}."):
        given.pop("json_object", None)
    if len(given) != 1:
        raise bad(where, f"must have one of {', '.join(PARTS['structured outputs'])}")
    ((kind, form),) = given.items()
    where = f"{where}.{kind}"
    match kind:
        case "json_object":
            return Format("json_object")
        case "json":
            return fields.schema_format(form, where)
        case "choice":
            options = [fields.string(option, where) for option in fields.items(form, where, 1024)]
            if not options:
                raise bad(where, "must have at least one string")
            return Format(
                "regex", text="|".join(re.sub(r"[][\\.+*?()|{}^$#&~-]", r"\\\g<0>", o) for o in options)
            )
    if not fields.string(form, where):
        raise bad(where, "must not be empty")
    return Format("regex" if kind == "regex" else "lark", text=form)


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


def _include_usage(value: Any, stream: bool, notes: Notes) -> bool:
    if value is None:
        return False
    options = known(fields.mapping(value, "stream_options"), PARTS["stream options"], "stream_options", notes)
    wanted = flag(options, "include_usage", where="stream_options.")
    if wanted and not stream:
        raise bad("stream_options", 'needs "stream": true')
    return wanted
