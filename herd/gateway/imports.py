"""`herd import logs`: what other systems have logged becomes generations, so that evidence exists on the first day."""

import codecs
import gzip
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from herd.errors import HerdError
from herd.gateway.foreign import between, money, opened, read_answers, read_request, read_role, read_usage, seconds
from herd.gateway.prices import Prices
from herd.gateway.redact import redact_row
from herd.protocol import Message, Request, Usage
from herd.store import Store
from herd.store.tables import generations

MAX_LINE = 64 * 2**20  # bytes
BATCH = 200  # rows on their way to the store
SHOWN = 100  # problems that are named; all are counted

Row = dict[str, Any]
_GAP = re.compile(r"[\s,\[]*")
Source = Literal["auto", "openai", "litellm", "langfuse", "herd"]


@dataclass
class Report:
    """`skipped`: records that are no generations, by kind. `problems`: line and reason of the first bad ones."""

    lines: int = 0
    kept: int = 0
    known: int = 0  # those that the store had already
    bad: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        named = [{"line": line, "reason": reason} for line, reason in self.problems]
        return {**vars(self), "skipped": dict(self.skipped), "problems": named}


def import_file(path: Path, source: Source, store: Store, **options: Any) -> Report:
    """`import_lines` of a file of JSON Lines or one JSON array, perhaps with gzip. Raises HerdError if it cannot be read."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            stream: Any = gzip.GzipFile(fileobj=plain) if packed else plain
            return import_lines(records(stream), source, store, **options)
    except (OSError, EOFError) as error:
        raise HerdError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def import_lines(
    lines: Iterable[str | bytes | Mapping[str, Any]],
    source: Source,
    store: Store,
    *,
    route: str | None = None,
    prices: Prices | None = None,
    use: Sequence[str] = ("evaluate",),
    redact: Sequence[str] = (),
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Keep what the lines hold as generations; `lines` may also be parsed records already.

    A record has the same id whenever it is imported, so that the same file again adds nothing, and one that was
    interrupted goes on. A bad line is counted and named, and the next one read. source: "auto" asks each line. route: in
    place of the names that the records have. prices: for what has tokens but no cost.
    """
    if source not in get_args(Source):
        raise HerdError(f"no format {source!r:.60}; there are {', '.join(get_args(Source))}")
    report = Report()

    def read() -> Iterator[Row]:
        for line in lines:
            report.lines += 1
            try:
                if isinstance(line, (str, bytes)):
                    if not line.strip():
                        continue
                    line = _parsed(line)
                made = _rows_of(line, source, report)
                yield from (_finished(row, route, prices, use, redact) for row in made)
            except _WRONG as error:
                report.bad += 1
                if len(report.problems) < SHOWN:
                    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                    report.problems.append((report.lines, reason[:300]))

    rows = read()
    while batch := list(islice(rows, BATCH)):
        new = store.add_generations(batch)
        report.kept, report.known = report.kept + new, report.known + len(batch) - new
        progress(report)
    return report


def records(stream: BufferedReader | gzip.GzipFile) -> Iterator[str | bytes]:
    """The lines of a stream; or, if it is one JSON array, or objects that take several lines, the text of each of them.

    None is read beyond MAX_LINE. Where an array breaks, the rest of it is the last record.
    """
    start = stream.peek(2**16)[: 2**16].lstrip()
    if not (start.startswith(b"[") or re.match(rb"\{\s*\n", start)):
        while line := stream.readline(MAX_LINE):
            yield line
            while len(line) == MAX_LINE and not line.endswith(b"\n"):  # the rest of what is too long
                line = stream.readline(MAX_LINE)
        return
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    array, text, at, step = start.startswith(b"["), "", 0, 2**18
    while more := stream.read(step):
        text, at = text[at:] + decode(more), 0
        while (gap := _GAP.match(text, at)) and (at := gap.end()) < len(text) and text[at] != "]":
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                break
            yield text[at:end]
            at, step = end, 2**18
        else:
            if text[at : at + 1] == "]":
                return
            continue
        if len(text) - at > MAX_LINE:
            break
        step *= 2  # so that a long record is tried anew only a few times
    if array or text[at:].strip():
        yield text[at:] or "["


_WRONG = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, HerdError)


def _parsed(line: str | bytes) -> Any:
    if len(line) >= MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE // 2**20} MiB")
    try:
        return json.loads(line, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _rows_of(item: Any, source: str, report: Report) -> list[Row]:
    if not isinstance(item, Mapping):
        raise ValueError("not an object")
    rows = _FORMS[source if source != "auto" else _source(item)](item)
    if not rows:
        report.skipped[str(item.get("type") or "TRACE").lower()] += 1
    return rows


def _source(item: Mapping[str, Any]) -> str:
    """Whose record this is."""
    if {"route", "request", "reply", "created"} <= item.keys():
        return "herd"
    if "standard_logging_object" in item or "startTime" in item and ("call_type" in item or "spend" in item):
        return "litellm"
    if "observations" in item or item.keys() & {"traceId", "trace_id", "sessionId", "projectId", "project_id"}:
        return "langfuse"
    return "openai"


def _finished(
    row: Row, route: str | None, prices: Prices | None, use: Sequence[str], redact: Sequence[str]
) -> Row:
    """The row as the store can take it. Raises ValueError for what no column holds."""
    if "use" not in row:  # not Herd's own, which is as it was
        model, tokens = row["model_ref"] or "", (row["prompt_tokens"], row["completion_tokens"])
        if prices and not row["provider"] and (provider := prices.provider_of(model)):
            row |= {"provider": provider, "target": f"{provider}/{model.removeprefix(provider + '/')}"}
            row["model_ref"] = row["target"].removeprefix(f"{provider}/")
        if prices and row["cost"] is None and row["provider"] and None not in tokens:
            used = Usage(*tokens, cached_tokens=row["cached_tokens"] or 0)
            row["cost"] = prices.cost(row["provider"], row["model_ref"], used, at=row["created"])
        row["use"] = list(use)
        row["created"] = time.time() if row["created"] is None else row["created"]
    if route:
        row |= {"route": route, "request": {**row["request"], "route": route}}
    for name, most in (("prompt_tokens", 2**31), ("completion_tokens", 2**31), ("cached_tokens", 2**31), ("cost", 2**63)):
        if row.get(name) is not None and not 0 <= row[name] < most:
            raise ValueError(f"{name} is {row[name]:.3g}")
    row = redact_row(row, redact)
    json.dumps(row, allow_nan=False, ensure_ascii=False).encode()  # what a database could not keep either
    return row


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
        body = {key: item[key] for key in ("messages", "tools", "temperature", "top_p", "seed") if key in item}
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
    if cached := read_usage(said.get("usage") or meta.get("usage_object") or {})[2]:
        usage["cache_read_input_tokens"] = cached
    labels = {
        "user": item.get("end_user"),
        "tags": item.get("request_tags"),
        "key": meta.get("user_api_key_alias"),
        "metadata": meta.get("requester_metadata") or meta.get("spend_logs_metadata"),
    }
    # Only what streams has a first token apart from the last one.
    began, ended, first = (item.get(key) for key in ("startTime", "endTime", "completionStartTime"))
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
        shared = {"session_id": item.get("session_id"), "user_id": item.get("user_id"), "trace_tags": item.get("tags")}
        found = [langfuse({**shared, "trace_id": item.get("id"), **one}) for one in inner if isinstance(one, Mapping)]
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
    cost = next((c for c in (item.get("total_cost"), item.get("calculated_total_cost"), costs.get("total")) if c), None)
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




_FORMS: Mapping[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "openai": openai, "litellm": litellm, "langfuse": langfuse, "herd": herd
}  # fmt: skip
