"""The tables as the newest migration leaves them. Times are unix seconds, latencies milliseconds, money 10⁻¹² dollars."""

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy import JSON, BigInteger, Boolean, Column, Dialect, Float, Integer, MetaData, Table

metadata = MetaData()


class Text(sa.TypeDecorator[str]):
    """Any text comes back as it was. PostgreSQL takes no NUL, so that it is written as U+FFFF and four digits; half a
    surrogate pair, which no database takes, becomes U+FFFD."""

    impl = sa.Text
    cache_ok = True

    @property
    def python_type(self) -> type[str]:
        return str

    def process_bind_param(self, value: Any, dialect: Dialect | None) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            raise TypeError(f"text is needed, not {type(value).__name__}")
        if value.isascii() and "\0" not in value:
            return value
        if "\0" in value or "\uffff" in value:
            value = re.sub("[\0\uffff]", lambda found: f"\uffff{ord(found[0]):04x}", value)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None or "\uffff" not in value:
            return value
        return re.sub("\uffff([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), value)


def _key(*names: str) -> list[Column[Any]]:
    return [Column(name, Text, primary_key=True) for name in names]


def _needed(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind, nullable=False) for name in names]


def _optional(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind) for name in names]


_Json = JSON(none_as_null=True)

conversations = Table(
    "conversations",
    metadata,
    *_key("id"),
    *_optional(Text, "title", "route", "system"),
    *_needed(JSON, "settings"),
    *_needed(Float, "created", "updated"),
    *_needed(Boolean, "deleted"),
)

# A tree: messages with the same parent are branches. Ids are unique in their conversation only, so that an imported
# conversation cannot touch another.
messages = Table(
    "messages",
    metadata,
    *_key("conversation", "id"),
    *_optional(Text, "parent", "generation"),
    *_needed(Text, "role", "content"),
    *_needed(Float, "created"),
)

generations = Table(
    "generations",
    metadata,
    *_key("id"),
    *_needed(Text, "route", "reply"),
    *_optional(
        Text, "conversation", "target", "target_digest", "model_ref", "provider", "key", "finish", "error"
    ),
    *_optional(Text, "parent_attempt", "reasoning"),
    Column("reply_id", Text),  # the id that the caller knows it by, where that is the provider's
    Column("shadow_of", Text),  # the generation that the caller saw instead
    *_needed(JSON, "request", "labels"),
    Column("calls", _Json),  # the reply's tool calls, as `ToolCall` has them
    Column("response", _Json),  # what the Responses API gives back of it later
    Column("use", _Json),  # what it may be used for: of "evaluate", "train"
    Column("dropped", _Json),  # the fields that the target could not honour
    *_optional(Integer, "prompt_tokens", "completion_tokens", "cached_tokens", "attempts"),
    *_optional(Float, "queue_ms", "first_token_ms", "total_ms"),
    Column("cost", BigInteger),  # of all attempts
    *_needed(Float, "created"),
    Column("expires", Float),  # when its text goes; null: never
)

# Of a pair, a stood at the left. The targets' names and digests stay, whatever becomes of the generations.
votes = Table(
    "votes",
    metadata,
    *_key("id"),
    *_optional(Text, "battle", "a", "b"),  # ids; imported votes may have none
    *_needed(Text, "a_target", "b_target"),
    *_optional(Text, "a_digest", "b_digest"),
    *_needed(Text, "outcome", "source"),
    Column("rater", Text),  # a judge's name; null: a person
    *_optional(Text, "voter", "key", "application", "conversation"),  # voter: a salted hash
    Column("prompt", Text),  # the hash of the first question, by which duplicates are found
    Column("turns", Integer),
    Column("tags", _Json),  # the names of its categories
    Column("style", _Json),  # length, headers, lists, bold of a, then of b
    Column("void", Text),  # why it does not count
    Column("reasons", _Json),
    Column("comment", Text),
    Column("details", _Json),
    Column("batch", Text),  # the import it came with
    *_needed(Float, "created"),
)

battles = Table(
    "battles",
    metadata,
    *_key("id"),
    *_needed(Text, "kind", "left_target", "right_target"),
    *_optional(Text, "left_digest", "right_digest", "conversation"),
    Column("turns", JSON, nullable=False),  # {"prompt": text, "left": a generation's id or null, "right"}
    *_optional(Text, "voter", "key", "application"),
    Column("tags", _Json),
    *_needed(Float, "created", "expires"),
    Column("voted", Float),
)

# The generations of the battles' turns, a at the left, so that a battle is found by one of them.
battle_turns = Table(
    "battle_turns",
    metadata,
    *_key("battle"),
    Column("turn", Integer, primary_key=True),
    *_optional(Text, "a", "b"),
)

settings = Table("settings", metadata, *_key("name"), *_needed(Text, "value"))

# The hashes of evaluation prompts, which are never given away to train on.
frozen = Table("frozen", metadata, *_key("prompt"), *_needed(Float, "created"))

# The newest version of a name counts; one without a definition says that the route is gone.
routes = Table(
    "routes",
    metadata,
    *_key("name"),
    Column("version", Integer, primary_key=True),
    Column("definition", _Json),
    *_optional(Text, "author", "note"),
    *_needed(Float, "created"),
)

keys = Table(
    "keys",
    metadata,
    *_key("id"),
    *_needed(Text, "hash", "shown", "application"),
    *_needed(JSON, "scopes", "limits"),
    Column("keep", Text),
    Column("use", _Json),
    *_needed(Float, "created"),
    *_optional(Float, "expires", "revoked"),
    Column("changed", Integer, nullable=False),  # grows with every write to the table
)

# `start`: of the period. `spent` is the sum of what was booked by the attempts that reserved here.
quotas = Table(
    "quotas",
    metadata,
    *_key("owner", "unit", "period"),
    Column("start", BigInteger, primary_key=True),
    *_needed(BigInteger, "reserved", "spent"),
)

# While an attempt is open, its tokens and cost are what it may need at most. `reserved`: lists of owner, unit, period,
# start, amount.
attempts = Table(
    "attempts",
    metadata,
    *_key("id"),
    *_needed(Text, "generation", "route", "target", "provider", "url", "state", "gateway"),
    *_optional(Text, "key", "application", "code", "error"),
    *_needed(Boolean, "shadow", "estimated"),
    *_needed(Integer, "number"),
    *_optional(Integer, "status"),
    *_optional(BigInteger, "prompt_tokens", "completion_tokens", "cached_tokens", "written_tokens"),
    *_optional(BigInteger, "reasoning_tokens"),
    *_needed(BigInteger, "cost"),
    *_needed(JSON, "reserved"),
    *_needed(Float, "created"),
    *_optional(Float, "first_token_ms", "total_ms"),
)

# The gateways that share the database, and when each was last heard of.
gateways = Table("gateways", metadata, *_key("name"), *_needed(Float, "seen"))

feedback = Table(
    "feedback",
    metadata,
    *_key("id"),
    *_needed(Text, "generation", "kind"),
    *_optional(Float, "value"),
    *_optional(Text, "text", "key"),
    *_needed(Float, "created"),
)

findings = Table(
    "findings",
    metadata,
    *_key("id"),
    *_needed(Text, "target", "kind", "said"),
    *_optional(_Json, "before", "after"),
    *_needed(Float, "created"),
    *_optional(Float, "seen"),
)

# Replies that nobody waits for, until they have ended.
background = Table(
    "background",
    metadata,
    *_key("id"),
    *_needed(Text, "gateway"),
    *_optional(Text, "conversation"),
    Column("generation", JSON, nullable=False),  # as it is at the beginning
    Column("asked", _Json),  # the request, if the reply may be made again
    *_optional(Text, "lost"),  # else why not
)

probes = Table(
    "probes",
    metadata,
    *_key("id"),
    *_needed(Text, "target"),
    *_needed(Float, "created"),
    *_needed(JSON, "results"),
)
