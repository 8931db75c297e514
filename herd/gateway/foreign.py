"""Requests and replies as other systems' logs hold them, in the forms of OpenAI and Anthropic, read with leniency.

Nothing is refused that a log may hold: what has no place of its own goes to the request's `extra`, by its path. All
functions raise ValueError, KeyError, TypeError or AttributeError for what is not of such a form.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

from herd.protocol import Effort, FinishReason, Format, Image, Message, Request, Sampling, Tool, ToolCall

ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
_REASONS = {**{reason: reason for reason in get_args(FinishReason)}, "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
           "function_call": "tool_calls", "refusal": "content_filter", "completed": "stop", "eos": "stop"}  # fmt: skip
LABELS = ("user", "metadata", "safety_identifier", "service_tier", "store", "prompt_cache_key")
SAMPLING = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "stop_sequences": "stop",
            **{f.name: f.name for f in fields(Sampling) if f.name != "logprobs"}}  # fmt: skip


def read_request(body: Mapping[str, Any], route: str, kind: str | None) -> Request:
    extra: dict[str, Any] = {}
    labels = {key: body[key] for key in LABELS if body.get(key)}
    given = body.get("messages", body.get("input", []))
    given = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if isinstance(body.get("system", body.get("instructions")), (str, list)):
        given = [{"role": "system", "content": body.get("system", body.get("instructions"))}, *given]
    messages = [m for at, one in enumerate(given) for m in _messages(one, f"messages[{at}]", extra)]
    prompt = body["prompt"] if isinstance(body.get("prompt"), str) else ""
    sampling, explicit = Sampling(), set()
    made: dict[str, Any] = {}
    for key, value in body.items():
        try:
            if (name := SAMPLING.get(key)) and value is not None:
                value = [value] if name == "stop" and isinstance(value, str) else value
                sampling = replace(sampling, **{name: getattr(Sampling.from_json({name: value}), name)})
                explicit.add(name)
            elif key == "tools":
                made["tools"] = tuple(_tool(one) for one in value or [])
            elif key == "response_format" and value:
                made["format"] = _format(value)
            elif key in ("reasoning_effort", "effort") and value in get_args(Effort):
                made["effort"] = value
            elif key == "stream" and isinstance(value, bool):
                made["stream"] = value
            elif key not in ("model", "messages", "input", "prompt", "system", "instructions", *LABELS):
                raise ValueError(key)
        except (TypeError, ValueError, KeyError, AttributeError):
            if value is not None:
                extra[key] = value
    made["kind"] = kind or ("completion" if prompt and not messages else "chat")
    return Request(
        route, messages=tuple(messages), prompt=prompt, sampling=sampling, labels=labels, extra=extra,
        explicit=frozenset(explicit), **made,
    )  # fmt: skip


def _messages(raw: Mapping[str, Any], at: str, extra: dict[str, Any]) -> list[Message]:
    """One message of OpenAI's or Anthropic's form, after the tools' answers that it holds."""
    if "role" not in raw and raw.get("type") in ("function_call", "function_call_output", "reasoning"):
        return _output_item(raw)
    role = read_role(raw.get("role"))
    content, text, reasoning = raw.get("content"), "", ""
    images, calls, answers = [], [], []
    for place, part in enumerate(content if isinstance(content, list) else [content]):
        kind = part.get("type", "text") if isinstance(part, Mapping) else ""
        if isinstance(part, str):
            text += part
        elif kind in ("thinking", "reasoning"):
            reasoning += str(part.get("thinking") or part.get("text") or "")
        elif isinstance(part, Mapping) and isinstance(said := part.get("text", part.get("refusal")), str):
            text += said
        elif kind in ("image_url", "input_image", "image"):
            images.append(_picture(part, len(text)))
        elif kind == "tool_use":
            calls.append(ToolCall(part["id"], part["name"], json.dumps(part["input"], ensure_ascii=False)))
        elif kind == "tool_result":
            inner = part.get("content")
            answer = _messages({"role": "tool", "content": inner}, f"{at}.content[{place}]", extra)[0]
            answers.append(replace(answer, tool_call_id=part.get("tool_use_id")))
        elif part is not None:  # a log's own form, or a kind of part that came later
            text += "" if kind and kind != "text" else json.dumps(part, ensure_ascii=False)
            if kind and kind != "text":
                extra[f"{at}.content[{place}]"] = part
    for call in raw.get("tool_calls") or ():
        made = call.get("function", call)
        calls.append(
            ToolCall(
                call.get("id") or made["name"], made["name"], _json(made.get("arguments", made.get("args")))
            )
        )
    if isinstance(call := raw.get("function_call"), Mapping):
        calls.append(ToolCall(call["name"], call["name"], _json(call.get("arguments"))))
    reasoning += str(raw.get("reasoning_content") or "")
    if answers and not text and not images:
        return answers
    call_id = (raw.get("tool_call_id") or raw.get("name")) if role == "tool" else None
    name = raw.get("name") if role != "tool" and isinstance(raw.get("name"), str) else None
    return [*answers, Message(role, text, name, tuple(calls), call_id, tuple(images), reasoning)]  # type: ignore[arg-type]


def read_answers(response: Any) -> list[tuple[Message, str | None]]:
    """What was said, and why it ended: of a whole response, a message, a list of them, or text; at least one."""
    return [(said, _REASONS.get(str(reason))) for said, reason in _answers(response)]


def _answers(response: Any) -> list[tuple[Message, Any]]:
    if isinstance(response, Mapping) and (choices := response.get("choices")):
        said = [{"role": "assistant", **(c.get("message") or {"content": c.get("text")})} for c in choices]
        return [
            (_messages(m, "", {})[-1], c.get("finish_reason")) for m, c in zip(said, choices, strict=True)
        ]
    if isinstance(response, Mapping) and isinstance(output := response.get("output"), list):
        parts = [m for one in output for m in _messages({"role": "assistant", **one} if one.get("type") == "message"
                                                         else one, "", {})]  # fmt: skip
        reason = (response.get("incomplete_details") or {}).get("reason", response.get("status"))
        return [(_joined(parts), "length" if reason == "max_output_tokens" else reason)]
    if isinstance(response, Mapping) and ("content" in response or "tool_calls" in response):
        message = _messages({**response, "role": "assistant"}, "", {})[-1]
        return [(message, response.get("stop_reason", response.get("finish_reason")))]
    if (
        isinstance(response, list)
        and response
        and all(isinstance(m, Mapping) and "role" in m for m in response)
    ):
        return [(_joined([m for one in response for m in _messages(one, "", {})]), None)]
    if not response or isinstance(response, Mapping) and response.get("error"):
        return [(Message("assistant", ""), None)]
    return [
        (
            Message(
                "assistant",
                response if isinstance(response, str) else json.dumps(response, ensure_ascii=False),
            ),
            None,
        )
    ]


def _joined(parts: list[Message]) -> Message:
    calls = tuple(call for m in parts for call in m.tool_calls)
    said, thought = ("".join(getattr(m, part) for m in parts) for part in ("content", "reasoning"))
    return Message("assistant", said, tool_calls=calls, reasoning=thought)


def _output_item(raw: Mapping[str, Any]) -> list[Message]:
    """An item of the Responses API that is no message."""
    if raw["type"] == "function_call_output":
        return [Message("tool", _json(raw.get("output")), tool_call_id=raw["call_id"])]
    if raw["type"] == "function_call":
        return [
            Message(
                "assistant", "", tool_calls=(ToolCall(raw["call_id"], raw["name"], _json(raw["arguments"])),)
            )
        ]
    return [
        Message("assistant", "", reasoning="".join(str(s.get("text", "")) for s in raw.get("summary") or ()))
    ]


def read_usage(usage: Any) -> tuple[int | None, int | None, int | None]:
    """Of prompt, reply, and of the prompt those that a cache had; None for what is not said."""
    if not isinstance(usage, Mapping):
        return None, None, None
    given = {
        key: int(value)
        for key, value in usage.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }

    def first(*names: str) -> int | None:
        return next((given[name] for name in names if name in given), None)

    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = details.get("cached_tokens") or first(
        "cache_read_input_tokens", "input_cached_tokens", "input_cache_read"
    )
    prompt, reply = first("prompt_tokens", "input_tokens", "input", "promptTokens"), first(
        "completion_tokens", "output_tokens", "output", "completionTokens"
    )  # fmt: skip
    if "input" in given:  # Langfuse's parts make up its total, as a rule
        parts = [sum(n for key, n in given.items() if key.startswith(side)) for side in ("input", "output")]
        prompt, reply = parts if sum(parts) == given.get("total", sum(parts)) else (prompt, reply)
    elif (
        "input_tokens" in given and "cache_read_input_tokens" in given
    ):  # Anthropic's do not count what a cache had
        prompt = given["input_tokens"] + (cached or 0) + given.get("cache_creation_input_tokens", 0)
    return prompt, reply, cached


def _tool(raw: Mapping[str, Any]) -> Tool:
    made = raw.get("function", raw)
    return Tool(
        made["name"], made.get("description") or "", made.get("parameters", made.get("input_schema")) or {}
    )


def _format(raw: Mapping[str, Any]) -> Format | None:
    if raw["type"] == "json_schema":
        return Format("json_schema", raw["json_schema"]["schema"])
    if raw["type"] not in ("json_object", "text"):
        raise ValueError("no known format")
    return Format("json_object") if raw["type"] == "json_object" else None


def _picture(part: Mapping[str, Any], at: int) -> Image:
    place = part.get("image_url", part.get("source"))
    about = place if isinstance(place, Mapping) else {"url": place, **part}
    if "data" in about:
        return Image(f"data:{about.get('media_type', 'image/png')};base64,{about['data']}", at)
    detail = about.get("detail")
    return Image(str(about["url"]), at, detail if detail in ("low", "high") else "auto")


def read_role(role: Any) -> str:
    role = ROLES.get(role, role)
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"a message has the role {role!r:.60}")
    return str(role)


def opened(value: Any) -> Any:
    """A value that a log may hold as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if value in ("", {}) else value


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def seconds(moment: Any) -> float | None:
    """Unix seconds of a number (of milliseconds, if it is so large) or an ISO date; without a zone it is UTC."""
    if moment is None or isinstance(moment, bool):
        return None
    if isinstance(moment, (int, float)):
        return float(moment) / (1000 if moment > 1e11 else 1)
    found = datetime.fromisoformat(str(moment).strip())
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def between(start: Any, end: Any) -> float | None:
    began, ended = seconds(start), seconds(end)
    return None if began is None or ended is None or ended < began else round((ended - began) * 1000, 3)


def money(dollars: Any) -> int | None:
    try:
        return None if dollars is None else math.ceil(Decimal(str(dollars)) * 10**12)
    except (ArithmeticError, ValueError):
        raise ValueError(f"a cost of {dollars!r:.60}") from None
