"""Messages and tools as chat templates expect them: in the form that `transformers` gives them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from herd.engine.tools import MISTRAL, Calls, Style, style_of
from herd.errors import HerdError
from herd.model.chat import ChatTemplate
from herd.protocol.types import Message, Tool, ToolCall

_KNOWS_TOOLS = re.compile(r"\btools\b")
_KNOWS_CALLS = re.compile(r"\btool_calls\b")
_LLAMA3 = "<|start_header_id|>"


def conversation(
    messages: Sequence[Message], calls: Calls | None, template: ChatTemplate
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools for the template; one that knows no tools gets them in its messages' text.

    Raises HerdError (400) for a call whose arguments are not a JSON object.
    """
    style = calls.style if calls else style_of(template.source)
    tools = [_function(tool) for tool in calls.tools] if calls else None
    if _KNOWS_CALLS.search(template.source):
        said = [_message(i, message, style) for i, message in enumerate(messages)]
    else:
        role = "ipython" if _LLAMA3 in template.source else "user"  # of results; the first is Llama 3's
        said = [_plain(i, message, style, role) for i, message in enumerate(messages)]
    if tools and not _KNOWS_TOOLS.search(template.source):
        return _described(said, tools, style), None
    return said, tools


def _function(tool: Tool) -> dict[str, Any]:
    parameters = dict(tool.parameters) or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _message(i: int, message: Message, style: Style) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        said["name"] = message.name
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "type": "function",
                "id": _id(call.id, style),
                "function": {"name": call.name, "arguments": _arguments(i, call)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = _id(message.tool_call_id, style)
    return said


def _id(id: str, style: Style) -> str:
    """Mistral's templates refuse ids that are not nine letters and digits."""
    if style != MISTRAL or re.fullmatch("[a-zA-Z0-9]{9}", id):
        return id
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _arguments(i: int, call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise HerdError(f"messages[{i}].tool_calls: the arguments of {call.name!r:.80} are not a JSON object")
    return arguments


def _plain(i: int, message: Message, style: Style, result_role: str) -> dict[str, Any]:
    """Calls and results as text, in the style that the model is to write."""
    if message.role == "tool":
        return {"role": result_role, "content": message.content}
    calls = [(call.name, _arguments(i, call)) for call in message.tool_calls]
    text = style.write(calls) if calls else ""
    said = {"role": message.role, "content": "\n".join(filter(None, (message.content, text)))}
    return said if message.name is None else {**said, "name": message.name}


def _described(said: list[dict[str, Any]], tools: list[dict[str, Any]], style: Style) -> list[dict[str, Any]]:
    """With the tools in the system's message."""
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    if style.key is None:
        form = "a list of this form:\n[the function's name(argument=value, …)]"
    else:
        form = f'a JSON object of this form:\n{{"name": the function\'s name, "{style.key}": an object of its arguments}}'
    text = (
        f"You can call functions. To call one, answer with nothing but {form}\n\nThe functions:\n{functions}"
    )
    first, rest = (said[0], said[1:]) if said and said[0]["role"] == "system" else (None, said)
    content = f"{first['content']}\n\n{text}" if first and first["content"] else text
    return [{**(first or {}), "role": "system", "content": content}, *rest]
