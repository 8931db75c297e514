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
from herd.protocol.fields import Field, Given, Notes, bad, known, table, unsupported
from herd.protocol.responses_reply import ResponseStream, encode_count, encode_items, encode_stored
from herd.protocol.types import Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "INCLUDES", "PARTS", "Asked", "ResponseStream", "decode_count", "decode_response", "encode_count",
    "encode_items", "encode_stored", "history",
]  # fmt: skip

LOGPROBS = "message.output_text.logprobs"
INCLUDES = (LOGPROBS, "reasoning.encrypted_content")  # what the provider gave of the latter is always there

_PROMPT = "model input instructions previous_response_id tools tool_choice parallel_tool_calls text reasoning"
FIELDS: dict[str, dict[str, Field]] = {
    "response": table(
        f"{_PROMPT} max_output_tokens temperature top_p top_logprobs frequency_penalty presence_penalty include"
        " stream stream_options store background",
        "user:str metadata:dict safety_identifier:str prompt_cache_key:str prompt_cache_retention:str"
        " prompt_cache_options:dict service_tier=auto|default",
        "truncation=disabled access_programs background_options context_management=[] conversation image"
        " max_tool_calls moderation prompt",
    ),
    "count": table(_PROMPT, refused="truncation=disabled conversation personality"),
}
_ITEM = "id:str status=in_progress|completed|incomplete"
PARTS: dict[str, dict[str, Field]] = {
    "message": table("type role content", f"{_ITEM} phase=commentary|final_answer"),
    "function_call": table("type call_id name arguments", _ITEM, "async=false caller namespace"),
    "function_call_output": table("type call_id output", f"{_ITEM} name:str", "caller namespace"),
    "text part": table("type text", "logprobs:list prompt_cache_breakpoint:dict", "annotations=[]"),
    "image part": table("type image_url detail", "prompt_cache_breakpoint:dict", "file_id"),
    "reasoning item": table("type summary content encrypted_content", _ITEM),
    "reasoning text": table("type text"),
    "tool": table(
        "type name description parameters strict",
        refused="async=false allowed_callers defer_loading=false output_schema",
    ),
    "tool choice": table("type name"),
    "allowed tools": table("type mode tools"),
    "text": table("format", refused="verbosity=medium"),
    "format": table("type"),
    "JSON schema": table("type name schema strict", "description:str"),
    "stream options": table("", refused="include_obfuscation=false"),
    "reasoning": table("", refused="effort=none context=auto generate_summary mode=standard summary"),
}
_ITEMS = {  # what is taken, and its table
    "message": "message",
    "function_call": "function_call",
    "function_call_output": "function_call_output",
    "reasoning": "reasoning item",
}
_ROLES = ("user", "assistant", "system", "developer")


@dataclass(frozen=True)
class Asked:
    """A request whose messages are the instructions and this turn's input; `after` puts the history between."""

    request: Request
    said: tuple[Message, ...]
    sent: tuple[Mapping[str, Any] | None, ...]  # of each of `said`, what `_sent` says of its item
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
        names = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
        used = {name: getattr(final.sampling, name) for name in names}
        lead = len(final.messages) - past - len(self.said)
        return {
            "shown": {**self.shown, **used},
            "lead": lead,
            "past": past,
            "sent": list(self.sent),
            "background": self.background,
        }


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
    return _asked(*fields.opened(body, FIELDS["response"]))


def decode_count(body: Mapping[str, Any]) -> Asked:
    """The body of POST /v1/responses/input_tokens. Raises ProtocolError naming the field."""
    return _asked(*fields.opened(body, FIELDS["count"]), count=True)


def _asked(given: Given, notes: Notes, *, count: bool = False) -> Asked:
    model, (said, sent) = fields.model(given), _input(given, notes)
    instructions, previous = given.text("instructions"), given.text("previous_response_id")
    store, background, stream = given.flag("store", True), given.flag("background"), given.flag("stream")
    if background and not store:
        raise bad("background", 'needs "store": true: its reply is fetched later')
    given.part("stream_options", PARTS["stream options"], {})
    effort = fields.effort(notes, given.part("reasoning", PARTS["reasoning"], {}), "effort")
    fields.metadata(given)
    tools, shown_tools = _tools(given, notes)
    choice = _choice(given, tools)
    text, format = _format(given.part("text", PARTS["text"], {}))
    limit, logprobs = given.integer("max_output_tokens", 1), _logprobs(given)
    parallel = given.flag("parallel_tool_calls", True)
    request = Request(
        route=model,
        kind="chat",
        dialect="responses",
        messages=(*([Message("system", instructions)] if instructions else ()), *said),
        parallel_tool_calls=parallel,
        format=format,
        count=count,
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
    return Asked(request, said, sent, previous, background, shown)


def _input(whole: Given, notes: Notes) -> tuple[tuple[Message, ...], tuple[Mapping[str, Any] | None, ...]]:
    """Items as messages: thoughts and calls belong to the assistant's message that they stand beside; and how each
    was sent."""
    if isinstance(whole.get("input"), str):
        return (Message("user", whole["input"]),), (None,)
    continued = "previous_response_id" in whole
    if not isinstance(whole.get("input", [] if continued else None), list):
        raise bad("input", "must be a string or a list of items")
    messages: list[Message] = []
    sent: list[Mapping[str, Any] | None] = []
    for where, item in whole.listed("input", fields.MAX_MESSAGES, []):
        kind = fields.mapping(item, where).get("type", "message")
        if kind not in tuple(_ITEMS):
            _wrong_type(where, kind, f"{', '.join(_ITEMS)}")
        # What is sent again with every turn, as ids are, is not recorded each time.
        new = _message(kind, known(item, PARTS[_ITEMS[kind]], where, Notes({}, notes.extra)))
        last = messages[-1] if messages else None
        if last and last.role == new.role == "assistant" and _goes_on(last, new):
            messages[-1] = replace(
                last, content=last.content + new.content, tool_calls=(*last.tool_calls, *new.tool_calls)
            )
            sent[-1] = sent[-1] or _sent(item)
        else:
            messages.append(new)
            sent.append(_sent(item))
    if not messages and not continued:
        raise bad("input", "must be a string or a list with at least one item")
    return tuple(messages), tuple(sent)


def _sent(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a message does not say of the good item that it was, so that it can be shown as it was: its role, and how
    long each part is (None: an image) if there are several. None where the message says it all."""
    content = item.get("output" if item.get("type") == "function_call_output" else "content")
    listed = isinstance(content, list) and item.get("type") != "reasoning"
    parts = [len(part["text"]) if "text" in part else None for part in content or ()] if listed else None
    if item.get("role") != "developer" and (parts is None or ("role" in item and len(parts) == 1)):
        return None
    return {"role": item.get("role"), "parts": parts}


def _message(kind: str, given: Given) -> Message:
    """One item. What the model thought is all of it if it is there, else what was summed up."""
    match kind:
        case "function_call":
            return Message("assistant", "", tool_calls=(_call(given),))
        case "function_call_output":
            return _said("tool", given, "output", tool_call_id=given.get("call_id"))
        case "reasoning":
            whole = _thoughts(given, "content", "reasoning_text")
            summed = _thoughts(given, "summary", "summary_text")
            sealed = given.string("encrypted_content", "")
            return Message("assistant", "", reasoning=whole or summed, signature=sealed)
    role = fields.one_of(given.get("role"), given.at("role"), _ROLES)
    return _said("system" if role == "developer" else role, given, "content")


def _goes_on(last: Message, new: Message) -> bool:
    """Whether two items are one message of the assistant's: a call after anything, a text after nothing but thoughts."""
    thoughts = bool(last.reasoning or last.signature) and not last.content and not last.tool_calls
    return bool(new.tool_calls) or (thoughts and not new.reasoning and not new.signature)


def _said(role: Role, given: Given, name: str, **more: Any) -> Message:
    """A string, or texts joined as they are, and images between them where a user or a tool shows them."""
    kinds = ("output_text", "input_text") if role == "assistant" else ("input_text",)

    def read(part: Any, here: str) -> str | Image:
        kind = fields.mapping(part, here).get("type")
        if kind == "input_image" and role in ("user", "tool"):
            image = known(part, PARTS["image part"], here)
            return fields.image(here, "image_url", image.get("image_url"), image.get("detail"))
        if kind not in kinds:
            _wrong_type(here, kind, " and ".join(kinds))
        return known(part, PARTS["text part"], here).string("text")

    text, images = fields.content(given.get(name), given.at(name), read)
    return Message(role, text, images=images, **more)


def _thoughts(given: Given, name: str, kind: str) -> str:
    def read(part: Any, where: str) -> str:
        text = known(part, PARTS["reasoning text"], where)
        if text.get("type", kind) != kind:
            _wrong_type(where, text["type"], kind)
        return text.string("text")

    return "\n".join(read(part, where) for where, part in given.listed(name, fields.MAX_MESSAGES, []))


def _call(given: Given) -> ToolCall:
    return ToolCall(
        given.string("call_id"),
        given.tool_name(),
        arguments(given.get("arguments"), given.at("arguments")),
    )


def _tools(whole: Given, notes: Notes) -> tuple[tuple[Tool, ...], list[dict[str, Any]]]:
    """The tools, and as the response shows them."""
    shown = []

    def read(item: dict[str, Any], where: str) -> Tool:
        if (kind := item.get("type")) != "function":
            _wrong_type(where, kind, "function: this server runs no tools of its own")
        given = known(item, PARTS["tool"], where, notes)
        tool = fields.tool(given)
        about = {name: given.get(name) for name in ("name", "description", "parameters")}
        shown.append({"type": "function", **about, "strict": given.get("strict", True)})
        return tool

    return fields.tools(whole, read), shown


def _choice(given: Given, tools: tuple[Tool, ...]) -> dict[str, Any]:
    wish, name = given.get("tool_choice", "auto"), None

    def read(item: dict[str, Any], here: str) -> str:
        if item.get("type") != "function":
            _wrong_type(here, item.get("type"), "function")
        return fields.one_of_tools(tools, Given(item, here, None))

    kind = wish.get("type") if isinstance(wish, dict) else None
    if kind == "function":
        wish, name = "required", fields.one_of_tools(tools, given.part("tool_choice", PARTS["tool choice"]))
    elif kind == "allowed_tools":
        wish, tools = fields.allowed_tools(given.part("tool_choice", PARTS["allowed tools"]), tools, read)
    return fields.chosen(tools, wish, name)


def _format(text: Given) -> tuple[dict[str, Any], Format | None]:
    """`text` as the response shows it, and the format."""
    plain = {"type": "text"}
    format = fields.mapping(text.get("format", plain), text.at("format"))
    kind, found = format.get("type"), None
    if kind == "json_schema":
        found = fields.named_schema(text.part("format", PARTS["JSON schema"]))
    elif kind in ("text", "json_object"):
        text.part("format", PARTS["format"], plain)
        found = Format("json_object") if kind == "json_object" else None
    else:
        _wrong_type(text.at("format"), kind, "text, json_object and json_schema")
    return {"format": format, "verbosity": text.get("verbosity", "medium")}, found


def _logprobs(given: Given) -> int | None:
    include = given.listed("include", fields.MAX_TOOLS, [])
    for where, name in include:
        if name not in INCLUDES:
            raise unsupported(where, f"is supported only as {' or '.join(INCLUDES)}")
    top = given.integer("top_logprobs", 0, 20) or 0
    return top if top or any(name == LOGPROBS for _, name in include) else None


def _wrong_type(where: str, kind: Any, instead: str) -> NoReturn:
    raise unsupported(where, f"is of type {kind!r:.60}; supported: {instead}")
