"""The leaderboard's API: fresh, live, without NaN, without voters, and finished when the server stops."""

import asyncio
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from herd.server.leaderboard import Live

Chat = Callable[..., dict[str, Any]]
ROOT = "a secret of some length"
ADMIN = {"Authorization": f"Bearer {ROOT}"}


def generations(client: TestClient) -> None:
    """g1 of cria, g2 of tale, to one question."""
    store = client.app.state.herd.store  # type: ignore[attr-defined]
    request = {"messages": [{"role": "user", "content": "Why?"}]}
    for id, target in (("g1", "cria"), ("g2", "tale")):
        store.add_generation({"id": id, "route": target, "target": target, "request": request, "reply": id})


def vote(client: TestClient, **changes: Any) -> httpx.Response:
    headers = changes.pop("headers", {})
    return client.post("/api/votes", json={"a": "g1", "b": "g2", "outcome": "a", **changes}, headers=headers)


def test_it_is_not_empty_on_the_first_day(client: TestClient) -> None:
    page = client.get("/api/leaderboard").json()
    assert page["totals"]["votes"] == 0 and page["raters"] == ["people"] and page["categories"] == []
    rows = {row["name"]: row for row in page["rows"]}
    assert {"cria", "tale"} <= rows.keys()
    assert (
        rows["cria"]["rating"] is None and rows["cria"]["open"] and rows["cria"]["card"] == "/models#cria@1"
    )
    told = client.get("/api/leaderboard/compare", params={"a": "cria", "b": "tale"}).json()
    assert told["decision"] == "NOT ENOUGH DATA" and told["estimate"] is None
    assert client.get("/api/leaderboard/history").json()["times"] == []


def test_a_vote_is_there_when_the_leaderboard_is_asked_next(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = client.app.state.herd.board._pages  # type: ignore[attr-defined]
    monkeypatch.setattr(pages, "get", partial(pages.get, quick=math.inf))  # however busy the machine is
    generations(client)
    for n, outcome in enumerate(["a"] * 3 + ["b", "tie", "both_bad"]):
        assert vote(client, id=f"v{n}", outcome=outcome).status_code == 201
        totals = client.get("/api/leaderboard").json()["totals"]
        assert totals["votes"] == n + 1
    page = client.get("/api/leaderboard").json()
    cria = next(row for row in page["rows"] if row["name"] == "cria")
    assert (cria["wins"], cria["losses"], cria["ties"], cria["both_bad"]) == (3, 1, 1, 1)
    assert vote(client, id="v0").json()["outcome"] == "a"  # the same vote
    assert vote(client, id="v0", outcome="b").status_code == 409
    told = client.get("/api/leaderboard/compare", params={"a": "tale", "b": "cria"}).json()
    assert told["votes"] == 5 and told["both_bad"] == 1 and "cria" in told["sentence"]


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("?raters=judge:gpt", 404, "judge:gpt"),
        ("?raters=x", 404, "there are people"),
        ("?category=maths", 404, "maths"),
        ("?anchor=nobody", 400, "nobody"),
        ("?style=perhaps", 400, "style"),
        ("?raters=" + "x" * 400, 400, "raters"),
        ("/compare?a=cria", 400, "b"),
        ("/compare?a=cria&b=cria", 400, "same target"),
        ("/compare?a=crja&b=tale", 404, "did you mean 'cria'"),
        ("/history?raters=x", 404, "there are people"),
    ],
)
def test_bad_input_is_named(client: TestClient, query: str, status: int, named: str) -> None:
    reply = client.get(f"/api/leaderboard{query}")
    assert reply.status_code == status and named in reply.json()["error"]["message"]


def test_nobody_is_told_who_voted(client: TestClient) -> None:
    generations(client)
    kept = vote(client, id="v").json()
    assert "voter" not in kept and kept["a_target"] == "cria"
    with client.app.state.herd.store._read() as connection:  # type: ignore[attr-defined]
        (voter,) = connection.exec_driver_sql("SELECT voter FROM votes").scalars()
    assert (
        len(voter) == 32 and voter not in client.get("/api/votes").text + client.get("/api/leaderboard").text
    )


def test_a_judges_votes_are_apart(start: Callable[..., TestClient]) -> None:
    client = start(api_key=ROOT)
    generations(client)
    made = client.post("/api/keys", json={"application": "x", "scopes": ["vote"]}, headers=ADMIN).json()
    browser = {"Authorization": f"Bearer {made['secret']}"}
    judged = {"source": "judge", "rater": "gpt", "details": {"why": "shorter"}, "tags": ["code"]}
    assert vote(client, **judged, headers=browser).status_code == 403
    assert vote(client, **judged, headers=ADMIN).json()["details"] == {"why": "shorter"}
    assert vote(client, headers=browser).status_code == 201
    kept = client.get("/api/votes", headers=ADMIN).json()["data"]
    assert [row["application"] for row in kept if row["rater"] is None] == ["x"]
    for wrong, field in (({"source": "judge"}, "rater"), ({"rater": "gpt"}, "rater"), ({"tags": ["x"]}, "tags"),
                         ({**judged, "tags": [1]}, "tags"), ({**judged, "rater": ""}, "rater")):  # fmt: skip
        reply = vote(client, **wrong, headers=ADMIN)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == field
    people = client.get("/api/leaderboard", headers=ADMIN).json()
    assert people["totals"]["people"] == people["totals"]["judges"] == 1
    assert people["raters"] == ["people", "judge:gpt"] and people["categories"] == []
    judge = client.get("/api/leaderboard?raters=judge:gpt&category=code", headers=ADMIN).json()
    assert {row["name"]: row["wins"] for row in judge["rows"]} == {"cria": 1, "tale": 0}


def test_a_voter_has_so_many_votes_an_hour(start: Callable[..., TestClient], home: Path) -> None:
    (home / "herd.toml").write_text("[arena]\nvotes_per_hour = 3\n")
    client = start(api_key=ROOT)
    generations(client)
    made = client.post("/api/keys", json={"application": "x", "scopes": ["vote"]}, headers=ADMIN).json()
    browser = {"Authorization": f"Bearer {made['secret']}"}
    assert [vote(client, headers=browser).status_code for _ in range(4)] == [201, 201, 201, 429]
    assert vote(client, headers=ADMIN).status_code == 201


def test_what_is_known_of_a_target(start: Callable[..., TestClient], home: Path) -> None:
    (home / "herd.toml").write_text(
        """
        [arena.models."openai/gpt"]
        licence = "theirs"
        terms = "not for training"
        [arena.models."lab/x"]
        open = true
        [targets.mine]
        provider = "local"
        model = "cria"
        """
    )
    about = start().app.state.herd.board.about  # type: ignore[attr-defined]
    assert about("cria") == {"open": True, "licence": "Apache-2.0", "card": "/models#cria@1", "terms": None}
    assert about("mine")["open"] is True and about("mine")["card"] == "/models#cria@1"
    assert about("openai/gpt") == {
        "open": False,
        "licence": "theirs",
        "card": None,
        "terms": "not for training",
    }
    assert about("lab/x")["open"] is True and about("lab/y")["open"] is None
    assert about("gone") == {"open": None, "licence": None, "card": None, "terms": None}


def test_watchers_hear_of_votes_and_of_the_end(url: str) -> None:
    """A stream that nobody ends would hold the server's end up: the fixture waits for that."""
    for id in ("g1", "g2"):
        line = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": id}]}
        given = {"lines": [json.dumps(line)], "format": "openai", "route": id}
        assert httpx.post(f"{url}/api/generations/import", json=given, timeout=60).status_code == 200
    a, b = (row["id"] for row in httpx.get(f"{url}/api/generations", timeout=60).json()["data"])
    with httpx.stream("GET", f"{url}/api/leaderboard/live", timeout=20) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in reply.iter_lines() if line.startswith("data:"))
        assert next(lines) == 'data: {"version": 0}'
        sent = {"a": a, "b": b, "outcome": "a"}
        assert httpx.post(f"{url}/api/votes", json=sent, timeout=60).status_code == 201
        assert next(lines) == 'data: {"version": 1}'


def test_events_end_when_the_server_stops(client: TestClient) -> None:
    board, closing = client.app.state.herd.board, False  # type: ignore[attr-defined]

    async def main() -> list[Any]:
        nonlocal closing
        live, heard = Live(board, lambda: closing), []

        async def watch() -> None:
            async for event in live.events():
                heard.append(event)

        watchers = [asyncio.create_task(watch()) for _ in range(50)]
        await asyncio.sleep(0)
        board.version += 1
        await live.look()
        await asyncio.sleep(0.01)
        closing = True
        await live.look()
        await asyncio.wait_for(asyncio.gather(*watchers), 60)
        return heard

    heard = asyncio.run(main())
    assert heard == [{"version": 0}] * 50 + [{"version": 1}] * 50
