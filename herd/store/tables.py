"""The tables as the newest migration leaves them. Times are unix seconds, latencies milliseconds."""

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, Table, Text

metadata = MetaData()

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
