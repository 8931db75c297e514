"""What only a server can do: go away, come back, be asked by many at once, or speak another encoding."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from herd.errors import HerdError
from herd.store import Store
from herd.store.database import describe
from herd.store.migrations import MIGRATIONS

from ..postgresql import PostgreSQL

END_OTHERS = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[Store]:
    store = Store.open(postgresql.new())
    yield store
    store.close()


def test_a_server_that_goes_away_and_comes_back(postgresql: PostgreSQL, store: Store) -> None:
    store.create_conversation(id="before")
    assert store.problem() is None
    postgresql.stop()
    try:
        assert "cannot be reached" in (store.problem() or "")
        for work in (
            lambda: store.create_conversation(id="during"),
            lambda: store.get_conversation("before"),
        ):
            with pytest.raises(HerdError, match="cannot be reached") as caught:
                work()
            assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
    finally:
        postgresql.start()
    store.create_conversation(id="after")
    assert {row["id"] for row in store.list_conversations()} == {"before", "after"}


def test_a_lost_connection_is_made_again_unseen(postgresql: PostgreSQL) -> None:
    url = postgresql.new()
    store, other = Store.open(url), Store.open(url)
    for turn in range(3):
        store.create_conversation(id=f"c{turn}")
        other._write(lambda connection: connection.execute(text(END_OTHERS)).scalar())
    assert store.get_conversation("c0") and store.create_conversation(id="last")
    store.close()
    other.close()


def test_a_connection_lost_in_the_middle_leaves_nothing_twice(store: Store) -> None:
    """The work runs again from its beginning; a connection lost every time is given up."""
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(connection.execute(text("SELECT count(*) FROM conversations")).scalar_one())
        connection.execute(
            text("INSERT INTO conversations VALUES ('x', null, null, null, '{}', 1, 1, false)")
        )
        if len(runs) < 2:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return len(runs)

    assert store._write(work) == 2 and runs == [0, 0]
    with pytest.raises(HerdError, match="cannot be reached: nothing was kept"):
        store._write(
            lambda connection: connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        )
    assert [row["id"] for row in store.list_conversations()] == ["x"]


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_conflict_with_another_is_tried_again(store: Store, code: str) -> None:
    tries = []

    def work(connection: Connection) -> str:
        tries.append(connection)
        if len(tries) < 3:
            connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"))
        return "kept"

    assert store._write(work) == "kept" and len(tries) == 3


def test_gateways_that_start_at_once_make_the_tables_once(postgresql: PostgreSQL) -> None:
    url = postgresql.new()
    stores: list[Any] = []

    def start() -> None:
        try:
            stores.append(Store.open(url))
        except HerdError as error:
            stores.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(store, Store) for store in stores), stores
    versions = stores[0]._write(
        lambda c: c.execute(text("SELECT version FROM schema_version")).scalars().all()
    )
    assert versions == [len(MIGRATIONS)]
    for store in stores:
        store.create_conversation(id="c")
        store.close()
    assert describe(url).startswith("PostgreSQL ") and describe(url).endswith(
        f"schema version {len(MIGRATIONS)}"
    )


def test_writers_wait_for_each_other(postgresql: PostgreSQL) -> None:
    """What a write has read is still so when it writes: two gateways count up together."""
    url = postgresql.new()
    stores = [Store.open(url), Store.open(url)]
    with_version = [store.put_route("r", {"n": 0}, None, None, None) for store in stores]
    assert with_version == [1, 2]

    def count(store: Store) -> None:
        for _ in range(60):
            store.put_route("r", {}, None, None, None)

    threads = [threading.Thread(target=count, args=(store,)) for store in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["version"] for row in stores[0].route_versions("r")] == list(range(242, 0, -1))
    for store in stores:
        store.close()


def test_what_cannot_be_used_is_said_without_the_password(postgresql: PostgreSQL) -> None:
    postgresql.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(HerdError, match="ENCODING 'UTF8'"):
        Store.open(f"postgresql://herd@/ascii?host={postgresql.folder}")
    with pytest.raises(HerdError, match='database "none" does not exist') as caught:
        Store.open(f"postgresql://herd:geheim@/none?host={postgresql.folder}")
    assert "geheim" not in str(caught.value)
    with pytest.raises(HerdError, match="cannot open") as caught:
        Store.open("postgres://herd:geheim@127.0.0.1:9/none")
    assert "geheim" not in str(caught.value)


def test_a_row_that_postgresql_cannot_keep_is_refused_alone(store: Store) -> None:
    held, release = threading.Event(), threading.Event()
    outcomes: dict[str, Any] = {}

    def hold(connection: Connection) -> None:
        held.set()
        release.wait(10)

    def write(id: str) -> None:
        try:
            outcomes[id[:1]] = store.create_conversation(id=id)["id"]
        except HerdError as error:
            outcomes[id[:1]] = error.status

    long = "b" + "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(9_000))  # more than an index takes
    threads = [threading.Thread(target=store._write, args=(hold,))]
    threads += [threading.Thread(target=write, args=(id,)) for id in ("a", long, "c")]
    threads[0].start()
    held.wait(10)
    for thread in threads[1:]:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert outcomes == {"a": "a", "b": 400, "c": "c"}
