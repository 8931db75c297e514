"""A database of version 3, which had votes on generations and nothing else of the arena, is brought to version 4."""

import hmac

import pytest
from sqlalchemy import Connection, text

from herd.store import Store, migrations

GENERATION = """INSERT INTO generations (id, conversation, route, target, target_digest, request, reply, created, labels)
    VALUES (:id, 'c', 'cria', :target, :digest, '{"messages": [{"role": "user", "content": "hi"}]}', 'text', 1.0, '{}')"""
VOTE = "INSERT INTO votes (id, a, b, outcome, source, voter, created) VALUES (:id, :a, :b, :outcome, :source, :voter, :created)"


def test_votes_of_version_3_learn_their_targets(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:3])
    old = Store.open(database)

    def work(connection: Connection) -> None:
        for id, target, digest in (("g1", "cria", "d1"), ("g2", "tale", "d2"), ("g3", None, None)):
            connection.execute(text(GENERATION), {"id": id, "target": target, "digest": digest})
        for id, a, b, source, voter, created in (
            ("late", "g1", "g2", "regenerate", "w", 9.0),
            ("early", "g2", "g3", "battle", None, 3.0),
            ("judged", "g1", "gone", "judge", None, 5.0),
        ):
            row = {
                "id": id,
                "a": a,
                "b": b,
                "outcome": "tie",
                "source": source,
                "voter": voter,
                "created": created,
            }
            connection.execute(text(VOTE), row)
        odd = {"id": "odd", "a": "g1", "b": "g2", "outcome": "better", "source": "regenerate", "voter": None}
        connection.execute(text(VOTE), {**odd, "created": 10.0})  # as an import of conversations let in

    old._write(work)
    old.close()
    monkeypatch.undo()
    for _ in range(2):  # the second time nothing is to be done
        store = Store.open(database)
        kept = {vote["id"]: vote for vote in store.votes()}
        odd = kept.pop("odd")
        assert (odd["outcome"], odd["void"]) == ("tie", "unknown outcome")
        assert list(kept) == ["early", "judged", "late"] and not any(v["void"] for v in kept.values())
        late, early, judged = kept["late"], kept["early"], kept["judged"]
        assert (late["a_target"], late["b_target"], late["a_digest"], late["b_digest"]) == (
            "cria",
            "tale",
            "d1",
            "d2",
        )
        assert (late["conversation"], late["rater"], late["created"]) == ("c", None, 9.0)
        salt = store.setting("voter_salt", lambda: "none yet")
        assert late["voter"] == hmac.new(salt.encode(), b"w", "sha256").hexdigest()[:32]
        assert (early["a_target"], early["b_target"]) == ("tale", "cria")  # a route, where no target is known
        assert (judged["b_target"], judged["rater"]) == ("unknown", "unknown")
        assert [row[-1] for row in store.votes_after(0, 10)] == ["early", "judged", "late", "odd"]
        store.close()
    store = Store.open(database)
    new = store.add_vote(id="new", a="g1", b="g2", outcome="a", source="regenerate")
    rows = store.votes_after(0, 10)
    assert [row[-1] for row in rows] == ["early", "judged", "late", "odd", "new"]
    assert store.votes_after(rows[3][0], 10)[0][-1] == new["id"]
    assert [pair["id"] for pair in store.pairs("cria")] == ["early", "late", "new"]  # not the judge's
    store.close()
