"""Kept traffic under /api: numbers by time, generations with search and export, feedback, and what drift found.

Money is whole numbers of 10⁻¹² dollars.
"""

import json
import math
import time
from contextlib import suppress
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from herd.errors import HerdError
from herd.gateway import exports
from herd.gateway.imports import Source, import_lines
from herd.gateway.keys import Principal
from herd.gateway.prices import Prices
from herd.gateway.redact import redact
from herd.gateway.route import Use
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.errors import found, not_found
from herd.server.state import Here, State, Who
from herd.store.feedback import Kind

router = APIRouter(prefix="/api")

DAY, MAX_STEPS, STEPS = 86_400, 1000, 60
PAGE = 200  # rows at most
TOGETHER = 20  # generations that are read at once: each may have megabytes of text
MAX_PAGE = 8 << 20  # characters of JSON after which a page ends
MAX_TEXT = 100_000  # characters of a correction or a comment
USE = get_args(Use)
NOTHING = {
    **dict.fromkeys(("requests", "errors", "prompt_tokens", "completion_tokens", "cost"), 0),
    **dict.fromkeys(("total_ms", "first_token_ms"), dict.fromkeys(("p50", "p95", "p99"))),
}
FEEDBACK: dict[str, Any] = {**dict.fromkeys(("id", "generation", "kind", "text"), str), "value": body.NUMBER}
Said = Annotated[dict[str, Any], Depends(body.Fields("generation", "kind", **FEEDBACK))]
Logged = Annotated[dict[str, Any], Depends(body.Fields("lines", lines=list, format=str, route=str, use=list))]
Word = Annotated[str | None, Query(max_length=200)]
Moment = Annotated[float | None, Query(allow_inf_nan=False, ge=0, le=1e11)]


def filters(
    text: Annotated[str | None, Query(alias="query", max_length=200)] = None,
    route: Word = None,
    target: Word = None,
    key: Word = None,
    finish: Word = None,
    conversation: Word = None,
    feedback: Literal["any", "good", "bad", "score", "correction", "comment"] | None = None,
    since: Moment = None,
    until: Moment = None,
) -> dict[str, Any]:
    """What is searched for: all conditions that are given, by the names that the store has for them."""
    return {name: value for name, value in locals().items() if value is not None}


Filters = Annotated[dict[str, Any], Depends(filters)]


@router.get("/traffic")
def traffic(
    here: Here,
    since: Moment = None,
    until: Moment = None,
    step: Annotated[int | None, Query(ge=1, le=10**9)] = None,
    by: Literal["route", "target", "key", "provider"] | None = None,
    route: Word = None,
    target: Word = None,
    key: Word = None,
) -> dict[str, Any]:
    """Requests, errors, latencies, tokens and cost in steps of so many seconds; by default, of the last day."""
    until = time.time() if until is None else until
    since = until - DAY if since is None else since
    if since >= until:
        raise ProtocolError("since must be before until", "since")
    step = max(math.ceil((until - since) / STEPS), 1) if step is None else step
    if (until - since) / step > MAX_STEPS:
        raise ProtocolError(f"step is so short that there were over {MAX_STEPS} of it", "step")
    only: dict[str, Any] = {"route": route, "target": target, "key": key}
    store = here.store
    rows = store.traffic(since, until, step, by, **only)
    (totals,) = store.traffic(since, until, math.ceil(until - since), None, **only) or [NOTHING]
    return {"since": since, "until": until, "step": step, "data": rows, "totals": totals}


@router.get("/generations")
def generations(
    here: Here,
    who: Who,
    filters: Filters,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 50,
    before: Word = None,
) -> dict[str, Any]:
    """The newest first. `before`: unix seconds, or the id of a generation after which to go on.

    A page ends early (with more: true) when it grows long. A key that may only use routes sees its own, and of battles
    none before the vote.
    """
    found: list[dict[str, Any]] = []
    more, size = True, 0
    after = _place(here, before)
    while more and len(found) < limit and size < MAX_PAGE:
        count = min(TOGETHER, limit - len(found))
        rows = here.store.search_generations(**_own(who, filters), limit=count + 1, before=after)
        found, more = found + rows[:count], len(rows) > count
        size += len(json.dumps(rows))
        after = (found[-1]["created"], found[-1]["id"]) if found else None
    return {"data": found, "more": more}


@router.get("/generations/export")
def export(here: Here, who: Who, filters: Filters, format: exports.Format = "jsonl") -> StreamingResponse:
    """All that fits, the newest first, as the store has it: what import takes back."""
    chunks = exports.export(here.store, format, **_own(who, filters))
    headers = {"Content-Disposition": f'attachment; filename="generations.{format}"'}
    return StreamingResponse(chunks, media_type=exports.TYPES[format], headers=headers)


@router.post("/generations/import")
def import_(here: Here, given: Logged) -> dict[str, Any]:
    """Keep what other systems have logged: each of `lines` a JSON object as they write it. What is kept already stays."""
    lines, use = given["lines"], given.get("use", ["evaluate"])
    for name, words in (("lines", lines), ("use", use)):
        for place, word in enumerate(words):
            if not isinstance(word, str) or (name == "use" and word not in USE):
                what = "text, a record as JSON" if name == "lines" else f"one of {', '.join(USE)}"
                raise ProtocolError(f"{name}[{place}] must be {what}", f"{name}.{place}")
    source = body.one_of("format", given.get("format", "auto"), get_args(Source))
    route, prices = given.get("route"), Prices.load(here.gateway.now.config.providers)
    rules = _rules(here, route or "")
    report = import_lines(lines, source, here.store, route=route, prices=prices, use=use, redact=rules)  # type: ignore[arg-type]
    return report.to_json()


@router.get("/generations/{id}")
def generation(here: Here, who: Who, id: str) -> dict[str, Any]:
    """A generation, with its feedback and every attempt at it."""
    row, store = _generation(here, who, id), here.store
    return {**row, "feedback": store.feedback(row["id"]), "attempts": store.attempts(row["id"])}


@router.post("/feedback", status_code=201)
def add_feedback(here: Here, who: Who, given: Said) -> dict[str, Any]:
    """Thumbs (−1 or 1) or a score (0 to 1) as `value`, a correction or a comment as `text`; durable when answered.

    The generation is named by its own id or by the reply's. The same `id` again is the same feedback.
    """
    kind: Any = body.one_of("kind", given["kind"], get_args(Kind))
    value, text = given.get("value"), given.get("text")
    if kind in ("correction", "comment"):
        if value is not None or not text or len(text) > MAX_TEXT:
            name = "text" if value is None else "value"
            raise ProtocolError(f"a {kind} has a text of 1 to {MAX_TEXT:,} characters, and no value", name)
    elif text is not None:
        raise ProtocolError(f"text is not for {kind}: send a comment beside it", "text")
    elif value is None or not (value in (-1, 1) if kind == "thumbs" else 0 <= value <= 1):
        raise ProtocolError("value must be " + ("-1 or 1" if kind == "thumbs" else "from 0 to 1"), "value")
    row = _generation(here, who, given["generation"], "vote")
    text = text and redact(text, _rules(here, row["route"]))
    about = {"kind": kind, "value": value, "text": text, "key": who.name or None}
    return here.store.add_feedback(id=given.get("id"), generation=row["id"], **about)


def _rules(here: State, route: str) -> tuple[str, ...]:
    """What is redacted in what is kept of a route."""
    found = here.gateway.now.routes.get(route)
    return found.redact if found else ()


@router.get("/findings")
def findings(
    here: Here, limit: Annotated[int, Query(ge=1, le=PAGE)] = 50, before: Moment = None
) -> dict[str, Any]:
    """What drift has noticed of targets, the newest first."""
    rows = here.store.findings(limit=limit + 1, before=before)
    return {"data": rows[:limit], "more": len(rows) > limit}


@router.post("/findings/{id}/seen")
def see_finding(here: Here, id: str) -> dict[str, Any]:
    return found(here.store.see_finding(id), "finding", id)


def _generation(here: State, who: Principal, id: str, scope: str = "read") -> dict[str, Any]:
    """The generation of this id, or of this reply's. One that the key may not see is as good as none."""
    row = found(here.store.get_generation(id, who.name), "generation", id)
    own = row["key"] == who.name and not here.store.in_open_battle(row["id"])
    if not (who.may(scope) or own):
        raise not_found(f"no generation {id!r:.100}")
    return row


def _place(here: State, before: str | None) -> float | tuple[float, str] | None:
    """Where a page begins. Raises ProtocolError for what is neither a time nor the id of a generation."""
    with suppress(ValueError):
        if before is None or math.isfinite(float(before)):
            return None if before is None else float(before)
    row = here.store.get_generation(before or "")
    if row is None:
        raise ProtocolError("before is neither a time in unix seconds nor the id of a generation", "before")
    return row["created"], row["id"]


def _own(who: Principal, filters: dict[str, Any]) -> dict[str, Any]:
    """What a key that reads only its own traffic finds. Raises HerdError 403 if it asks for another's."""
    if who.may("read"):
        return filters
    if filters.get("key", who.name) != who.name:
        said = "this key reads its own traffic only: it lacks the scope read"
        raise HerdError(said, status=403, code="missing_scope")
    return {**filters, "key": who.name, "blind": True}
