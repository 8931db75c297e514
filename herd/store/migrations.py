"""Schema versions. A migration that was released is never changed: add another one after it."""

import hashlib
import hmac
import secrets

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
    [
        "ALTER TABLE generations ADD COLUMN reply_id TEXT",
        "ALTER TABLE generations ADD COLUMN provider TEXT",
        "ALTER TABLE generations ADD COLUMN cost BIGINT",
        'ALTER TABLE generations ADD COLUMN "use" JSON',
        "ALTER TABLE generations ADD COLUMN expires FLOAT",
        "ALTER TABLE generations ADD COLUMN dropped JSON",
        "ALTER TABLE generations ADD COLUMN reasoning TEXT",
        "ALTER TABLE generations ADD COLUMN attempts INTEGER",
        "ALTER TABLE generations ADD COLUMN shadow_of TEXT",
        "CREATE INDEX generations_created ON generations (created)",
        "CREATE INDEX generations_reply ON generations (reply_id)",
        "CREATE INDEX generations_shadow ON generations (shadow_of)",
        "CREATE INDEX generations_expires ON generations (expires)",
        """CREATE TABLE routes (
            name TEXT NOT NULL, version INTEGER NOT NULL, definition JSON, author TEXT, note TEXT,
            created FLOAT NOT NULL, PRIMARY KEY (name, version))""",
        """CREATE TABLE keys (
            id TEXT NOT NULL PRIMARY KEY, hash TEXT NOT NULL UNIQUE, shown TEXT NOT NULL, application TEXT NOT NULL,
            scopes JSON NOT NULL, limits JSON NOT NULL, keep TEXT, "use" JSON, created FLOAT NOT NULL,
            expires FLOAT, revoked FLOAT, changed INTEGER NOT NULL)""",
        "CREATE INDEX keys_changed ON keys (changed)",
        """CREATE TABLE quotas (
            owner TEXT NOT NULL, unit TEXT NOT NULL, period TEXT NOT NULL, start BIGINT NOT NULL,
            reserved BIGINT NOT NULL, spent BIGINT NOT NULL, PRIMARY KEY (owner, unit, period, start))""",
        """CREATE TABLE attempts (
            id TEXT NOT NULL PRIMARY KEY, generation TEXT NOT NULL, number INTEGER NOT NULL, route TEXT NOT NULL,
            target TEXT NOT NULL, provider TEXT NOT NULL, url TEXT NOT NULL, "key" TEXT, application TEXT,
            shadow BOOLEAN NOT NULL, created FLOAT NOT NULL, state TEXT NOT NULL, status INTEGER, code TEXT,
            error TEXT, prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, written_tokens BIGINT,
            reasoning_tokens BIGINT, estimated BOOLEAN NOT NULL, cost BIGINT NOT NULL, reserved JSON NOT NULL,
            gateway TEXT NOT NULL, first_token_ms FLOAT, total_ms FLOAT)""",
        "CREATE INDEX attempts_created ON attempts (created)",
        "CREATE INDEX attempts_generation ON attempts (generation)",
        "CREATE INDEX attempts_state ON attempts (state, gateway)",
        "CREATE TABLE gateways (name TEXT NOT NULL PRIMARY KEY, seen FLOAT NOT NULL)",
        """CREATE TABLE feedback (
            id TEXT NOT NULL PRIMARY KEY, generation TEXT NOT NULL, kind TEXT NOT NULL, value FLOAT, text TEXT,
            "key" TEXT, created FLOAT NOT NULL)""",
        "CREATE INDEX feedback_generation ON feedback (generation)",
        """CREATE TABLE findings (
            id TEXT NOT NULL PRIMARY KEY, target TEXT NOT NULL, kind TEXT NOT NULL, said TEXT NOT NULL,
            "before" JSON, "after" JSON, created FLOAT NOT NULL, seen FLOAT)""",
        """CREATE TABLE probes (
            id TEXT NOT NULL PRIMARY KEY, target TEXT NOT NULL, created FLOAT NOT NULL, results JSON NOT NULL)""",
        "CREATE INDEX probes_target ON probes (target, created)",
    ],
    [
        """CREATE TABLE new_votes (
            id TEXT NOT NULL PRIMARY KEY, battle TEXT, a TEXT, b TEXT, a_target TEXT NOT NULL, b_target TEXT NOT NULL,
            a_digest TEXT, b_digest TEXT, outcome TEXT NOT NULL, source TEXT NOT NULL, rater TEXT, voter TEXT,
            "key" TEXT, application TEXT, conversation TEXT, prompt TEXT, turns INTEGER, tags JSON, style JSON,
            void TEXT, reasons JSON, comment TEXT, details JSON, batch TEXT, created FLOAT NOT NULL)""",
        """INSERT INTO new_votes (id, a, b, a_target, b_target, a_digest, b_digest, outcome, source, rater, voter,
            conversation, void, created)
            SELECT votes.id, votes.a, votes.b, COALESCE(one.target, one.route, 'unknown'),
            COALESCE(two.target, two.route, 'unknown'), one.target_digest, two.target_digest,
            CASE WHEN outcome IN ('a', 'b', 'both_bad') THEN outcome ELSE 'tie' END, source,
            CASE source WHEN 'judge' THEN 'unknown' END, voter, one.conversation,
            CASE WHEN outcome NOT IN ('a', 'b', 'tie', 'both_bad') THEN 'unknown outcome' END, votes.created FROM votes
            LEFT JOIN generations one ON one.id = votes.a LEFT JOIN generations two ON two.id = votes.b
            ORDER BY votes.created, votes.id""",
        "DROP TABLE votes",
        "ALTER TABLE new_votes RENAME TO votes",
        "CREATE INDEX votes_a ON votes (a)",
        "CREATE INDEX votes_b ON votes (b)",
        "CREATE INDEX votes_conversation ON votes (conversation)",
        "CREATE INDEX votes_created ON votes (created)",
        "CREATE INDEX votes_voter ON votes (voter)",
        "CREATE UNIQUE INDEX votes_battle ON votes (battle) WHERE rater IS NULL",
        """CREATE TABLE battles (
            id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, left_target TEXT NOT NULL, right_target TEXT NOT NULL,
            left_digest TEXT, right_digest TEXT, conversation TEXT, turns JSON NOT NULL, voter TEXT, "key" TEXT,
            application TEXT, tags JSON, created FLOAT NOT NULL, expires FLOAT NOT NULL, voted FLOAT)""",
        "CREATE INDEX battles_conversation ON battles (conversation)",
        """CREATE TABLE battle_turns (
            battle TEXT NOT NULL, turn INTEGER NOT NULL, a TEXT, b TEXT, PRIMARY KEY (battle, turn))""",
        "CREATE INDEX battle_turns_a ON battle_turns (a)",
        "CREATE INDEX battle_turns_b ON battle_turns (b)",
        "CREATE INDEX generations_target ON generations (target, created)",
        "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE frozen (prompt TEXT NOT NULL PRIMARY KEY, created FLOAT NOT NULL)",
    ],
    [
        """CREATE TABLE background (
            id TEXT NOT NULL PRIMARY KEY, gateway TEXT NOT NULL, conversation TEXT, generation JSON NOT NULL,
            asked JSON, lost TEXT)""",
    ],
]

# What PostgreSQL needs beside them, by the version that it leads to.
POSTGRESQL: dict[int, list[str]] = {
    # SQLite's tables have it: the order in which rows were made.
    1: ["ALTER TABLE messages ADD COLUMN rowid BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY"],
    4: [
        "ALTER TABLE votes ADD COLUMN rowid BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY",
        "CREATE UNIQUE INDEX votes_rowid ON votes (rowid)",
    ],
}


def version(connection: Connection) -> int:
    """The schema version of the database, 0 for an empty one.

    Raises HerdError if a newer Herd has written it.
    """
    found = 0
    if inspect(connection).has_table("schema_version"):
        found = int(connection.execute(text("SELECT version FROM schema_version")).scalar_one())
    if found > len(MIGRATIONS):
        newer = (
            f"the database has schema version {found}, this Herd knows {len(MIGRATIONS)}: use a newer Herd"
        )
        raise HerdError(newer, status=500, code="store_too_new")
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
    postgresql = connection.dialect.name == "postgresql"
    for number, statements in enumerate(MIGRATIONS[found:], found + 1):
        for statement in statements + (POSTGRESQL.get(number, []) if postgresql else []):
            connection.execute(text(statement))
        if number == 4:
            _salt_voters(connection)
    connection.execute(text("UPDATE schema_version SET version = :v"), {"v": len(MIGRATIONS)})


def _salt_voters(connection: Connection) -> None:
    """Version 3 has voters as hashes without salt, by which a guess of who it was can be checked."""
    query = text("SELECT DISTINCT voter FROM votes WHERE voter IS NOT NULL")
    if old := connection.execute(query).scalars().all():
        salt = secrets.token_hex(32)
        connection.execute(text("INSERT INTO settings VALUES ('voter_salt', :salt)"), {"salt": salt})
        new = [hmac.new(salt.encode(), voter.encode(), hashlib.sha256).hexdigest()[:32] for voter in old]
        both = [{"old": o, "new": n} for o, n in zip(old, new, strict=True)]
        connection.execute(text("UPDATE votes SET voter = :new WHERE voter = :old"), both)
