"""Requests and replies as other systems' logs hold them, in the forms of OpenAI and Anthropic, read with leniency.

Nothing is refused that a log may hold: what has no place of its own goes to the request's `extra`, by its path. All
functions raise ValueError, KeyError, TypeError or AttributeError for what is not of such a form.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

from herd.protocol import Effort, FinishReason, Format, Image, Message, Request, Sampling, Tool, ToolCall

ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
_REASONS = {**{reason: reason for reason in get_args(FinishReason)}, "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
           "function_call": "tool_calls", "refusal": "content_filter", "completed": "stop", "eos": "stop"}  # fmt: skip
LABELS = ("user", "metadata", "safety_identifier", "service_tier", "store", "prompt_cache_key")
_ELSEWHERE = {"model", "messages", "input", "prompt", "system", "instructions", *LABELS}
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
    made: dict[str, Any] = {"kind": kind or ("completion" if prompt and not messages else "chat")}
    for key, value in body.items():
        if value is None or key in _ELSEWHERE:
            continue
        try:
            if key in _READ:
                name, read = _READ[key]
                made[name] = read(value)
            else:
                name = SAMPLING[key]
                value = [value] if name == "stop" and isinstance(value, str) else value
                sampling = replace(sampling, **{name: getattr(Sampling.from_json({name: value}), name)})
                explicit.add(name)
        except (TypeError, ValueError, KeyError, AttributeError):
            extra[key] = value
    return Request(
        route, messages=tuple(messages), prompt=prompt, sampling=sampling, labels=labels, extra=extra,
        explicit=frozenset(explicit), **made,
    )  # fmt: skip


def _messages(raw: Mapping[str, Any], at: str, extra: dict[str, Any]) -> list[Message]:
    """One message of OpenAI's or Anthropic's form, after the tools' answers that it holds."""
    if "role" not in raw and raw.get("type") in _ITEMS:
        raw = _ITEMS[raw["type"]](raw)
    role = read_role(raw)
    content, text, reasoning = raw.get("content"), "", ""
    calls = [*(raw.get("tool_calls") or ()), *([raw["function_call"]] if raw.get("function_call") else ())]
    images, answers = [], []
    for place, part in enumerate(content if isinstance(content, list) else [content]):
        kind = (part.get("type") or "text") if isinstance(part, Mapping) else "text"
        if part is None or isinstance(part, str):
            text += part or ""
        elif kind in ("thinking", "reasoning"):
            reasoning += str(part.get("thinking") or part.get("text") or "")
        elif isinstance(part, Mapping) and isinstance(said := part.get("text", part.get("refusal")), str):
            text += said
        elif kind in ("image_url", "input_image", "image"):
            images.append(_picture(part, len(text)))
        elif kind == "tool_use":
            calls.append(part)
        elif kind == "tool_result":
            answer = {"role": "tool", "content": part.get("content"), "tool_call_id": part.get("tool_use_id")}
            answers += _messages(answer, f"{at}.content[{place}]", extra)
        elif kind == "text":  # a log's own form
            text += json.dumps(part, ensure_ascii=False)
        else:  # a kind of part that came later
            extra[f"{at}.content[{place}]"] = part
    if answers and not text and not images:
        return answers
    name = raw.get("name") if isinstance(raw.get("name"), str) else None
    name, call_id = (None, raw.get("tool_call_id") or name) if role == "tool" else (name, None)
    reasoning += str(raw.get("reasoning_content") or "")
    made = tuple(map(_call, calls))
    return [*answers, Message(role, text, name, made, call_id, tuple(images), reasoning)]


# An item of the Responses API that is no message, as a message.
_ITEMS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "function_call": lambda raw: {"role": "assistant", "tool_calls": [raw]},
    "function_call_output": lambda raw: {"role": "tool", "content": raw.get("output"), "tool_call_id": raw["call_id"]},
    "reasoning": lambda raw: {"role": "assistant",
                              "content": [{**part, "type": "reasoning"} for part in raw.get("summary") or ()]},
}  # fmt: skip


def read_answers(response: Any) -> list[tuple[Message, str | None]]:
    """What was said, and why it ended: of a whole response, a message, a list of them, or text; at least one."""
    of = response if isinstance(response, Mapping) else {}
    reason, messages = of.get("stop_reason", of.get("finish_reason")), []
    if choices := of.get("choices"):
        said = [{"content": c.get("text"), **(c.get("message") or {})} for c in choices]
        ends = [{"stop_reason": c.get("finish_reason")} for c in choices]
        return [read_answers(one | end)[0] for one, end in zip(said, ends, strict=True)]
    if isinstance(output := of.get("output"), list):
        messages = [{"role": "assistant", **m} if m.get("type") == "message" else m for m in output]
        reason = (of.get("incomplete_details") or {}).get("reason", of.get("status"))
    elif "content" in of or "tool_calls" in of:
        messages = [{**of, "role": "assistant"}]
    elif response and has_roles(response):
        messages = response
    elif response and not of.get("error"):
        text = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
        messages = [{"role": "assistant", "content": text}]
    parts = [m for one in messages for m in _messages(one, "", {})]
    text, thought = ("".join(getattr(m, part) for m in parts) for part in ("content", "reasoning"))
    calls = tuple(call for m in parts for call in m.tool_calls)
    return [(Message("assistant", text, tool_calls=calls, reasoning=thought), _REASONS.get(str(reason)))]


def read_role(raw: Mapping[str, Any]) -> Any:
    role = ROLES.get(raw.get("role"), raw.get("role"))  # type: ignore[arg-type]
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"a message has the role {role!r:.60}")
    return role


def has_roles(value: Any) -> bool:
    """Whether it is a list of messages."""
    return isinstance(value, list) and any(isinstance(m, Mapping) and "role" in m for m in value)


def read_usage(usage: Any) -> tuple[int | None, int | None, int | None]:
    """Of prompt, reply, and of the prompt those that a cache had; None for what is not said."""
    if not isinstance(usage, Mapping):
        return None, None, None
    given = {key: int(value) for key, value in usage.items() if type(value) in (int, float)}

    def first(*names: str) -> int | None:
        return next((given[name] for name in names if name in given), None)

    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    told = details.get("cached_tokens")
    cached = told or first("cache_read_input_tokens", "input_cached_tokens", "input_cache_read")
    prompt = first("prompt_tokens", "input_tokens", "input", "promptTokens")
    reply = first("completion_tokens", "output_tokens", "output", "completionTokens")
    if "input" in given:  # Langfuse's parts make up its total, as a rule
        parts = [sum(n for key, n in given.items() if key.startswith(side)) for side in ("input", "output")]
        prompt, reply = parts if sum(parts) == given.get("total", sum(parts)) else (prompt, reply)
    elif given.keys() >= {"input_tokens", "cache_read_input_tokens"}:  # Anthropic counts a cache's apart
        prompt = given["input_tokens"] + (cached or 0) + given.get("cache_creation_input_tokens", 0)
    return prompt, reply, cached


def _tool(raw: Mapping[str, Any]) -> Tool:
    made = raw.get("function", raw)
    schema = made.get("parameters", made.get("input_schema")) or {}
    return Tool(made["name"], made.get("description") or "", schema)


def _call(raw: Mapping[str, Any]) -> ToolCall:
    made = raw.get("function", raw)
    given = made.get("arguments", made.get("args", made.get("input")))
    text = given if isinstance(given, str) else json.dumps({} if given is None else given, ensure_ascii=False)
    return ToolCall(raw.get("call_id") or raw.get("id") or made["name"], made["name"], text)


def _format(raw: Mapping[str, Any]) -> Format | None:
    if raw["type"] == "json_schema":
        return Format("json_schema", raw["json_schema"]["schema"])
    return {"json_object": Format("json_object"), "text": None}[raw["type"]]


def _stated(*values: Any) -> Callable[[Any], Any]:
    """The value if it is one of these; else KeyError."""
    return lambda value: dict(zip(values, values, strict=True))[value]


# Fields of a request that are no sampling: the name here, and what reads the value.
_READ: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "tools": ("tools", lambda tools: tuple(map(_tool, tools))), "response_format": ("format", _format),
    "reasoning_effort": ("effort", _stated(*get_args(Effort))), "effort": ("effort", _stated(*get_args(Effort))),
    "stream": ("stream", _stated(True, False)),
}  # fmt: skip


def _picture(part: Mapping[str, Any], at: int) -> Image:
    place = part.get("image_url", part.get("source"))
    about = place if isinstance(place, Mapping) else {"url": place, **part}
    if "data" in about:
        return Image(f"data:{about.get('media_type', 'image/png')};base64,{about['data']}", at)
    detail = about.get("detail")
    return Image(str(about["url"]), at, detail if detail in ("low", "high") else "auto")


def found(item: Any, paths: str) -> Any:
    """What is at the first of the paths, as in "a.b c", that has anything; "." is the item itself. JSON as text is opened."""
    for path in paths.split():
        value = item
        for name in filter(None, path.split(".")):
            value = _opened(value.get(name)) if isinstance(value, Mapping) else None
        if value not in (None, "", {}, []):
            return value
    return None


def _opened(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


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
