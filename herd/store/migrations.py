"""Schema versions. A migration that was released is never changed: add another one after it."""

from sqlalchemy import Connection, inspect, text

from herd.errors import HerdError

# MIGRATIONS[n] leads from version n to n + 1; each is a list of statements.
MIGRATIONS: list[list[str]] = [
    [
        """CREATE TABLE conversations (
            id TEXT NOT NULL PRIMARY KEY, title TEXT, route TEXT, system TEXT, settings JSON NOT NULL,
            created FLOAT NOT NULL, updated FLOAT NOT NULL, deleted BOOLEAN NOT NULL)""",
        """CREATE TABLE messages (
            conversation TEXT NOT NULL, id TEXT NOT NULL, parent TEXT, role TEXT NOT NULL, content TEXT NOT NULL,
            generation TEXT, created FLOAT NOT NULL, PRIMARY KEY (conversation, id))""",
        """CREATE TABLE generations (
            id TEXT NOT NULL PRIMARY KEY, conversation TEXT, route TEXT NOT NULL, target TEXT, target_digest TEXT,
            model_ref TEXT, request JSON NOT NULL, reply TEXT NOT NULL, prompt_tokens INTEGER,
            completion_tokens INTEGER, cached_tokens INTEGER, queue_ms FLOAT, first_token_ms FLOAT, total_ms FLOAT,
            finish TEXT, error TEXT, parent_attempt TEXT, "key" TEXT, created FLOAT NOT NULL,
            labels JSON NOT NULL)""",
        """CREATE TABLE votes (
            id TEXT NOT NULL PRIMARY KEY, a TEXT NOT NULL, b TEXT NOT NULL, outcome TEXT NOT NULL,
            source TEXT NOT NULL, voter TEXT, created FLOAT NOT NULL)""",
        "CREATE INDEX conversations_updated ON conversations (updated)",
        "CREATE INDEX generations_conversation ON generations (conversation)",
        "CREATE INDEX generations_route ON generations (route, created)",
        "CREATE INDEX votes_a ON votes (a)",
    ],
    [
        "ALTER TABLE generations ADD COLUMN calls JSON",
        "ALTER TABLE generations ADD COLUMN response JSON",
    ],
]


def version(connection: Connection) -> int:
    """The schema version of the database, 0 for an empty one.

    Raises HerdError if a newer Herd has written it.
    """
    found = 0
    if inspect(connection).has_table("schema_version"):
        found = int(connection.execute(text("SELECT version FROM schema_version")).scalar_one())
    if found > len(MIGRATIONS):
        raise HerdError(
            f"the database has schema version {found}, this Herd knows {len(MIGRATIONS)}: use a newer Herd",
            status=500,
            code="store_too_new",
        )
    return found


def behind(connection: Connection) -> bool:
    """Whether the database needs `migrate`. Raises HerdError as `version` does."""
    return version(connection) < len(MIGRATIONS)


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest version, within the caller's transaction."""
    found = version(connection)
    if found == 0:
        connection.execute(text("CREATE TABLE schema_version (version INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO schema_version VALUES (0)"))
    for statements in MIGRATIONS[found:]:
        for statement in statements:
            connection.execute(text(statement))
    connection.execute(text("UPDATE schema_version SET version = :v"), {"v": len(MIGRATIONS)})
