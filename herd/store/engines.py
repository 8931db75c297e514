"""What SQLite and PostgreSQL do not have in common: how they are opened, locked, and how they fail."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, StatementError

from herd.errors import HerdError

PATIENCE = 10.0  # seconds to wait for another process's lock, or for a server to answer
LOCK = 0x68657264  # PostgreSQL's advisory lock of those who write
# A gateway that stops between two statements may keep the others from writing for so long, in milliseconds.
STALLED = 30_000
LOCKED = "55P03"  # PostgreSQL's code for a lock that was waited for in vain


def database_url(url_or_path: str | Path) -> URL:
    """Raises HerdError for what is neither SQLite's nor PostgreSQL's."""
    text = str(url_or_path)
    try:
        url = make_url(text) if "://" in text else URL.create("sqlite", database=text)
    except (ArgumentError, ValueError):
        raise HerdError(f"not a database URL: {text!r:.200}; sqlite:///path is one") from None
    kind = url.get_backend_name()
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite" or url.database in (None, "", ":memory:"):
        use = "use sqlite:///path or postgresql://user@host/name"
        raise HerdError(f"not a database that Herd can use: {url.render_as_string()}; {use}")
    return url


def make_engine(url: URL) -> Engine:
    """Raises HerdError without PostgreSQL's driver, and for a PostgreSQL database that is not in UTF-8."""
    # Errors are logged, and parameters are what people wrote.
    common: dict[str, Any] = {"hide_parameters": True, "json_serializer": to_json}
    if url.get_backend_name() == "sqlite":
        options: dict[str, Any] = {"timeout": PATIENCE, "check_same_thread": False}
        engine = create_engine(url, pool_size=8, max_overflow=56, connect_args=options, **common)
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    limits = f"-c lock_timeout={PATIENCE:.0f}s -c idle_in_transaction_session_timeout={STALLED}"
    settings = " ".join((limits, *url.normalized_query.get("options", ())))  # a schema, say
    options = {"connect_timeout": int(PATIENCE), "application_name": "herd", "options": settings}
    pool = {"pool_size": 4, "max_overflow": 8, "pool_pre_ping": True}
    try:
        engine = create_engine(url, connect_args={**options, "client_encoding": "utf8"}, **pool, **common)
    except ModuleNotFoundError:
        raise HerdError("PostgreSQL needs its driver: pip install 'openherd[postgres]'") from None
    event.listen(engine, "begin", _begin_postgresql)
    with engine.connect() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise HerdError(f"the database is in {encoding}; make one with ENCODING 'UTF8'", status=500)
    return engine


def to_json(value: Any) -> str:
    """With letters as they are, so that they can be searched for; half a surrogate pair only as an escape."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if _is_unicode(text) else json.dumps(value)
    except (TypeError, ValueError) as error:
        raise HerdError(f"the store cannot keep this: {error}") from None


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late for savepoints
    # SQLite's lower() knows ASCII only; LIKE in searches is made of it.
    connection.create_function("lower", 1, _lower, deterministic=True)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("herd_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("herd_write"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})").close()
    else:  # all that one read asks for is of one moment, as on SQLite
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").close()


def wait_for_disk(connection: Connection, wait: bool) -> None:
    """Whether SQLite's next commit is on the disk when it returns, or only with the system. PostgreSQL's always is."""
    if connection.dialect.name == "sqlite":
        level = "FULL" if wait else "NORMAL"
        # By the driver: with SQLAlchemy a transaction would begin, in which this cannot be said.
        connection.connection.execute(f"PRAGMA synchronous={level}").close()  # type: ignore[attr-defined]


def lost(error: Exception) -> bool:
    """Whether the connection is of no more use."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def try_again(error: Exception, committing: bool) -> bool:
    """Whether a transaction that failed so has left nothing, and may do better a second time."""
    return _state(error) in ("40001", "40P01") or (lost(error) and not committing)


def spoils_group(error: Exception) -> bool:
    """Whether a write that failed so takes the others of its transaction with it."""
    if not isinstance(error, OperationalError):
        return False
    return _state(error) is None or lost(error) or try_again(error, False)


def _state(error: Exception) -> str | None:
    """PostgreSQL's code of the error."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def failure(error: Exception, committing: bool = False) -> Exception:
    """The error for the caller: HerdError for the database's, others as they are. `committing`: while it committed."""
    if not isinstance(error, StatementError):
        return error
    if isinstance(error.orig, HerdError):
        return error.orig
    # PostgreSQL's further lines may quote what was to be kept.
    reason, state = str(error.orig).partition("\n")[0], _state(error) or ""
    if isinstance(error, IntegrityError) or state[:2] in ("22", "54") or not isinstance(error, DBAPIError):
        return HerdError(f"the store cannot keep this: {reason}")
    if "disk is full" in reason or state == "53100":
        full = "the disk is full: nothing was kept; make room and try again"
        return HerdError(full, status=507, code="disk_full")
    answered = state not in ("", LOCKED) if hasattr(error.orig, "sqlstate") else True
    if answered and not lost(error):
        return HerdError(f"the database failed: {reason}", status=500, code="store")
    kept = "whether this was kept is not known" if committing else "nothing was kept"
    unreached = f"the database cannot be reached: {kept} ({reason})"
    return HerdError(unreached, status=503, code="store_unavailable")
