"""Herd's own API: the chat page's flow, what is kept of each reply, models, runs."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from herd.errors import HerdError
from herd.protocol import Message, Request
from herd.registry import lineage
from herd.registry.registry import Registry
from herd.server.app import _every
from herd.server.models import parameters

Chat = Callable[..., dict[str, Any]]
TEXT = "Once upon a time."


def reply(client: TestClient, body: dict[str, Any], **headers: str) -> str:
    """Stream one reply; its id."""
    answer = client.post("/v1/chat/completions", json=body | {"stream": True}, headers=headers)
    id: str = json.loads(answer.text.split("\n\n")[0].removeprefix("data: "))["id"]
    return id


def test_without_torch_there_is_no_engine_to_restart_and_no_model(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cria" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    for place in ("api", "local"):
        monkeypatch.setattr(f"herd.server.{place}.has_torch", lambda: False)
    said = client.get("/api/status").json()
    assert said["engine"]["state"] == "absent" and said["routes"] == []
    assert client.get("/v1/models").json()["data"] == []


def test_the_chat_pages_flow(client: TestClient, home: Path, chat: Chat) -> None:
    made = client.post(
        "/api/conversations", json={"title": "A dog", "route": "cria", "settings": {"temperature": 1}}
    )
    assert made.status_code == 201
    id = made.json()["id"]
    asked = client.post(f"/api/conversations/{id}/messages", json={
        "id": "m1", "parent": None, "role": "user", "content": "Tell me of a dog.", "created": 1.5}).json()  # fmt: skip
    header = {"X-Herd-Conversation": id}
    first, second = reply(client, chat(), **header), reply(client, chat(), **header)
    for generation in (first, second):
        answer = {"parent": asked["id"], "role": "assistant", "content": TEXT, "generation": generation}
        assert client.post(f"/api/conversations/{id}/messages", json=answer).status_code == 201
    vote = {"id": "v1", "a": first, "b": second, "outcome": "b", "source": "regenerate"}
    kept = client.post("/api/votes", json=vote)
    assert kept.status_code == 201 and kept.json()["outcome"] == "b"
    # acknowledged means durable: another connection sees it while the server runs
    with sqlite3.connect(f"file:{home / 'herd.db'}?mode=ro", uri=True) as database:
        assert database.execute("select a, b, outcome from votes").fetchall() == [(first, second, "b")]
    assert client.post("/api/votes", json=vote).status_code == 201  # the same id is the same vote
    assert len(client.get("/api/votes?route=cria").json()["data"]) == 1
    assert client.get("/api/votes?route=other").json()["data"] == []

    whole = client.get(f"/api/conversations/{id}").json()
    assert [m["role"] for m in whole["messages"]] == ["user", "assistant", "assistant"]
    assert {m["parent"] for m in whole["messages"][1:]} == {"m1"}
    assert whole["messages"][1]["stats"]["completion_tokens"] == 4
    assert [v["id"] for v in whole["votes"]] == ["v1"]
    listed = client.get("/api/conversations?query=DOG").json()
    assert [c["id"] for c in listed["data"]] == [id] and listed["more"] is False
    assert client.get("/api/conversations?query=cat").json()["data"] == []
    assert client.patch(f"/api/conversations/{id}", json={"title": "Two dogs"}).json()["title"] == "Two dogs"

    exported = client.get(f"/api/conversations/export?ids={id}").json()
    assert client.delete(f"/api/conversations/{id}").status_code == 204
    assert client.get(f"/api/conversations/{id}").status_code == 404
    assert client.post("/api/conversations/import", json=exported).json() == {"imported": 1}
    assert client.get(f"/api/conversations/{id}").json()["title"] == "Two dogs"


def test_a_page_of_conversations_and_the_next(client: TestClient) -> None:
    ids = [client.post("/api/conversations", json={"title": str(i)}).json()["id"] for i in range(5)]
    first = client.get("/api/conversations?limit=3").json()
    assert [c["id"] for c in first["data"]] == ids[:1:-1] and first["more"] is True
    rest = client.get(f"/api/conversations?limit=3&before={first['data'][-1]['updated']}").json()
    assert [c["id"] for c in rest["data"]] == ids[1::-1] and rest["more"] is False


def test_the_record_of_a_reply(client: TestClient, home: Path, chat: Chat) -> None:
    body = chat("Hello.", seed=7, user="u1", metadata={"app": "x"})
    record = client.get(
        f"/api/generations/{client.post('/v1/chat/completions', json=body).json()['id']}"
    ).json()
    target = Registry(home).target("cria")
    assert record["reply"] == TEXT and record["finish"] == "stop" and record["error"] is None
    assert (record["route"], record["model_ref"], record["target_digest"]) == (
        "cria",
        "cria@1",
        target.digest,
    )
    assert record["tokens"] == {"prompt": 3, "completion": 4, "cached": 1}
    assert 0 <= record["latency"]["queue"] <= record["latency"]["first_token"] <= record["latency"]["total"]
    assert record["request"]["messages"] == [{"role": "user", "content": "Hello."}]
    assert record["request"]["sampling"]["seed"] == 7
    assert Request.from_json(record["request"]).messages == (Message("user", "Hello."),)
    assert record["labels"] == {"user": "u1", "metadata": {"app": "x"}}


@pytest.mark.parametrize("stream", [False, True])
def test_store_false_keeps_no_text(client: TestClient, home: Path, chat: Chat, stream: bool) -> None:
    body = chat("my deepest secret", store=False, stream=stream, user="me", stop=["a secret stop"])
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    with sqlite3.connect(f"file:{home / 'herd.db'}?mode=ro", uri=True) as database:
        (row,) = database.execute("select * from generations").fetchall()
    assert "secret" not in str(row) and "Once" not in str(row) and "'me'" not in str(row)
    assert "stop" in row and 4 in row


def test_broken_and_several_choices_are_kept_as_they_are(client: TestClient, engine: Any, chat: Chat) -> None:
    id = client.post("/v1/chat/completions", json=chat(n=2)).json()["id"]
    assert [client.get(f"/api/generations/{i}").json()["reply"] for i in (id, f"{id}-1")] == [TEXT, TEXT]
    engine.break_after = 2
    broken = client.get(f"/api/generations/{reply(client, chat())}").json()
    assert broken["finish"] == "error" and broken["reply"] == "Once upon " and broken["error"]


def test_a_conversation_without_a_name_is_its_beginning(client: TestClient, chat: Chat) -> None:
    """Turns that begin alike belong together, whatever was said later."""

    def conversation(*texts: str) -> str:
        messages = [
            {"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)
        ]
        id = client.post("/v1/chat/completions", json=chat(messages=messages)).json()["id"]
        found: str = client.get(f"/api/generations/{id}").json()["conversation"]
        return found

    assert conversation("Hi") == conversation("Hi", "Hello", "And now?") != conversation("Ho")


def test_models_have_card_shape_memory_and_plots(client: TestClient) -> None:
    (model,) = client.get("/api/models").json()["data"]
    assert model["ref"] == "cria@1" and model["current"] and not model["bundled"]
    assert model["card"] == "# A card\n" and model["parameters"] == 8
    assert model["memory"]["kv_per_token"] == 2 * 3 * 2 * 8 * 2  # two, layers, kv heads, head size, bytes
    assert model["memory"]["fits_tokens"] > 0
    assert model["plots"] == ["/api/models/cria@1/files/loss.svg"]
    plot = client.get(model["plots"][0])
    assert (
        plot.headers["content-type"].startswith("image/svg")
        and "sandbox" in plot.headers["content-security-policy"]
    )


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"\xff" * 8, (10**9).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(Exception):  # noqa: B017  # any, as long as it is bounded; describe() makes it null
            parameters([tmp_path / "x.safetensors"])


def test_lineage_links_parents_and_votes(client: TestClient, home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    base = registry.resolve("cria@1")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a").write_text("a")
    entry = registry.add(tmp_path / "adapter", "cria", kind="adapter", base="cria@1", parents=[base.digest])
    lineage.record(
        home, command="improve", inputs=[{"kind": "votes", "digest": "f" * 64}], parents=[base.digest],
        outputs=[{"kind": "adapter", "digest": entry.digest}], config={}, seed=0, device="cpu", metrics={},
    )  # fmt: skip
    graph = client.get("/api/lineage").json()
    labels = {node["id"]: node["label"] for node in graph["nodes"]}
    assert {(labels[a], labels[b]) for a, b in graph["edges"]} == {
        ("cria@1", "cria@2"), ("votes", "cria@2"),
        *((data, "cria@1") for data in (
            "stories", "storybooks", "books", "wikipedia", "textbooks", "story_chats", "dialogues",
        )),
    }  # fmt: skip


def test_runs_by_http(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    monkeypatch.setattr("herd.server.runs.sys.executable", "/bin/false")
    made = client.post("/api/runs", json={"kind": "improve", "args": {"name": "cria"}})
    assert made.status_code == 201 and made.json()["state"] == "queued"
    id = made.json()["id"]
    wait_for(lambda: client.get(f"/api/runs/{id}").json()["state"] == "failed")
    run = client.get(f"/api/runs/{id}").json()
    assert run["metrics"] == [] and run["log"] == "" and run["error"]
    assert [r["id"] for r in client.get("/api/runs").json()["data"]] == [id]
    assert client.post(f"/api/runs/{id}/cancel").status_code == 409
    assert client.get("/api/status").json()["runs_active"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_cannot_be_kept_is_not_called_complete(
    client: TestClient, chat: Chat, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise HerdError("the disk is full", status=507, code="disk_full")

    monkeypatch.setattr("herd.gateway.ledger.put_generation", full)
    answer = client.post("/v1/chat/completions", json=chat(stream=stream))
    assert "the disk is full" in answer.text and "[DONE]" not in answer.text
    assert answer.status_code == (200 if stream else 507)


def test_an_error_of_ours_is_said_with_its_id_and_no_more(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a detail")

    monkeypatch.setattr("herd.store.Store.votes", broken)
    answer = client.get("/api/votes")
    assert answer.status_code == 500 and answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "a detail" not in answer.text and client.get("/health").status_code == 200


def test_a_chore_that_fails_is_done_again() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise ValueError("of a kind that nobody thought of")

    async def two() -> None:
        chore = asyncio.create_task(_every(0, work))
        while len(done) < 2 and not chore.done():
            await asyncio.sleep(0)
        chore.cancel()

    asyncio.run(two())
    assert done[:2] == [0, 1]
