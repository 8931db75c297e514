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

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
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


conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("title", Text),
    Column("route", Text),
    Column("system", Text),
    Column("settings", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("deleted", Boolean, nullable=False),
)

# A tree: messages with the same parent are branches. Ids are unique in their conversation only, so that an imported
# conversation cannot touch another.
messages = Table(
    "messages",
    metadata,
    Column("conversation", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("parent", Text),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("generation", Text),
    Column("created", Float, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation", Text),
    Column("route", Text, nullable=False),
    Column("target", Text),
    Column("target_digest", Text),
    Column("model_ref", Text),
    Column("request", JSON, nullable=False),
    Column("reply", Text, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("queue_ms", Float),
    Column("first_token_ms", Float),
    Column("total_ms", Float),
    Column("finish", Text),
    Column("error", Text),
    Column("parent_attempt", Text),
    Column("key", Text),
    Column("created", Float, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("calls", JSON(none_as_null=True)),  # the reply's tool calls, as `ToolCall` has them
    Column("response", JSON(none_as_null=True)),  # what the Responses API gives back of it later
    Column("reply_id", Text),  # the id that the caller knows it by, where that is the provider's
    Column("provider", Text),
    Column("cost", BigInteger),  # of all attempts
    Column("use", JSON(none_as_null=True)),  # what it may be used for: of "evaluate", "train"
    Column("expires", Float),  # when its text goes; null: never
    Column("dropped", JSON(none_as_null=True)),  # the fields that the target could not honour
    Column("reasoning", Text),
    Column("attempts", Integer),
    Column("shadow_of", Text),  # the generation that the caller saw instead
)

votes = Table(
    "votes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("a", Text, nullable=False),
    Column("b", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("voter", Text),
    Column("created", Float, nullable=False),
)

# The newest version of a name counts; one without a definition says that the route is gone.
routes = Table(
    "routes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("definition", JSON(none_as_null=True)),
    Column("author", Text),
    Column("note", Text),
    Column("created", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("shown", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("keep", Text),
    Column("use", JSON(none_as_null=True)),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    Column("changed", Integer, nullable=False),  # grows with every write to the table
)

# `start`: of the period. `spent` is the sum of what was booked by the attempts that reserved here.
quotas = Table(
    "quotas",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("reserved", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
)

# While an attempt is open, its tokens and cost are what it may need at most. `reserved`: lists of owner, unit, period,
# start, amount.
attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("route", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("key", Text),
    Column("application", Text),
    Column("shadow", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("status", Integer),
    Column("code", Text),
    Column("error", Text),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("written_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("reserved", JSON, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("first_token_ms", Float),
    Column("total_ms", Float),
)

# The gateways that share the database, and when each was last heard of.
gateways = Table(
    "gateways",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seen", Float, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Float),
    Column("text", Text),
    Column("key", Text),
    Column("created", Float, nullable=False),
)

findings = Table(
    "findings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("said", Text, nullable=False),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    Column("created", Float, nullable=False),
    Column("seen", Float),
)

probes = Table(
    "probes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("results", JSON, nullable=False),
)
