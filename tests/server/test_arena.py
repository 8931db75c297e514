"""/api/arena: files of votes in and out, what a judge may judge, agreement, frozen prompts."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from herd.arena import imports
from herd.errors import HerdError

CSV = "left,right,winner,worker\nx,y,left,1\nx,y,tie,2\ny,z,right,1\n"
TALK = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
TEXT = {"model_a": "cria", "model_b": "gpt-4o", "winner": "model_a", "language": "English", "conversation_a": TALK,
        "conversation_b": [TALK[0], {"role": "assistant", "content": "That."}]}  # fmt: skip


def send(client: TestClient, data: str | bytes | Iterator[bytes], **query: Any) -> Any:
    return client.post("/api/arena/import", content=data, params=query)


def error(reply: Any, status: int) -> str:
    assert reply.status_code == status, reply.text
    return str(reply.json()["error"]["message"])


def test_a_file_goes_in_and_comes_out(client: TestClient) -> None:
    reply = send(client, CSV, format="csv")
    assert reply.status_code == 201
    report = reply.json()
    assert (report["votes"], report["known"], report["left_out"], report["ignored"]) == (3, 0, {}, [])
    assert send(client, CSV, format="csv").json()["known"] == 3
    out = client.get("/api/arena/export", params={"format": "csv"})
    assert out.headers["content-disposition"] == 'attachment; filename="votes.csv"'
    assert int(out.headers["content-length"]) == len(out.content) and out.headers["x-herd-left-out"] == "{}"
    rows = list(csv.DictReader(io.StringIO(out.text)))
    assert [(row["model_a"], row["model_b"], row["winner"]) for row in rows] == [
        ("x", "y", "model_a"), ("x", "y", "tie"), ("y", "z", "model_b")
    ]  # fmt: skip
    counts = client.get("/api/arena/export?format=counts").json()
    assert counts == {"x": {"y": [1, 0, 1, 0]}, "y": {"z": [0, 1, 0, 0]}}
    board = client.get("/api/leaderboard").json()
    assert board["totals"]["votes"] == 3 and {row["name"] for row in board["rows"]} >= {"x", "y", "z"}


def test_what_is_wrong_is_said_and_nothing_is_kept(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error(send(client, CSV + "x,y,nobody,1\n", format="csv"), 400).startswith(
        "line 5, column winner: "
    )
    assert "format" in error(send(client, CSV, format="xml"), 400)
    assert "line 1: not JSON" in error(send(client, CSV), 400)
    assert error(send(client, b""), 400) == "the file: no votes in it"
    assert "use" in error(send(client, CSV, format="csv", use="sell"), 400)
    monkeypatch.setattr("herd.server.arena.MAX_FILE", 20)
    assert "over" in error(send(client, CSV, format="csv"), 413)
    assert "over" in error(
        send(client, iter([CSV.encode()]), format="csv"), 413
    )  # of a length that is not announced
    assert client.get("/api/votes").json()["data"] == []


def test_who_goes_away_stops_the_import(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    import socket

    stopped: list[str] = []
    began = threading.Event()

    def slow(*args: Any, progress: Callable[[int], None], **options: Any) -> Any:
        began.set()
        try:
            for _ in range(5000):
                progress(0)
                time.sleep(0.02)
        except HerdError as error:
            stopped.append(error.code)
            raise

    monkeypatch.setattr("herd.server.arena.import_votes", slow)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(
            f"POST /api/arena/import?format=csv HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(CSV)}\r\n\r\n{CSV}".encode()
        )
        assert began.wait(60)
    wait_for(lambda: stopped and not [path for path in home.iterdir() if path.name.startswith("tmp")])
    assert stopped == ["stopped"]


def test_it_is_for_admins(start: Callable[..., TestClient]) -> None:
    client = start(api_key="hk-admin")
    client.headers["Authorization"] = "Bearer hk-admin"
    made = client.post(
        "/api/keys", json={"application": "shop", "scopes": ["vote", "read", "use:cria"]}
    ).json()
    for method, path in (("POST", "import"), ("GET", "export"), ("GET", "pairs?judge=x"), ("POST", "frozen")):
        reply = client.request(
            method, f"/api/arena/{path}", headers={"Authorization": f"Bearer {made['secret']}"}
        )
        assert "lacks the scope admin" in error(reply, 403)


def test_stored_pairs_are_judged_and_compared_with_people(client: TestClient) -> None:
    send(client, "".join(json.dumps({**TEXT, "question_id": str(n), "judge": n}) + "\n" for n in range(3)))
    pairs = client.get("/api/arena/pairs?judge=gpt").json()["data"]
    assert len(pairs) == 3 and {pair["a"]["reply"] for pair in pairs} == {"This."}
    for n, pair in enumerate(pairs[:2]):
        vote = {"a": pair["b"]["id"], "b": pair["a"]["id"], "outcome": "b" if n else "a", "source": "judge", "rater": "gpt",
                "details": {"first": "a", "second": "b", "lengths": [5, 5]}}  # fmt: skip
        assert client.post("/api/votes", json=vote).status_code == 201
    assert len(client.get("/api/arena/pairs?judge=gpt").json()["data"]) == 1
    assert len(client.get("/api/arena/pairs?judge=other&limit=2").json()["data"]) == 2
    (found,) = client.get("/api/arena/agreement").json()["judges"]
    assert (found["judge"], found["votes"], found["agreement"]["n"], found["agreement"]["share"]) == (
        "gpt",
        2,
        2,
        0.5,
    )
    assert found["pairs"][0]["people"]["estimate"] == 1.0 and found["bias"]["length"] is None
    assert "no votes of a judge 'nobody'" in error(client.get("/api/arena/agreement?judge=nobody"), 404)


def test_frozen_prompts_and_terms_reach_the_preferences(client: TestClient) -> None:
    other = {**TEXT, "question_id": "q2"}
    for side in "ab":
        other[f"conversation_{side}"] = [
            {"role": "user", "content": "What?"},
            other[f"conversation_{side}"][1],
        ]
    send(
        client,
        json.dumps({**TEXT, "question_id": "q1"}) + "\n" + json.dumps(other),
        use=["evaluate", "train"],
    )
    assert client.post("/api/arena/frozen", json={"prompts": [" which? ", "WHICH?", "else"]}).json() == {
        "frozen": 2,
        "known": 0,
    }
    assert client.post("/api/arena/frozen", json={"prompts": ["Which?"]}).json() == {"frozen": 0, "known": 1}
    assert "prompts[1] must be text" in error(
        client.post("/api/arena/frozen", json={"prompts": ["x", " "]}), 400
    )
    out = client.get("/api/arena/export?format=preferences")
    assert json.loads(out.headers["x-herd-left-out"]) == {"frozen": 1}
    (pair,) = map(json.loads, out.text.splitlines())
    assert (
        pair["prompt"] == [{"role": "user", "content": "What?"}] and pair["chosen"][0]["content"] == "This."
    )
    assert pair["chosen_by"]["target"] == "cria" and pair["chosen_by"]["licence"] == "Apache-2.0"
    assert pair["rejected_by"] == {
        "target": "gpt-4o",
        "digest": None,
        "open": None,
        "licence": None,
        "terms": None,
    }
    both = client.get("/api/arena/export?format=preferences&purpose=evaluate").text.splitlines()
    assert len(both) == 2


def test_a_bad_export_is_refused_before_it_begins(client: TestClient) -> None:
    assert "raters must be people or judge:NAME" in error(client.get("/api/arena/export?raters=x"), 400)
    assert "no rater 'judge:x'" in error(client.get("/api/arena/export?raters=judge:x"), 404)
    for query in ("format=xml", "purpose=sell"):
        assert client.get(f"/api/arena/export?{query}").status_code == 400
    assert (
        imports.MAX_NAME == 200 and client.get(f"/api/arena/agreement?judge={'x' * 201}").status_code == 400
    )
