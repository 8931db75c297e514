"""Votes go out in the forms that others read; what comes back is the same; and only what may be trained on is."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from herd.arena.exports import export
from herd.arena.imports import import_votes
from herd.data.prefs import read_pairs
from herd.errors import HerdError
from herd.flywheel.votes import from_file
from herd.store import Store
from herd.store.votes import prompt_hash

OUTCOMES = ("a", "b", "tie", "both_bad")
WINNERS = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    stores: list[Store] = []

    def make(name: str) -> Store:
        stores.append(Store.open(tmp_path / f"{name}.db"))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[str], Store]) -> Store:
    return opened("herd")


def reply(store: Store, id: str, target: str, text: str, **changes: Any) -> None:
    messages = changes.pop("messages", [{"role": "user", "content": 'Say é, "hi",\nor 你好.'}])
    request = {"route": target, "kind": "chat", "messages": messages, "sampling": {}}
    row = {"id": id, "route": target, "target": target, "target_digest": f"digest of {target}", "request": request,
           "reply": text, "labels": {}, "conversation": f"talk {id[1:]}", "created": 1.7e9, "use": ["evaluate", "train"]}  # fmt: skip
    store.add_generation({**row, **changes})


def voted(
    store: Store, n: int, outcome: str, *, a: str = "cria", b: str = "gpt", text: bool = True, **changes: Any
) -> str:
    """A vote on two replies of its own."""
    of: dict[str, Any] = {"a_target": a, "b_target": b}
    both = changes.pop("replies", {})
    if text:
        reply(store, f"a{n}", a, f"good {n}", **both)
        reply(store, f"b{n}", b, f"bad {n}", **both)
        of = {"a": f"a{n}", "b": f"b{n}"}
    row = {"source": "arena", "voter": f"voter {n % 3}", "created": 1.7e9 + n, "turns": 1, "tags": ["language/French", "code"],
           "style": [10, 0, 1, 2, 30.5, 0, 0, 0]}  # fmt: skip
    store.add_vote(id=f"v{n}", outcome=outcome, **of, **{**row, **changes})
    return f"v{n}"


@pytest.fixture
def full(store: Store) -> Store:
    """Votes of every kind."""
    for n in range(24):
        targets = {"a": ("cria", "gpt", "tale")[n % 3], "b": ("gpt", "tale", "cria")[n % 3]}
        source = ("arena", "pair", "stored", "regenerate")[n % 4]
        voted(store, n, OUTCOMES[n * 7 % 4], **targets, source=source, text=n % 5 != 0)  # type: ignore[arg-type]
    voted(store, 90, "a", void="leak")
    voted(store, 91, "a", a="=1+2", b='x, "y"', text=False, voter=None, style=None, tags=None, turns=None)
    for n in (92, 93):
        details = {"first": "a", "second": "b", "lengths": [6, 5]}
        voted(store, n, "b", source="judge", rater="gpt-4", voter=None, details=details)
    return store


def file_of(store: Store, form: str, **options: Any) -> tuple[bytes, Counter[str]]:
    file = io.BytesIO()
    left_out = export(file, form, store, **options)  # type: ignore[arg-type]
    return file.getvalue(), left_out


def taken(data: bytes, form: str, store: Store) -> int:
    return import_votes(io.BufferedReader(io.BytesIO(data)), form, store).votes  # type: ignore[arg-type]


def tally(store: Store, rater: str | None = None) -> Counter[tuple[str, ...]]:
    rows = (vote for vote in store.votes() if vote["rater"] == rater and vote["void"] is None)
    return Counter((vote["a_target"], vote["b_target"], vote["outcome"]) for vote in rows)


@pytest.mark.parametrize("form", ["fastchat", "csv", "parquet", "counts"])
def test_what_comes_back_is_the_same(full: Store, opened: Callable[[str], Store], form: str) -> None:
    data, left_out = file_of(full, form)
    assert left_out == {"leak": 1}
    other = opened("other")
    assert taken(data, form, other) == 25 and tally(other) == tally(full)
    again, _ = file_of(other, form)
    third = opened("third")
    taken(again, form, third)
    assert tally(third) == tally(full)
    if form == "counts":
        assert again == data
        return
    assert taken(data, form, full) == 0  # where they are from they are known
    kept = {vote["id"]: vote for vote in full.votes()}
    for vote in other.votes():
        was = kept[vote["id"]]
        same = ("a_digest", "b_digest", "created", "turns", "tags", "style")
        assert [vote[name] for name in same] == [was[name] for name in same]
        assert was["prompt"] == vote["prompt"] and vote["details"]["source"] == was["source"]
    groups = {(kept[vote["id"]]["voter"], vote["voter"]) for vote in other.votes()}
    assert (
        len(groups) == len({voter for voter, _ in groups}) == 4
    )  # three voters and nobody, under other hashes


def test_text_comes_back_too_where_the_form_has_it(full: Store, opened: Callable[[str], Store]) -> None:
    for form, wanted in (("fastchat", True), ("parquet", True), ("csv", False)):
        other = opened(form)
        taken(file_of(full, form)[0], form, other)
        texts = sorted(row["reply"] for row in other.generations(limit=1000))
        counted = [vote for vote in full.votes() if vote["a"] and not vote["void"] and not vote["rater"]]
        assert (
            texts
            == sorted(f"{word} {vote['id'][1:]}" for vote in counted for word in ("good", "bad")) * wanted
        )
        for row in other.generations(limit=1000):
            assert row["request"]["messages"][0]["content"] == 'Say é, "hi",\nor 你好.' and row["use"] == [
                "evaluate"
            ]


def test_other_readers_find_the_columns_that_they_know(full: Store) -> None:
    lines = [json.loads(line) for line in file_of(full, "fastchat")[0].splitlines()]
    table = pq.read_table(io.BytesIO(file_of(full, "parquet")[0])).to_pylist()
    rows = list(csv.DictReader(io.StringIO(file_of(full, "csv")[0].decode(), newline="")))
    kept = {vote["id"]: vote for vote in full.votes()}
    assert len(lines) == len(table) == len(rows) == 25
    for line, record, row in zip(lines, table, rows, strict=True):
        vote = kept[line["question_id"]]
        assert line["winner"] == record["winner"] == row["winner"] == WINNERS[vote["outcome"]]
        assert line["model_a"] == record["model_a"] == row["model_a"] == vote["a_target"]
        assert line["tstamp"] == record["tstamp"] == float(row["tstamp"]) == vote["created"]
        assert line["anony"] == record["anony"] == (vote["source"] in ("arena", "stored"))
        if vote["a"]:
            assert line["language"] == "French" and line["is_code"] is True
            asked, said = line["conversation_a"]
            assert asked["role"] == "user" and said == {
                "role": "assistant",
                "content": f"good {vote['id'][1:]}",
            }
            assert record["conversation_b"][1]["content"] == f"bad {vote['id'][1:]}"
            assert line["conv_metadata"]["sum_assistant_b_tokens"] == 30.5
            assert sum(line["conv_metadata"]["bold_count_a"].values()) == 2


def test_judges_go_out_by_themselves_and_come_back_as_judges(
    full: Store, opened: Callable[[str], Store]
) -> None:
    data, _ = file_of(full, "fastchat", raters="judge:gpt-4")
    other = opened("other")
    assert taken(data, "fastchat", other) == 2 and tally(other) == {}
    assert tally(other, "gpt-4") == tally(full, "gpt-4")
    assert {json.dumps(vote["details"]["lengths"]) for vote in other.votes()} == {"[6, 5]"}
    with pytest.raises(HerdError, match="raters must be people or judge:NAME"):
        file_of(full, "csv", raters="gpt-4")


def pairs_of(store: Store, **options: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    data, left_out = file_of(store, "preferences", **options)
    return [json.loads(line) for line in data.splitlines()], left_out


def test_only_what_may_be_trained_on_becomes_a_pair(store: Store, tmp_path: Path) -> None:
    voted(store, 1, "a")
    voted(store, 2, "b", a="gpt", b="cria")
    voted(store, 3, "tie")
    voted(store, 4, "both_bad")
    voted(store, 5, "a", void="leak")
    voted(store, 6, "a", voter="bot")
    voted(store, 7, "a", replies={"use": ["evaluate"]})
    voted(store, 8, "a", text=False)
    voted(store, 9, "a", replies={"messages": [{"role": "user", "content": "  A Frozen\nprompt "}]})
    talk = [("user", "hello"), ("assistant", "hi"), ("user", "a frozen\nprompt")]
    voted(store, 10, "a", replies={"messages": [{"role": role, "content": text} for role, text in talk]})
    voted(store, 11, "b", source="judge", rater="gpt-4", voter=None)
    voted(store, 12, "a", replies={"use": None})
    voted(store, 13, "a")
    store.forget("b13")
    reply(store, "a14", "cria", "x", messages=[{"role": "user", "content": "one"}])
    reply(store, "b14", "gpt", "y", messages=[{"role": "user", "content": "other"}])
    store.add_vote(id="v14", a="a14", b="b14", outcome="a", source="arena")
    frozen = prompt_hash("a frozen\nPROMPT")
    assert frozen and store.freeze([frozen]) == 1

    terms = {
        "cria": {"open": True, "licence": "Apache-2.0", "terms": None},
        "gpt": {"open": False, "licence": None, "terms": "no rivals"},
    }
    found, left_out = pairs_of(store, flagged=lambda voter: voter == "bot", about=terms.__getitem__)
    assert [pair["vote"] for pair in found] == ["v1", "v2"]
    assert left_out == {"tie": 1, "both_bad": 1, "leak": 1, "flagged": 1, "use lacks train": 2, "no text": 2,
                        "frozen": 2, "different prompts": 1}  # fmt: skip
    one = found[1]
    assert (
        one["chosen"] == [{"role": "assistant", "content": "bad 2"}]
        and one["rejected"][0]["content"] == "good 2"
    )
    assert one["prompt"] == [{"role": "user", "content": 'Say é, "hi",\nor 你好.'}]
    assert one["chosen_by"] == {"target": "cria", "digest": "digest of cria", **terms["cria"]}
    assert one["rejected_by"]["terms"] == "no rivals" and one["conversation"] == "talk 2"

    path = tmp_path / "pairs.jsonl"  # as `herd improve --pairs` and `herd train` read it
    path.write_bytes(file_of(store, "preferences", flagged=lambda voter: voter == "bot")[0])
    assert [(p.vote, p.conversation) for p in from_file(path)] == [("v1", "talk 1"), ("v2", "talk 2")]
    assert [pair.chosen[0]["content"] for pair in read_pairs(path)] == ["good 1", "bad 2"]

    for_evaluation, _ = pairs_of(store, purpose="evaluate")
    assert {pair["vote"] for pair in for_evaluation} == {"v1", "v2", "v6", "v7", "v9", "v10", "v12"}
    assert {pair["purpose"] for pair in for_evaluation} == {"evaluate"}
    assert [pair["vote"] for pair in pairs_of(store, raters="judge:gpt-4")[0]] == ["v11"]


def test_counts_leave_flagged_voters_out(full: Store) -> None:
    data, left_out = file_of(full, "counts", flagged=lambda voter: voter == "voter 1")
    mine = sum(vote["voter"] == "voter 1" and not vote["void"] for vote in full.votes())
    assert left_out["flagged"] == mine > 0
    assert sum(sum(row) for others in json.loads(data).values() for row in others.values()) == 25 - mine


def test_many_votes_are_read_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.store.votes.WITH_TEXT", 7)
    store.add_votes(
        {"id": str(i), "a_target": "x", "b_target": "y", "outcome": "a", "source": "import", "created": 1.0}
        for i in range(50)
    )
    assert [json.loads(line)["question_id"] for line in file_of(store, "fastchat")[0].splitlines()] == [
        *map(str, range(50))
    ]
