"""Replies in the background: kept from their beginning, taken over once, and gone with what they became."""

from typing import Any

from herd.store import Store
from herd.store.background import claim_background, end_background, put_background, release_background


def row(id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "conversation": "c",
        "route": "cria",
        "request": {"messages": []},
        "reply": "",
        "created": 1.0,
        **fields,
    }


def claimed(store: Store, gateway: str, *running: str, of: str = "gone") -> list[tuple[str, Any, Any]]:
    def claim(connection: Any) -> Any:
        return claim_background(connection, gateway, lambda name: name == of, running)

    found = iter(lambda: store._write(claim), None)
    return [(one["id"], one["asked"], one["lost"]) for one in found]


def test_only_what_nobody_makes_is_taken_over_and_once(store: Store) -> None:
    def work(connection: Any) -> None:
        put_background(connection, row("again"), "gone", {"route": "cria"}, None)
        put_background(connection, row("paid"), "gone", None, "paid for")
        put_background(connection, row("mine"), "gone", {"route": "cria"}, None)
        put_background(connection, row("ended"), "gone", {"route": "cria"}, None)
        put_background(connection, row("theirs"), "alive", {"route": "cria"}, None)

    store._write(work)
    store.add_generation(row("ended", reply="done"))
    assert sorted(claimed(store, "here", "mine")) == [
        ("again", {"route": "cria"}, None),
        ("paid", None, "paid for"),
    ]
    assert store.get_background("ended") is None and store.get_background("theirs") == row("theirs")
    assert claimed(store, "here", "mine") == []  # they are not of one that is gone any more
    again = claimed(store, "third", of="here")
    assert {id: asked for id, asked, _ in again} == {"again": None, "paid": None}
    assert all(lost for _, _, lost in again)


def test_what_was_taken_over_for_nothing_is_there_to_be_taken_over(store: Store) -> None:
    store._write(lambda c: put_background(c, row("a"), "gone", {"route": "cria"}, None))

    def claim(connection: Any) -> Any:
        return claim_background(connection, "here", lambda name: name == "gone", ())

    one = store._write(claim)
    assert store._write(claim) is None
    store._write(lambda c: release_background(c, one))
    assert store._write(claim) == one


def test_the_end_keeps_what_failed_and_a_deletion_everything_away(store: Store) -> None:
    for id in ("failed", "quiet"):
        one = row(id, conversation=id, request={"messages": [{"role": "user", "content": "secret"}]})
        store._write(lambda c, one=one: put_background(c, one, "here", None, None))
    assert store.delete_conversation("quiet") and store.get_background("quiet") is None
    failed = {**row("failed", conversation="failed"), "finish": "error", "error": "why"}
    store._write(lambda c: end_background(c, "failed", failed))
    kept = store.get_generation("failed")
    assert kept is not None and kept["error"] == "why" and store.get_background("failed") is None
