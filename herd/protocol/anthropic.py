"""The Anthropic dialect, Messages: request bodies to `Request`.

`FIELDS` and `PARTS` say of every field whether it is honoured, recorded or refused, as in the OpenAI dialect.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from herd.protocol import fields
from herd.protocol.anthropic_reply import MessageStream, encode_count, encode_error, encode_message
from herd.protocol.fields import Field, bad, flag, known, table, unsupported
from herd.protocol.types import Format, Message, Request, Tool, ToolCall

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
    "tool_use block": table(
        "type id name input", _HINT, {"caller": ({"type": "direct"},), "toolset_name": ()}
    ),
    "tool_result block": table("type tool_use_id content is_error", _HINT, {"toolset_name": ()}),
    # Thoughts of earlier turns are no part of the prompt while thinking is off; nor are they here.
    "thinking block": table("type", {"thinking": str, "signature": str}),
    "redacted_thinking block": table("type", {"data": str}),
    "tool": table(
        "name description input_schema strict",
        {**_HINT, "eager_input_streaming": bool},
        {
            "type": ("custom",),
            "allowed_callers": (["direct"],),
            "defer_loading": (False,),
            "input_examples": ([],),
        },
    ),
    "tool choice": table("type name disable_parallel_tool_use"),
    "output config": table("format", refused={"effort": (), "task_budget": ()}),
    "output format": table("schema", refused={"type": ("json_schema",)}),
}
_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def decode_message(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages. Raises ProtocolError naming the field."""
    labels: dict[str, Any] = {}
    given = known(body, FIELDS["message"], labels=labels)
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
        labels,
        stream=flag(given, "stream"),
        **fields.sampling(given, hottest=1, max_tokens=limit, stop=stops),
    )


def decode_count(body: Mapping[str, Any]) -> Request:
    """The body of POST /v1/messages/count_tokens. Raises ProtocolError naming the field."""
    labels: dict[str, Any] = {}
    return _request(known(body, FIELDS["count"], labels=labels), labels, count=True)


def _request(given: dict[str, Any], labels: dict[str, Any], **more: Any) -> Request:
    tools = fields.tools(given.get("tools", []), lambda value, where: _tool(value, where, labels))
    messages = list(_messages(given, labels))
    if messages[-1].role == "assistant":
        raise unsupported("messages", "must not end with the assistant's: its beginning cannot be set")
    return Request(
        route=fields.model(given),
        kind="chat",
        messages=tuple(messages),
        tools=tools,
        format=_format(given.get("output_config")),
        labels=labels,
        **_choice(given.get("tool_choice"), tools),
        **more,
    )


def _messages(given: dict[str, Any], labels: dict[str, Any]) -> Iterator[Message]:
    """The system prompt, then the messages; turns of one role in a row are one turn."""
    turns, calls = [], fields.Calls()
    if "system" in given:
        system = fields.text_parts(given["system"], "system", PARTS["text block"], labels)
        turns.append(Message("system", system))
    for i, value in enumerate(fields.messages(given)):
        turns += _turn(value, f"messages[{i}]", calls, labels)
    for role, run in groupby(turns, key=lambda turn: turn.role):
        if role == "tool":
            yield from run
        else:
            said = list(run)
            text = "\n".join(turn.content for turn in said if turn.content)
            yield Message(role, text, tool_calls=tuple(call for turn in said for call in turn.tool_calls))


def _turn(value: Any, where: str, calls: fields.Calls, labels: dict[str, Any]) -> Iterator[Message]:
    """One message of the dialect: an assistant's text and calls, or the results of calls and a user's text."""
    given = known(fields.mapping(value, where), PARTS["message"], where)
    role, content, where = given.get("role"), given.get("content"), f"{where}.content"
    if role not in ("user", "assistant", "system"):
        raise bad(where.replace(".content", ".role"), "must be user, assistant or system")
    if isinstance(content, str) or role == "system":
        yield Message(role, fields.text_parts(content, where, PARTS["text block"], labels))
        return
    if not isinstance(content, list) or not content:
        raise bad(where, "must be a string or a list of content blocks")
    texts: list[str] = []
    called: list[ToolCall] = []
    for i, block in enumerate(content):
        here = f"{where}[{i}]"
        kind = fields.mapping(block, here).get("type")
        if kind == "text":
            texts.append(fields.text_part(block, here, PARTS["text block"], labels))
        elif kind == "tool_use" and role == "assistant":
            called.append(_call(known(block, PARTS["tool_use block"], here, labels), here, calls))
        elif kind == "tool_result" and role == "user":
            if texts:
                yield Message("user", "".join(texts))
                texts = []
            yield _result(known(block, PARTS["tool_result block"], here, labels), here, calls, labels)
        elif kind in ("thinking", "redacted_thinking") and role == "assistant":
            known(block, PARTS[f"{kind} block"], here, labels)
        else:
            taken = "text and tool_result" if role == "user" else "text, tool_use and thinking"
            raise unsupported(here, f"is of type {kind!r:.60}; a {role} message may have {taken} blocks")
    if texts or called or role == "assistant":
        yield Message(role, "".join(texts), tool_calls=tuple(called))


def _call(given: dict[str, Any], where: str, calls: fields.Calls) -> ToolCall:
    arguments = json.dumps(fields.mapping(given.get("input"), f"{where}.input"), ensure_ascii=False)
    name = fields.tool_name(given.get("name"), f"{where}.name")
    return ToolCall(calls.made(given.get("id"), f"{where}.id"), name, arguments)


def _result(given: dict[str, Any], where: str, calls: fields.Calls, labels: dict[str, Any]) -> Message:
    id = calls.answered(given.get("tool_use_id"), f"{where}.tool_use_id")
    content = given.get("content", "")
    if content != []:
        content = fields.text_parts(content, f"{where}.content", PARTS["text block"], labels)
    failed = flag(given, "is_error", where=f"{where}.")
    return Message("tool", f"{'Error: ' if failed else ''}{content or ''}", tool_call_id=id)


def _tool(value: dict[str, Any], where: str, labels: dict[str, Any]) -> Tool:
    if value.get("type") not in (None, "custom"):
        raise unsupported(f"{where}.type", f"is {value['type']!r:.60}; only custom tools are supported")
    given = known(value, PARTS["tool"], where, labels)
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
    config = known(fields.mapping(value, "output_config"), PARTS["output config"], "output_config")
    if "format" not in config:
        return None
    where = "output_config.format"
    given = known(fields.mapping(config["format"], where), PARTS["output format"], where)
    if "type" not in given:
        raise bad(f"{where}.type", "must be json_schema")
    return fields.schema_format(given.get("schema"), f"{where}.schema")
