"""Battles and keys: who may see, vote and pay, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from herd.errors import HerdError

from . import battling
from .battling import HEADER, begin, events, refused, store, turn, vote
from .test_access import ROOT, make

engine, quick = battling.engine, battling.quick


@pytest.fixture
def guarded(start: Callable[..., TestClient]) -> TestClient:
    return start(api_key=ROOT, origins=frozenset({"https://shop.example"}))


def generations(client: TestClient, header: dict[str, str], prompt: str = "Tell me of a dog.") -> list[str]:
    ids = []
    for model in ("cria", "tale"):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        ids.append(client.post("/v1/chat/completions", json=body, headers=header).json()["id"])
    return ids


def test_an_applications_page_asks_which_is_better(guarded: TestClient) -> None:
    server, page = make(guarded, "use:*", application="shop"), make(guarded, "vote", application="shop")
    foreign, other = make(guarded, "vote", application="else"), make(guarded, "use:*", application="else")
    a, b = generations(guarded, server["header"])
    body = {"a": a, "b": b, "tags": ["refunds"]}
    refused(guarded.post("/api/battles/embed", json=body, headers=other["header"]), 404, "not_found")
    refused(guarded.post("/api/battles/embed", json=body, headers=page["header"]), 403, "missing_scope")
    made = guarded.post("/api/battles/embed", json=body, headers=server["header"])
    assert made.status_code == 201 and "set-cookie" not in made.headers
    at = f"/api/battles/{made.json()['id']}"
    cross = {**page["header"], "Origin": "https://shop.example"}
    asked = guarded.options(
        f"{at}/vote",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert asked.status_code == 204 and asked.headers["access-control-allow-origin"] == "https://shop.example"
    assert asked.headers["access-control-allow-headers"] == "authorization, content-type"
    seen = guarded.get(at, headers=cross)
    assert seen.status_code == 200 and seen.headers["access-control-allow-origin"] == "https://shop.example"
    assert a not in seen.text and b not in seen.text
    assert guarded.get(at, headers={**cross, "Origin": "https://evil.example"}).status_code == 403
    refused(guarded.get(at, headers=foreign["header"]), 404, "not_found")
    told = guarded.post(f"{at}/vote", json={"outcome": "tie", "user": "ann@shop"}, headers=cross)
    assert told.status_code == 200 and told.json()["counted"]
    kept = guarded.app.state.herd.store.battle_vote(made.json()["id"])  # type: ignore[attr-defined]
    assert kept["source"] == "embed" and kept["application"] == "shop" and kept["key"] == page["id"]
    assert "ann" not in json.dumps(kept) and "tag/refunds" in kept["tags"]
    bodies = [
        ({"a": a, "b": a}, "b"),
        ({"a": a}, "b"),
        ({"a": a, "b": generations(guarded, server["header"], "Other?")[1]}, "b"),
    ]
    for body, param in bodies:
        wrong = guarded.post("/api/battles/embed", json=body, headers=server["header"])
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == param


def test_a_publishable_key_reads_nothing_else(guarded: TestClient) -> None:
    page = make(guarded, "vote", application="shop")["header"]
    for path in ("/api/votes", "/api/generations", "/api/leaderboard", "/api/conversations", "/v1/models"):
        assert guarded.get(path, headers=page).status_code == 403, path
    for path in ("", "/stored", "/embed"):
        assert guarded.post(f"/api/battles{path}", json={}, headers=page).status_code == 403, path


def test_a_key_for_the_arena_needs_no_route_and_pays(guarded: TestClient) -> None:
    limits = [{"unit": "requests", "amount": 4, "period": "day"}]
    key = make(guarded, "use:arena", "vote", limits=limits)
    battle = guarded.post("/api/battles", json={}, headers=key["header"])
    assert battle.status_code == 201 and "set-cookie" not in battle.headers
    at = f"/api/battles/{battle.json()['id']}"
    for prompt in ("One.", "Two."):
        events(guarded.post(f"{at}/turns", json={"prompt": prompt}, headers=key["header"]))
    message = refused(
        guarded.post(f"{at}/turns", json={"prompt": "Three."}, headers=key["header"]), 429, "budget_exhausted"
    )
    assert "limit" in message
    assert [turn["prompt"] for turn in guarded.get(at, headers=key["header"]).json()["turns"]] == [
        "One.",
        "Two.",
    ]
    guarded.post(f"/api/keys/{key['id']}/revoke", headers=HEADER)
    refused(
        guarded.post(f"{at}/vote", json={"outcome": "left"}, headers=key["header"]), 401, "invalid_api_key"
    )


def test_a_key_that_keeps_no_text_does_not_battle(guarded: TestClient) -> None:
    key = make(guarded, "use:arena", keep="metadata")
    refused(guarded.post("/api/battles", json={}, headers=key["header"]), 409, "nothing_kept")


def test_a_key_that_plays_blind_does_not_find_its_replies_before_the_vote(guarded: TestClient) -> None:
    key = make(guarded, "use:arena", "vote")["header"]
    battle = guarded.post("/api/battles", json={}, headers=key).json()
    guarded.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "One."}, headers=key)
    ids = [store(guarded).battle(battle["id"])["turns"][0][side] for side in ("left", "right")]

    def seen() -> list[Any]:
        listed = guarded.get("/api/generations", headers=key).json()["data"]
        exported = guarded.get("/api/generations/export", headers=key).text.splitlines()
        single = [guarded.get(f"/api/generations/{id}", headers=key).status_code for id in ids]
        return [len(listed), len(exported), *single]

    assert seen() == [0, 0, 404, 404]
    assert guarded.get("/api/status", headers=key).json()["engine"].keys() == {"state"}
    body = {"outcome": "tie"}
    assert guarded.post(f"/api/battles/{battle['id']}/vote", json=body, headers=key).status_code == 200
    assert seen() == [2, 2, 200, 200]


@pytest.mark.parametrize("end", ["", "-left", "-right"])
def test_a_battle_is_deleted_as_a_whole(client: TestClient, end: str) -> None:
    battle = begin(client)
    turn(client, battle, "My secret.")
    vote(client, battle, comment="my comment")
    assert client.delete(f"/api/conversations/{battle['id']}{end}").status_code == 204
    kept = [*store(client).generations(), store(client).battle(battle["id"]), *store(client).votes()]
    assert len(kept) == 4 and kept[-1]["outcome"] == "a"
    assert "my " not in json.dumps(kept).lower() and "dog" not in json.dumps(kept)


def test_a_publishable_key_learns_no_target_from_its_vote(guarded: TestClient) -> None:
    server, page = make(guarded, "use:*", application="shop"), make(guarded, "vote", application="shop")
    a, b = generations(guarded, server["header"])
    made = guarded.post("/api/battles/embed", json={"a": a, "b": b}, headers=server["header"]).json()
    at = f"/api/battles/{made['id']}"
    answers = [
        guarded.post(f"{at}/vote", json={"outcome": "left"}, headers=page["header"]),
        guarded.get(at, headers=page["header"]),
        guarded.post("/api/votes", json={"a": a, "b": b, "outcome": "a"}, headers=page["header"]),
    ]
    for answer in answers:
        assert answer.status_code < 300 and "tale" not in answer.text and "cost" not in answer.text
    assert guarded.get(at, headers=server["header"]).json()["reveal"]["left"]["name"] in ("cria", "tale")


def test_who_is_ready_first_is_not_seen(client: TestClient) -> None:
    battle = begin(client)
    turn(client, battle)
    row = store(client).battle(battle["id"])
    other = {**row, "turns": [{**row["turns"][0], "right": "still on its way, at another gateway"}]}
    here = client.app.state.herd.battles  # type: ignore[attr-defined]
    seen = here.view(other, here.replies(other))["turns"][0]
    assert seen["left"] == seen["right"] and seen["left"]["text"] == ""
    here._running.add(battle["id"])
    seen = here.view(row, here.replies(row))["turns"][0]
    assert seen["left"] == seen["right"] == {"text": "", "finish": None, "failed": None}


def test_replies_are_not_made_anew_behind_a_vote(client: TestClient) -> None:
    """As where the two come at the same moment, at two gateways."""
    battle = begin(client)
    turn(client, battle)
    here, before = store(client), store(client).battle(battle["id"])
    events(client.post(f"/api/battles/{battle['id']}/regenerate", json={}))
    row = here.battle(battle["id"])
    ballot = {"id": "late", "battle": battle["id"], "outcome": "a", "source": "arena"}
    old, new = (
        {side: one["turns"][0][at] for side, at in (("a", "left"), ("b", "right"))} for one in (before, row)
    )
    with pytest.raises(HerdError, match="anew"):
        here.add_vote(**ballot, **old)
    with pytest.raises(HerdError, match="changed meanwhile"):
        here.change_battle(battle["id"], {"turns": before["turns"]}, before["turns"])
    here.add_vote(**ballot, **new)
    with pytest.raises(HerdError, match="has its vote"):
        here.change_battle(battle["id"], {"turns": row["turns"]}, row["turns"])


def test_battles_keep_what_the_targets_routes_let_them(client: TestClient, home: Path) -> None:
    routes = '[routes.cria]\ntargets = ["cria"]\nredact = ["email"]\nuse = ["evaluate", "train"]\n'
    (home / "herd.toml").write_text(routes)
    assert client.post("/api/reload", json={}).json()["problem"] is None
    battle = begin(client)
    turn(client, battle, "Write to ann@shop.example.")
    assert vote(client, battle, comment="as ann@shop.example said").status_code == 200
    kept = [store(client).battle(battle["id"]), store(client).battle_vote(battle["id"])]
    of_cria = store(client).generations(route="cria")
    assert "ann@" not in json.dumps([kept, of_cria]) and set(of_cria[0]["use"]) == {"evaluate", "train"}
    (home / "herd.toml").write_text('[routes.cria]\ntargets = ["cria"]\nkeep = "metadata"\n')
    assert client.post("/api/reload", json={}).json()["problem"] is None
    refused(client.post("/api/battles", json={}), 503, "too_few_targets")  # without text nobody can vote
