"""Routes over HTTP: made, changed, brought back, and those of herd.toml left alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from herd.gateway.config import Config, parse_route
from herd.server.routes import definition

Chat = Callable[..., dict[str, Any]]
WHOLE: dict[str, Any] = {
    "targets": [{"target": "cria", "weight": 9}, "tale"], "fallbacks": ["cria"], "retries": 2, "concurrency": 5,
    "timeout": {"first_token": 20, "total": 120}, "drop": ["seed", "stop"], "keep": "metadata",
    "shadow": {"target": "tale", "share": 0.05, "concurrency": 3, "budget": 1.5}, "use": ["evaluate", "train"],
    "redact": ["email"], "retain_days": 30,
}  # fmt: skip


def put(client: TestClient, name: str, definition: dict[str, Any], **more: Any) -> Any:
    return client.put(f"/api/routes/{name}", json={"definition": definition, **more})


def test_a_route_is_made_changed_removed_and_brought_back(client: TestClient, chat: Chat) -> None:
    def model() -> Any:
        reply = client.post("/v1/chat/completions", json=chat(model="shop"))
        id = reply.json().get("id")
        return client.get(f"/api/generations/{id}").json()["target"] if id else reply.status_code

    assert model() == 404
    assert put(client, "shop", {"targets": ["cria"]}, note="first", expect=0).json() == {
        "name": "shop",
        "version": 1,
    }
    assert model() == "cria"
    assert put(client, "shop", {"targets": ["tale"]}, expect=1).json()["version"] == 2
    assert model() == "tale"
    late = put(client, "shop", {"targets": ["cria"]}, expect=1)
    assert late.status_code == 409 and "version 2" in late.json()["error"]["message"]
    assert client.post("/api/routes/shop/restore", json={"version": 1}).json()["version"] == 3
    assert model() == "cria"
    assert client.delete("/api/routes/shop").status_code == 204
    assert model() == 404
    gone = client.get("/api/routes/shop").json()
    assert gone["definition"] is None and gone["editable"] is True
    assert [row["version"] for row in gone["versions"]] == [4, 3, 2, 1]
    assert client.post("/api/routes/shop/restore", json={"version": 4}).status_code == 404
    assert client.post("/api/routes/shop/restore", json={"version": 2}).json()["version"] == 5
    assert model() == "tale"
    assert client.get("/api/routes/shop").json()["versions"][-1]["note"] == "first"


def test_the_list_has_stored_routes_and_own_names(client: TestClient) -> None:
    assert put(client, "shop", WHOLE).status_code == 200
    found = {route["name"]: route for route in client.get("/api/routes").json()["data"]}
    assert found["shop"]["definition"] == WHOLE
    assert (found["shop"]["source"], found["shop"]["version"], found["shop"]["editable"]) == (
        "store",
        1,
        True,
    )
    assert found["cria"] | {"health": []} == {
        "name": "cria", "source": "own", "version": None, "editable": False, "definition": {"targets": ["cria"]},
        "health": [],
    }  # fmt: skip
    assert [(one["target"], one["provider"]) for one in found["shop"]["health"]] == [
        ("cria", "local"),
        ("tale", "local"),
    ]
    targets = client.get("/api/targets").json()["data"]
    assert {(one["name"], one["kind"], one["provider"]) for one in targets} == {
        ("cria", "model", "local"), ("tale", "model", "local"),
    }  # fmt: skip
    (local,) = client.get("/api/providers").json()["data"]
    assert local["name"] == "local" and "sk-" not in str(local)


def test_a_definition_is_the_same_after_it_was_read() -> None:
    for table in (
        WHOLE,
        {"targets": ["cria"]},
        {"targets": ["a"], "timeout": {"total": 5}, "shadow": {"target": "b"}},
    ):
        assert definition(parse_route("x", table, Config())) == table


@pytest.mark.parametrize(
    ("table", "param"),
    [
        ({"targets": []}, "targets"), ({"targets": ["nobody"]}, "targets[0]"),
        ({"targets": ["cria"], "retries": -1}, "retries"), ({"targets": ["cria"], "keeps": "text"}, "keeps"),
        ({"targets": ["cria"], "keep": "all"}, "keep"), ({"targets": [{"target": "cria", "weight": "x"}]}, "targets[0].weight"),
        ({"targets": ["cria"], "timeout": {"total": 0}}, "timeout.total"), ({"targets": ["openai/x"]}, "targets[0]"),
        ({"targets": ["cria"], "redact": ["("]}, "redact[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_changes(
    client: TestClient, table: dict[str, Any], param: str
) -> None:
    put(client, "shop", {"targets": ["cria"]})
    for reply in (
        put(client, "shop", table),
        client.post("/api/routes/check", json={"name": "shop", "definition": table}),
    ):
        assert reply.status_code == 400 and reply.json()["error"]["param"].startswith(param), reply.text
    assert client.get("/api/routes/shop").json()["version"] == 1
    good = client.post("/api/routes/check", json={"name": "new", "definition": {"targets": ["cria"]}})
    assert good.json() == {"ok": True} and client.get("/api/routes/new").status_code == 404


@pytest.mark.parametrize("name", ["a b", "x" * 201, "%00", "%0A"])
def test_a_name_that_is_none_is_refused(client: TestClient, name: str) -> None:
    assert put(client, name, {"targets": ["cria"]}).status_code in (400, 404)


def test_a_route_of_the_file_is_read_only(start: Callable[..., TestClient], home: Path) -> None:
    (home / "herd.toml").write_text('[routes.shop]\ntargets = ["tale"]\nretries = 3\n')
    client = start()
    route = client.get("/api/routes/shop").json()
    assert (route["source"], route["editable"]) == ("file", False)
    assert route["definition"] == {"targets": ["tale"], "retries": 3} and route["versions"] == []
    for reply in (put(client, "shop", {"targets": ["cria"]}), client.delete("/api/routes/shop")):
        assert reply.status_code == 409 and "herd.toml" in reply.json()["error"]["message"]
