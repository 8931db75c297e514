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


def _table(name: str, *columns: tuple[type, str]) -> Table:
    """`columns`: types, and names that have them; a name with ! is of the primary key, one with ? may be null."""
    made = []
    for kind, names in columns:
        for word in names.split():
            of = JSON(none_as_null=True) if kind is JSON and word.endswith("?") else kind
            plain = word.rstrip("!?")
            made.append(Column(plain, of, primary_key=word.endswith("!"), nullable=word.endswith("?")))
    return Table(name, metadata, *made)


conversations = _table(
    "conversations", (Text, "id! title? route? system?"), (JSON, "settings"), (Float, "created updated"),
    (Boolean, "deleted"),
)  # fmt: skip

# A tree: messages with the same parent are branches. Ids are unique in their conversation only, so that an imported
# conversation cannot touch another.
messages = _table(
    "messages", (Text, "conversation! id! parent? generation? role content"), (Float, "created")
)

# reply_id: the id that the caller knows it by, where that is the provider's. shadow_of: the generation that the caller saw
# instead. calls: the reply's tool calls, as `ToolCall` has them. response: what the Responses API gives back of it later.
# use: what it may be used for, of "evaluate", "train". dropped: the fields that the target could not honour. cost: of all
# attempts. expires: when its text goes; null: never.
generations = _table(
    "generations",
    (Text, "id! route reply conversation? target? target_digest? model_ref? provider? key? finish? error?"),
    (Text, "parent_attempt? reasoning? reply_id? shadow_of?"),
    (JSON, "request labels calls? response? use? dropped?"),
    (Integer, "prompt_tokens? completion_tokens? cached_tokens? attempts?"),
    (Float, "queue_ms? first_token_ms? total_ms?"),
    (BigInteger, "cost?"),
    (Float, "created expires?"),
)

# Of a pair, a stood at the left. The targets' names and digests stay, whatever becomes of the generations. a, b: ids;
# imported votes may have none. rater: a judge's name; null: a person. voter: a salted hash. prompt: the hash of the first
# question, by which duplicates are found. tags: the names of its categories. style: length, headers, lists, bold of a, then
# of b. void: why it does not count. batch: the import it came with.
votes = _table(
    "votes",
    (Text, "id! battle? a? b? a_target b_target a_digest? b_digest? outcome source rater?"),
    (Text, "voter? key? application? conversation? prompt?"),
    (Integer, "turns?"),
    (JSON, "tags? style?"),
    (Text, "void?"),
    (JSON, "reasons?"),
    (Text, "comment?"),
    (JSON, "details?"),
    (Text, "batch?"),
    (Float, "created"),
)

# turns: {"prompt": text, "left": a generation's id or null, "right"}.
battles = _table(
    "battles",
    (Text, "id! kind left_target right_target left_digest? right_digest? conversation?"),
    (JSON, "turns"),
    (Text, "voter? key? application?"),
    (JSON, "tags?"),
    (Float, "created expires voted?"),
)

# The generations of the battles' turns, a at the left, so that a battle is found by one of them.
battle_turns = _table("battle_turns", (Text, "battle!"), (Integer, "turn!"), (Text, "a? b?"))

settings = _table("settings", (Text, "name! value"))

# The hashes of evaluation prompts, which are never given away to train on.
frozen = _table("frozen", (Text, "prompt!"), (Float, "created"))

# The newest version of a name counts; one without a definition says that the route is gone.
routes = _table(
    "routes", (Text, "name!"), (Integer, "version!"), (JSON, "definition?"), (Text, "author? note?"),
    (Float, "created"),
)  # fmt: skip

# changed: grows with every write to the table.
keys = _table(
    "keys", (Text, "id! hash shown application"), (JSON, "scopes limits"), (Text, "keep?"), (JSON, "use?"),
    (Float, "created expires? revoked?"), (Integer, "changed"),
)  # fmt: skip

# start: of the period. spent: the sum of what was booked by the attempts that reserved here.
quotas = _table("quotas", (Text, "owner! unit! period!"), (BigInteger, "start! reserved spent"))

# While an attempt is open, its tokens and cost are what it may need at most. reserved: lists of owner, unit, period, start,
# amount.
attempts = _table(
    "attempts",
    (Text, "id! generation route target provider url state gateway key? application? code? error?"),
    (Boolean, "shadow estimated"),
    (Integer, "number status?"),
    (BigInteger, "prompt_tokens? completion_tokens? cached_tokens? written_tokens? reasoning_tokens? cost"),
    (JSON, "reserved"),
    (Float, "created first_token_ms? total_ms?"),
)

# The gateways that share the database, and when each was last heard of.
gateways = _table("gateways", (Text, "name!"), (Float, "seen"))

feedback = _table(
    "feedback", (Text, "id! generation kind"), (Float, "value?"), (Text, "text? key?"), (Float, "created")
)

findings = _table(
    "findings", (Text, "id! target kind said"), (JSON, "before? after?"), (Float, "created seen?")
)

# Replies that nobody waits for, until they have ended. generation: as it is at the beginning. asked: the request, if the
# reply may be made again; lost: else why not.
background = _table(
    "background", (Text, "id! gateway conversation?"), (JSON, "generation asked?"), (Text, "lost?")
)

probes = _table("probes", (Text, "id! target"), (Float, "created"), (JSON, "results"))
