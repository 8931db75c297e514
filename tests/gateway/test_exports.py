"""What is exported is all that is kept, and imported again it is the same."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from herd.errors import HerdError
from herd.gateway.exports import GROUP, export
from herd.gateway.imports import entries, import_lines
from herd.store import Store
from herd.store.tables import generations

LOGS = Path(__file__).parent / "logs"


@pytest.fixture
def stores(database: str, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    one, other = Store.open(database), Store.open(tmp_path / "other.db")
    yield one, other
    one.close()
    other.close()


def lines(store: Store, **wanted: Any) -> list[bytes]:
    return b"".join(export(store, "jsonl", **wanted)).splitlines()


def fill(store: Store) -> None:
    for name in ("openai", "litellm", "langfuse"):
        with (LOGS / f"{name}.jsonl").open("rb") as file:
            import_lines(entries(file), "auto", store)
    row = {
        "route": "cria",
        "request": {"route": "cria", "kind": "chat"},
        "reply": "naïve 🦙 \x00 \u2028",
        "created": 5.0,
    }
    for n in range(450):  # all of one moment, more than a page
        store.add_generation(
            {**row, "id": f"same-{n}", "expires": 9e9, "dropped": ["seed"], "shadow_of": "x"}
        )


def test_a_round_trip_gives_the_same_rows(stores: tuple[Store, Store]) -> None:
    one, other = stores
    fill(one)
    written = lines(one)
    assert len(written) == 450 + 16 == len({json.loads(line)["id"] for line in written})
    report = import_lines(written, "auto", other)
    assert (report.kept, report.bad) == (466, 0), report.problems
    assert one.generations(limit=1000) == other.generations(limit=1000)
    assert import_lines(lines(other), "herd", one).known == 466


def test_only_what_is_wanted(stores: tuple[Store, Store]) -> None:
    one, _ = stores
    fill(one)
    assert len(lines(one, route="cria")) == 450
    assert len(lines(one, since=6.0)) == 16 and len(lines(one, route="nowhere")) == 0


def test_parquet_has_every_column_and_row(stores: tuple[Store, Store]) -> None:
    one, _ = stores
    fill(one)
    table = pyarrow.parquet.read_table(io.BytesIO(b"".join(export(one, "parquet"))))
    assert table.column_names == generations.c.keys() and table.num_rows == 466
    want = {row["id"]: row for row in map(json.loads, lines(one))}
    for row in table.to_pylist():
        for name, value in row.items():
            expected = want[row["id"]].get(name)
            assert (json.loads(value) if isinstance(expected, (dict, list)) else value) == expected, name


def test_an_empty_export_is_a_file(stores: tuple[Store, Store]) -> None:
    assert lines(stores[0]) == []
    assert pyarrow.parquet.read_table(io.BytesIO(b"".join(export(stores[0], "parquet")))).num_rows == 0


def test_it_comes_piece_by_piece(stores: tuple[Store, Store]) -> None:
    one, _ = stores
    row = {"route": "r", "request": {"route": "r", "kind": "chat"}, "reply": "x"}
    one.add_generations([{**row, "id": str(n), "created": float(n)} for n in range(GROUP + 1)])
    pieces = list(export(one, "parquet"))
    assert len(pieces) == 3 and pyarrow.parquet.ParquetFile(io.BytesIO(b"".join(pieces))).num_row_groups == 2
    first = next(iter(export(one, "jsonl")))
    assert first.count(b"\n") == 200


def test_what_cannot_be_made_is_said_before_the_first_piece(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HerdError, match="'csv'"):
        export(stores[0], "csv")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HerdError, match="openherd.parquet"):
        export(stores[0], "parquet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"colour": "red"}, "'colour'"), ({"route": None}, "'route'"), ({"request": {"kind": "poem"}}, "poem"),
     ({"reply": 3}, "reply"), ({"cost": -1}, "cost"), ({"created": None}, "'created'")],
)  # fmt: skip
def test_a_row_that_was_changed_by_hand_is_named(
    stores: tuple[Store, Store], change: dict[str, Any], reason: str
) -> None:
    row = {
        "id": "g",
        "route": "r",
        "request": {"route": "r", "kind": "chat"},
        "reply": "",
        "created": 1.0,
        "labels": {},
    }
    report = import_lines([{**row, **change}], "herd", stores[1])
    assert (report.kept, report.bad) == (0, 1) and reason in report.problems[0][1]
