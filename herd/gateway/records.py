"""One record of another system's log as rows of the generations table: where each system writes what.

All functions raise ValueError, KeyError, TypeError or AttributeError for a record that is not what it seems.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from herd.gateway import foreign
from herd.gateway.reply import recorded
from herd.protocol import Request
from herd.store.tables import generations

Row = dict[str, Any]
Item = Mapping[str, Any]


def _openai(item: Item) -> Iterable[Item]:
    """A request with its response, a line of a batch's output, a stored completion, or an example for fine-tuning."""
    body, response = item.get("request", item.get("body")), item.get("response")
    if isinstance(response, Mapping) and "body" in response and "status_code" in response:
        response = response["body"]
    if response is not None or item.get("error"):
        body = body.get("body", body) if isinstance(body, Mapping) else {}
    elif "choices" in item or item.get("object") in ("response", "chat.completion"):
        asked = ("messages", "tools", "temperature", "top_p", "seed")
        body, response = {key: item[key] for key in asked if key in item}, item
    elif isinstance(messages := item.get("messages"), list) and messages:
        if foreign.read_role(messages[-1]) != "assistant":
            raise ValueError("the last message is not the assistant's")
        body, response = {**item, "messages": messages[:-1]}, messages[-1]
    elif isinstance(item.get("prompt"), str) and isinstance(item.get("completion"), str):
        body, response = {"prompt": item["prompt"]}, item["completion"]
    else:
        raise ValueError("neither a request with its response nor messages that end with a reply")
    if isinstance(response, str):  # as it stands, also where it is JSON
        response = {"content": response}
    return [{**item, "request": body, "response": response}]


def _langfuse(item: Item) -> Iterable[Item]:
    """An observation, or a trace with its observations; of the API, the page's export or that to a bucket."""
    # A 0, of a cost above all, is what is not known.
    item = {re.sub("(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): v for key, v in item.items() if v != 0}
    if not isinstance(inner := item.get("observations"), list):
        return [item] if item.get("type") in ("GENERATION", "EMBEDDING") else []
    trace = {"trace_id": "id", "session_id": "session_id", "user_id": "user_id", "trace_tags": "tags"}
    shared = {name: item.get(of) for name, of in trace.items()}
    return [row for one in inner if isinstance(one, Mapping) for row in _langfuse({**shared, **one})]


# Where a system's records have what a generation has, as `foreign.found` looks for it. "needed": what must be there.
# "failed": the field and the word that say that it went wrong; else whatever has an error did. "asked": messages or other
# input, beside a request in OpenAI's form. "labels": by name. Money is in dollars.
_FORMS: Mapping[str, Mapping[str, Any]] = {
    "openai": {
        "id": "id response.id", "model": "response.model request.model", "provider": "provider",
        "created": "response.created response.created_at created timestamp", "ms": "latency_ms duration_ms",
        "conversation": "conversation session_id conversation_id", "request": "request", "response": "response",
        "error": "error response.error", "usage": "response.usage", "cost": "cost",
        "labels": {name: name for name in ("custom_id", "metadata", "tags", "user")},
    },
    "litellm": {  # a row of the spend logs, or the payload that LiteLLM hands to loggers
        "needed": ("model", "startTime"), "id": "request_id id", "model": "model", "provider": "custom_llm_provider",
        "route": "model_group", "created": "startTime", "ended": "endTime", "first": "completionStartTime",
        "conversation": "session_id trace_id", "kind": "call_type", "parameters": "model_parameters",
        "request": "proxy_server_request.body proxy_server_request", "asked": "messages", "response": "response",
        "failed": ("status", "failure"),
        "error": "error_str error_information.error_message metadata.error_information.error_message",
        "usage": ". response.usage metadata.usage_object", "cost": "spend response_cost",
        "labels": {"user": "end_user", "tags": "request_tags", "key": "metadata.user_api_key_alias",
                   "metadata": "metadata.requester_metadata metadata.spend_logs_metadata"},
    },
    "langfuse": {
        "needed": ("id",), "id": "id", "model": "model provided_model_name", "kind": "type", "created": "start_time",
        "ended": "end_time", "first": "completion_start_time", "conversation": "session_id trace_id",
        "parameters": "model_parameters", "asked": "input", "response": "output",
        "failed": ("level", "ERROR"), "error": "status_message", "usage": "usage_details usage",
        "cost": "total_cost calculated_total_cost cost_details.total",
        "labels": {"user": "user_id", "tags": "trace_tags tags", "metadata": "metadata", "name": "name",
                   "environment": "environment", "version": "version", "prompt_name": "prompt_name",
                   "prompt_version": "prompt_version"},
    },
}  # fmt: skip
_OPENED: Mapping[str, Callable[[Item], Iterable[Item]]] = {
    "openai": _openai, "litellm": lambda item: [item.get("standard_logging_object", item)], "langfuse": _langfuse
}  # fmt: skip
# Whose record it is: that of the first whose keys it has.
_MARKS: tuple[tuple[str, set[str]], ...] = (
    ("herd", {"route", "request", "reply", "created"}), ("litellm", {"standard_logging_object"}),
    ("litellm", {"startTime", "call_type"}), ("litellm", {"startTime", "spend"}),
    *(("langfuse", {key}) for key in ("observations", "traceId", "trace_id", "sessionId", "projectId", "project_id")),
)  # fmt: skip


def rows_of(item: Item, source: str) -> list[Row]:
    """A row for each choice of each record of an entry. source: "auto" asks the entry whose it is."""
    if source == "auto":
        source = next((name for name, marks in _MARKS if marks <= item.keys()), "openai")
    if source == "herd":
        return [_own(item)]
    return [row for record in _OPENED[source](item) for row in _rows(source, record, _FORMS[source])]


def _own(item: Item) -> Row:
    """A line of Herd's own export: the same row again."""
    if unknown := item.keys() - set(generations.c.keys()):
        raise ValueError(f"a generation has no field {min(unknown)!r}")
    for column in generations.c:
        if item.get(column.name) is None and not column.nullable:
            raise ValueError(f"no {column.name!r}")
    Request.from_json(item["request"])
    return {"use": None, **item}


def _rows(source: str, item: Item, form: Mapping[str, Any]) -> list[Row]:
    """`target` is "provider/model" as far as that is known."""

    def of(name: str) -> Any:
        return foreign.found(item, form.get(name, ""))

    for name in form.get("needed", ()):
        item[name]
    known = str(of("id") or _digest(json.dumps(item, sort_keys=True, default=str)))
    own = "import-" + _digest(f"{source}\0{known}")[:32]
    model, provider = of("model") or "", of("provider")
    if not isinstance(model, str):
        raise ValueError(f"model is {model!r:.60}")
    model = model.removeprefix(f"{provider}/") if provider else model
    target = f"{provider}/{model}" if provider else model
    kind = "embedding" if "embedding" in str(of("kind")).lower() else None
    body = _asked(of("parameters"), of("request"), of("asked"))
    request = foreign.read_request(body, of("route") or target or source, kind)
    error = of("error")
    if "failed" in form:
        field, word = form["failed"]
        error = (error or "failed") if item.get(field) == word else None
    if isinstance(error, Mapping):
        error = error.get("message") or json.dumps(error)
    used = zip(
        *(foreign.read_usage(foreign.found(item, path)) for path in form["usage"].split()), strict=True
    )
    prompt, completion, cached = (next((n for n in told if n is not None), None) for told in used)
    began, ended, first, ms = of("created"), of("ended"), of("first"), of("ms")
    labels = {name: value for name, path in form["labels"].items() if (value := foreign.found(item, path))}
    answers = foreign.read_answers(of("response") if kind != "embedding" else None)
    return [
        {
            "id": own if index == 0 else f"{own}-{index}",
            "conversation": f"{source}:{of('conversation')}" if of("conversation") else None,
            "route": request.route,
            "target": target or None,
            "model_ref": model or None,
            "provider": provider,
            "request": recorded(request),
            "reply": said.content,
            "reasoning": said.reasoning or None,
            "calls": [call.to_json() for call in said.tool_calls] or None,
            "prompt_tokens": prompt,
            "completion_tokens": completion if len(answers) < 2 else None,
            "cached_tokens": cached,
            "cost": foreign.money(of("cost")) if index == 0 else 0,
            # Only what streams has a first token apart from the last one.
            "first_token_ms": foreign.between(began, first) if first != ended else None,
            "total_ms": foreign.between(began, ended) if ms is None else round(float(ms), 3),
            "finish": "error" if error else reason,
            "error": str(error) if error else None,
            "created": foreign.seconds(began),
            "labels": labels | {"import": {"source": source, "id": known}},
        }
        for index, (said, reason) in enumerate(answers)
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(parameters: Any, request: Any, asked: Any) -> dict[str, Any]:
    """The request in OpenAI's form."""
    body = dict(parameters or {}) | dict(request or {})
    if isinstance(asked, Mapping) and "messages" in asked:
        return body | dict(asked)
    if isinstance(asked, Mapping) and "role" in asked:
        asked = [asked]
    if asked is not None and not foreign.has_roles(asked):
        asked = [{"role": "user", "content": asked}]
    return body if asked is None else {**body, "messages": asked}
