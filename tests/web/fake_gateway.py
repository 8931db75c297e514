"""The gateway's half of the fake server: traffic, kept generations, routes and keys as the API says, in memory."""

from __future__ import annotations

import json
import time
from typing import Any

HOUR, DAY = 3600.0, 86400.0
TARGETS = {
    "cria": ("local", "cria@1"),
    "openai/gpt-4o-mini": ("openai", "gpt-4o-mini"),
    "anthropic/claude-haiku-4-5": ("anthropic", "claude-haiku-4-5"),
}


class Refused(Exception):
    """An answer that is an error: status, message, and which parameter or code."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code


class Gateway:
    """What the pages may read and change; a test reads and changes it directly."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []  # generations, the newest first
        self.feedback: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []
        self.versions: dict[str, list[dict[str, Any]]] = {}  # stored routes, the newest first
        self.written: dict[str, dict[str, Any]] = {}  # herd.toml's
        self.keys: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []  # every question to /api/traffic and /api/generations
        self.saved: list[dict[str, Any]] = []

    def keep(
        self, text: str, reply: str, *, ago: float, target: str = "cria", **fields: Any
    ) -> dict[str, Any]:
        """One generation, so many seconds ago."""
        id = f"gen-{len(self.rows)}"
        row = {
            "id": id, "conversation": f"conv-of-{id}", "route": "assistant", "target": target, "model_ref": TARGETS[target][1],
            "provider": TARGETS[target][0], "key": "key-1", "created": time.time() - ago, "reply": reply, "finish": "stop", "error": None,
            "request": {"messages": [{"role": "user", "content": text}], "sampling": {"temperature": 0.7}}, "calls": None, "reasoning": "",
            "tokens": {"prompt": 40, "completion": 120, "cached": 0}, "latency": {"first_token": 210.0, "total": 1400.0},
            "cost": 0 if target == "cria" else 120_000_000, "use": ["evaluate"], "dropped": [], "tries": [], **fields,
        }  # fmt: skip
        self.rows.append(row)
        self.rows.sort(key=lambda one: -one["created"])
        return row

    def route(self, name: str, definition: dict[str, Any], note: str = "", author: str = "ada") -> None:
        versions = self.versions.setdefault(name, [])
        row = {
            "version": len(versions) + 1,
            "definition": definition,
            "note": note,
            "author": author,
            "created": time.time(),
        }
        versions.insert(0, row)

    def key(self, application: str, **fields: Any) -> dict[str, Any]:
        id = f"key-{len(self.keys) + 1}"
        row = {"id": id, "shown": f"hk-{id[-1] * 4}", "application": application, "scopes": ["use:*"], "limits": [], "keep": None, "use": None,
               "created": time.time(), "expires": None, "revoked": None, "spend": [], **fields}  # fmt: skip
        self.keys.insert(0, row)
        return row


def furnish(here: Gateway) -> None:
    """A day of traffic, two routes and two keys."""
    asks = [("How do I reset my password?", "Open **Settings**, then *Account*, and choose Reset."), ("Write a haiku about rain", "Soft rain on the roof\nA cat looks up, then sleeps on\nThe gutter keeps time"),
            ("Summarise this ticket in two sentences", "The export fails for files over 2 GB. A fix is planned for Friday."), ("Translate: good morning", "Guten Morgen")]  # fmt: skip
    for i in range(140):
        target = list(TARGETS)[0 if i % 5 == 0 else 1 if i % 5 < 4 else 2]
        slow, wrong = 700 + 37 * (i * 7 % 31) + (i % 9 == 0) * 2500, i % 23 == 5
        text, reply = asks[i % 4]
        here.keep(text, "" if wrong else reply, ago=600.0 * i + 5, target=target, latency={"first_token": slow / 6, "total": float(slow)}, conversation=f"c-{i // 2}",
                  key="key-1" if i % 3 else "key-2", **({"finish": "error", "error": "the upstream reset the connection"} if wrong else {}))  # fmt: skip
    newest = here.rows[0]
    newest["dropped"] = ["seed"]
    newest["tries"] = [
        {"id": "a1", "number": 1, "target": "openai/gpt-4o-mini", "state": "failed", "status": 429, "code": "rate_limit_exceeded", "error": "too many requests", "total_ms": 180.0, "cost": 0, "shadow": False},
        {"id": "a2", "number": 2, "target": newest["target"], "state": "done", "status": 200, "code": None, "error": None, "total_ms": 1200.0, "cost": 120_000_000, "shadow": False},
    ]  # fmt: skip
    here.feedback.append(
        {
            "id": "f1",
            "generation": newest["id"],
            "kind": "comment",
            "value": None,
            "text": "Clear and short.",
            "key": "ada",
            "created": time.time(),
        }
    )
    here.route("assistant", {"targets": ["openai/gpt-4o-mini"]}, "the first")
    here.route("assistant", {"targets": [{"target": "openai/gpt-4o-mini", "weight": 9}, "cria"], "fallbacks": ["anthropic/claude-haiku-4-5", "cria"], "retries": 2,
                             "timeout": {"first_token": 20, "total": 120}, "redact": ["email"], "use": ["evaluate", "train"]}, "try cria on a tenth")  # fmt: skip
    here.written["summaries"] = {"targets": ["anthropic/claude-haiku-4-5"], "keep": "metadata"}
    month = {
        "unit": "dollars",
        "period": "month",
        "start": 0.0,
        "spent": int(31.4e12),
        "reserved": int(2.1e12),
        "amount": int(50e12),
    }
    minute = {"unit": "requests", "period": "minute", "start": 0.0, "spent": 60, "reserved": 0, "amount": 60}
    here.key(
        "help desk",
        spend=[month, minute],
        limits=[{k: one[k] for k in ("unit", "period", "amount")} for one in (month, minute)],
        expires=time.time() + 30 * DAY,
    )
    here.key("nightly reports", scopes=["use:summaries", "read"], keep="metadata")


def percentiles(values: list[float]) -> dict[str, float | None]:
    values = sorted(values)
    return {
        f"p{p}": values[min(len(values) - 1, len(values) * p // 100)] if values else None
        for p in (50, 95, 99)
    }


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "requests": len(rows), "errors": sum(r["finish"] == "error" for r in rows), "cost": sum(r["cost"] for r in rows),
        "prompt_tokens": sum(r["tokens"]["prompt"] for r in rows), "completion_tokens": sum(r["tokens"]["completion"] for r in rows),
        "total_ms": percentiles([r["latency"]["total"] for r in rows]), "first_token_ms": percentiles([r["latency"]["first_token"] for r in rows]),
    }  # fmt: skip


def traffic(state: Any, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    asked = {name: values[0] for name, values in query.items()}
    state.gateway.asked.append(asked)
    since, until, step = (float(asked[name]) for name in ("since", "until", "step"))
    rows = [r for r in state.gateway.rows if since <= r["created"] < until]
    cells: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        start = since + (row["created"] - since) // step * step
        cells.setdefault((start, row[asked["by"]]), []).append(row)
    data = [
        {"start": start, "group": group, **summed(cell)} for (start, group), cell in sorted(cells.items())
    ]
    return {
        "since": since,
        "until": until,
        "step": step,
        "data": data,
        "totals": summed(rows) if rows else None,
    }


def found(state: Any, query: dict[str, list[str]]) -> list[dict[str, Any]]:
    asked = {name: values[0] for name, values in query.items()}
    state.gateway.asked.append(asked)
    text = asked.get("query", "").lower()
    thumbs = {"good": 1, "bad": -1}.get(asked.get("feedback", ""))
    given = {
        f["generation"]
        for f in state.gateway.feedback
        if asked.get("feedback") in ("any", f["kind"]) or (f["kind"] == "thumbs" and f["value"] == thumbs)
    }
    before = next((row["created"] for row in state.gateway.rows if row["id"] == asked.get("before")), 1e12)
    return [
        row for row in state.gateway.rows
        if (not text or text in row["reply"].lower() or text in json.dumps(row["request"]).lower())
        and all(row[name] == asked[name] for name in ("route", "target", "key", "finish", "conversation") if name in asked)
        and float(asked.get("since", 0)) <= row["created"] < float(asked.get("until", 1e12)) and row["created"] < before
        and ("feedback" not in asked or row["id"] in given)
    ]  # fmt: skip


def generations(state: Any, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    rows, limit = found(state, query), int(query.get("limit", ["50"])[0])
    return {
        "data": [{k: v for k, v in row.items() if k != "tries"} for row in rows[:limit]],
        "more": len(rows) > limit,
    }


def generation(state: Any, id: str, **_: Any) -> dict[str, Any] | None:
    row = next((row for row in state.gateway.rows if row["id"] == id), None)
    given = [one for one in state.gateway.feedback if one["generation"] == id]
    return {**row, "attempts": row["tries"], "feedback": given} if row else state.generations.get(id)


def give(state: Any, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    row = {"value": None, "text": None, "key": None, "created": time.time(), **body}
    state.gateway.feedback.append(row)
    return row


def forget(state: Any, id: str) -> None:
    state.gateway.rows = [row for row in state.gateway.rows if row["conversation"] != id]


def seen(state: Any, id: str, **_: Any) -> dict[str, Any]:
    one = next(one for one in state.gateway.findings if one["id"] == id)
    one["seen"] = time.time()
    return one


def view(state: Any, name: str) -> dict[str, Any]:
    here = state.gateway
    stored = here.versions.get(name)
    if stored:
        source, version, definition = "store", stored[0]["version"], stored[0]["definition"]
    elif name in here.written:
        source, version, definition = "file", 0, here.written[name]
    else:
        source, version, definition = "own", 0, {"targets": [name]}
    names = [one if isinstance(one, str) else one["target"] for one in (definition or {}).get("targets", [])]
    health = [{"target": n, "provider": TARGETS.get(n, ("local", ""))[0], "url": None if n == "cria" else f"https://api.{n.split('/')[0]}.example/v1",
               "state": "half-open" if "haiku" in n else "closed", "in_flight": 0} for n in names]  # fmt: skip
    return {
        "name": name,
        "source": source,
        "version": version,
        "editable": source == "store",
        "definition": definition,
        "health": health,
    }


def routes(state: Any, **_: Any) -> dict[str, Any]:
    here = state.gateway
    names = [name for name, versions in here.versions.items() if versions[0]["definition"]]
    return {"data": [view(state, name) for name in (*names, *here.written, "cria")]}


def route(state: Any, name: str, **_: Any) -> dict[str, Any] | None:
    versions = state.gateway.versions.get(name, [])
    if not versions and name not in state.gateway.written and name != "cria":
        return None
    return {**view(state, name), "versions": versions}


def check(state: Any, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    definition, known = body["definition"], TARGETS
    if body["name"] in state.gateway.written:
        raise Refused(
            409, f"route {body['name']!r} is written in herd.toml: change it there", code="read_only"
        )
    if not definition.get("targets"):
        raise Refused(400, "needs a target with a weight above 0", "targets")
    for place, one in enumerate(definition["targets"]):
        name = one if isinstance(one, str) else one["target"]
        if name not in known:
            raise Refused(
                400,
                f"no target or model {name!r}; did you mean 'cria'?",
                f"targets.{place}" + ("" if isinstance(one, str) else ".target"),
            )
        if not isinstance(one, str) and not isinstance(one["weight"], int | float):
            raise Refused(
                400, f"must be a number from 0 to 1e+06, not {one['weight']!r}", f"targets.{place}.weight"
            )
    for path, most in (("retries", 10), ("concurrency", 100_000)):
        value = definition.get(path, 1)
        if not isinstance(value, int) or not 0 <= value <= most:
            raise Refused(400, f"must be a number from 0 to {most}, not {value!r}", path)
    for name, value in definition.get("timeout", {}).items():
        if not isinstance(value, int | float) or value <= 0:
            raise Refused(400, f"must be a number from 0.001 to 86400, not {value!r}", f"timeout.{name}")
    return {"ok": True}


def put(state: Any, name: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    here = state.gateway
    check(state, body={"name": name, "definition": body["definition"]})
    newest = here.versions[name][0]["version"] if name in here.versions else 0
    if body.get("expect") is not None and body["expect"] != newest:
        raise Refused(409, f"version {newest} of {name} was saved first", code="conflict")
    here.saved.append({"name": name, **body})
    here.route(name, body["definition"], body.get("note", ""))
    return {"name": name, "version": newest + 1}


def restore(state: Any, name: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    old = next(one for one in state.gateway.versions[name] if one["version"] == body["version"])
    state.gateway.route(name, old["definition"], f"version {body['version']} again")
    return {"name": name, "version": state.gateway.versions[name][0]["version"]}


def remove(state: Any, name: str, **_: Any) -> dict[str, Any]:
    state.gateway.route(name, None, "removed")  # type: ignore[arg-type]
    return {}


def create(state: Any, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    for place, one in enumerate(body["limits"]):
        if not isinstance(one["amount"], int | float):
            raise Refused(
                400, f"limits.{place}.amount must be a number from 0 to 1,000,000", f"limits.{place}.amount"
            )
    days = body.pop("expires_days", None)
    limits = [{**one, "start": 0.0, "spent": 0, "reserved": 0} for one in body["limits"]]
    row = state.gateway.key(**body, spend=limits, expires=time.time() + days * DAY if days else None)
    return {**row, "secret": "hk-secret-words-of-the-new-key"}


def revoke(state: Any, id: str, **_: Any) -> dict[str, Any]:
    row = next(row for row in state.gateway.keys if row["id"] == id)
    row["revoked"] = time.time()
    return row


ROUTES = {
    ("GET", "traffic"): traffic,
    ("GET", "findings"): lambda state, **_: {"data": state.gateway.findings, "more": False},
    ("POST", "findings/([^/]+)/seen"): seen,
    ("GET", "generations"): generations,
    ("GET", "generations/([^/]+)"): generation,
    ("POST", "feedback"): give,
    ("GET", "targets"): lambda state, **_: {
        "data": [{"name": n, "provider": p, "model": m, "kind": "target"} for n, (p, m) in TARGETS.items()]
    },
    ("GET", "routes"): routes,
    ("POST", "routes/check"): check,
    ("GET", "routes/(.+)"): route,
    ("PUT", "routes/(.+)"): put,
    ("DELETE", "routes/(.+)"): remove,
    ("POST", "routes/(.+)/restore"): restore,
    ("GET", "keys"): lambda state, **_: {"data": state.gateway.keys, "more": False},
    ("POST", "keys"): create,
    ("POST", "keys/([^/]+)/revoke"): revoke,
}
