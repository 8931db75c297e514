"""The Anthropic dialect, Messages: request bodies to `Request`.

`FIELDS` and `PARTS` say of every field whether it is honoured, recorded or refused, as in the OpenAI dialect. A list of
thoughts is one: only a single block keeps its signature, without which it is not shown to a provider again.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from herd.protocol import fields
from herd.protocol.anthropic_reply import MessageStream, encode_count, encode_error, encode_message
from herd.protocol.calls import Calls
from herd.protocol.fields import Field, Given, Notes, bad, known, table, unsupported
from herd.protocol.types import Effort, Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "PARTS", "MessageStream", "decode_count", "decode_message", "encode_count", "encode_error",
    "encode_message",
]  # fmt: skip

_PROMPT = "model messages system tools tool_choice output_config"
_LABELS = "cache_control:dict user_profile_id:str workspace_id:str"
_REFUSED = (
    'billing_policy compaction context_management mcp_servers=[] speed=standard thinking={"type":"disabled"}'
)
FIELDS: dict[str, dict[str, Field]] = {
    "message": table(
        f"{_PROMPT} max_tokens temperature top_k top_p stop_sequences stream",
        f"{_LABELS} metadata:dict service_tier=auto|standard_only",
        f"{_REFUSED} container diagnostics fallback_credit_token fallbacks inference_geo thread",
    ),
    "count": table(_PROMPT, _LABELS, _REFUSED),
}
_HINT = "cache_control:dict"
PARTS: dict[str, dict[str, Field]] = {
    "message": table("role content"),
    "text block": table("type text", _HINT, "citations=[]"),
    "image block": table("type source", _HINT, "transformations={}"),
    "image source": table("media_type data url type=base64|url"),
    "tool_use block": table("type id name input", _HINT, 'caller={"type":"direct"} toolset_name'),
    "tool_result block": table("type tool_use_id content is_error", _HINT, "toolset_name"),
    "thinking block": table("type thinking signature"),
    "redacted_thinking block": table("type", "data:str"),
    "tool": table(
        "name description input_schema strict type=custom",
        f"{_HINT} eager_input_streaming:bool",
        'allowed_callers=["direct"] defer_loading=false input_examples=[]',
    ),
    "tool choice": table("type name disable_parallel_tool_use"),
    "output config": table("format", refused="effort task_budget"),
    "output format": table("schema type=json_schema"),
}
_ERROR = "Error: "
_BLOCKS = {  # beside texts and a user's images
    "user": ("tool_result",),
    "assistant": ("tool_use", "thinking", "redacted_thinking"),
}
_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def decode_message(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages. Raises ProtocolError naming the field."""
    given, notes = fields.opened(body, FIELDS["message"])
    for name, value in given.get("metadata", {}).items():
        if name != "user_id":
            raise fields.unknown(name, ("user_id",), " in metadata")
        if value is not None:
            fields.string(value, "metadata.user_id")
    limit = given.integer("max_tokens", 0)
    if limit is None:
        raise bad("max_tokens", "must be given")
    if isinstance(given.get("stop_sequences"), str):
        raise bad("stop_sequences", "must be a list of strings")
    stops = fields.stops(given, "stop_sequences")
    sampling = fields.sampling(given, hottest=1, max_tokens=limit, stop=stops)
    return _request(given, notes, stream=given.flag("stream"), **sampling)


def decode_count(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages/count_tokens. Raises ProtocolError naming the field."""
    return _request(*fields.opened(body, FIELDS["count"]), count=True)


def _request(given: Given, notes: Notes, **more: Any) -> Request:
    tools = fields.tools(given, lambda item, where: _tool(item, where, notes))
    messages = tuple(_messages(given, notes))
    config = given.part("output_config", PARTS["output config"], {})
    return Request(
        route=fields.model(given),
        kind="chat",
        dialect="messages",
        messages=messages,
        tools=tools,
        format=_format(config),
        effort=_effort(given.get("thinking"), config, notes),
        **_choice(given, tools),
        **notes._asdict(),
        **more,
    )


def _effort(thinking: Any, config: Given, notes: Notes) -> Effort | None:
    """How much to reason. Thinking is set in other words, which are recorded: for providers of the dialect."""
    effort = fields.effort(notes, config, "effort")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("disabled", "enabled", "adaptive"):
        return effort  # if it is something else, a provider may know it
    notes.extra.pop("thinking", None)
    notes.labels["thinking"] = thinking
    if effort is not None:
        notes.labels["output_config.effort"] = effort
        return effort
    if kind == "enabled":
        budget = Given(thinking, "thinking", None).integer("budget_tokens", 1)
        if budget is None:
            raise bad("thinking.budget_tokens", "must be given")
        return "low" if budget < 4096 else "medium" if budget < 16_384 else "high"
    return "none" if kind == "disabled" else "high"


def _messages(given: Given, notes: Notes) -> Iterator[Message]:
    """The system prompt, then the messages; turns of one role in a row are one turn."""
    turns, calls = [], Calls()
    if "system" in given:
        turns.append(_said("system", given["system"], "system", notes))
    for where, value in fields.messages(given):
        turns += _turn(known(value, PARTS["message"], where), calls, notes)
    for role, run in groupby(turns, key=lambda turn: turn.role):
        if role == "tool":
            yield from run
        else:
            yield _joined(list(run))


def _joined(said: list[Message]) -> Message:
    """Turns of one role as one."""
    if len(said) == 1:
        return said[0]
    texts: list[str] = []
    images: list[Image] = []
    length = 0
    for turn in said:
        images += [replace(image, at=length + image.at) for image in turn.images]
        if turn.content:
            texts.append(turn.content)
            length += len(turn.content) + 1
    thoughts = [turn for turn in said if turn.reasoning or turn.signature]
    return Message(
        said[0].role,
        "\n".join(texts),
        tool_calls=tuple(call for turn in said for call in turn.tool_calls),
        images=tuple(replace(image, at=min(image.at, max(length - 1, 0))) for image in images),
        reasoning="\n".join(turn.reasoning for turn in thoughts),
        signature=thoughts[0].signature if len(thoughts) == 1 else "",
    )


def _turn(given: Given, calls: Calls, notes: Notes) -> Iterator[Message]:
    """One message of the dialect: an assistant's text and calls, or the results of calls and a user's text."""
    role, content, where = given.get("role"), given.get("content"), given.at("content")
    if role not in ("user", "assistant", "system"):
        raise bad(given.at("role"), "must be user, assistant or system")
    if isinstance(content, str) or role == "system":
        yield _said(role, content, where, notes)
        return
    if not isinstance(content, list) or not content:
        raise bad(where, "must be a string or a list of content blocks")
    said: list[str | Image] = []
    called: list[ToolCall] = []
    thoughts: list[Given] = []
    for i, value in enumerate(content):
        here = f"{where}[{i}]"
        kind = fields.mapping(value, here).get("type")
        if kind == "text" or (kind == "image" and role == "user"):
            said.append(_part(value, here, notes))
            continue
        if kind not in _BLOCKS[role]:
            taken = "text, image and tool_result" if role == "user" else "text, tool_use and thinking"
            raise unsupported(here, f"is of type {kind!r:.60}; a {role} message may have {taken} blocks")
        block = known(value, PARTS[f"{kind} block"], here, notes)
        match kind:
            case "tool_use":
                called.append(_call(block, calls))
            case "tool_result":
                if said:
                    yield _message(role, said)
                    said = []
                yield _result(block, calls, notes)
            case "thinking":
                block.string("thinking")
                block.string("signature", "")
                thoughts.append(block)
    if said or called or role == "assistant":
        yield _message(
            role,
            said,
            tool_calls=tuple(called),
            reasoning="\n".join(thought["thinking"] for thought in thoughts),
            signature=thoughts[0].get("signature", "") if len(thoughts) == 1 else "",
        )


def _message(role: Role, parts: Iterable[str | Image], **more: Any) -> Message:
    text, images = fields.joined(parts)
    return Message(role, text, images=images, **more)


def _said(role: Role, value: Any, where: str, notes: Notes) -> Message:
    """A message of text alone."""

    def read(part: Any, here: str) -> str:
        return fields.text_part(part, here, PARTS["text block"], notes)

    return Message(role, fields.content(value, where, read)[0])


def _part(value: Any, where: str, notes: Notes) -> str | Image:
    """A text or an image."""
    if not isinstance(value, dict) or value.get("type") != "image":
        return fields.text_part(value, where, PARTS["text block"], notes)
    block = known(value, PARTS["image block"], where, notes)
    kind = fields.mapping(block.get("source"), block.at("source")).get("type")
    if kind not in ("base64", "url"):
        raise unsupported(where, f"is an image of type {kind!r:.60}; base64 and url are supported")
    source = block.part("source", PARTS["image source"])
    if kind == "url":
        return fields.image(where, "source.url", source.get("url"))
    data, media = source.string("data"), source.string("media_type")
    return fields.image(where, "source.media_type", f"data:{media};base64,{data}")


def _call(given: Given, calls: Calls) -> ToolCall:
    arguments = json.dumps(fields.mapping(given.get("input"), given.at("input")), ensure_ascii=False)
    name = given.tool_name()
    return ToolCall(calls.made(given.get("id"), given.at("id")), name, arguments)


def _result(given: Given, calls: Calls, notes: Notes) -> Message:
    id = calls.answered(given.get("tool_use_id"), given.at("tool_use_id"))
    content = "" if given.get("content", []) == [] else given["content"]
    text, images = fields.content(content, given.at("content"), lambda part, here: _part(part, here, notes))
    if given.flag("is_error"):
        text, images = _ERROR + text, tuple(replace(one, at=one.at + len(_ERROR)) for one in images)
    return Message("tool", text, tool_call_id=id, images=images)


def _tool(value: dict[str, Any], where: str, notes: Notes) -> Tool:
    if value.get("type") not in (None, "custom"):
        raise unsupported(f"{where}.type", f"is {value['type']!r:.60}; only custom tools are supported")
    given = known(value, PARTS["tool"], where, notes)
    fields.mapping(given.get("input_schema"), given.at("input_schema"))
    return fields.tool(given, "input_schema")


def _choice(given: Given, tools: tuple[Tool, ...]) -> dict[str, Any]:
    if "tool_choice" not in given:
        return {}
    choice = given.part("tool_choice", PARTS["tool choice"])
    kind, name = fields.one_of(choice.get("type"), choice.at("type"), _CHOICES), choice.get("name")
    if kind == "tool":
        fields.one_of_tools(tools, choice)
    elif name is not None:
        raise bad(choice.at("name"), "belongs to the type tool")
    if kind == "any" and not tools:
        raise bad("tool_choice", "needs tools")
    parallel = not choice.flag("disable_parallel_tool_use")
    return {"tool_choice": _CHOICES[kind], "tool_name": name, "parallel_tool_calls": parallel}


def _format(config: Given) -> Format | None:
    if "format" not in config:
        return None
    given = config.part("format", PARTS["output format"])
    if "type" not in given:
        raise bad(given.at("type"), "must be json_schema")
    return fields.schema_format(given)
