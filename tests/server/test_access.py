"""Who may do what: every route of the application, tried with every kind of key."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Mount

ROOT = "a secret of some length"
SCOPES = ("admin", "read", "vote", "use:cria", "use:arena", "feed:someone")

# What needs no key, and what a key without the scope admin is enough for. All else is for admins.
OPEN = {
    "/health", "/ready", "/api/session", "/web", "/", "/models", "/runs", "/c/{id}", "/traffic", "/conversations",
    "/routes", "/keys", "/arena", "/leaderboard", "/embed.js",
}  # fmt: skip
EVERYBODY = {"GET /api/status", "GET /openapi.json", "HEAD /openapi.json"}
USE = r"\w+ /v1/.*|POST /api/(feedback|battles/embed)|GET /api/generations(/\{id\}|/export)?"
ARENA = (
    r"POST /api/battles(/\{id\}/(turns|regenerate))?|GET /api/(battles/\{id\}|leaderboard.*|arena/agreement)"
)
ENOUGH = {
    "use:cria": re.compile(USE),
    "use:arena": re.compile(rf"(?!GET /v1/models/)({USE}|{ARENA})"),
    "vote": re.compile(r"POST /api/(feedback|votes|battles/\{id\}/vote)|GET /api/battles/\{id\}"),
    "read": re.compile(
        r"GET (/metrics|/api/(traffic|findings|votes|generations(/\{id\}|/export)?|conversations(/\{id\}|/export)?"
        r"|leaderboard.*|arena/agreement))|POST /api/battles/stored"
    ),
    "feed:someone": re.compile("nothing"),
    "admin": re.compile(".*"),
}


def all_routes(routes: Any) -> Iterator[tuple[str, str]]:
    """Method and path of each route, also of included routers."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from all_routes(route.original_router.routes)
        else:
            for method in ("GET",) if isinstance(route, Mount) else route.methods:
                yield method, re.sub(r":path\}", "}", route.path)


def make(client: TestClient, *scopes: str, **fields: Any) -> dict[str, Any]:
    """A new key, with the header that sends it."""
    body = {"application": "an app", "scopes": list(scopes), **fields}
    made = client.post("/api/keys", json=body, headers={"Authorization": f"Bearer {ROOT}"})
    assert made.status_code == 201, made.text
    return {**made.json(), "header": {"Authorization": f"Bearer {made.json()['secret']}"}}


@pytest.fixture
def guarded(start: Callable[..., TestClient]) -> TestClient:
    return start(api_key=ROOT)


def test_every_route_is_open_by_name_or_asks_for_its_scope(guarded: TestClient) -> None:
    keys = {scope: make(guarded, scope)["header"] for scope in SCOPES}
    tried = set()
    guarded.app.state.herd.live.closing = lambda: True  # type: ignore[attr-defined]  # its events would not end
    for method, path in sorted(set(all_routes(guarded.app.routes))):  # type: ignore[attr-defined]
        at = path.replace("{name}", "cria") + "/app.js" * (path == "/web")
        at = re.sub(r"\{\w+\}", "x", at)
        if path in OPEN:
            assert guarded.request(method, at, json={}).status_code != 401 or path == "/api/session", path
            continue
        tried.add(path)
        bare = guarded.request(method, at, json={})
        assert bare.status_code == 401, f"{method} {path} needs no key"
        for scope, header in keys.items():
            name = f"{method} {path}"
            allowed = name in EVERYBODY or bool(ENOUGH[scope].fullmatch(name))
            reply = guarded.request(method, at, json={}, headers=header)
            assert reply.status_code != 401
            refused = reply.status_code == 403 and "scope" in reply.text
            assert refused != allowed, f"{name} for {scope}"
    assert {"/api/keys", "/api/routes/{name}", "/api/generations/export", "/v1/messages", "/metrics"} <= tried


def test_who_is_not_known_or_no_longer_gets_401(guarded: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    revoked, expired = make(guarded, "admin"), make(guarded, "admin", expires_days=1)
    root = {"Authorization": f"Bearer {ROOT}"}
    assert guarded.get("/api/keys", headers=revoked["header"]).status_code == 200
    assert guarded.post(f"/api/keys/{revoked['id']}/revoke", headers=root).json()["revoked"]
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * 86_400)
    for secret in ("hk-unknown", revoked["secret"], expired["secret"], ROOT + "x", ""):
        for header in ({"Authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
            reply = guarded.get("/api/keys", headers=header)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        reply = guarded.post("/v1/messages", json={}, headers={"x-api-key": secret})
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
    assert guarded.get("/api/keys", headers=root).status_code == 200


def test_a_missing_scope_is_said_in_the_dialects_words(guarded: TestClient) -> None:
    vote = make(guarded, "vote")["header"]
    reply = guarded.post("/v1/messages", json={}, headers=vote)
    assert reply.status_code == 403 and reply.json()["error"]["type"] == "permission_error"
    reply = guarded.post("/v1/chat/completions", json={}, headers=vote)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "missing_scope")
    assert "use:<route>" in reply.json()["error"]["message"]
    assert "admin" in guarded.get("/api/keys", headers=vote).json()["error"]["message"]


def test_a_session_is_the_keys_own_and_ends_with_it(guarded: TestClient) -> None:
    key = make(guarded, "read")
    reply = guarded.post("/api/session", json={"key": key["secret"]})
    cookie = reply.headers["set-cookie"].lower()
    assert reply.status_code == 204 and "httponly" in cookie and "samesite=strict" in cookie
    assert key["secret"] not in cookie and "secure" not in cookie
    assert guarded.get("/api/traffic").status_code == 200
    assert guarded.get("/api/keys").status_code == 403
    assert guarded.get("/api/keys", headers={"Authorization": f"Bearer {ROOT}"}).status_code == 200
    guarded.post(f"/api/keys/{key['id']}/revoke", headers={"Authorization": f"Bearer {ROOT}"})
    assert guarded.get("/api/traffic").status_code == 401
    assert guarded.post("/api/session", json={"key": key["secret"]}).status_code == 401


def test_behind_tls_the_session_is_secure(guarded: TestClient) -> None:
    for headers, url in (({"X-Forwarded-Proto": "https"}, "/"), ({}, "https://localhost:8000/")):
        reply = guarded.post(f"{url}api/session", json={"key": ROOT}, headers=headers)
        assert "secure" in reply.headers["set-cookie"].lower()


def test_an_open_server_takes_any_word_but_no_key_that_is_not_its_own(client: TestClient) -> None:
    assert client.get("/api/keys", headers={"Authorization": "Bearer herd"}).status_code == 200
    assert client.get("/api/keys", headers={"Cookie": "herd_key=old"}).status_code == 200
    assert client.get("/api/keys", headers={"Authorization": "Bearer hk-unknown"}).status_code == 401


def test_a_key_that_uses_routes_sees_its_own_generations_only(
    guarded: TestClient, chat: Callable[..., dict[str, Any]]
) -> None:
    mine, other = make(guarded, "use:cria")["header"], make(guarded, "use:cria")["header"]
    reader, voter = make(guarded, "read")["header"], make(guarded, "vote")["header"]
    id = guarded.post("/v1/chat/completions", json=chat(), headers=mine).json()["id"]
    thumbs = {"generation": id, "kind": "thumbs", "value": 1}
    for headers, seen, may_say in ((mine, 1, 201), (other, 0, 404), (reader, 1, 403), (voter, None, 201)):
        reply = guarded.get("/api/generations", headers=headers)
        assert reply.status_code == (403 if seen is None else 200)
        if seen is not None:
            assert len(reply.json()["data"]) == seen
            assert guarded.get(f"/api/generations/{id}", headers=headers).status_code == (
                200 if seen else 404
            )
            exported = guarded.get("/api/generations/export?format=jsonl", headers=headers)
            assert len(exported.text.splitlines()) == seen
        assert guarded.post("/api/feedback", json=thumbs, headers=headers).status_code == may_say
    # who may see only what is his cannot ask for another's
    name = guarded.get("/api/generations", headers=reader).json()["data"][0]["key"]
    for path in ("generations", "generations/export"):
        assert guarded.get(f"/api/{path}?key={name}", headers=other).status_code == 403
        assert guarded.get(f"/api/{path}?key={name}", headers=mine).status_code == 200


def test_status_shows_a_key_its_own_routes(guarded: TestClient) -> None:
    def names(header: dict[str, str]) -> set[str]:
        return {route["name"] for route in guarded.get("/api/status", headers=header).json()["routes"]}

    assert (
        names(make(guarded, "admin")["header"]) == names(make(guarded, "use:*")["header"]) == {"cria", "tale"}
    )
    assert names(make(guarded, "use:tale")["header"]) == {"tale"}
    assert names(make(guarded, "vote")["header"]) == set()


def test_what_is_wrong_with_the_configuration_is_not_for_a_publishable_key(guarded: TestClient) -> None:
    """It names files, and quotes them."""
    guarded.app.state.herd.reloader.problem = "/home/ann/herd.toml, line 3: wrong"  # type: ignore[attr-defined]
    for scope, told in (("vote", False), ("use:cria", False), ("read", True), ("admin", True)):
        status = guarded.get("/api/status", headers=make(guarded, scope)["header"]).json()
        assert (status["config_problem"] is not None) == told, scope


def test_a_key_means_its_own_reply_by_an_id_that_a_provider_gives_everybody(guarded: TestClient) -> None:
    one, other = make(guarded, "use:cria"), make(guarded, "use:cria")
    store = guarded.app.state.herd.store  # type: ignore[attr-defined]
    for number, key in enumerate((one, other)):
        row = {"id": f"g{number}", "reply_id": "chatcmpl-123", "key": key["id"], "created": 1.0 + number}
        store.add_generation(
            {**row, "route": "cria", "request": {"kind": "chat", "messages": []}, "reply": "x"}
        )
    for number, key in enumerate((one, other)):
        body = {"generation": "chatcmpl-123", "kind": "thumbs", "value": 1}
        said = guarded.post("/api/feedback", json=body, headers=key["header"])
        assert said.status_code == 201 and said.json()["generation"] == f"g{number}"
        found = guarded.get("/api/generations/chatcmpl-123", headers=key["header"])
        assert found.json()["id"] == f"g{number}"
