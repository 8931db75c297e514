"""One database: reads on connections of their own, writes on one thread that commits them in groups."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Insert, Select, Table, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from herd.errors import HerdError
from herd.store import engines
from herd.store.migrations import MIGRATIONS, behind, migrate, version

MAX_GROUP = 256  # writes in one commit
TRIES = 3
LINGER = 0.25  # seconds for which a write that nobody waits for may wait for others

T = TypeVar("T")
Row = dict[str, Any]  # by column
Work = Callable[[Connection], Any]
# What to do, whom to tell, whether somebody waits, and for the disk.
Write = tuple[Work, "Future[Any]", bool, bool]


class Database:
    """Reads see the last commit. A write is done when its commit is on the disk.

    On PostgreSQL, which gateways may share, a write holds a lock of theirs until it is committed, as on SQLite it holds
    the file's: what it has read is still so when it writes, and no two writes wait for each other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writes: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = threading.Thread(target=self._work, name="herd-store-writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, url_or_path: str | Path) -> Self:
        """A path, "sqlite:///path" (made if it is not there) or "postgresql://user:password@host/name".

        Raises HerdError if it cannot be used.
        """
        with _opening(url_or_path) as url:
            if url.database and url.get_backend_name() == "sqlite":
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = engines.make_engine(url)
            with engine.connect() as connection:
                outdated = behind(connection)
            if outdated:  # otherwise nothing is written: a command may read beside the server
                with _writing(engine) as connection, connection.begin():
                    migrate(connection)
        return cls(engine)

    @property
    def shared(self) -> bool:
        """Whether other gateways may use the same database now."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Finish the waiting writes, then close."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._writes.put(None)
        self._writer.join()
        self._engine.dispose()

    def write(
        self, work: Callable[[Connection], T], *, soon: bool = True, synced: bool = True
    ) -> "asyncio.Future[T]":
        """As `_write`, for a coroutine to await. Writes are done in the order of the calls, awaited or not; giving up
        the wait does not stop one. `work` may run more than once, so it changes nothing but the database.

        soon: False, where nobody waits, lets it share the commit of a later write.
        synced: False does not wait for SQLite's disk: the system has it, and the next synced write makes it durable.
        """
        return asyncio.wrap_future(self._submit(work, soon, synced))

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise engines.failure(error) from error

    def _fetch(self, query: Select[Any], **values: Any) -> list[Row]:
        with self._read() as connection:
            return rows(connection, query, **values)

    def _first(self, query: Select[Any], **values: Any) -> Row | None:
        return next(iter(self._fetch(query, **values)), None)

    def problem(self) -> str | None:
        """Why nothing can be read or kept now, if so."""
        try:
            self._fetch(select(1))
        except HerdError as error:
            return str(error)
        return None

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writing connection; its result, once it is durable.

        Raises what `work` raised (nothing of it is kept then), or HerdError with status 507 for a full disk, 503 for a
        database that cannot be reached.
        """
        return self._submit(work).result()

    def _cut_log(self) -> None:
        """After a deletion: SQLite's log still has the old pages. A reader may prevent it; then the next deletion does
        it. (PostgreSQL has the words in dead rows until its vacuum, and in its log until that is recycled.)"""
        if not self.shared:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def _submit(self, work: Callable[[Connection], T], soon: bool = True, synced: bool = True) -> "Future[T]":
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # from now on nobody can cancel it
        with self._closing:
            if self._closed:
                raise HerdError("the store is closed", status=503, code="store_closed")
            self._writes.put((work, done, soon, synced))
        return done

    def _work(self) -> None:
        closing, connection = False, None
        while not closing:
            group = self._next_group()
            closing = group[-1] is None
            if writes := [item for item in group if item]:
                connection = _commit(self._engine, connection, writes)
        if connection is not None:
            connection.close()

    def _next_group(self) -> list[Write | None]:
        """Waits for a write; then all that are there, up to None, which is the last."""
        group = [self._writes.get()]
        until = time.monotonic() + LINGER
        with suppress(queue.Empty):
            while len(group) < MAX_GROUP and (last := group[-1]) is not None:
                if last[2]:
                    until = 0.0
                group.append(self._writes.get(timeout=max(until - time.monotonic(), 0.0)))
        return group


def describe(url_or_path: str | Path) -> str:
    """The kind of a database and its schema version, as in "PostgreSQL 15.3, schema version 3"; nothing is written.

    Raises HerdError if it cannot be used.
    """
    with _opening(url_or_path) as url:
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            return "SQLite, not made yet"
        engine = engines.make_engine(url)
        with engine.connect() as connection:
            found = version(connection)
            numbers = ".".join(str(n) for n in engine.dialect.server_version_info or ())
        engine.dispose()
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[engine.dialect.name]
    newer = "" if found == len(MIGRATIONS) else f" (this Herd makes it {len(MIGRATIONS)})"
    return f"{kind} {numbers}, schema version {found}{newer}"


@contextmanager
def _opening(url_or_path: str | Path) -> Iterator[URL]:
    url = engines.database_url(url_or_path)
    try:
        yield url
    except (OSError, SQLAlchemyError) as error:
        where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
        reason = f"cannot open the database {where}: {getattr(error, 'orig', None) or error}"
        raise HerdError(" ".join(reason.split()), status=500, code="store") from None


def _writing(engine: Engine) -> Connection:
    return engine.connect().execution_options(herd_write=True, preserve_rowcount=True)


def rows(connection: Connection, query: Select[Any], **values: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(query, values).mappings()]


def first(connection: Connection, query: Select[Any], **values: Any) -> Row | None:
    return next(iter(rows(connection, query, **values)), None)


@cache  # building a statement costs more than running it
def _insert_new(table: Table) -> Insert:
    return insert(table).on_conflict_do_nothing()


def add(connection: Connection, table: Table, row: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Keep a row, or several, unless one with its key is there already; how many were not."""
    return connection.execute(_insert_new(table), row).rowcount


Outcome = tuple[Callable[[Any], None], Any]


def _commit(engine: Engine, connection: Connection | None, group: list[Write]) -> Connection | None:
    """One transaction for the group, on a new connection if there is none. A write that fails is undone alone: then all
    begin anew, each with a savepoint. A failing database fails them all. The connection for the next group, None if
    this one is lost."""
    careful, failed = False, 0
    while True:
        outcomes: list[Outcome] = []
        committing = False
        try:
            connection = connection or _writing(engine)
            engines.wait_for_disk(connection, any(synced for *_, synced in group))
            with connection.begin():
                _run(connection, group, outcomes, careful)
                committing = True
        except Exception as error:  # whatever it is, nobody may wait for ever
            if connection is not None and engines.lost(error):
                connection.close()
                connection = None
            alone = len(group) == 1  # then the transaction itself is its savepoint
            if not (alone or careful or committing or engines.spoils_group(error)):
                careful = True
                continue
            failed += 1
            if engines.try_again(error, committing) and failed < TRIES:
                continue
            outcomes = [(done.set_exception, engines.failure(error, committing)) for _, done, *_ in group]
        break
    for tell, outcome in outcomes:
        tell(outcome)
    return connection


def _run(connection: Connection, group: list[Write], outcomes: list[Outcome], careful: bool) -> None:
    for work, done, *_ in group:
        if not careful:
            outcomes.append((done.set_result, work(connection)))
            continue
        connection.exec_driver_sql("SAVEPOINT one")
        try:
            outcomes.append((done.set_result, work(connection)))
        except Exception as error:
            if engines.spoils_group(error):
                raise
            connection.exec_driver_sql("ROLLBACK TO one")
            outcomes.append((done.set_exception, engines.failure(error)))
        connection.exec_driver_sql("RELEASE one")
