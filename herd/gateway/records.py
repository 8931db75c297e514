"""One record of another system's log as rows of the generations table.

All functions raise ValueError, KeyError, TypeError or AttributeError for a record that is not what it seems.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from herd.gateway.foreign import (
    between,
    money,
    opened,
    read_answers,
    read_request,
    read_role,
    read_usage,
    seconds,
)
from herd.gateway.reply import recorded
from herd.protocol import Request
from herd.store.tables import generations

Row = dict[str, Any]


def herd(item: Mapping[str, Any]) -> list[Row]:
    """A line of Herd's own export: the same row again."""
    columns = generations.c
    if unknown := item.keys() - set(columns.keys()):
        raise ValueError(f"a generation has no field {min(unknown)!r}")
    for column in columns:
        if item.get(column.name) is None and not column.nullable:
            raise ValueError(f"no {column.name!r}")
    Request.from_json(item["request"])
    return [{"use": None, **item}]


def openai(item: Mapping[str, Any]) -> list[Row]:
    """A request with its response, a line of a batch's output, a stored completion, or an example for fine-tuning."""
    body, response = item.get("request", item.get("body")), item.get("response")
    if isinstance(response, Mapping) and "body" in response and "status_code" in response:
        response = response["body"]
    error = item.get("error") or (response.get("error") if isinstance(response, Mapping) else None)
    if isinstance(body, Mapping) and (response is not None or error):
        body = body.get("body", body)
    elif response is not None or error:
        body = {}
    elif "choices" in item or item.get("object") in ("response", "chat.completion"):
        response = item
        body = {
            key: item[key] for key in ("messages", "tools", "temperature", "top_p", "seed") if key in item
        }
    elif isinstance(messages := item.get("messages"), list) and messages:
        if read_role(messages[-1].get("role")) != "assistant":
            raise ValueError("the last message is not the assistant's")
        body, response = {**item, "messages": messages[:-1]}, messages[-1]
    elif isinstance(item.get("prompt"), str) and isinstance(item.get("completion"), str):
        body, response = {"prompt": item["prompt"]}, item["completion"]
    else:
        raise ValueError("neither a request with its response nor messages that end with a reply")
    said = response if isinstance(response, Mapping) else {}
    created = said.get("created", said.get("created_at", item.get("created", item.get("timestamp"))))
    labels = {key: item[key] for key in ("custom_id", "metadata", "tags", "user") if item.get(key)}
    milliseconds = item.get("latency_ms", item.get("duration_ms"))
    return _rows(
        "openai",
        item.get("id") or said.get("id"),
        item,
        body,
        response,
        model=said.get("model") or body.get("model") or "",
        provider=item.get("provider"),
        created=created,
        conversation=item.get("conversation") or item.get("session_id") or item.get("conversation_id"),
        labels=labels,
        error=error,
        usage=said.get("usage"),
        cost=item.get("cost"),
        total_ms=milliseconds,
    )


def litellm(item: Mapping[str, Any]) -> list[Row]:
    """A row of the spend logs, or the payload that LiteLLM hands to loggers."""
    item = item.get("standard_logging_object", item)
    meta, response = opened(item.get("metadata")) or {}, opened(item.get("response"))
    sent = opened(item.get("proxy_server_request")) or {}
    body = dict(opened(item.get("model_parameters")) or {}) | dict(sent.get("body", sent))
    if messages := opened(item.get("messages")):
        body["messages"] = messages
    failed = item.get("status") == "failure"
    details = item.get("error_information") or meta.get("error_information") or {}
    said = response if isinstance(response, Mapping) else {}
    usage = {k: item.get(k) for k in ("prompt_tokens", "completion_tokens")}
    cached = [read_usage(told)[2] for told in (said.get("usage"), meta.get("usage_object"))]
    usage["cache_read_input_tokens"] = next((n for n in cached if n is not None), None)
    labels = {
        "user": item.get("end_user"),
        "tags": item.get("request_tags"),
        "key": meta.get("user_api_key_alias"),
        "metadata": meta.get("requester_metadata") or meta.get("spend_logs_metadata"),
    }
    # Only what streams has a first token apart from the last one.
    began, ended, first = item["startTime"], item.get("endTime"), item.get("completionStartTime")
    return _rows(
        "litellm",
        item.get("request_id") or item.get("id"),
        item,
        body,
        response,
        kind="embedding" if "embedding" in str(item.get("call_type")) else None,
        model=str(item["model"]),
        provider=item.get("custom_llm_provider"),
        route=item.get("model_group"),
        created=began,
        conversation=item.get("session_id") or item.get("trace_id"),
        labels=labels,
        error=(item.get("error_str") or details.get("error_message") or "failed") if failed else None,
        usage=usage,
        cost=item.get("spend", item.get("response_cost")),
        total_ms=between(began, ended),
        first_token_ms=between(began, first) if first != ended else None,
    )


def langfuse(item: Mapping[str, Any]) -> list[Row]:
    """An observation, or a trace with its observations; of the API, the page's export or that to a bucket."""
    item = {re.sub("(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): value for key, value in item.items()}
    if isinstance(inner := item.get("observations"), list):
        shared = {
            "session_id": item.get("session_id"),
            "user_id": item.get("user_id"),
            "trace_tags": item.get("tags"),
        }
        found = [
            langfuse({**shared, "trace_id": item.get("id"), **one})
            for one in inner
            if isinstance(one, Mapping)
        ]
        return [row for rows in found for row in rows]
    if item.get("type") not in ("GENERATION", "EMBEDDING"):
        return []
    prompt, body = opened(item.get("input")), dict(opened(item.get("model_parameters")) or {})
    if isinstance(prompt, Mapping) and "messages" in prompt:
        body |= prompt
    elif isinstance(prompt, Mapping) and "role" in prompt:
        body["messages"] = [prompt]
    elif isinstance(prompt, list) and all(isinstance(m, Mapping) and "role" in m for m in prompt):
        body["messages"] = prompt
    elif prompt is not None:
        body["messages"] = [{"role": "user", "content": prompt}]
    began, ended, first = (item.get(key) for key in ("start_time", "end_time", "completion_start_time"))
    costs = opened(item.get("cost_details")) or {}
    cost = next(
        (c for c in (item.get("total_cost"), item.get("calculated_total_cost"), costs.get("total")) if c),
        None,
    )
    labels = {
        "user": item.get("user_id"),
        "tags": item.get("trace_tags") or item.get("tags"),
        "metadata": opened(item.get("metadata")),
        **{key: item.get(key) for key in ("name", "environment", "version", "prompt_name", "prompt_version")},
    }
    return _rows(
        "langfuse",
        item["id"],
        item,
        body,
        opened(item.get("output")),
        kind="embedding" if item["type"] == "EMBEDDING" else None,
        model=item.get("model") or item.get("provided_model_name") or "",
        created=began,
        conversation=item.get("session_id") or item.get("trace_id"),
        labels=labels,
        error=(item.get("status_message") or "failed") if item.get("level") == "ERROR" else None,
        usage=opened(item.get("usage_details")) or item.get("usage"),
        cost=cost,
        total_ms=between(began, ended),
        first_token_ms=between(began, first),
    )


def _rows(
    source: str,
    id: Any,
    item: Mapping[str, Any],
    body: Mapping[str, Any],
    response: Any,
    *,
    model: str,
    created: Any,
    labels: Mapping[str, Any],
    error: Any,
    usage: Any,
    cost: Any,
    conversation: Any,
    total_ms: Any,
    first_token_ms: float | None = None,
    provider: str | None = None,
    route: str | None = None,
    kind: str | None = None,
) -> list[Row]:
    """A row for each choice; `target` is "provider/model" as far as that is known. Money is in dollars here."""
    known = str(id or hashlib.sha256(json.dumps(item, sort_keys=True, default=str).encode()).hexdigest())
    own = "import-" + hashlib.sha256(f"{source}\0{known}".encode()).hexdigest()[:32]
    if provider and model.startswith(f"{provider}/"):
        model = model.removeprefix(f"{provider}/")
    target = f"{provider}/{model}" if provider else model
    request = read_request(body, route or target or source, kind)
    used = read_usage(usage)
    if isinstance(error, Mapping):
        error = error.get("message") or json.dumps(error)
    rows = []
    answers = read_answers(response if kind != "embedding" else None)
    for index, (said, reason) in enumerate(answers):
        rows.append({
            "id": own if index == 0 else f"{own}-{index}",
            "conversation": f"{source}:{conversation}" if conversation else None,
            "route": request.route,
            "target": target or None,
            "model_ref": model or None,
            "provider": provider,
            "request": recorded(request),
            "reply": said.content,
            "reasoning": said.reasoning or None,
            "calls": [call.to_json() for call in said.tool_calls] or None,
            "prompt_tokens": used[0],
            "completion_tokens": used[1] if len(answers) < 2 else None,
            "cached_tokens": used[2],
            "cost": money(cost) if index == 0 else 0,
            "first_token_ms": first_token_ms,
            "total_ms": None if total_ms is None else round(float(total_ms), 3),
            "finish": "error" if error else reason,
            "error": str(error) if error else None,
            "created": seconds(created),
            "labels": {k: v for k, v in labels.items() if v} | {"import": {"source": source, "id": known}},
        })  # fmt: skip
    return rows
