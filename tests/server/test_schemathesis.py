"""Every operation of the OpenAPI description, by schemathesis: no 5xx, no hang, whatever the parameters and bodies.

HERD_SCHEMATHESIS_CASES is the number of cases an operation (default 20; the whole check is 1000: some minutes).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

CASES = int(os.environ.get("HERD_SCHEMATHESIS_CASES") or 20)
PATIENCE = 20  # seconds; a hang is what takes longer

_file = Path(__file__).parents[2] / "bench" / "bodies.py"
_spec = importlib.util.spec_from_file_location("bodies", _file)
assert _spec and _spec.loader
bodies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bodies)

KEY = {
    "application": "x", "scopes": ["use:cria"], "limits": [{"unit": "tokens", "amount": 9, "period": "day"}],
    "expires_days": 1.5, "keep": "text", "use": ["train"],
}  # fmt: skip
ROUTE = {
    "targets": ["cria", {"target": "tale", "weight": 2}], "fallbacks": ["tale"], "retries": 1, "keep": "text",
    "timeout": {"first_token": 1.5, "total": 9}, "drop": ["seed"], "shadow": {"target": "tale", "share": 0.5},
    "use": ["evaluate"], "redact": ["email"], "retain_days": 1.5, "concurrency": 3,
}  # fmt: skip
# Herd's own routes: one good body each. A run's name is one that nobody serves, so that none begins.
OWN: dict[str, list[dict[str, Any]]] = {
    "/api/session": [{"key": "x"}],
    "/api/conversations": [
        {"id": "x", "title": "x", "route": "cria", "system": "x", "settings": {"temperature": 0.5}}
    ],
    "/api/conversations/{id}": [{"title": "x", "route": "cria", "system": "x", "settings": {}}],
    "/api/conversations/{id}/messages": [
        {"id": "x", "parent": "x", "role": "user", "content": "x", "generation": "x", "created": 1.5}
    ],
    "/api/conversations/import": [
        {"conversations": [{"id": "x", "title": "x", "messages": [{"role": "user", "content": "x"}]}]}
    ],
    "/api/votes": [{"id": "x", "a": "x", "b": "y", "outcome": "a", "source": "regenerate"}],
    "/api/battles": [{"kind": "pair", "targets": ["cria", "tale"], "tags": ["x"]}, {"kind": "arena"}],
    "/api/battles/embed": [{"a": "x", "b": "y", "tags": ["x"]}],
    "/api/battles/{id}/turns": [{"prompt": "x"}],
    "/api/battles/{id}/vote": [{"outcome": "left", "reasons": ["style"], "comment": "x", "user": "x"}],
    "/api/feedback": [{"id": "x", "generation": "x", "kind": "thumbs", "value": 1, "text": "x"}],
    "/api/generations/import": [
        {
            "lines": [
                '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}'
            ],
            "format": "openai",
            "route": "x",
            "use": ["train"],
        }
    ],
    "/api/keys": [KEY],
    "/api/keys/{id}": [KEY],
    "/api/routes/{name}": [{"definition": ROUTE, "expect": 1, "note": "x"}],
    "/api/routes/{name}/restore": [{"version": 1}],
    "/api/routes/check": [{"name": "x", "definition": ROUTE}],
    "/api/arena/frozen": [{"prompts": ["x", "y"]}],
    "/api/arena/import": [{"model_a": "x", "model_b": "y", "winner": "tie", "herd": {"source": "arena"}}],
    "/api/runs": [{"kind": "improve", "args": {"name": "nobody"}}],
}
NO_BODY = {"/v1/responses/{id}/cancel", "/api/models/{name}/load", "/api/models/{name}/unload", "/api/runs/{id}/cancel",
           "/api/routes/{name}/rollback", "/api/reload", "/api/keys/{id}/revoke", "/api/findings/{id}/seen", "/api/battles/stored",
           "/api/battles/{id}/regenerate"}  # fmt: skip


def shape(value: Any) -> dict[str, Any]:
    """A JSON schema of values like this one: its types, all fields free to be absent, its strings often as they are."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {name: shape(item) for name, item in value.items()}}
    if isinstance(value, list):
        return {"type": "array", "items": {"anyOf": [shape(item) for item in value]}}
    if isinstance(value, str):
        return {"anyOf": [{"const": value}, {"type": "string"}]}
    kinds = {bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": kinds[type(value)]}


def described(document: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The description with bodies, which routes read by themselves, and with ids that exist among the parameters."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("post", "put", "patch") and path not in NO_BODY:
                examples = bodies.GOOD.get(path) or OWN[path]
                content = {"schema": {"anyOf": [shape(example) for example in examples]}}
                operation["requestBody"] = {"required": True, "content": {"application/json": content}}
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    known = [{"const": value} for value in ids.values()]
                    parameter["schema"] = {"anyOf": [*known, {"type": "string"}]}
    return document


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url + path, data, {"Content-Type": "application/json"}), timeout=PATIENCE) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_operation_fails_or_hangs(url: str, chat: Callable[..., dict[str, Any]]) -> None:
    ids = {"model": "cria", "ref": "cria@1", "conversation": ask(url, "/api/conversations", {})["id"]}
    ids["generation"] = ask(url, "/v1/chat/completions", chat())["id"]
    ids["key"] = ask(url, "/api/keys", {"application": "x", "scopes": ["read"]})["id"]
    document = described(ask(url, "/openapi.json"), ids)
    if "/v1/responses" in document["paths"]:
        ids["response"] = ask(url, "/v1/responses", {"model": "cria", "input": "Hi"})["id"]
    schema = schemathesis.openapi.from_dict(described(document, ids))
    schema.config.update(base_url=url)
    failures: dict[str, str] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=CASES, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), derandomize=True,
        )  # fmt: skip
        def check(case: schemathesis.Case) -> None:
            try:
                status = case.call(timeout=PATIENCE).status_code
            except Exception as error:  # no answer, or none in time
                failures.setdefault(case.operation.label, f"{error!r:.200} {case.as_curl_command()[:3000]}")
            else:
                if status >= 500:
                    failures.setdefault(f"{case.operation.label} {status}", case.as_curl_command()[:3000])

        check()
    assert not failures, "\n".join(f"{label}: {how}" for label, how in failures.items())
    assert ask(url, "/health") == {"status": "ok"}
