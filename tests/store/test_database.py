"""The file: its schema, its migrations, and what happens when it cannot be used."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect

from herd.errors import HerdError
from herd.store import Store, migrations
from herd.store.tables import metadata

Row = Callable[..., dict[str, Any]]


def columns(file: Path) -> dict[str, set[tuple[str, bool]]]:
    """table → (column, nullable), as SQLite has them."""
    found = inspect(create_engine(f"sqlite:///{file}"))
    return {
        t: {(c["name"], bool(c["nullable"])) for c in found.get_columns(t)} for t in found.get_table_names()
    }


def test_an_empty_file_gets_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "herd.db"
    Store.open(f"sqlite:///{file}").close()
    found = columns(file)
    assert found.pop("schema_version")
    assert found == {t.name: {(c.name, bool(c.nullable)) for c in t.columns} for t in metadata.sorted_tables}
    with sqlite3.connect(file) as raw:
        assert raw.execute("SELECT version FROM schema_version").fetchall() == [(len(migrations.MIGRATIONS),)]
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_version_1_file_is_migrated_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "herd.db"
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
    first = Store.open(file)
    first.create_conversation(id="c", title="kept")
    first.close()
    migrations.MIGRATIONS.append(["ALTER TABLE conversations ADD COLUMN colour TEXT", "nonsense"])
    with pytest.raises(HerdError, match="nonsense"):
        Store.open(file)
    assert ("colour", True) not in columns(file)["conversations"]  # all of a migration or nothing
    migrations.MIGRATIONS[1].pop()
    for _ in range(2):
        store = Store.open(file)
        assert [c["title"] for c in store.list_conversations()] == ["kept"]
        store.close()
    assert ("colour", True) in columns(file)["conversations"]


def test_generations_of_version_1_have_no_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: Row
) -> None:
    """The real statements: a row as version 1 wrote it is read, exported and followed by new ones."""
    file = tmp_path / "herd.db"
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
    Store.open(file).close()
    monkeypatch.undo()
    row = {**generation("old", None), "created": 1.0}
    with sqlite3.connect(file) as raw:
        names = ", ".join(f'"{name}"' for name in row)
        values = [json.dumps(v) if isinstance(v, dict) else v for v in row.values()]
        raw.execute(f"INSERT INTO generations ({names}) VALUES ({', '.join('?' * len(row))})", values)
    store = Store.open(file)
    old = store.get_generation("old")
    assert old is not None and old["reply"] == "hello" and old["calls"] is None and old["response"] is None
    calls = [{"id": "c1", "name": "weather", "arguments": "{}"}]
    store.add_generation({**generation("new", None), "calls": calls, "response": {"past": 2}})
    new = store.get_generation("new")
    assert new is not None and new["calls"] == calls and new["response"] == {"past": 2}
    store.forget("new")
    new = store.get_generation("new")
    assert new is not None and new["calls"] is new["response"] is None and new["reply"] == ""
    assert new["tokens"] == {"prompt": 12, "completion": 3, "cached": 0}
    store.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "herd.db"
    Store.open(file).close()
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(HerdError, match="99.*newer Herd"):
        Store.open(file)


@pytest.mark.parametrize("url", ["mysql://localhost/herd", "sqlite://", ":memory:", "no such://thing"])
def test_what_is_no_database_file_is_refused(url: str) -> None:
    with pytest.raises(HerdError, match="sqlite:///path"):
        Store.open(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "herd.db").write_text("a shopping list, and quite a long one" * 100)
    with pytest.raises(HerdError, match="cannot open the database .*not a database"):
        Store.open(tmp_path / "herd.db")
    with pytest.raises(HerdError, match="cannot open"):
        Store.open(tmp_path)


def test_a_full_disk_is_said_and_the_store_lives_on(tmp_path: Path, generation: Row) -> None:
    store = Store.open(tmp_path / "herd.db")
    store.create_conversation(id="c")
    limit = store._write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    store._write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={limit + 2}").scalar())
    with pytest.raises(HerdError, match="disk is full") as caught:
        store.add_generation(generation("big", text="x" * 100_000))
    assert caught.value.status == 507
    assert store.get_generation("big") is None
    store._write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000").scalar())
    store.add_generation(generation("big", text="x" * 100_000))
    assert store.get_generation("big")
    store.close()


def test_a_failing_write_does_not_undo_its_group(store: Store) -> None:
    """While the writer is held up, good and bad writes gather and share one commit."""
    held, release = threading.Event(), threading.Event()
    results: dict[str, str] = {}

    def hold(connection: object) -> None:
        held.set()
        release.wait(10)

    def write(name: str, conversation: str) -> None:
        try:
            store.add_message(conversation=conversation, id=name, role="user", content=name)
            results[name] = "kept"
        except HerdError as error:
            results[name] = str(error)

    store.create_conversation(id="c")
    threads = [threading.Thread(target=store._write, args=(hold,))]
    threads += [
        threading.Thread(target=write, args=(f"m{i}", "c" if i % 2 else "nowhere")) for i in range(10)
    ]
    threads[0].start()
    held.wait(10)
    for thread in threads[1:]:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert {m["id"] for m in store.messages("c")} == {f"m{i}" for i in range(1, 10, 2)}
    assert all((results[f"m{i}"] == "kept") == bool(i % 2) for i in range(10))


def test_only_writes_that_ask_for_it_wait_for_the_disk(tmp_path: Path) -> None:
    """SQLite's `synchronous`: 2 syncs the log with each commit, 1 leaves that to the system. One that asks is enough."""
    store = Store.open(tmp_path / "herd.db")
    held, release = threading.Event(), threading.Event()
    found: dict[str, int] = {}

    def note(name: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            found[name] = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

        return work

    def hold(connection: Connection) -> None:
        held.set()
        release.wait(10)

    async def main() -> None:
        await store.write(note("loose"), synced=False)
        await store.write(note("plain"))
        await store.write(note("loose again"), synced=False)
        first = store.write(hold, synced=False)
        await asyncio.to_thread(held.wait, 10)
        group = [store.write(note("beside"), synced=False), store.write(note("synced"))]
        release.set()
        await asyncio.gather(first, *group)

    asyncio.run(main())
    store.close()
    assert found == {"loose": 1, "plain": 2, "loose again": 1, "beside": 2, "synced": 2}


def test_a_reader_beside_the_server(tmp_path: Path) -> None:
    """A command opens the file while the server writes: it reads what is committed and writes nothing."""
    store = Store.open(tmp_path / "herd.db")
    before = (tmp_path / "herd.db-wal").stat()
    beside = Store.open(tmp_path / "herd.db")
    after = (tmp_path / "herd.db-wal").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    store.create_conversation(id="c")
    assert [c["id"] for c in beside.list_conversations()] == ["c"]
    beside.close()
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "herd.db")
    store.close()
    store.close()
    with pytest.raises(HerdError, match="closed"):
        store.create_conversation()


def test_a_value_that_no_column_takes_is_refused_alone(store: Store) -> None:
    store.create_conversation(id="c")
    with pytest.raises(HerdError, match="content") as caught:
        store.add_message(conversation="c", role="user", content=None)  # type: ignore[arg-type]
    assert caught.value.status == 400
    with pytest.raises(HerdError):
        store.create_conversation(settings={"set": {1, 2}})
    with pytest.raises(HerdError):
        store.create_conversation(title=["a list"])  # type: ignore[arg-type]
    assert store.add_message(conversation="c", role="user", content="fine") in store.messages("c")
