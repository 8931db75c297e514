"""One SQLite database: reads on connections of their own, writes on one thread that commits them in groups."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Select, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
)

from herd.errors import HerdError
from herd.store.migrations import behind, migrate

MAX_GROUP = 256  # writes in one commit
PATIENCE = 10.0  # seconds to wait for another process's lock

T = TypeVar("T")
Write = Callable[[Connection], Any]


class Database:
    """Reads see the last commit. A write returns when its commit is on the disk (WAL, synchronous=FULL)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writes: queue.SimpleQueue[tuple[Write, Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = threading.Thread(target=self._work, name="herd-store-writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, url_or_path: str | Path) -> Self:
        """A path or "sqlite:///path"; made if it is not there. Raises HerdError if it cannot be used."""
        url = _url(url_or_path)
        assert url.database is not None
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            options = {"timeout": PATIENCE, "check_same_thread": False}
            engine = create_engine(url, pool_size=8, max_overflow=56, connect_args=options)
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
            with engine.connect() as connection:
                outdated = behind(connection)
            if outdated:  # otherwise nothing is written: a command may read beside the server
                with engine.connect().execution_options(herd_write=True) as connection, connection.begin():
                    migrate(connection)
        except (OSError, SQLAlchemyError) as error:
            reason = f"cannot open the database {url.database}: {getattr(error, 'orig', None) or error}"
            raise HerdError(reason, status=500, code="store") from None
        return cls(engine)

    def close(self) -> None:
        """Finish the waiting writes, then close."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._writes.put(None)
        self._writer.join()
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise _failure(error) from error

    def _fetch(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._read() as connection:
            return rows(connection, query)

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writing connection; its result, once it is durable.

        Raises what `work` raised (nothing of it is kept then), or HerdError with status 507 for a full disk.
        """
        done: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise HerdError("the store is closed", status=503, code="store_closed")
            self._writes.put((work, done))
        return done.result()

    def _work(self) -> None:
        closing = False
        with self._engine.connect().execution_options(herd_write=True) as connection:
            while not closing:
                group = [self._writes.get()]
                with suppress(queue.Empty):
                    while len(group) < MAX_GROUP and group[-1] is not None:
                        group.append(self._writes.get_nowait())
                closing = group[-1] is None
                if writes := [item for item in group if item]:
                    _commit(connection, writes)


def rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _commit(connection: Connection, group: list[tuple[Write, "Future[Any]"]]) -> None:
    """One transaction for the group. A write that fails is undone alone; a failing database fails them all."""
    outcomes: list[tuple[Callable[[Any], None], Any]] = []
    try:
        with connection.begin():
            for work, done in group:
                try:
                    connection.exec_driver_sql("SAVEPOINT one")
                    outcomes.append((done.set_result, work(connection)))
                except OperationalError:
                    raise
                except Exception as error:
                    connection.exec_driver_sql("ROLLBACK TO one")
                    outcomes.append((done.set_exception, _failure(error)))
                connection.exec_driver_sql("RELEASE one")
    except Exception as error:  # whatever it is, nobody may wait for ever
        for _, done in group:
            done.set_exception(_failure(error))
        return
    for tell, outcome in outcomes:
        tell(outcome)


def _failure(error: Exception) -> Exception:
    """The error for the caller: HerdError for the database's, others as they are."""
    if not isinstance(error, StatementError):
        return error
    reason = str(error.orig)
    if isinstance(error, IntegrityError):
        return HerdError(f"the store cannot keep this: {reason}")
    if "disk is full" in reason:
        full = "the disk is full: nothing was kept; make room and try again"
        return HerdError(full, status=507, code="disk_full")
    return HerdError(f"the database failed: {reason}", status=500, code="store")


def _url(url_or_path: str | Path) -> URL:
    text = str(url_or_path)
    try:
        url = make_url(text) if "://" in text else URL.create("sqlite", database=text)
    except (ArgumentError, ValueError):
        raise HerdError(f"not a database URL: {text!r:.200}; sqlite:///path is one") from None
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise HerdError(f"not a database that Herd can use: {url.render_as_string()}; use sqlite:///path")
    return url


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late for savepoints
    # SQLite's lower() knows ASCII only; LIKE in searches is made of it.
    connection.create_function("lower", 1, _lower, deterministic=True)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("herd_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
