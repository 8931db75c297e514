"""The OpenAI dialect, Responses: request bodies to `Request`; what a stored one gives to the next and shows later.

Every field is in `FIELDS`, as for chat completions. A response may continue a stored one (`previous_response_id`): it
takes that one's messages and reply, but not its instructions. Tools are the caller's functions: this server runs none
of its own. What comes back is in `responses_reply`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from herd.protocol import fields
from herd.protocol.calls import Calls, arguments
from herd.protocol.fields import Field, Notes, bad, flag, integer, known, table, unsupported
from herd.protocol.responses_reply import ResponseStream, encode_items, encode_stored
from herd.protocol.types import Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "PARTS", "Asked", "ResponseStream", "decode_response", "encode_items", "encode_stored", "history",
]  # fmt: skip

LOGPROBS = "message.output_text.logprobs"
INCLUDES = (LOGPROBS, "reasoning.encrypted_content")  # what the provider gave of the latter is always there

FIELDS: dict[str, dict[str, Field]] = {
    "response": table(
        "model input instructions previous_response_id tools tool_choice parallel_tool_calls text"
        " max_output_tokens temperature top_p top_logprobs frequency_penalty presence_penalty include stream"
        " stream_options store background reasoning",
        {
            "user": str,
            "metadata": dict,
            "safety_identifier": str,
            "prompt_cache_key": str,
            "prompt_cache_retention": str,
            "prompt_cache_options": dict,
            "service_tier": ("auto", "default"),
        },
        {
            "truncation": ("disabled",),
            "access_programs": (),
            "background_options": (),
            "context_management": ([],),
            "conversation": (),
            "image": (),
            "max_tool_calls": (),
            "moderation": (),
            "prompt": (),
        },
    )
}
_ITEM: dict[str, type] = {"id": str, "status": str}
PARTS: dict[str, dict[str, Field]] = {
    "message": table("type role content", {**_ITEM, "phase": ("commentary", "final_answer")}),
    "function_call": table(
        "type call_id name arguments", _ITEM, {"async": (False,), "caller": (), "namespace": ()}
    ),
    "function_call_output": table(
        "type call_id output", {**_ITEM, "name": str}, {"caller": (), "namespace": ()}
    ),
    "text part": table("type text logprobs", {"prompt_cache_breakpoint": dict}, {"annotations": ([],)}),
    "image part": table("type image_url detail", {"prompt_cache_breakpoint": dict}, {"file_id": ()}),
    "reasoning item": table("type summary content encrypted_content", _ITEM),
    "reasoning text": table("type text"),
    "tool": table(
        "type name description parameters strict",
        refused={"async": (False,), "allowed_callers": (), "defer_loading": (False,), "output_schema": ()},
    ),
    "tool choice": table("type name"),
    "allowed tools": table("type mode tools"),
    "text": table("format", refused={"verbosity": ("medium",)}),
    "format": table("type"),
    "JSON schema": table("type name schema strict", {"description": str}),
    "stream options": table("", refused={"include_obfuscation": (False,)}),
    "reasoning": table(
        "",
        refused={
            "effort": ("none",),
            "context": ("auto",),
            "generate_summary": (),
            "mode": ("standard",),
            "summary": (),
        },
    ),
}
_ITEMS = {  # what is taken, and its table
    "message": "message",
    "function_call": "function_call",
    "function_call_output": "function_call_output",
    "reasoning": "reasoning item",
}
_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


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
        if len(messages) > fields.MAX_MESSAGES:
            raise bad("input", f"makes {len(messages):,} messages; at most {fields.MAX_MESSAGES:,} are taken")
        calls = Calls()
        for message in messages:
            for call in message.tool_calls:
                calls.made(call.id, "input: a call's id")
            if message.role == "tool":
                calls.answered(message.tool_call_id, "input: an output's call_id")
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
    reply = Message("assistant", row["reply"], tool_calls=calls, reasoning=row.get("reasoning") or "")
    return (*messages[row["response"]["lead"] :], reply)


def decode_response(body: Mapping[str, Any]) -> Asked:
    """The body of POST /v1/responses. Raises ProtocolError naming the field."""
    notes = fields.notes()
    given = known(body, FIELDS["response"], notes=notes)
    model, said = fields.model(given), _input(given.get("input"), notes)
    instructions, previous = _text(given, "instructions"), _text(given, "previous_response_id")
    store, background, stream = flag(given, "store", True), flag(given, "background"), flag(given, "stream")
    if background and not store:
        raise bad("background", 'needs "store": true: its reply is fetched later')
    if background and stream:
        raise unsupported("stream", "cannot be combined with background: poll GET /v1/responses/{id}")
    known(_object(given, "stream_options"), PARTS["stream options"], "stream_options", notes)
    reasoning = known(_object(given, "reasoning"), PARTS["reasoning"], "reasoning", notes)
    effort = fields.effort(notes, reasoning, "effort", "reasoning.")
    fields.metadata(given.get("metadata"))
    tools, shown_tools = _tools(given.get("tools", []), notes)
    choice = _choice(given.get("tool_choice", "auto"), tools)
    text, format = _format(_object(given, "text"), notes)
    limit, logprobs = integer(given, "max_output_tokens", 1), _logprobs(given)
    parallel = flag(given, "parallel_tool_calls", True)
    request = Request(
        route=model,
        kind="chat",
        dialect="responses",
        messages=(*([Message("system", instructions)] if instructions else ()), *said),
        parallel_tool_calls=parallel,
        format=format,
        stream=stream,
        store=store,
        effort=effort,
        **notes._asdict(),
        **choice,
        **fields.sampling(given, max_tokens=limit, logprobs=logprobs),
    )
    shown = {
        "model": model,
        "instructions": instructions,
        "previous_response_id": previous,
        "tools": shown_tools,
        "tool_choice": given.get("tool_choice", "auto"),
        "parallel_tool_calls": parallel,
        "text": text,
        "max_output_tokens": limit,
        "top_logprobs": logprobs or 0,
        "store": store,
        "background": background,
        "reasoning": {"effort": effort, "summary": None},
        "metadata": given.get("metadata", {}),
        **{name: given.get(name) for name in ("user", "safety_identifier", "prompt_cache_key")},
    }
    return Asked(request, said, previous, background, shown)


def _input(value: Any, notes: Notes) -> tuple[Message, ...]:
    """Items as messages: thoughts and calls belong to the assistant's message that they stand beside."""
    if isinstance(value, str):
        return (Message("user", value),)
    messages: list[Message] = []
    for i, item in enumerate(fields.items(value, "input", fields.MAX_MESSAGES)):
        where = f"input[{i}]"
        kind = fields.mapping(item, where).get("type", "message")
        if not isinstance(kind, str) or kind not in _ITEMS:
            _wrong_type(where, kind, f"{', '.join(_ITEMS)}")
        # What is sent again with every turn, as ids are, is not recorded each time.
        given = known(item, PARTS[_ITEMS[kind]], where, Notes({}, notes.extra))
        if kind == "function_call_output":
            messages.append(
                _said("tool", given.get("output"), f"{where}.output", tool_call_id=given.get("call_id"))
            )
            continue
        if kind == "message":
            new = _message(given, where)
        elif kind == "reasoning":
            new = _thought(given, where)
        else:
            new = Message("assistant", "", tool_calls=(_call(given, where),))
        last = messages[-1] if messages else None
        if last and last.role == new.role == "assistant" and _goes_on(last, new):
            messages[-1] = replace(
                last, content=last.content + new.content, tool_calls=(*last.tool_calls, *new.tool_calls)
            )
        else:
            messages.append(new)
    if not messages:
        raise bad("input", "must be a string or a list with at least one item")
    return tuple(messages)


def _goes_on(last: Message, new: Message) -> bool:
    """Whether two items are one message of the assistant's: a call after anything, a text after nothing but thoughts."""
    thoughts = bool(last.reasoning or last.signature) and not last.content and not last.tool_calls
    return bool(new.tool_calls) or (thoughts and not new.reasoning and not new.signature)


def _message(given: Mapping[str, Any], where: str) -> Message:
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    return _said(_ROLES[role], given.get("content"), f"{where}.content")


def _said(role: Role, value: Any, where: str, **more: Any) -> Message:
    """A string, or texts joined as they are, and images between them where a user or a tool shows them."""
    kinds = ("output_text", "input_text") if role == "assistant" else ("input_text",)

    def read(part: Any, here: str) -> str | Image:
        kind = fields.mapping(part, here).get("type")
        if kind == "input_image" and role in ("user", "tool"):
            given = known(part, PARTS["image part"], here)
            if "file_id" in given:
                raise unsupported(
                    f"{here}.file_id", "is not supported: send the input_image by its image_url"
                )
            return fields.image(here, "image_url", given.get("image_url"), given.get("detail"))
        if kind not in kinds:
            _wrong_type(here, kind, " and ".join(kinds))
        known(part, PARTS["text part"], here)
        return fields.string(part.get("text"), f"{here}.text")

    text, images = fields.content(value, where, read)
    return Message(role, text, images=images, **more)


def _thought(given: Mapping[str, Any], where: str) -> Message:
    """What the model thought: all of it if it is there, else what was summed up."""
    whole, summed = (_thoughts(given.get(name, []), f"{where}.{name}") for name in ("content", "summary"))
    sealed = fields.string(given.get("encrypted_content", ""), f"{where}.encrypted_content")
    return Message("assistant", "", reasoning=whole or summed, signature=sealed)


def _thoughts(value: Any, where: str) -> str:
    texts = []
    for i, part in enumerate(fields.items(value, where, fields.MAX_MESSAGES)):
        given = known(fields.mapping(part, f"{where}[{i}]"), PARTS["reasoning text"], f"{where}[{i}]")
        texts.append(fields.string(given.get("text"), f"{where}[{i}].text"))
    return "\n".join(texts)


def _call(given: Mapping[str, Any], where: str) -> ToolCall:
    return ToolCall(
        fields.string(given.get("call_id"), f"{where}.call_id"),
        fields.tool_name(given.get("name"), f"{where}.name"),
        arguments(given.get("arguments"), f"{where}.arguments"),
    )


def _tools(value: Any, notes: Notes) -> tuple[tuple[Tool, ...], list[dict[str, Any]]]:
    """The tools, and as the response shows them."""
    shown = []

    def read(item: dict[str, Any], where: str) -> Tool:
        if (kind := item.get("type")) != "function":
            _wrong_type(where, kind, "function: this server runs no tools of its own")
        given = known(item, PARTS["tool"], where, notes)
        strict = flag(given, "strict", True, f"{where}.")  # arguments are always valid, asked for or not
        tool = fields.tool(
            given.get("name"), given.get("description"), given.get("parameters"), where, "parameters"
        )
        about = {name: given.get(name) for name in ("name", "description", "parameters")}
        shown.append({"type": "function", **about, "strict": strict})
        return tool

    return fields.tools(value, read), shown


def _choice(wish: Any, tools: tuple[Tool, ...]) -> dict[str, Any]:
    name, where = None, "tool_choice"

    def read(item: dict[str, Any], here: str) -> str:
        if item.get("type") != "function":
            _wrong_type(here, item.get("type"), "function")
        return fields.one_of_tools(tools, item.get("name"), f"{here}.name")

    kind = wish.get("type") if isinstance(wish, dict) else None
    if kind == "function":
        wish, name = "required", read(known(wish, PARTS["tool choice"], where), where)
    elif kind == "allowed_tools":
        wish, tools = fields.allowed_tools(known(wish, PARTS["allowed tools"], where), where, tools, read)
    return fields.chosen(tools, wish, name)


def _format(text: dict[str, Any], notes: Notes) -> tuple[dict[str, Any], Format | None]:
    """`text` as the response shows it, and the format."""
    given, where = known(text, PARTS["text"], "text", notes), "text.format"
    format = fields.mapping(given.get("format", {"type": "text"}), where)
    kind, found = format.get("type"), None
    if kind == "json_schema":
        found = fields.named_schema(format, where, PARTS["JSON schema"], notes)
    elif kind in ("text", "json_object"):
        known(format, PARTS["format"], where)
        found = Format("json_object") if kind == "json_object" else None
    else:
        _wrong_type(where, kind, "text, json_object and json_schema")
    return {"format": format, "verbosity": given.get("verbosity", "medium")}, found


def _logprobs(given: Mapping[str, Any]) -> int | None:
    include = fields.items(given.get("include", []), "include", fields.MAX_TOOLS)
    for i, name in enumerate(include):
        if name not in INCLUDES:
            raise unsupported(f"include[{i}]", f"is supported only as {' or '.join(INCLUDES)}")
    top = integer(given, "top_logprobs", 0, 20) or 0
    return top if top or LOGPROBS in include else None


def _object(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    return fields.mapping(given.get(name, {}), name)


def _text(given: Mapping[str, Any], name: str) -> str | None:
    return None if name not in given else fields.string(given[name], name)


def _wrong_type(where: str, kind: Any, instead: str) -> NoReturn:
    raise unsupported(where, f"is of type {kind!r:.60}; supported: {instead}")
