"""Kept traffic: found by words and by what was said of it, rid of its text in time, and of routes and findings."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, insert, select

from herd.errors import HerdError
from herd.store import Store
from herd.store.tables import attempts

Row = Callable[..., dict[str, Any]]
SECRET = "a most secret sentence"


def rows_of(store: Store) -> str:
    """All that the database says, as its tables have it."""
    found = MetaData()
    found.reflect(store._engine)
    with store._read() as connection:
        return "\n".join(str(connection.execute(select(table)).all()) for table in found.sorted_tables)


def full(generation: Row, id: str, **changes: Any) -> dict[str, Any]:
    """A row with the secret wherever there may be text."""
    request = {
        "route": "cria", "kind": "chat", "prompt": SECRET, "tools": [{"name": SECRET}], "labels": {"user": SECRET},
        "messages": [{"role": "user", "content": SECRET, "images": [{"url": SECRET}], "reasoning": SECRET}],
        "sampling": {"stop": [SECRET], "seed": 7, "logit_bias": {"17": 1.0}}, "extra": {"tools[0].type": SECRET},
    }  # fmt: skip
    row = generation(id, text=SECRET, request=request, labels={"user": SECRET})
    row |= {
        "reasoning": SECRET,
        "calls": [{"arguments": SECRET}],
        "response": {"text": SECRET},
        "error": SECRET,
    }
    return {**row, "provider": "openai", "cost": 12, "use": ["train"], "dropped": ["seed"], **changes}


def test_deletion_takes_the_words_from_everywhere(store: Store, generation: Row) -> None:
    store.create_conversation(id="c", title=SECRET)
    began = time.time()
    store.add_generation(full(generation, "g1"))
    store.add_generation(full(generation, "g2", conversation=None, shadow_of="g1"))
    store.add_feedback(generation="g1", kind="correction", text=SECRET, id="f1")
    store.add_feedback(generation="g1", kind="thumbs", value=-1, text=SECRET, id="f2")
    assert store.delete_conversation("c")
    assert SECRET not in rows_of(store)
    store.add_feedback(generation="g1", kind="comment", text=SECRET)  # too late
    store.add_generation(full(generation, "late", created=began))
    assert SECRET not in rows_of(store)
    kept = store.get_generation("g1")
    assert kept and kept["cost"] == 12 and kept["dropped"] == ["seed"] and kept["finish"] == "stop"
    assert [message["role"] for message in kept["request"]["messages"]] == ["user"]
    assert kept["request"]["sampling"]["seed"] == 7
    assert [f["value"] for f in store.feedback("g1")][:2] == [None, -1.0]


def test_no_byte_of_the_file_keeps_the_words(tmp_path: Path, generation: Row) -> None:
    store = Store.open(tmp_path / "herd.db")
    store.create_conversation(id="c", title="t")
    for n in range(50):
        store.add_generation(full(generation, f"g{n}", conversation="c" if n % 2 else None, expires=5.0))
        store.add_feedback(generation=f"g{n}", kind="comment", text=SECRET * 300)
    store.add_generation(full(generation, "alone", conversation=None))
    store.add_feedback(generation="alone", kind="comment", text=SECRET)
    data = lambda: b"".join(file.read_bytes() for file in tmp_path.iterdir())  # noqa: E731
    assert SECRET.encode() in data()
    store.delete_conversation("c")
    assert store.forget_expired(6.0) == 50
    store.forget("alone")
    assert SECRET.encode() not in data()
    store.close()


def test_text_goes_when_its_time_is_over(store: Store, generation: Row) -> None:
    store.create_conversation(id="c", title="ours")
    store.add_message(conversation="c", id="asked", role="user", content=SECRET)
    store.add_message(
        conversation="c", id="said", parent="asked", role="assistant", content=SECRET, generation="g0"
    )
    store.add_message(conversation="c", id="other", role="user", content="stays")
    for n in range(450):
        store.add_generation(full(generation, f"g{n}", expires=100.0 + n))
    store.add_generation(full(generation, "for ever"))
    store.add_feedback(generation="g0", kind="correction", text=SECRET)
    assert store.forget_expired(99.0) == 0
    assert store.forget_expired(100.0 + 439) == 440
    assert store.forget_expired(100.0 + 439) == 0
    assert [message["content"] for message in store.messages("c")] == ["", "", "stays"]
    assert store.feedback("g0")[0]["text"] is None
    found = store.search_generations(text="most SECRET", limit=100)
    assert {row["id"] for row in found} == {f"g{n}" for n in range(440, 450)} | {"for ever"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "fedcba"),
        ({"text": "Ärger"}, "ba"),
        ({"text": 'say "ärger'}, "b"),
        ({"text": "tief gedacht"}, "c"),
        ({"text": "100%"}, ""),
        ({"route": "other"}, "d"),
        ({"target": "t2", "finish": "error"}, "e"),
        ({"key": "k"}, "f"),
        ({"conversation": "c"}, "fedcb"),
        ({"since": 2.0, "until": 4.0}, "cb"),
        ({"before": 3.0, "limit": 1}, "b"),
        ({"feedback": "any"}, "cba"),
        ({"feedback": "good"}, "a"),
        ({"feedback": "bad"}, "b"),
        ({"feedback": "comment"}, "c"),
    ],
)
def test_search(store: Store, generation: Row, wanted: dict[str, Any], found: str) -> None:
    store.add_generation(generation("a", None, "großer ärger", created=1.0))
    asked = {"messages": [{"role": "user", "content": 'they say "Ärger"'}]}
    store.add_generation(generation("b", created=2.0, request=asked))
    store.add_generation(generation("c", created=3.0, reasoning="Tief gedacht", reply_id="msg_1"))
    store.add_generation(generation("d", created=4.0, route="other"))
    store.add_generation(generation("e", created=5.0, target="t2", finish="error"))
    store.add_generation(generation("f", created=6.0, key="k"))
    store.add_feedback(generation="a", kind="thumbs", value=1)
    store.add_feedback(generation="b", kind="thumbs", value=-1)
    store.add_feedback(generation="msg_1", kind="comment", text="hm")
    assert "".join(row["id"] for row in store.search_generations(**wanted)) == found


def test_feedback_is_idempotent_and_checked(talk: Store, generation: Row) -> None:
    talk.add_generation(generation("g3", reply_id="chatcmpl-theirs"))
    first = talk.add_feedback(generation="chatcmpl-theirs", kind="score", value=0.25, key="k", id="f")
    assert first["generation"] == "g3" and talk.get_generation("chatcmpl-theirs")
    assert talk.add_feedback(generation="g3", kind="score", value=0.25, key="k", id="f") == first
    assert talk.feedback("g3") == [first]
    with pytest.raises(HerdError, match="something else") as caught:
        talk.add_feedback(generation="g3", kind="score", value=0.5, id="f")
    assert caught.value.status == 409
    with pytest.raises(HerdError, match="no generation 'nope'") as caught:
        talk.add_feedback(generation="nope", kind="thumbs", value=1)
    assert caught.value.status == 404
    for wrong in ({"kind": "thumbs", "value": 2}, {"kind": "score"}, {"kind": "score", "value": float("nan")},
                  {"kind": "comment"}, {"kind": "correction", "text": ""}, {"kind": "stars", "value": 1}):  # fmt: skip
        with pytest.raises(HerdError, match="value|text|kind") as caught:
            talk.add_feedback(generation="g3", **wrong)
        assert caught.value.status == 400


def test_feedback_goes_along_with_its_conversation(talk: Store, tmp_path: Path) -> None:
    talk.add_feedback(generation="g1", kind="comment", text="good", id="f")
    elsewhere = Store.open(tmp_path / "elsewhere.db")
    assert elsewhere.import_conversations(talk.export_conversations()) == 1
    assert elsewhere.feedback("g1") == [{**talk.feedback("g1")[0], "key": None}]
    elsewhere.close()


def test_routes_have_versions(store: Store) -> None:
    assert store.routes() == {} and store.route_versions("a") == []
    assert store.put_route("a", {"targets": ["cria"]}, "root", "first", 0) == 1
    assert store.put_route("a", {"targets": ["other"]}, None, None, 1) == 2
    assert store.put_route("b", {"targets": []}, None, None, None) == 1
    for late in (0, 1, 3):
        with pytest.raises(HerdError, match="version 2") as caught:
            store.put_route("a", {}, None, None, late)
        assert caught.value.status == 409
    assert store.routes() == {"a": (2, {"targets": ["other"]}), "b": (1, {"targets": []})}
    assert store.put_route("b", None, "root", "gone", 1) == 2
    assert set(store.routes()) == {"a"}
    versions = store.route_versions("b")
    assert [(row["version"], row["definition"], row["author"]) for row in versions] == [
        (2, None, "root"),
        (1, {"targets": []}, None),
    ]


def test_findings_and_probes(store: Store) -> None:
    first = store.add_finding("t", "speed", "it is slower", before={"p50": 1.5}, after={"p50": 9})
    store.add_finding("t", "retired", "it is gone")
    assert [row["kind"] for row in store.findings()] == ["retired", "speed"]
    assert [row["kind"] for row in store.findings(before=store.findings()[0]["created"])] == ["speed"]
    seen = store.see_finding(first["id"])
    assert seen and seen["seen"] <= time.time() and seen["before"] == {"p50": 1.5}
    assert store.see_finding(first["id"]) == seen and store.see_finding("none") is None
    store.add_probe("t", [{"said": "x"}])
    store.add_probe("u", [])
    assert [row["results"] for row in store.probes("t")] == [[{"said": "x"}]]


def test_half_a_character_in_a_reply_does_no_harm(store: Store, generation: Row) -> None:
    half = "\ud83e half"
    store.add_generation(
        generation("g", text=half, request={"messages": [{"role": "user", "content": half}]})
    )
    found = store.get_generation("g")
    assert found and found["reply"] == "\ufffd half" and found["request"]["messages"][0]["content"] == half


def test_an_error_that_quotes_a_deleted_conversation_goes_with_it(store: Store, generation: Row) -> None:
    """The attempt fails after the deletion, and its row says why before the generation is kept."""
    store.create_conversation(id="c", title="t")
    began = time.time()
    store.delete_conversation("c")
    attempt: dict[str, Any] = dict.fromkeys(
        ("id", "route", "target", "provider", "url", "gateway", "state"), "x"
    )
    attempt |= {"generation": "late", "number": 0, "shadow": False, "created": began, "error": SECRET}
    attempt |= {"estimated": False, "cost": 0, "reserved": []}
    store._write(lambda connection: connection.execute(insert(attempts), attempt).rowcount)
    store.add_generation(full(generation, "late", created=began))
    assert SECRET not in rows_of(store)


def test_an_id_of_ours_is_no_other_providers(store: Store, generation: Row) -> None:
    """A provider may call its replies as it likes, and all of them the same."""
    store.add_generation(
        generation("g1", conversation=None, created=1.0) | {"reply_id": "g2", "key": "key_a"}
    )
    store.add_generation(
        generation("g2", conversation=None, created=2.0) | {"reply_id": "same", "key": "key_a"}
    )
    store.add_generation(
        generation("g3", conversation=None, created=3.0) | {"reply_id": "same", "key": "key_b"}
    )
    assert (store.get_generation("g2") or {})["id"] == "g2"
    assert store.add_feedback(generation="g2", kind="comment", text="x")["generation"] == "g2"
    assert (store.get_generation("same", key="key_b") or {})["id"] == "g3"
    assert (store.get_generation("same", key="key_a") or {})["id"] == "g2"
