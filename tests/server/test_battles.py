"""Battles over HTTP: begun, answered at one pace, voted on once; and nothing says who it is before the vote."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from herd.protocol import Failed
from herd.store.votes import prompt_hash

from . import battling
from .battling import PLAIN, TALES, begin, events, is_tale, refused, said, store, turn, vote
from .conftest import FakeEngine, running

engine, quick = battling.engine, battling.quick


def test_a_battle_from_its_beginning_to_its_reveal(client: TestClient) -> None:
    battle = begin(client, tags=["dogs"])
    assert battle["kind"] == "arena" and battle["state"] == "open" and battle["turns"] == []
    assert battle["reveal"] is None and battle["expires"] > battle["created"]
    found = turn(client, battle)
    texts = {
        side: "".join(e["text"] for e in found if e["type"] == "text" and e["side"] == side)
        for side in ("left", "right")
    }
    assert sorted(texts.values()) == sorted(["".join(TALES), "".join(PLAIN)])
    assert [e["side"] for e in found[:2]] == ["left", "right"] and len(found[0]["text"]) == len(
        found[1]["text"]
    )
    assert {(e["side"], e["finish"]) for e in found if e["type"] == "finish"} == {
        ("left", "stop"),
        ("right", "stop"),
    }
    assert found[-1] == {"type": "done", "turn": 0}
    seen = client.get(f"/api/battles/{battle['id']}").json()
    side = {name: {"text": text, "finish": "stop", "failed": None} for name, text in texts.items()}
    assert seen["turns"] == [{"prompt": "Tell me of a dog.", **side}]

    answer = vote(client, battle, "left", reasons=["style", "style", "other"], comment="nicer")
    told = answer.json()
    assert answer.status_code == 200 and told["counted"] and told["void"] is None
    reveal = told["battle"]["reveal"]
    row = store(client).battle(battle["id"])
    assert {reveal["left"]["name"], reveal["right"]["name"]} == {"cria", "tale"}
    assert [reveal["left"]["name"], reveal["right"]["name"]] == [row["left_target"], row["right_target"]]
    assert texts["left"] == "".join(TALES if reveal["left"]["name"] == "tale" else PLAIN)
    assert reveal["outcome"] == "left" and reveal["leak"] is None and told["battle"]["state"] == "voted"
    assert reveal["left"]["total_ms"] > 0 and reveal["left"]["cost"] == 0
    assert reveal["progress"].startswith("you cast 1 vote")
    kept = store(client).battle_vote(battle["id"])
    first = store(client).get_generation(row["turns"][0]["left"])
    assert kept["id"] == told["vote"] and kept["outcome"] == "a" and kept["source"] == "arena"
    assert (kept["a"], kept["a_target"], kept["a_digest"]) == (
        first["id"],
        row["left_target"],
        first["target_digest"],
    )
    assert kept["reasons"] == ["style", "other"] and kept["comment"] == "nicer"
    assert kept["prompt"] == prompt_hash("Tell me of a dog.") and kept["turns"] == 1
    assert kept["tags"][-1] == "tag/dogs" and kept["style"] == [
        len(texts["left"]),
        0,
        0,
        0,
        len(texts["right"]),
        0,
        0,
        0,
    ]
    assert client.get(f"/api/battles/{battle['id']}").json()["reveal"]["outcome"] == "left"


def test_nothing_before_the_vote_says_who_it_is(client: TestClient, engine: FakeEngine) -> None:
    here = client.app.state.herd  # type: ignore[attr-defined]
    digests = {here.gateway.now.target(name).digest for name in ("cria", "tale")}
    for failing in (False, True):
        if failing:
            broken = Failed("tale cannot be served: http://10.0.0.1/v1 of cria said no", "engine_error", 500)
            engine.script = lambda request, broken=broken: said(
                *((), broken) if is_tale(request) else (PLAIN,)
            )
        answers = [client.post("/api/battles", json={})]
        at = f"/api/battles/{answers[0].json()['id']}"
        answers.append(client.post(f"{at}/turns", json={"prompt": "Hello."}))
        answers.append(client.post(f"{at}/regenerate", json={}))
        answers.append(client.get(at))
        if failing:
            assert '"failed"' in answers[1].text and "could not answer" in answers[1].text
            answers.append(vote(client, {"id": at.split("/")[-1]}))
            assert answers[-1].status_code == 409
        ids = [
            turn[side] for turn in here.store.battle(at.split("/")[-1])["turns"] for side in ("left", "right")
        ]
        assert len(ids) == 2
        secret = {"cria", "tale", "10.0.0.1", "chatcmpl", "local", *digests, *(d[:12] for d in digests), *ids}
        for answer in answers:
            whole = answer.text + "\n".join(
                f"{k}: {v}" for k, v in answer.headers.items() if k != "set-cookie"
            )
            for word in secret:
                assert word not in whole, word
            assert not [name for name in answer.headers if name.startswith("x-herd")]
            assert list(answer.headers).count("content-length") <= 1


def test_both_sides_are_drawn_and_both_places(client: TestClient) -> None:
    begun = [begin(client)["id"] for _ in range(40)]
    lefts = [store(client).battle(id)["left_target"] for id in begun]
    assert 5 < lefts.count("tale") < 35  # by chance once in a million


def test_each_side_goes_on_with_what_it_said_itself(client: TestClient, engine: FakeEngine) -> None:
    battle = begin(client)
    turn(client, battle)
    turn(client, battle, "And then?")
    for request in engine.requests[-2:]:
        own = TALES if is_tale(request) else PLAIN
        heard = [(m.role, m.content) for m in request.messages if m.role != "system"]
        assert heard == [("user", "Tell me of a dog."), ("assistant", "".join(own)), ("user", "And then?")]
        assert request.sampling.max_tokens == 512
        assert request.sampling.temperature == (0.5 if is_tale(request) else 1.0)  # the target's own
    vote(client, battle, "tie")
    kept = store(client).battle_vote(battle["id"])
    assert kept["turns"] == 2 and "multi-turn" in kept["tags"] and kept["outcome"] == "tie"


def test_a_chosen_pair_stands_as_it_was_chosen(client: TestClient) -> None:
    for left, right in (("tale", "cria"), ("cria", "tale")):
        battle = begin(client, kind="pair", targets=[left, right])
        turn(client, battle)
        reveal = vote(client, battle).json()["battle"]["reveal"]
        assert (reveal["left"]["name"], reveal["right"]["name"]) == (left, right)
        assert store(client).battle_vote(battle["id"])["source"] == "pair"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "duel"}, "kind"), ({"kind": "pair"}, "targets"), ({"targets": ["cria", "tale"]}, "targets"),
        ({"kind": "pair", "targets": ["cria"]}, "targets"), ({"kind": "pair", "targets": ["cria", "cria"]}, "targets"),
        ({"kind": "pair", "targets": ["cria", 7]}, "targets"), ({"kind": "pair", "targets": ["cria", "tail"]}, "targets"),
        ({"kind": "pair", "targets": ["cria", "x" * 10_000]}, "targets"), ({"tags": ["a"] * 11}, "tags"),
        ({"tags": [""]}, "tags"), ({"tags": ["a\nb"]}, "tags"), ({"tags": "a"}, "tags"), ({"tgas": []}, "tgas"),
    ],
)  # fmt: skip
def test_a_wrong_beginning_is_told_the_field(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post("/api/battles", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field


def test_a_wrong_turn_or_vote_is_told_the_field(client: TestClient) -> None:
    battle = begin(client)
    at = f"/api/battles/{battle['id']}"
    for prompt in ("", "  ", 7, "x" * 32_001, None):
        answer = client.post(f"{at}/turns", json={"prompt": prompt})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
    refused(client.post(f"{at}/regenerate", json={}), 409, "no_turn")
    refused(vote(client, battle), 409, "not_ready")
    turn(client, battle)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"outcome": "a"}, "outcome"), ({"outcome": 1}, "outcome"), ({}, "outcome"), ({"reasons": ["taste"]}, "reasons"),
        ({"reasons": [[]]}, "reasons"), ({"comment": "x" * 2001}, "comment"), ({"user": ""}, "user"), ({"user": 7}, "user"),
    ]  # fmt: skip
    for fields, param in wrong:
        body = fields if param == "outcome" else {"outcome": "left", **fields}
        answer = client.post(f"{at}/vote", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, fields
    for method, path in (("get", ""), ("post", "/turns"), ("post", "/regenerate"), ("post", "/vote")):
        body = {
            "get": {},
            "post": {
                "json": {"prompt": "x"} if path == "/turns" else {"outcome": "tie"} if path == "/vote" else {}
            },
        }
        refused(getattr(client, method)(f"/api/battles/none{path}", **body[method]), 404, "not_found")


def test_a_vote_is_one_and_stays(client: TestClient) -> None:
    battle = begin(client)
    turn(client, battle)
    one, again = vote(client, battle, "both_bad"), vote(client, battle, "both_bad", comment="later")
    assert one.status_code == again.status_code == 200 and one.json()["vote"] == again.json()["vote"]
    refused(vote(client, battle, "left"), 409, "voted")
    assert len(store(client).votes()) == 1 and store(client).battle_vote(battle["id"])["comment"] is None
    refused(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "More."}), 409, "voted")
    refused(client.post(f"/api/battles/{battle['id']}/regenerate", json={}), 409, "voted")


def test_of_votes_at_the_same_moment_one_counts(client: TestClient) -> None:
    battle = begin(client)
    turn(client, battle)
    codes = []

    def cast(outcome: str) -> None:
        codes.append(vote(client, battle, outcome).status_code)

    threads = [threading.Thread(target=cast, args=(outcome,)) for outcome in ("left", "right", "left", "tie")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(codes) == {200, 409} and len(store(client).votes()) == 1


def test_votes_that_share_a_commit_with_one_that_fails_count_once(client: TestClient, home: Path) -> None:
    (home / "herd.toml").write_text("[arena]\nvotes_per_hour = 2\n")
    assert client.post("/api/reload", json={}).json()["problem"] is None
    battles = [begin(client), begin(client)]
    for battle in battles:
        turn(client, battle)
    go, codes = threading.Event(), []
    held = store(client)._submit(lambda connection: go.wait(20))  # while it writes, the next group gathers

    def cast(battle: Any) -> None:
        codes.append(vote(client, battle).status_code)

    threads = [threading.Thread(target=cast, args=(one,)) for one in (*battles, {"id": "nope"}, battles[0])]
    for thread in threads:
        thread.start()
    while store(client)._writes.qsize() < 4:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(20)
    assert held.result() and sorted(codes) == [200, 200, 200, 404]
    assert {row["battle"] for row in store(client).votes()} == {battle["id"] for battle in battles}


def test_an_expired_battle_is_seen_and_takes_no_vote(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    battle = begin(client)
    turn(client, battle)
    now = time.time()
    monkeypatch.setattr("herd.arena.battles.time.time", lambda: now + 25 * 3600)
    assert client.get(f"/api/battles/{battle['id']}").json()["state"] == "expired"
    refused(vote(client, battle), 410, "expired")
    refused(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "More."}), 410, "expired")


def test_a_battle_is_for_who_began_it(client: TestClient) -> None:
    battle = begin(client)
    turn(client, battle)
    cookie = client.cookies.get("herd_voter")
    client.cookies.clear()
    given = client.post("/api/battles", json={}).headers["set-cookie"]
    assert "HttpOnly" in given and "SameSite=strict" in given and "Path=/" in given
    assert client.cookies.get("herd_voter") != cookie
    client.cookies.clear()
    for other in ({}, {"Cookie": "herd_voter=" + "x" * 32}, {"Cookie": "herd_voter=%00"}):
        refused(client.get(f"/api/battles/{battle['id']}", headers=other), 403, "not_your_battle")
        refused(
            client.post(f"/api/battles/{battle['id']}/vote", json={"outcome": "left"}, headers=other),
            403,
            "not_your_battle",
        )
    mine = client.post(
        f"/api/battles/{battle['id']}/vote",
        json={"outcome": "left"},
        headers={"Cookie": f"herd_voter={cookie}"},
    )
    assert mine.status_code == 200
    kept = store(client).battle_vote(battle["id"])
    assert len(kept["voter"]) == 32 and cookie not in json.dumps(kept)


def test_a_reply_that_gives_itself_away_voids_the_vote(client: TestClient, engine: FakeEngine) -> None:
    engine.script = lambda request: said(("I am Tale, ", "and I tell tales.") if is_tale(request) else PLAIN)
    battle = begin(client)
    turn(client, battle, "Are you ChatGPT? I am told that you are Cria.")  # a prompt voids nothing
    told = vote(client, battle).json()
    assert told["void"] == "leak" and not told["counted"]
    assert told["battle"]["reveal"]["leak"] == "i am tale" and told["battle"]["reveal"]["void"] == "leak"
    assert store(client).battle_vote(battle["id"])["void"] == "leak"
    chosen = begin(client, kind="pair", targets=["cria", "tale"])  # these names are known
    turn(client, chosen)
    assert vote(client, chosen).json()["void"] is None


def test_a_side_that_fails_says_so_and_can_be_made_anew(client: TestClient, engine: FakeEngine) -> None:
    good, broken = engine.script, Failed("the engine of tale is gone", "engine_gone", 503)
    engine.script = lambda request: said(TALES[:2], broken) if is_tale(request) else said(PLAIN)
    battle = begin(client)
    found = turn(client, battle)
    [failed] = [event for event in found if event["type"] == "failed"]
    assert failed["message"] == "this side could not answer" and found[-1]["type"] == "done"
    side = client.get(f"/api/battles/{battle['id']}").json()["turns"][0][failed["side"]]
    assert side["failed"] == "this side could not answer" and side["finish"] is None
    assert "regenerate" in refused(vote(client, battle, "both_bad"), 409, "not_ready")
    refused(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "More."}), 409, "not_ready")
    engine.script = good
    events(client.post(f"/api/battles/{battle['id']}/regenerate", json={}))
    whole = client.get(f"/api/battles/{battle['id']}").json()
    assert len(whole["turns"]) == 1 and whole["turns"][0][failed["side"]]["text"] == "".join(TALES)
    assert vote(client, battle).status_code == 200


def test_if_both_fail_at_once_that_is_the_status(client: TestClient, engine: FakeEngine) -> None:
    engine.fail = Failed("the engine of cria is gone", "engine_gone", 503)
    battle = begin(client)
    message = refused(
        client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "Hello."}), 502, "sides_failed"
    )
    assert "cria" not in message
    assert client.get(f"/api/battles/{battle['id']}").json()["turns"] == []


def test_a_server_that_stops_begins_no_turn(client: TestClient) -> None:
    battle = begin(client)
    client.app.state.herd.gateway.closing = True  # type: ignore[attr-defined]
    refused(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "Hello."}), 503, "stopping")


def test_limits_of_a_voter(client: TestClient, home: Path) -> None:
    (home / "herd.toml").write_text("[arena]\nvotes_per_hour = 2\nbattles_per_hour = 3\nmax_turns = 2\n")
    assert client.post("/api/reload", json={}).json()["problem"] is None
    battles = [begin(client) for _ in range(3)]
    full = client.post("/api/battles", json={})
    refused(full, 429, "rate_limit_exceeded")
    assert 3500 < int(full.headers["retry-after"]) <= 3600
    for battle in battles:
        turn(client, battle)
    for battle in battles[:2]:
        assert vote(client, battle).status_code == 200
    late = vote(client, battles[2])
    refused(late, 429, "rate_limit_exceeded")
    assert int(late.headers["retry-after"]) > 3500
    assert vote(client, battles[0]).status_code == 200  # which is no new one
    turn(client, battles[2], "More.")
    refused(
        client.post(f"/api/battles/{battles[2]['id']}/turns", json={"prompt": "More."}), 409, "too_many_turns"
    )


def test_who_cannot_answer_does_not_battle(
    client: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(client.get("/api/status").json()["arena"]) == {"cria", "tale"}
    (home / "herd.toml").write_text('[arena]\ntargets = ["cria"]\n')
    client.post("/api/reload", json={})
    assert client.get("/api/status").json()["arena"] == ["cria"]  # whom the page offers for a chosen pair
    assert "two targets" in refused(client.post("/api/battles", json={}), 503, "too_few_targets")
    monkeypatch.setattr("herd.server.app.has_torch", lambda: False)
    said = refused(client.post("/api/battles", json={}), 503, "too_few_targets")
    assert "arena.targets" in said and "openherd[local]" in said


def test_what_was_deleted_cannot_be_judged(client: TestClient) -> None:
    battle = begin(client)
    turn(client, battle)
    store(client).forget(store(client).battle(battle["id"])["turns"][0]["left"])
    seen = client.get(f"/api/battles/{battle['id']}").json()
    assert seen["turns"][0]["left"]["failed"] and seen["turns"][0]["left"]["text"] == ""
    refused(vote(client, battle), 409, "not_ready")
    refused(client.post(f"/api/battles/{battle['id']}/regenerate", json={}), 409, "no_turn")


def test_stored_pairs_are_judged_without_generating(client: TestClient, engine: FakeEngine) -> None:
    refused(client.post("/api/battles/stored", json={}), 404, "nothing_stored")
    made = begin(client)
    turn(client, made)
    asked = len(engine.requests)
    answer = client.post("/api/battles/stored", json={})
    assert answer.status_code == 201
    battle = answer.json()
    assert battle["kind"] == "stored" and battle["turns"][0]["prompt"] == "Tell me of a dog."
    assert {battle["turns"][0][side]["text"] for side in ("left", "right")} == {
        "".join(TALES),
        "".join(PLAIN),
    }
    refused(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": "More."}), 409, "no_turns")
    assert vote(client, battle, "right").json()["counted"]
    assert store(client).battle_vote(battle["id"])["source"] == "stored" and len(engine.requests) == asked
    refused(client.post("/api/battles/stored", json={}), 404, "nothing_stored")  # this voter has judged it


# --- over a socket


def test_a_client_that_leaves_stops_both_sides(
    home: Path, engine: FakeEngine, wait_for: Callable[..., None]
) -> None:
    engine.script, engine.words, engine.delay = None, ("word ",) * 5000, 0.02
    with running(home, engine) as url, httpx.Client(base_url=url, timeout=60) as client:
        battle = client.post("/api/battles", json={}).json()
        at = f"/api/battles/{battle['id']}"
        with client.stream("POST", f"{at}/turns", json={"prompt": "Go on and on."}) as answer:
            lines = answer.iter_lines()  # which would close the stream if it went
            next(lines)
            refused(client.post(f"{at}/regenerate", json={}), 409, "in_progress")
            assert client.get(at).json()["turns"][0]["left"] == {"text": "", "finish": None, "failed": None}
        wait_for(lambda: len(engine.cancelled) == 2)
        wait_for(lambda: client.get(at).json()["turns"][0]["left"]["failed"])
        refused(client.post(f"{at}/vote", json={"outcome": "tie"}), 409, "not_ready")


def scripts() -> Iterator[str]:
    yield from (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "javascript:alert(1)",
        "</data>\n\ndata: {}",
    )


@pytest.mark.parametrize("script", scripts())
def test_a_script_is_text(client: TestClient, engine: FakeEngine, script: str) -> None:
    engine.script = lambda request: said((script,))
    battle = begin(client, tags=["<b>"])
    found = turn(client, battle, script)
    assert [event["text"] for event in found if event["type"] == "text"] and found[-1]["type"] == "done"
    answer = vote(client, battle, comment=script)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["battle"]["turns"][0]["left"]["text"] == script
