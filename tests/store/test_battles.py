"""Battles and their votes: one a battle; imports that are whole or not; what deletion leaves of them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from herd.errors import HerdError
from herd.store import Store
from herd.store.votes import prompt_hash

Row = Callable[..., dict[str, Any]]


def battle(id: str, **changes: Any) -> dict[str, Any]:
    row = {"id": id, "kind": "arena", "left_target": "cria", "right_target": "tale", "expires": 9e9}
    return {**row, "turns": [{"prompt": "Why?", "left": "g1", "right": "g2"}], **changes}


def ballot(battle: str, outcome: str = "a", **changes: Any) -> dict[str, Any]:
    row = {"id": f"v-{battle}", "battle": battle, "a_target": "cria", "b_target": "tale"}
    return {**row, "outcome": outcome, "source": "arena", **changes}


def refused(work: Callable[[], Any]) -> tuple[int, str | None]:
    with pytest.raises(HerdError) as caught:
        work()
    return caught.value.status, caught.value.code


def test_one_vote_a_battle(store: Store) -> None:
    store.put_battle(battle("b1"))
    assert store.battle("b1") == {
        **store.put_battle(battle("b2")),
        "id": "b1",
        "created": store.battle("b1")["created"],
    }  # type: ignore[index]
    first = store.add_vote(**ballot("b1"))
    closed = store.battle("b1")
    assert closed and closed["voted"] is not None
    assert store.add_vote(**ballot("b1")) == store.add_vote(**ballot("b1", id="another")) == first
    assert refused(lambda: store.add_vote(**ballot("b1", "b"))) == (409, "voted")
    assert refused(lambda: store.add_vote(**ballot("b1", "tie", id="another"))) == (409, "voted")
    assert refused(lambda: store.add_vote(**ballot("nowhere"))) == (404, "not_found")
    assert refused(lambda: store.add_vote(**ballot("b2", id=first["id"]))) == (409, "conflict")
    assert store.battle("b2")["voted"] is None  # type: ignore[index]
    judged = store.add_vote(**ballot("b1", "b", id="j", rater="gpt", source="judge"))  # beside the person's
    assert store.battle_vote("b1") == first and store.votes() == [first, judged]


def test_of_many_who_vote_on_a_battle_at_once_one_is_heard(store: Store) -> None:
    store.put_battle(battle("b"))
    said: list[Any] = []

    def vote(n: int) -> None:
        try:
            said.append(store.add_vote(**ballot("b", "ab"[n % 2], id=f"v{n}"))["id"])
        except HerdError as error:
            said.append(error.code)

    threads = [threading.Thread(target=vote, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = store.votes()
    assert sorted(said) == sorted([kept["id"]] * 8 + ["voted"] * 8)


def test_a_battle_changes(store: Store) -> None:
    made = store.put_battle(battle("b", turns=[], tags=["code"]))
    turns = [{"prompt": "Why?", "left": "g1", "right": None}]
    assert store.change_battle("b", {"turns": turns}) == {**made, "turns": turns} == store.battle("b")
    assert refused(lambda: store.change_battle("nowhere", {"turns": turns}))[0] == 404
    assert store.battle("nowhere") is None


def imported(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"i{n}",
        "a_target": "x",
        "b_target": "y",
        "outcome": "a",
        "source": "import",
        "created": float(n),
        **changes,
    }


def test_an_import_is_whole_or_nothing(store: Store) -> None:
    odd = imported(3, tags=["käse", "tag/\0"], style=[1, 2, 3, 4, 5, 6, 7, 8], comment="\0\ud800", turns=2)
    assert store.add_votes(iter([imported(1), imported(2), odd])) == 3
    assert store.add_votes([imported(2), imported(4)]) == 1  # what is known stays
    kept = {vote["id"]: vote for vote in store.votes()}
    assert list(kept) == ["i1", "i2", "i3", "i4"]
    third = kept["i3"]
    assert (third["tags"], third["style"], third["turns"]) == (odd["tags"], odd["style"], 2)
    assert third["comment"] == "\0�" and third["created"] == 3.0

    def broken() -> Iterator[dict[str, Any]]:
        for n in range(10, 6000):
            yield imported(n)
        raise ConnectionError("the sender is gone")

    with pytest.raises(ConnectionError):
        store.add_votes(broken())
    with pytest.raises(HerdError, match="outcome"):
        store.add_votes([imported(10), imported(11, outcome="left")])
    with pytest.raises(HerdError, match="cannot keep"):
        store.add_votes([*(imported(n) for n in range(10, 6000)), imported(9999, a_target=None)])
    assert len(store.votes()) == 4
    row = store.votes_after(0, 10)[2]
    assert row[1:5] == ("x", "y", "a", "import") and row[12] is None and row[13:] == (3.0, "i3")


def test_pairs_that_are_stored(talk: Store, generation: Row) -> None:
    talk.add_generation(generation("g3", target="tale", created=1.0))
    talk.add_message(conversation="c", parent="m1", role="assistant", content="x", generation="g3")
    talk.add_generation(generation("s", None, target="tale", shadow_of="g1", created=2.0))
    talk.add_generation(generation("b1", "x", created=9e9))
    talk.add_generation(generation("b2", "y", target="tale", text="other"))
    talk.add_generation(generation("mute", "y", target="tale", text=""))
    talk.put_battle(battle("b", turns=[{"prompt": "Why?", "left": "b1", "right": "b2"}]))
    talk.put_battle(battle("s", kind="stored", turns=[{"prompt": "Why?", "left": "b2", "right": "b1"}]))
    talk.put_battle(battle("m", turns=[{"prompt": "Why?", "left": "b1", "right": "mute"}]))
    pairs = talk.stored_pairs(10)
    found = {frozenset((pair["a"]["id"], pair["b"]["id"])): pair for pair in pairs}
    assert found.keys() == {frozenset(p) for p in (("g1", "g3"), ("g2", "g3"), ("g1", "s"), ("b1", "b2"))}
    first = pairs[0]
    assert (first["battle"], first["a_target"], first["b_target"], first["conversation"]) == (
        "b",
        "cria",
        "tale",
        "x",
    )
    assert (first["a"]["reply"], first["b"]["reply"]) == ("hello", "other")
    assert len(talk.stored_pairs(2)) == 2
    talk.add_vote(id="1", a="b2", b="b1", outcome="a", source="stored", voter="w")
    talk.add_vote(id="2", a="g1", b="s", outcome="a", source="judge", rater="gpt")
    assert len(talk.stored_pairs(10, unvoted_by="w")) == len(talk.stored_pairs(10, unjudged_by="gpt")) == 3
    assert len(talk.stored_pairs(10, unvoted_by="z", unjudged_by="other")) == 4


SECRET = "a most secret sentence"


def test_deletion_takes_the_words_and_leaves_the_votes(talk: Store, generation: Row) -> None:
    talk.add_generation(generation("alone", None))
    said = {"comment": SECRET, "reasons": [SECRET], "details": {"leak": SECRET}}
    turn = {"prompt": SECRET, "left": "g1", "right": "g2"}
    talk.put_battle(battle("b1", conversation="c", turns=[turn]))
    talk.put_battle(battle("b2", turns=[{**turn, "left": "alone"}]))
    talk.put_battle(
        battle("failed", conversation="c", turns=[{"prompt": SECRET, "left": None, "right": None}])
    )
    talk.add_vote(**ballot("b1", a="g1", b="g2", **said))
    talk.add_vote(id="v2", a="alone", b="g2", outcome="tie", source="regenerate", **said)
    talk.forget("alone")
    assert talk.battle("b2")["turns"] == [{**turn, "prompt": "", "left": "alone"}]  # type: ignore[index]
    assert talk.battle("b1")["turns"] == [turn]  # type: ignore[index]
    talk.delete_conversation("c")
    late = [{**turn, "prompt": SECRET}]
    talk.change_battle("failed", {"turns": late})  # its reply came after the deletion
    talk.add_vote(**ballot("b1", a="g1", b="g2", id="late", rater="gpt", created=1.0, **said))
    for id in ("b1", "b2", "failed"):
        assert SECRET not in str(talk.battle(id))
    votes = talk.votes()
    assert SECRET not in str(votes) and sorted(vote["outcome"] for vote in votes) == ["a", "a", "tie"]


def test_the_first_to_make_a_setting_wins(store: Store, database: str) -> None:
    other = Store.open(database)
    assert store.setting("salt", lambda: "one") == other.setting("salt", lambda: "two") == "one"
    other.close()


def test_frozen_prompts(store: Store) -> None:
    hashes = [prompt_hash(text) for text in ("Why?", " why? ", "Who?")]
    assert hashes[0] == hashes[1] != hashes[2] and prompt_hash(" \n") is None
    assert store.freeze([h for h in hashes if h]) == 2 and store.freeze([hashes[0] or ""]) == 0
    assert store.frozen() == set(hashes)


def test_replies_of_a_target(store: Store, generation: Row) -> None:
    for n in range(5):
        store.add_generation(generation(f"g{n}", None, created=float(n), cost=n, total_ms=float(n)))
    store.add_generation(generation("bad", None, created=9.0, error="no"))
    store.add_generation(generation("other", None, created=9.0, target="tale"))
    assert store.replies("cria", 1.0, 3) == [(4, 20.0, 4.0), (3, 20.0, 3.0), (2, 20.0, 2.0)]


@pytest.mark.parametrize(("use", "shown"), [(None, 1), (["evaluate", "train"], 1), (["train"], 0), ([], 0)])
def test_what_may_not_be_evaluated_is_no_stored_pair(
    store: Store, generation: Row, use: list[str] | None, shown: int
) -> None:
    store.add_generation(generation("b1", "x"))
    store.add_generation(generation("b2", "y", target="tale", use=use))
    store.put_battle(battle("b", turns=[{"prompt": "Why?", "left": "b1", "right": "b2"}]))
    assert len(store.stored_pairs(10)) == shown
