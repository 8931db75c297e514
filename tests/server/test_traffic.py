"""Kept traffic over HTTP: numbers, search, export and import, feedback, findings."""

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

Chat = Callable[..., dict[str, Any]]
DAY = 1_700_006_400  # a midnight


@pytest.fixture
def store(client: TestClient) -> Any:
    return client.app.state.herd.store  # type: ignore[attr-defined]


def put(store: Any, id: str, created: float, **fields: Any) -> None:
    row = {
        "id": id, "conversation": None, "route": "cria", "target": "cria", "request": {"route": "cria", "kind": "chat",
        "messages": [{"role": "user", "content": f"what of {id}"}]}, "reply": f"this of {id}", "created": created,
        "finish": "stop", "prompt_tokens": 3, "completion_tokens": 4, "cost": 5,
    }  # fmt: skip
    store.add_generation(row | fields)


def ids(reply: Any) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["data"]]


def test_search_finds_by_each_condition(client: TestClient, store: Any) -> None:
    put(store, "a", DAY, route="shop", key="key_1", finish="length", conversation="c1")
    put(store, "b", DAY + 1, target="tale", reply="a Llama's answer")
    put(store, "c", DAY + 2)
    for query, found in (
        ("", "cba"), ("route=shop", "a"), ("target=tale", "b"), ("key=key_1", "a"), ("finish=length", "a"),
        ("conversation=c1", "a"), ("query=LLAMA", "b"), ("query=what of c", "c"), (f"since={DAY + 1}", "cb"),
        (f"until={DAY + 1}", "a"), (f"since={DAY + 1}&until={DAY + 2}", "b"), ("route=nothing", ""), ("query=%25", ""),
    ):  # fmt: skip
        assert ids(client.get(f"/api/generations?{query}")) == list(found), query


def test_pages_lose_nothing_even_at_one_moment(client: TestClient, store: Any) -> None:
    whole = {f"g{i:02}" for i in range(57)}
    for id in whole:
        put(store, id, DAY)
    seen: list[str] = []
    more, before = True, ""
    while more:
        page = client.get(f"/api/generations?limit=25{before}").json()
        seen += [row["id"] for row in page["data"]]
        more, before = page["more"], f"&before={seen[-1]}"
    assert len(seen) == len(whole) and set(seen) == whole
    assert ids(client.get(f"/api/generations?before={DAY}")) == []
    assert len(ids(client.get(f"/api/generations?before={DAY + 1}"))) == 50


def test_a_page_of_long_texts_ends_early_and_says_so(client: TestClient, store: Any) -> None:
    for i in range(60):
        put(store, f"g{i:02}", DAY + i, reply="x" * 500_000)
    page = client.get("/api/generations?limit=60").json()
    assert 0 < len(page["data"]) < 60 and page["more"] is True
    rest = client.get(f"/api/generations?limit=60&before={page['data'][-1]['id']}").json()
    assert rest["data"][0]["created"] == page["data"][-1]["created"] - 1


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("generations?limit=0", "limit"), ("generations?limit=201", "limit"), ("generations?limit=x", "limit"),
        ("generations?before=nobody", "before"), ("generations?before=inf", "before"), ("generations?since=x", "since"),
        ("generations?feedback=great", "feedback"), (f"generations?query={'x' * 201}", "query"),
        ("generations/export?format=csv", "format"), ("traffic?by=colour", "by"), ("traffic?step=0", "step"),
        ("traffic?step=1", "step"), ("traffic?since=5&until=5", "since"), ("traffic?until=nan", "until"),
        ("findings?limit=9999", "limit"), ("keys?limit=-1", "limit"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_named(client: TestClient, query: str, name: str) -> None:
    reply = client.get(f"/api/{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name), reply.text


@pytest.mark.parametrize("path", ["generations/none", "keys/none", "routes/none", "routes/a/b"])
def test_what_is_not_there_is_404(client: TestClient, path: str) -> None:
    assert client.get(f"/api/{path}").status_code == 404
    assert client.post("/api/findings/none/seen").status_code == 404
    assert client.post("/api/keys/none/revoke").status_code == 404
    assert client.patch("/api/keys/none", json={"application": "x"}).status_code == 404
    assert client.delete("/api/routes/none").status_code == 404
    assert client.post("/api/routes/none/restore", json={"version": 1}).status_code == 404


def test_numbers_are_those_of_the_replies(client: TestClient, engine: Any, chat: Chat) -> None:
    empty = client.get("/api/traffic").json()
    assert empty["data"] == [] and empty["totals"]["requests"] == 0
    for _ in range(3):
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
    assert client.post("/v1/chat/completions", json=chat(model="tale")).status_code == 200
    engine.break_after = 0
    assert client.post("/v1/chat/completions", json=chat()).status_code >= 500
    totals = client.get("/api/traffic").json()["totals"]
    assert (totals["requests"], totals["errors"], totals["cost"]) == (5, 1, 0)
    assert totals["completion_tokens"] == 16 and totals["total_ms"]["p50"] <= totals["total_ms"]["p99"]
    rows = client.get("/api/traffic?by=route").json()["data"]
    assert {row["group"]: row["requests"] for row in rows} == {"cria": 4, "tale": 1}
    only = client.get("/api/traffic?route=tale&by=target").json()
    assert [(row["group"], row["requests"]) for row in only["data"]] == [("tale", 1)]
    assert only["totals"]["requests"] == 1


def test_a_generation_has_its_attempts_and_what_was_said_of_it(client: TestClient, chat: Chat) -> None:
    id = client.post("/v1/chat/completions", json=chat()).json()["id"]
    said = [
        {"kind": "thumbs", "value": -1}, {"kind": "score", "value": 0.25}, {"kind": "comment", "text": "too short"},
        {"kind": "correction", "text": "Once upon a time there was a llama.", "id": "mine"},
    ]  # fmt: skip
    for one in said:
        assert client.post("/api/feedback", json={"generation": id, **one}).status_code == 201
    again = client.post("/api/feedback", json={"generation": id, **said[-1]})
    assert again.status_code == 201 and again.json()["id"] == "mine"
    other = client.post(
        "/api/feedback", json={"generation": id, "kind": "comment", "text": "no", "id": "mine"}
    )
    assert other.status_code == 409
    whole = client.get(f"/api/generations/{id}").json()
    assert [(one["kind"], one["value"], one["text"]) for one in whole["feedback"]] == [
        (one["kind"], one.get("value"), one.get("text")) for one in said
    ]
    (attempt,) = whole["attempts"]
    assert (attempt["state"], attempt["completion_tokens"]) == ("done", 4)
    for wanted, found in (
        ("any", 1),
        ("bad", 1),
        ("good", 0),
        ("score", 1),
        ("correction", 1),
        ("comment", 1),
    ):
        assert len(ids(client.get(f"/api/generations?feedback={wanted}"))) == found


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"kind": "praise"}, "kind"), ({"kind": "thumbs", "value": 0}, "value"), ({"kind": "thumbs"}, "value"),
        ({"kind": "score", "value": 1.5}, "value"), ({"kind": "score", "value": "x"}, "value"),
        ({"kind": "comment"}, "text"), ({"kind": "comment", "text": ""}, "text"),
        ({"kind": "comment", "text": "x", "value": 1}, "value"), ({"kind": "thumbs", "value": 1, "text": "x"}, "text"),
        ({"kind": "comment", "text": "x" * 100_001}, "text"), ({"kind": "thumbs", "value": True}, "value"),
    ],
)  # fmt: skip
def test_wrong_feedback_is_named(client: TestClient, chat: Chat, given: dict[str, Any], name: str) -> None:
    id = client.post("/v1/chat/completions", json=chat()).json()["id"]
    reply = client.post("/api/feedback", json={"generation": id, **given})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
    assert (
        client.post("/api/feedback", json={"generation": "none", "kind": "thumbs", "value": 1}).status_code
        == 404
    )
    assert client.get(f"/api/generations/{id}").json()["feedback"] == []


def test_what_is_exported_is_imported_once(client: TestClient, store: Any, start: Callable[..., Any]) -> None:
    for i in range(250):
        put(store, f"g{i:03}", DAY + i // 100, reply=f"“ä\u2028{i}”")
    exported = client.get("/api/generations/export?format=jsonl")
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    lines = exported.text.strip("\n").split("\n")
    assert len({json.loads(line)["id"] for line in lines}) == 250
    assert len(client.get(f"/api/generations/export?until={DAY + 1}").text.strip().split("\n")) == 100
    again = client.post("/api/generations/import", json={"lines": lines}).json()
    assert (again["kept"], again["known"], again["bad"]) == (0, 250, 0)
    log = {"request": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
           "response": {"id": "x1", "created": DAY, "model": "gpt-4o", "choices": [
               {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}]}}  # fmt: skip
    report = client.post(
        "/api/generations/import", json={"lines": [json.dumps(log), "{", "[]"], "route": "shop"}
    ).json()
    assert (report["kept"], report["bad"], [p["line"] for p in report["problems"]]) == (1, 2, [2, 3])
    (row,) = client.get("/api/generations?route=shop").json()["data"]
    assert row["reply"] == "Hello." and row["request"]["messages"][0]["content"] == "Hi"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"lines": [1]}, "lines.0"), ({"lines": "x"}, "lines"), ({"lines": [], "use": ["sell"]}, "use.0"),
        ({"lines": [], "format": "csv"}, "format"), ({}, "lines"), ({"lines": [], "rout": "x"}, "rout"),
    ],
)  # fmt: skip
def test_a_wrong_import_is_named(client: TestClient, given: dict[str, Any], name: str) -> None:
    reply = client.post("/api/generations/import", json=given)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


def test_findings_are_paged_and_seen(client: TestClient, store: Any) -> None:
    made = [store.add_finding("cria", "speed", f"it is slow, {i}") for i in range(3)]
    page = client.get("/api/findings?limit=2").json()
    assert [one["said"][-1] for one in page["data"]] == ["2", "1"] and page["more"] is True
    rest = client.get(f"/api/findings?limit=2&before={page['data'][-1]['created']!r}").json()
    assert [one["id"] for one in rest["data"]] == [made[0]["id"]] and rest["more"] is False
    assert client.post(f"/api/findings/{made[0]['id']}/seen").status_code == 200
    assert client.get("/api/findings").json()["data"][-1]["seen"]


def test_parquet_has_the_same_rows(client: TestClient, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for i in range(30):
        put(store, f"g{i:02}", DAY + i)
    reply = client.get("/api/generations/export?format=parquet&route=cria")
    table = parquet.read_table(io.BytesIO(reply.content)).to_pylist()
    assert [row["id"] for row in table] == [f"g{i:02}" for i in reversed(range(30))]
    assert table[0]["reply"] == "this of g29" and table[0]["completion_tokens"] == 4
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = client.get("/api/generations/export?format=parquet")
    assert refused.status_code == 400 and "pip install" in refused.json()["error"]["message"]


def test_two_servers_share_one_postgresql(
    start: Callable[..., TestClient], postgresql: Any, chat: Chat, wait_for: Callable[..., None]
) -> None:
    url, root = postgresql.new(), {"Authorization": "Bearer root"}
    one, other = start(database=url, api_key="root"), start(database=url, api_key="root")
    made = one.post("/api/keys", json={"application": "x", "scopes": ["use:cria"]}, headers=root).json()
    key = {"Authorization": f"Bearer {made['secret']}"}
    wait_for(lambda: other.get("/api/status", headers=key).status_code == 200)
    id = other.post("/v1/chat/completions", json=chat(), headers=key).json()["id"]
    assert ids(one.get("/api/generations?query=STORY", headers=key)) == [id]
    thumbs = {"generation": id, "kind": "thumbs", "value": 1}
    assert one.post("/api/feedback", json=thumbs, headers=key).status_code == 201
    assert ids(other.get("/api/generations?feedback=good", headers=root)) == [id]
    assert one.get("/api/traffic?by=key", headers=root).json()["data"][0]["group"] == made["id"]
    assert (
        one.put("/api/routes/shop", json={"definition": {"targets": ["cria"]}}, headers=root).status_code
        == 200
    )
    wait_for(lambda: other.get("/api/routes/shop", headers=root).json().get("version") == 1)
    one.post(f"/api/keys/{made['id']}/revoke", headers=root)
    wait_for(lambda: other.get("/api/status", headers=key).status_code == 401)


def test_without_its_database_a_server_is_not_ready_and_tells_no_address(
    start: Callable[..., TestClient], postgresql: Any
) -> None:
    server = start(database=postgresql.new())
    assert server.get("/ready").status_code == 200
    postgresql.stop()
    try:
        ready, asked = server.get("/ready"), server.get("/api/conversations")
    finally:
        postgresql.start()
    assert (ready.status_code, ready.json()["reason"]) == (503, "the database cannot be reached")
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "store_unavailable")
    assert asked.json()["error"]["message"] == "the database cannot be reached: nothing was kept"
    assert server.get("/ready").status_code == 200


def test_half_a_character_in_a_log_spoils_no_page(client: TestClient) -> None:
    """JSON may hold half a surrogate pair, which nothing can be written with."""
    line = (
        r'{"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "\ude00 y"}]}'
    )
    made = client.post("/api/generations/import", json={"lines": [line], "format": "openai", "route": "x"})
    assert made.status_code == 200, made.text
    assert client.get("/api/generations").status_code == 200
    assert client.get("/api/generations/export").status_code == 200
