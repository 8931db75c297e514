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
from herd.protocol.fields import Field, Notes, bad, flag, known, table, unsupported
from herd.protocol.types import Effort, Format, Image, Message, Request, Role, Tool, ToolCall

__all__ = [
    "FIELDS", "PARTS", "MessageStream", "decode_count", "decode_message", "encode_count", "encode_error", "encode_message",
]  # fmt: skip

_PROMPT = "model messages system tools tool_choice output_config"
_LABELS: dict[str, type] = {"cache_control": dict, "user_profile_id": str, "workspace_id": str}
_REFUSED: dict[str, tuple[Any, ...]] = {
    "billing_policy": (),
    "compaction": (),
    "context_management": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
}
FIELDS: dict[str, dict[str, Field]] = {
    "message": table(
        f"{_PROMPT} max_tokens temperature top_k top_p stop_sequences stream",
        {**_LABELS, "metadata": dict, "service_tier": ("auto", "standard_only")},
        {
            **_REFUSED,
            "container": (),
            "diagnostics": (),
            "fallback_credit_token": (),
            "fallbacks": (),
            "inference_geo": (),
            "thread": (),
        },
    ),
    "count": table(_PROMPT, _LABELS, _REFUSED),
}
_HINT: dict[str, type] = {"cache_control": dict}
PARTS: dict[str, dict[str, Field]] = {
    "message": table("role content"),
    "text block": table("type text", _HINT, {"citations": ([],)}),
    "image block": table("type source", _HINT, {"transformations": ({},)}),
    "image source": table("media_type data url", type=("base64", "url")),
    "tool_use block": table(
        "type id name input", _HINT, {"caller": ({"type": "direct"},), "toolset_name": ()}
    ),
    "tool_result block": table("type tool_use_id content is_error", _HINT, {"toolset_name": ()}),
    "thinking block": table("type thinking signature"),
    "redacted_thinking block": table("type", {"data": str}),
    "tool": table(
        "name description input_schema strict",
        {**_HINT, "eager_input_streaming": bool},
        {"allowed_callers": (["direct"],), "defer_loading": (False,), "input_examples": ([],)},
        type=("custom",),
    ),
    "tool choice": table("type name disable_parallel_tool_use"),
    "output config": table("format", refused={"effort": (), "task_budget": ()}),
    "output format": table("schema", type=("json_schema",)),
}
_ERROR = "Error: "
_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def decode_message(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages. Raises ProtocolError naming the field."""
    notes = fields.notes()
    given = known(body, FIELDS["message"], notes=notes)
    for name, value in given.get("metadata", {}).items():
        if name != "user_id":
            raise fields.unknown(name, ("user_id",), " in metadata")
        if value is not None:
            fields.string(value, "metadata.user_id")
    limit = fields.integer(given, "max_tokens", 0)
    if limit is None:
        raise bad("max_tokens", "must be given")
    stops = fields.stops(given.get("stop_sequences"), "stop_sequences")
    return _request(
        given,
        notes,
        stream=flag(given, "stream"),
        **fields.sampling(given, hottest=1, max_tokens=limit, stop=stops),
    )


def decode_count(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages/count_tokens. Raises ProtocolError naming the field."""
    notes = fields.notes()
    return _request(known(body, FIELDS["count"], notes=notes), notes, count=True)


def _request(given: dict[str, Any], notes: Notes, **more: Any) -> Request:
    tools = fields.tools(given.get("tools", []), lambda value, where: _tool(value, where, notes))
    messages = tuple(_messages(given, notes))
    config = known(
        fields.mapping(given.get("output_config", {}), "output_config"),
        PARTS["output config"],
        "output_config",
        notes,
    )
    return Request(
        route=fields.model(given),
        kind="chat",
        dialect="messages",
        messages=messages,
        tools=tools,
        format=_format(config.get("format")),
        effort=_effort(given.get("thinking"), config, notes),
        **_choice(given.get("tool_choice"), tools),
        **notes._asdict(),
        **more,
    )


def _effort(thinking: Any, config: Mapping[str, Any], notes: Notes) -> Effort | None:
    """How much to reason. Thinking is set in other words, which are recorded: for providers of the dialect."""
    effort = fields.effort(notes, config, "effort", "output_config.")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("disabled", "enabled", "adaptive"):
        return effort  # if it is something else, a provider may know it
    notes.extra.pop("thinking", None)
    notes.labels["thinking"] = thinking
    if effort is not None:
        notes.labels["output_config.effort"] = effort
        return effort
    if kind == "enabled":
        budget = fields.integer(thinking, "budget_tokens", 1)
        if budget is None:
            raise bad("thinking.budget_tokens", "must be given")
        return "low" if budget < 4096 else "medium" if budget < 16_384 else "high"
    return "none" if kind == "disabled" else "high"


def _messages(given: dict[str, Any], notes: Notes) -> Iterator[Message]:
    """The system prompt, then the messages; turns of one role in a row are one turn."""
    turns, calls = [], Calls()
    if "system" in given:
        turns.append(Message("system", _text(given["system"], "system", notes)))
    for i, value in enumerate(fields.messages(given)):
        turns += _turn(value, f"messages[{i}]", calls, notes)
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


def _turn(value: Any, where: str, calls: Calls, notes: Notes) -> Iterator[Message]:
    """One message of the dialect: an assistant's text and calls, or the results of calls and a user's text."""
    given = known(fields.mapping(value, where), PARTS["message"], where)
    role, content, where = given.get("role"), given.get("content"), f"{where}.content"
    if role not in ("user", "assistant", "system"):
        raise bad(where.replace(".content", ".role"), "must be user, assistant or system")
    if isinstance(content, str) or role == "system":
        yield Message(role, _text(content, where, notes))
        return
    if not isinstance(content, list) or not content:
        raise bad(where, "must be a string or a list of content blocks")
    said: list[str | Image] = []
    called: list[ToolCall] = []
    thoughts: list[dict[str, Any]] = []
    for i, block in enumerate(content):
        here = f"{where}[{i}]"
        kind = fields.mapping(block, here).get("type")
        if kind == "text" or (kind == "image" and role == "user"):
            said.append(_part(block, here, notes))
        elif kind == "tool_use" and role == "assistant":
            called.append(_call(known(block, PARTS["tool_use block"], here, notes), here, calls))
        elif kind == "tool_result" and role == "user":
            if said:
                yield _message("user", said)
                said = []
            yield _result(known(block, PARTS["tool_result block"], here, notes), here, calls, notes)
        elif kind == "thinking" and role == "assistant":
            thoughts.append(known(block, PARTS["thinking block"], here))
            fields.string(block.get("thinking"), f"{here}.thinking")
            fields.string(block.get("signature", ""), f"{here}.signature")
        elif kind == "redacted_thinking" and role == "assistant":
            known(block, PARTS["redacted_thinking block"], here, notes)
        else:
            taken = "text, image and tool_result" if role == "user" else "text, tool_use and thinking"
            raise unsupported(here, f"is of type {kind!r:.60}; a {role} message may have {taken} blocks")
    if said or called or role == "assistant":
        yield _message(
            role,
            said,
            tool_calls=tuple(called),
            reasoning="\n".join(thought["thinking"] for thought in thoughts),
            signature=(thoughts[0].get("signature") or "") if len(thoughts) == 1 else "",
        )


def _message(role: Role, parts: Iterable[str | Image], **more: Any) -> Message:
    text, images = fields.joined(parts)
    return Message(role, text, images=images, **more)


def _text(value: Any, where: str, notes: Notes) -> str:
    return fields.content(
        value, where, lambda part, here: fields.text_part(part, here, PARTS["text block"], notes)
    )[0]


def _part(block: Any, where: str, notes: Notes) -> str | Image:
    """A text or an image."""
    if not isinstance(block, dict) or block.get("type") != "image":
        return fields.text_part(block, where, PARTS["text block"], notes)
    given, name = known(block, PARTS["image block"], where, notes), f"{where}.source"
    source = fields.mapping(given.get("source"), name)
    if source.get("type") not in ("base64", "url"):
        raise unsupported(
            where, f"is an image of type {source.get('type')!r:.60}; base64 and url are supported"
        )
    known(source, PARTS["image source"], name)
    if source["type"] == "url":
        return fields.image(where, "source.url", source.get("url"))
    data, media = (fields.string(source.get(key), f"{name}.{key}") for key in ("data", "media_type"))
    return fields.image(where, "source.media_type", f"data:{media};base64,{data}")


def _call(given: dict[str, Any], where: str, calls: Calls) -> ToolCall:
    arguments = json.dumps(fields.mapping(given.get("input"), f"{where}.input"), ensure_ascii=False)
    name = fields.tool_name(given.get("name"), f"{where}.name")
    return ToolCall(calls.made(given.get("id"), f"{where}.id"), name, arguments)


def _result(given: dict[str, Any], where: str, calls: Calls, notes: Notes) -> Message:
    id = calls.answered(given.get("tool_use_id"), f"{where}.tool_use_id")
    content = given.get("content", "")
    text, images = fields.content(
        "" if content == [] else content, f"{where}.content", lambda part, here: _part(part, here, notes)
    )
    if flag(given, "is_error", where=f"{where}."):
        text, images = _ERROR + text, tuple(replace(one, at=one.at + len(_ERROR)) for one in images)
    return Message("tool", text, tool_call_id=id, images=images)


def _tool(value: dict[str, Any], where: str, notes: Notes) -> Tool:
    if value.get("type") not in (None, "custom"):
        raise unsupported(f"{where}.type", f"is {value['type']!r:.60}; only custom tools are supported")
    given = known(value, PARTS["tool"], where, notes)
    flag(given, "strict", where=f"{where}.")  # input is always valid, asked for or not
    schema = fields.mapping(given.get("input_schema"), f"{where}.input_schema")
    return fields.tool(given.get("name"), given.get("description"), schema, where, "input_schema")


def _choice(value: Any, tools: tuple[Tool, ...]) -> dict[str, Any]:
    if value is None:
        return {}
    given = known(fields.mapping(value, "tool_choice"), PARTS["tool choice"], "tool_choice")
    kind, name = given.get("type"), given.get("name")
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise bad("tool_choice.type", f"must be one of {', '.join(_CHOICES)}")
    if kind == "tool":
        fields.one_of_tools(tools, name, "tool_choice.name")
    elif name is not None:
        raise bad("tool_choice.name", "belongs to the type tool")
    if kind == "any" and not tools:
        raise bad("tool_choice", "needs tools")
    parallel = not flag(given, "disable_parallel_tool_use", where="tool_choice.")
    return {"tool_choice": _CHOICES[kind], "tool_name": name, "parallel_tool_calls": parallel}


def _format(value: Any) -> Format | None:
    if value is None:
        return None
    where = "output_config.format"
    given = known(fields.mapping(value, where), PARTS["output format"], where)
    if "type" not in given:
        raise bad(f"{where}.type", "must be json_schema")
    return fields.schema_format(given.get("schema"), f"{where}.schema")
