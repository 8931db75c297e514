"""Conversations: what is written is read, found, exported, and gone when it is deleted."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.store import Store

Row = Callable[..., dict[str, Any]]

HARD = "naïve 🦙 日本語 \u0000 \uffff0000 \u202e %_\\ '\";-- \U0010ffff"


def test_a_conversation_is_a_tree_of_messages(talk: Store) -> None:
    found = talk.get_conversation("c")
    assert found is not None
    assert found["title"] == "Title" and found["settings"] == {"top_p": 0.9}
    assert abs(found["created"] - time.time()) < 60
    assert set(found) == {"id", "title", "route", "system", "settings", "created", "updated"}
    messages = talk.messages("c")
    assert [(m["id"], m["parent"], m["generation"]) for m in messages] == [
        ("m1", None, None),
        ("m-g1", "m1", "g1"),
        ("m-g2", "m1", "g2"),
    ]
    assert talk.messages("other") == [] and talk.get_conversation("other") is None


def test_the_same_id_again_is_the_same_thing(talk: Store) -> None:
    assert talk.create_conversation(id="c", title="Another")["title"] == "Title"
    again = talk.add_message(conversation="c", id="m1", role="user", content="changed")
    assert again["content"] == "question" and len(talk.messages("c")) == 3


def test_a_message_needs_its_conversation_and_parent(talk: Store) -> None:
    with pytest.raises(HerdError, match="no conversation 'x'") as caught:
        talk.add_message(conversation="x", role="user", content="")
    assert caught.value.status == 404
    with pytest.raises(HerdError, match="no message 'x'"):
        talk.add_message(conversation="c", parent="x", role="user", content="")


def test_update(talk: Store) -> None:
    before = talk.get_conversation("c")
    after = talk.update_conversation("c", title=None, settings={"seed": 1})
    assert before and after
    assert after["title"] is None and after["settings"] == {"seed": 1} and after["system"] == "Be kind."
    assert after["updated"] > before["updated"] and talk.get_conversation("c") == after
    assert talk.update_conversation("x", title="t") is None
    with pytest.raises(HerdError, match="'id'"):
        talk.update_conversation("c", id="other")


def test_list_is_newest_first_in_pages(store: Store) -> None:
    for i in range(7):
        store.create_conversation(id=str(i), title=f"talk {i}")
    store.add_message(conversation="2", role="user", content="newest now")
    seen, before = [], None
    while page := store.list_conversations(limit=3, before=before):
        seen += [c["id"] for c in page]
        before = page[-1]["updated"]
    assert seen == ["2", "6", "5", "4", "3", "1", "0"]


@pytest.mark.parametrize(
    ("words", "found"),
    [("100%", ["a"]), ("%", ["a"]), ("_", ["b"]), ("snake_c", ["b"]), ("ÄRGER", ["c"]), ("\\", ["d"]), ("🦙", ["e"]), ("zz", [])],
)  # fmt: skip
def test_search_takes_words_as_they_are(store: Store, words: str, found: list[str]) -> None:
    store.create_conversation(id="a", title="100% sure")
    for id, text in (("b", "snake_case"), ("c", "großer Ärger"), ("d", "C:\\temp"), ("e", "a 🦙 here")):
        store.create_conversation(id=id)
        store.add_message(conversation=id, role="user", content=text)
    assert [c["id"] for c in store.list_conversations(search=words)] == found


def test_any_text_comes_back(store: Store, database: str) -> None:
    store.create_conversation(id=HARD, title=HARD, system=HARD, settings={HARD: [1.5, None, HARD]})
    store.add_message(conversation=HARD, id=HARD, role="user", content=HARD)
    store.close()
    again = Store.open(database)
    found = again.get_conversation(HARD)
    assert (
        found and found["title"] == found["system"] == HARD and found["settings"] == {HARD: [1.5, None, HARD]}
    )
    assert again.messages(HARD)[0]["content"] == HARD
    again.close()


def test_a_conversation_that_is_only_traffic_is_deleted_too(tmp_path: Path, generation: Row) -> None:
    store = Store.open(tmp_path / "herd.db")
    began = time.time()
    store.add_generation(generation("g1", "auto-1", text="a secret"))
    assert store.delete_conversation("auto-1") and not store.delete_conversation("auto-1")
    store.add_generation({**generation("late", "auto-1", text="a secret"), "created": began})
    store.add_generation(generation("g2", "auto-1", text="the same opening again"))

    def replies() -> list[str]:
        return [store.get_generation(id)["reply"] for id in ("g1", "late", "g2")]  # type: ignore[index]

    assert replies() == ["", "", "the same opening again"]
    assert store.delete_conversation("auto-1") and replies() == ["", "", ""]
    store.close()


def test_deletion_leaves_no_text_on_the_disk(tmp_path: Path, generation: Row) -> None:
    store = Store.open(tmp_path / "herd.db")
    secret = "a most secret sentence"
    store.create_conversation(id="c", title=secret, system=secret)
    store.add_message(conversation="c", role="user", content=secret * 500)
    began = time.time()
    for name in ("g1", "g2"):
        request = {"messages": [{"role": "user", "content": secret}], "sampling": {"stop": [secret]}}
        store.add_generation(generation(name, text=secret, request=request, labels={"user": secret}))
    store.add_vote(id="v", a="g1", b="g2", outcome="a", source="regenerate")
    assert secret.encode() in b"".join(f.read_bytes() for f in tmp_path.iterdir())

    assert store.delete_conversation("c")
    assert (
        store.get_conversation("c") is None and store.messages("c") == [] and store.list_conversations() == []
    )
    assert not store.delete_conversation("c") and not store.delete_conversation("never")
    assert store.pairs("cria") == [] and len(store.votes()) == 1
    kept = store.get_generation("g1")
    assert kept and kept["reply"] == "" and kept["tokens"]["completion"] == 3
    assert secret.encode() not in b"".join(f.read_bytes() for f in tmp_path.iterdir())

    store.add_generation({**generation("late", text=secret), "created": began})  # on its way at the deletion
    assert secret not in json.dumps(store.get_generation("late"))
    with pytest.raises(HerdError) as caught:
        store.add_message(conversation="c", role="user", content=secret)
    assert caught.value.status == 410
    store.close()


def test_export_then_import_elsewhere(talk: Store, tmp_path: Path) -> None:
    talk.add_vote(id="v", a="g1", b="g2", outcome="b", source="regenerate", voter="w")
    talk.create_conversation(id="other", title=HARD)
    exported = json.loads(json.dumps(talk.export_conversations()))
    assert [c["id"] for c in talk.export_conversations(["other", "unknown"])] == ["other"]

    elsewhere = Store.open(tmp_path / "elsewhere.db")
    assert elsewhere.import_conversations(exported) == 2
    assert elsewhere.import_conversations(exported) == 0
    assert elsewhere.export_conversations() == exported
    assert elsewhere.pairs("cria") == talk.pairs("cria") != []
    elsewhere.delete_conversation("c")
    assert elsewhere.import_conversations(exported) == 1
    assert elsewhere.get_conversation("c") == talk.get_conversation("c")
    assert elsewhere.get_generation("g1") == talk.get_generation("g1")
    elsewhere.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": None}, "conversations[1].id"),
        ({"settings": []}, "conversations[1].settings"),
        ({"created": True}, "conversations[1].created"),
        ({"messages": {}}, "conversations[1].messages"),
        ({"messages": [{"id": "m", "role": "user", "created": 1}]}, "conversations[1].messages[0].content"),
    ],
)
def test_a_wrong_import_keeps_nothing(
    talk: Store, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    good = talk.export_conversations()[0]
    elsewhere = Store.open(tmp_path / "elsewhere.db")
    with pytest.raises(HerdError) as caught:
        elsewhere.import_conversations([good, {**good, "id": "second", **change}])
    assert str(caught.value).startswith(named)
    with pytest.raises(HerdError, match=r"conversations\[0\]"):
        elsewhere.import_conversations(["text"])  # type: ignore[list-item]
    assert elsewhere.list_conversations() == []
    elsewhere.close()


@pytest.mark.parametrize("outcome", ["better", "", 7, None])
def test_a_vote_of_another_outcome_is_not_imported(store: Store, outcome: Any) -> None:
    head = {"id": "c", "settings": {}, "created": 1.0, "updated": 1.0}
    vote = {"id": "v", "a": "g", "b": "h", "source": "regenerate", "created": 1.0, "outcome": outcome}
    with pytest.raises(HerdError, match=r"conversations\[0\]\.votes\[0\]\.outcome"):
        store.import_conversations([{**head, "votes": [vote]}])
    assert store.import_conversations([{**head, "votes": [{**vote, "outcome": "tie", "key": "k"}]}]) == 1
    assert store.votes()[0]["key"] is None
