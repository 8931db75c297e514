"""Files of votes that others wrote become votes here: all of a file, or nothing of it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.arena import formats
from herd.arena.imports import Report, import_votes
from herd.errors import HerdError
from herd.store import Store

# One record as each data set has them: LMSYS 2023, LMArena's 100k of 2024, its 140k of 2025.
LMSYS = {
    "question_id": "58210e39b3fd4441a2bd4a518bb44c2d", "model_a": "chatglm-6b", "model_b": "koala-13b", "winner": "model_b",
    "judge": "arena_user_973", "turn": 1, "anony": True, "language": "English", "tstamp": 1682351591.1322,
    "conversation_a": [{"content": "What is OpenCL?", "role": "user"}, {"content": "A framework.", "role": "assistant"}],
    "conversation_b": [{"content": "What is OpenCL?", "role": "user"}, {"content": "An API.", "role": "assistant"}],
    "openai_moderation": {"flagged": False}, "toxic_chat_tag": {"roberta-large": {"flagged": False}},
}  # fmt: skip
COUNTED = {
    "sum_user_tokens": 14, "sum_assistant_a_tokens": 281, "sum_assistant_b_tokens": 90, "turns": 2,
    "header_count_a": {"h1": 1, "h2": 2, "h3": 0}, "list_count_a": {"ordered": 3, "unordered": 4}, "bold_count_a": {"**": 5, "__": 1},
    "header_count_b": {"h1": 0}, "list_count_b": {"ordered": 0, "unordered": 1}, "bold_count_b": {"**": 0, "__": 0},
}  # fmt: skip
OF_2024 = {
    "question_id": "a" * 32, "model_a": "gpt-4o", "model_b": "llama-3-70b", "winner": "tie (bothbad)", "judge": 4081,
    "turn": 2, "anony": True, "language": "Russian", "tstamp": 1719843021.5, "conv_metadata": COUNTED, "is_code": True,
    "category_tag": {"criteria_v0.1": {"complexity": True}, "math_v0.1": {"math": True}}, "dedup_tag": {"high_freq": False},
}  # fmt: skip
OF_2025 = {
    "id": "0a1b2c3d-0000-0000-0000-000000000001", "model_a": "gemini-2.5-pro", "model_b": "o3", "winner": "both_bad",
    "evaluation_session_id": "s1", "evaluation_order": 1, "language": "pl", "timestamp": "2025-06-01T12:00:00.000",
    "conversation_a": [
        {"role": "user", "content": [{"type": "text", "text": "Hej", "image": None, "mimeType": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "**Hej!**", "image": None, "mimeType": None}]},
    ],
    "conversation_b": [
        {"role": "user", "content": [{"type": "text", "text": "Hej", "image": None, "mimeType": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Cześć", "image": None, "mimeType": None}]},
    ],
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "herd.db")
    yield store
    store.close()


def take(store: Store, data: bytes | str, form: formats.Format = "fastchat", **options: Any) -> Report:
    raw = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    return import_votes(io.BufferedReader(raw), form, store, **options)  # type: ignore[arg-type]


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def refused(store: Store, data: bytes | str, form: formats.Format = "fastchat") -> str:
    """What is said of a file of which nothing is kept."""
    with pytest.raises(HerdError) as caught:
        take(store, data, form)
    assert caught.value.status == 400 and store.votes() == [] and store.generations() == []
    return str(caught.value)


def test_the_three_shapes_of_lmarena(store: Store) -> None:
    report = take(store, lines(LMSYS, OF_2024, OF_2025))
    assert report.votes == 3 and not report.left_out
    assert report.ignored == {"openai_moderation", "toxic_chat_tag", "dedup_tag", "evaluation_order"}
    first, second, third = sorted(store.votes(), key=lambda vote: vote["created"])
    assert [vote["outcome"] for vote in (first, second, third)] == ["b", "both_bad", "both_bad"]
    assert (first["a_target"], first["b_target"], first["created"]) == (
        "chatglm-6b",
        "koala-13b",
        1682351591.1322,
    )
    assert first["source"] == "import" and first["rater"] is None and first["batch"] == report.batch
    assert first["tags"] == ["language/English"] and third["tags"] == ["language/Polish"]
    assert second["tags"] == ["language/Russian", "code", "maths", "multi-turn"] and second["turns"] == 2
    assert second["style"] == [281, 3, 7, 6, 90, 0, 1, 0] and second["a"] is None
    assert third["created"] == 1748779200.0 and third["style"] == [8, 0, 0, 1, 5, 0, 0, 0]
    a, b = (store.get_generation(third[side]) for side in "ab")
    assert a and b and (a["target"], a["reply"], b["reply"]) == ("gemini-2.5-pro", "**Hej!**", "Cześć")
    assert a["request"]["messages"] == [{"role": "user", "content": "Hej"}] and a["use"] == ["evaluate"]
    assert a["conversation"] == b["conversation"] == third["conversation"]
    assert [(p["a_target"], p["b_target"]) for p in store.stored_pairs(9)] == [
        ("gemini-2.5-pro", "o3"), ("chatglm-6b", "koala-13b")
    ]  # fmt: skip


def test_voters_are_salted_hashes(store: Store, tmp_path: Path) -> None:
    take(store, lines(LMSYS, {**LMSYS, "tstamp": 1.7e9}, {**LMSYS, "tstamp": 1.8e9, "judge": "arena_user_9"}))
    one, same, other = (vote["voter"] for vote in store.votes())  # the oldest first
    assert one == same != other
    with_another_salt = Store.open(tmp_path / "other.db")
    take(with_another_salt, lines(LMSYS))
    assert with_another_salt.votes()[0]["voter"] != one
    with_another_salt.close()
    store.close()
    assert b"arena_user" not in b"".join(path.read_bytes() for path in tmp_path.glob("herd.db*"))


def test_the_same_file_again_adds_nothing(store: Store) -> None:
    file = lines(LMSYS, {k: v for k, v in OF_2024.items() if k != "question_id"})
    assert (take(store, file).votes, take(store, file).votes) == (2, 0)
    again = take(store, lines({**OF_2025}, LMSYS))  # in another file the vote is still the same
    assert (again.votes, again.known) == (1, 1)
    assert (
        take(store, lines(LMSYS, {**LMSYS, "winner": "tie"})).votes == 1
    )  # another vote on the same question


def test_what_does_not_count_is_left_out_and_counted(store: Store) -> None:
    report = take(store, lines(LMSYS, {**LMSYS, "anony": False}, {**LMSYS, "model_b": "chatglm-6b"}))
    assert report.to_json()["left_out"] == {"not anonymous": 1, "a model against itself": 1}
    assert len(store.votes()) == 1


def test_votes_of_a_judge_are_not_peoples(store: Store) -> None:
    take(store, lines(OF_2024), judge="gpt-4")
    (vote,) = store.votes()
    assert (vote["source"], vote["rater"], vote["voter"]) == ("judge", "gpt-4", None)


@pytest.mark.parametrize(
    "data, form", [(lines(OF_2024), "fastchat"), ('{"A": {"B": [1, 0, 0, 0]}}', "counts")]
)
def test_who_say_the_same_are_still_three(store: Store, data: str, form: formats.Format) -> None:
    for judge in (None, "gpt-4", "gpt-5"):
        assert take(store, data, form, judge=judge).votes == 1
        assert take(store, data, form, judge=judge).known == 1
    assert Counter(vote["rater"] for vote in store.votes()) == {None: 1, "gpt-4": 1, "gpt-5": 1}


def test_use_is_what_is_asked_for(store: Store) -> None:
    take(store, lines(LMSYS), use=("evaluate", "train"))
    assert {tuple(row["use"]) for row in store.generations()} == {("evaluate", "train")}


def test_ids_where_names_belong_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.arena.imports.MOST_TARGETS", 4)
    text = "model_a,model_b,winner\n" + "".join(f"m{n},x,tie\n" for n in range(9))
    assert refused(store, text, "csv") == "line 5, column model_a: over 4 models in one file"


def test_an_array_and_gzip_are_read_too(store: Store) -> None:
    assert take(store, json.dumps([LMSYS, OF_2025])).votes == 2
    assert take(store, gzip.compress(lines(LMSYS, OF_2024).encode())).known == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_as_llmfao_has_it(store: Store, separator: str, ending: str) -> None:
    rows = ["id,prompt,model_x,worker,winner,left,right", "0,8,97,58,tie,Airoboros L2 70B,Weaver 12k",
            '1,8,97,83,left,"Airoboros ""L2""\n70B"'.replace("\n", " ") + ",Weaver 12k", "1,9,97,58,RIGHT,Wizard,Weaver 12k"]  # fmt: skip
    report = take(store, "\ufeff" + ending.join(rows).replace(",", separator) + ending, "csv")
    assert report.votes == 3 and report.ignored == {"model_x"}
    found = store.votes()
    assert [vote["outcome"] for vote in found] == ["tie", "a", "b"]
    assert found[1]["a_target"] == 'Airoboros "L2" 70B' and found[0]["voter"] == found[2]["voter"]
    assert found[0]["conversation"] == found[1]["conversation"] != found[2]["conversation"]  # of one question


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left,winner\na,left\n", "line 1: no column model_b or right; there are left, winner"),
        ("left,right,won\na,b,left\n", "line 1: no column winner; there are left, right, won"),
        ("left,right,winner,left\na,b,left,c\n", "line 1, column 'left': twice in the header"),
        ("left,right,winner\na,b,left\na,b,nobody\n", "line 3, column winner: must be model_a, model_b, tie or both_bad, not 'nobody'"),
        ("left,right,winner\na,b,left\n,b,left\n", "line 3, column model_a: missing"),
        ("left,right,winner\na,b,left,4\n", "line 2: 4 columns, where the header has 3"),
        ("left,right,winner,tstamp\na,b,left,soon\n", "line 2, column tstamp: must be unix seconds or an ISO date, not 'soon'"),
        ("left,right,winner,tstamp\na,b,left,nan\n", "line 2, column tstamp"),
        ("left,right,winner,turn\na,b,left,-1\n", "line 2, column turn: must be a whole number"),
        (f"left,right,winner\n{'x' * 201},b,left\n", "line 2, column model_a: longer than 200 characters"),
        ("left,right,winner\n\x1b[2Ja,b,left\n", "line 2, column model_a: has characters that cannot be shown"),
        ('left,right,winner\n"a,b,left\n', "line 2: unexpected end of data"),
        ("left,right,winner\n" + "x" * (1 << 20) + ",b,left\n", "line 2: longer than 1,048,576 characters"),
        ("left,right,winner," + ",".join(map(str, range(300))) + "\n", "line 1: 303 columns; at most 200"),
        (b"left,right,winner\n\xff,b,left\n", "near line 1: not UTF-8"),
        ("", "line 1: no column model_a or left; there are none"),
        ("left,right,winner\n", "the file: no votes in it"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_told_by_line_and_column(store: Store, text: str | bytes, said: str) -> None:
    assert said in refused(store, text, "csv")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("{", "line 3: not JSON"),
        ("[" * 100_000, "line 3: nested too deep"),
        ("7", "line 3: not a JSON object"),
        ("9" * 5000, "line 3: "),
        (json.dumps({**LMSYS, "conversation_a": "x" * 99}), "line 3, column conversation_a: must be a list of messages"),
        (json.dumps({**LMSYS, "conversation_b": [{"role": "user", "content": "x"}] * 3}), "line 3, column conversation_b"),
        (json.dumps({**LMSYS, "conversation_b": [{"role": "wizard"}, {"role": "assistant"}]}), "not messages: a message has the role 'wizard'"),
        (json.dumps({**LMSYS, "conv_metadata": {**COUNTED, "bold_count_b": {"**": "many"}}}), "line 3, column conv_metadata"),
        (json.dumps({**LMSYS, "winner": None}), "line 3, column winner"),
        (json.dumps({**LMSYS, "model_a": ["x"]}), "line 3, column model_a: must be text, not ['x']"),
        (json.dumps({**LMSYS, "tstamp": 1e300}), "line 3, column tstamp"),
        (json.dumps({**LMSYS, "herd": {"tags": ["x"] * 51}}), "line 3, column herd.tags"),
        (json.dumps({**LMSYS, "herd": {"reasons": [{"x": 1}]}}), "line 3, column herd.reasons"),
    ],
)  # fmt: skip
def test_a_wrong_line_at_the_end_leaves_nothing(store: Store, last: str, said: str) -> None:
    before = time.monotonic()
    assert said in refused(store, lines(LMSYS, OF_2025) + last)
    assert time.monotonic() - before < 10


def test_gzip_that_is_broken_or_too_much(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(lines(*[LMSYS] * 500).encode())
    assert "not gzip that can be read" in refused(store, whole[:-20])
    assert "not gzip that can be read" in refused(store, whole[:60] + b"\xff" * 60 + whole[120:])
    monkeypatch.setattr(formats, "MAX_UNPACKED", 1 << 20)
    assert "GiB unpacked" in refused(store, gzip.compress(b"[" + b" " * (4 << 20)))
    assert "GiB unpacked" in refused(store, gzip.compress(b"\n" * (4 << 20)))


COUNTS = {"A": {"B": [3, 2, 1, 4]}, "B": {"A": [1, 0, 0, 0]}}


def tally(store: Store) -> Counter[tuple[str, str, str]]:
    return Counter((vote["a_target"], vote["b_target"], vote["outcome"]) for vote in store.votes())


def test_pair_counts_in_both_forms(store: Store, tmp_path: Path) -> None:
    wanted = {
        ("A", "B", "a"): 3,
        ("A", "B", "b"): 2,
        ("A", "B", "tie"): 1,
        ("A", "B", "both_bad"): 4,
        ("B", "A", "a"): 1,
    }
    assert take(store, json.dumps(COUNTS), "counts").votes == 11 and tally(store) == wanted
    other = Store.open(tmp_path / "other.db")
    take(other, json.dumps([["A", "B", 3, 2, 1, 4], ["B", "A", 1, 0, 0, 0.0]]), "counts")
    assert tally(other) == wanted
    other.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"A": {"B": [1, 2, 3]}}', "'A' against 'B': must be [win, loss, tie, both bad]"),
        ('{"A": {"B": [1, 2, 3, -1]}}', "'A' against 'B': both bad must be a whole number, not -1"),
        ('{"A": {"B": [1, 2, 1e999, 0]}}', "tie must be a whole number, not inf"),
        ('{"A": {"B": [true, 2, 1, 0]}}', "win must be a whole number, not True"),
        ('{"A": {"B": [1e15, 0, 0, 0]}}', "over 10,000,000 votes"),
        ('{"A": [1]}', "'A': must be an object of counts by name"),
        ('{"A": {"B": [1,0,0,0]}, "A": {}}', "a name stands twice"),
        ('[["A", "B", 1, 2, 3]]', "row 1: must be [a, b, win, loss, tie, both bad]"),
        ('[["A", 7, 1, 2, 3, {}]]', "row 1: both bad must be a whole number"),
        ('"x"', "must be an object of counts, or a list of rows"),
        ("[" * 100_000, "nested too deep"),
        ("", "not JSON"),
    ],
)  # fmt: skip
def test_wrong_pair_counts(store: Store, text: str, said: str) -> None:
    assert said in refused(store, text, "counts")


def parquet(records: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink, **options)
    return sink.getvalue()


def test_parquet_with_conversations(store: Store) -> None:
    slim = [{k: v for k, v in LMSYS.items() if "oder" not in k and "toxic" not in k}, {**OF_2025, "id": "x"}]
    assert take(store, parquet(slim[:1]), "parquet").votes == 1
    assert take(store, parquet(slim[1:]), "parquet").votes == 1
    assert {row["reply"] for row in store.generations()} == {"A framework.", "An API.", "**Hej!**", "Cześć"}
    assert take(store, lines(slim[0]), "fastchat").known == 1  # the same vote in another form


def test_parquet_that_is_none(store: Store) -> None:
    whole = parquet([OF_2024])
    assert "not Parquet that can be read" in refused(store, b"PAR1" + b"\0" * 99, "parquet")
    assert "not Parquet that can be read" in refused(store, whole[:-40], "parquet")
    assert "no column winner" in refused(store, parquet([{"model_a": "x", "model_b": "y"}]), "parquet")
    broken = bytearray(whole)
    for at in range(4, len(broken) // 2, 7):
        broken[at] ^= 0xFF
    with pytest.raises(HerdError):
        take(store, bytes(broken), "parquet")
    assert store.votes() == []


def test_a_bomb_of_parquet_does_not_explode(store: Store) -> None:
    """A megabyte, a few bytes in the file, that is the name in each of 20,000 rows."""
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2**20]))
    same = pa.array(["y"] * 20_000)
    sink = io.BytesIO()
    table = pa.table({"model_a": names, "model_b": same, "winner": pa.array(["tie"] * 20_000)})
    pq.write_table(table, sink, compression="zstd")
    assert len(sink.getvalue()) < 2**20
    before = pa.default_memory_pool().max_memory()
    assert "row 1, column model_a: longer than 200" in refused(store, sink.getvalue(), "parquet")
    assert pa.default_memory_pool().max_memory() < max(before, 1 << 30)


def test_memory_does_not_grow_with_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.store.votes.AT_ONCE", 250)
    peaks = []
    for count in (500, 3_000):
        file = io.BytesIO()
        for i in range(count):
            file.write(b'{"model_a": "x%d", "model_b": "y", "winner": "tie", "judge": "%d"}\n' % (i % 90, i))
        file.seek(0)
        tracemalloc.start()
        assert import_votes(io.BufferedReader(file), "fastchat", store).votes == count  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_killed_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    """Killed while the rows are being written; the store is whole, and takes the file afterwards."""
    file, database = tmp_path / "votes.csv", tmp_path / "herd.db"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["left", "right", "winner"])
        rows.writerows([f"m{i % 50}", f"n{i % 70}", "tie"] for i in range(10_000))
    Store.open(database).close()
    script = f"""
        import sys
        from herd.arena.imports import import_votes
        from herd.store import Store, votes
        made = votes._add_all
        def slow(connection, file):
            made(connection, file)
            print("written", flush=True)
            sys.stdin.read()  # not committed yet
        votes._add_all = slow
        import_votes(open({str(file)!r}, "rb"), "csv", Store.open({str(database)!r}))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout and child.stdout.readline() == b"written\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    store = Store.open(database)
    assert store.votes_after(0, 10) == []
    with file.open("rb") as whole:
        assert import_votes(whole, "csv", store).votes == 10_000
    store.close()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_good = {
    **LMSYS,
    "conv_metadata": COUNTED,
    "category_tag": OF_2024["category_tag"],
    "herd": {"source": "arena", "tags": ["x"]},
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(sorted(formats.COLUMN_OF)), _json, max_size=3), own=st.dictionaries(
    st.sampled_from(["source", "rater", "prompt", "conversation", "tags", "comment", "reasons", "a_digest", "first", "lengths"]), _json, max_size=2))  # fmt: skip
def test_any_record_is_kept_or_named(store: Store, changes: dict[str, Any], own: dict[str, Any]) -> None:
    record = {**_good, **({"herd": own} if own else {}), **changes}
    before = len(store.votes())
    try:
        report = take(store, json.dumps(record) + "\n")
    except HerdError as error:
        assert error.status == 400 and str(error).startswith("line 1") and len(store.votes()) == before
    else:
        assert report.votes + report.known + report.left_out.total() == 1


def test_on_postgresql_too(database: str) -> None:
    store = Store.open(database)
    try:
        assert take(store, lines(LMSYS, OF_2024, OF_2025)).votes == 3
        assert take(store, lines(LMSYS, OF_2024)).known == 2
        with pytest.raises(HerdError):
            take(store, lines({**OF_2024, "question_id": "new"}) + "{")
        assert len(store.votes()) == 3 and len(store.generations()) == 4
    finally:
        store.close()
