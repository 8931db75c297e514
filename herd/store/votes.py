"""Votes: durable when acknowledged, one a battle, and the preferences that they make."""

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select, bindparam, literal_column, or_, select, update

from herd.errors import HerdError
from herd.store.database import Database, Row, add, first
from herd.store.engines import to_json
from herd.store.generations import WORDS, about, put_generation, was_deleted
from herd.store.tables import Text, battles, frozen, generations, votes

COLUMNS = tuple(votes.c.keys())
OUTCOMES = ("a", "b", "tie", "both_bad")
NEEDED = ("id", "a_target", "b_target", "source")
AT_ONCE, WITH_TEXT = 5000, 500  # rows that are in memory together; with their text they may be long

# Built once: votes come in bursts, and building a statement costs more than running it.
_THEIRS = (votes.c.battle == bindparam("battle")) & votes.c.rater.is_(None)
_OF_BATTLE = select(votes).where(_THEIRS)
# By its battle first, so that whoever votes twice there is told so.
_KEPT = select(votes).where(or_(votes.c.id == bindparam("id"), _THEIRS)).limit(1)
_KEPT = _KEPT.order_by(votes.c.battle.is_distinct_from(bindparam("battle")))
_BOTH = select(*generations.c["id", "route", "target", "target_digest", "conversation"])
_BOTH = _BOTH.where(generations.c.id.in_((bindparam("a"), bindparam("b"))))
# The request, which may be long, of a only.
_REQUEST = sa.case((generations.c.id == bindparam("a"), generations.c.request)).label("request")
_ASKED = _BOTH.add_columns(_REQUEST)
_CAST = select(sa.func.count()).where(votes.c.voter == bindparam("voter"))
_OPEN = select(battles.c.turns).where(battles.c.id == bindparam("id"))
_CLOSE = update(battles).where(battles.c.id == bindparam("of")).values(voted=bindparam("now"))
_ROWID = literal_column("votes.rowid", sa.BigInteger)
_BOARD = select(
    _ROWID,
    *votes.c["a_target", "b_target", "outcome", "source", "rater", "voter"],
    *votes.c["conversation", "prompt", "turns"],
    *(sa.cast(votes.c[name], sa.Text).label(name) for name in ("tags", "style")),
    *votes.c["void", "created", "id"],
)
_BOARD = _BOARD.where(_ROWID > bindparam("after")).order_by(_ROWID).limit(bindparam("most"))


def prompt_hash(text: str) -> str | None:
    """By which duplicates of a first question are found, and frozen ones known; None for no text."""
    plain = text.strip().lower()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest() if plain else None


class Votes(Database):
    """The part of the store that is about votes. One is a dict with the columns of its table."""

    def add_vote(self, **row: Any) -> Row:
        """The vote as it is kept, durable; columns that are not given and that its generations know are theirs.

        The same id again is the same vote, and so is the same outcome for the same battle by a person; else HerdError 409
        (code "conflict" or "voted"). 404 for an unknown generation or battle.
        """
        return self._write(lambda connection: put_vote(connection, row))

    def write_vote(self, row: Mapping[str, Any]) -> "asyncio.Future[Row]":
        """As `add_vote`, for a coroutine to await."""
        return self.write(lambda connection: put_vote(connection, row))

    def add_votes(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Keep them all or, if anything fails, none; how many had an id that was not known. Needs room for a few of them
        in memory, and for all in temporary files, so that only the writing itself keeps other writers waiting.

        A row may have "generations", which are kept with it.
        """
        now = time.time()
        with tempfile.TemporaryFile("w+", encoding="ascii") as file, tempfile.TemporaryFile("w+") as texts:
            for row in rows:
                for made in row.get("generations", ()):
                    texts.write(json.dumps(made) + "\n")
                own = {name: value for name, value in row.items() if name != "generations"}
                file.write(json.dumps(_plain(own, now)) + "\n")

            def work(connection: Connection) -> int:
                texts.seek(0)
                for line in texts:
                    put_generation(connection, json.loads(line), "text")
                return _add_all(connection, file)

            return self._write(work)

    def votes(self, *, route: str | None = None, conversation: str | None = None) -> list[Row]:
        """The oldest first; those on a route's generations, or on a conversation's."""
        query: Select[Any] = select(votes)
        if route is not None or conversation is not None:
            query = query.join(generations, generations.c.id == votes.c.a)
            query = about(query, {"route": route, "conversation": conversation})
        return self._fetch(query.order_by(votes.c.created, votes.c.id))

    def battle_vote(self, battle: str) -> Row | None:
        """The person's vote on a battle."""
        return self._first(_OF_BATTLE, battle=battle)

    def votes_of(self, voter: str) -> int:
        """How many votes this voter has cast."""
        with self._read() as connection:
            return votes_of(connection, voter)

    def votes_after(self, rowid: int, limit: int) -> list[tuple[Any, ...]]:
        """Votes in the order in which they were committed, after the one with this `rowid`: (rowid, a_target, b_target,
        outcome, source, rater, voter, conversation, prompt, turns, tags, style, void, created, id). tags and style are
        JSON text or None."""
        with self._read() as connection:
            return [tuple(row) for row in connection.execute(_BOARD, {"after": rowid, "most": limit})]

    def whole_votes(self, *, text: bool) -> Iterator[Row]:
        """All votes in the order in which they were committed, with all columns; with `text` also "a_request", "a_reply",
        "a_use" of the generation a, and of b, which are None where there is none or its text is gone."""
        query: Select[Any] = select(_ROWID.label("rowid"), votes)
        for side in ("a", "b") if text else ():
            made = generations.alias(side)
            query = query.outerjoin(made, made.c.id == votes.c[side])
            columns = (made.c[name].label(f"{side}_{name}") for name in ("request", "reply", "use"))
            query = query.add_columns(*columns)
        query = query.where(_ROWID > bindparam("after")).order_by(_ROWID)
        query, after = query.limit(WITH_TEXT if text else AT_ONCE), 0
        while page := self._fetch(query, after=after):
            yield from page
            after = page[-1]["rowid"]

    def pairs(self, route: str) -> list[Row]:
        """The people's votes on a route's replies with what they are about, the oldest first.

        Each is {"id", "conversation", "voter", "prompt": chat messages, "a", "b": texts, "a_id", "b_id", "outcome"}.
        Left out are void votes, votes without text (not kept, or deleted), those on replies to different prompts, and
        frozen prompts.
        """
        a, b = generations.alias("a"), generations.alias("b")
        columns = [*votes.c["id", "outcome", "voter"], votes.c.a.label("a_id"), votes.c.b.label("b_id")]
        columns += [a.c.conversation, a.c.reply.label("a"), b.c.reply.label("b")]
        query = select(*columns, a.c.request.label("prompt"), b.c.request.label("other"))
        query = query.join(a, a.c.id == votes.c.a).join(b, b.c.id == votes.c.b)
        query = query.where(or_(a.c.route == route, b.c.route == route))
        query = query.where(votes.c.void.is_(None), votes.c.rater.is_(None))
        pairs, kept_back = [], {row["prompt"] for row in self._fetch(select(frozen))}
        for row in self._fetch(query.order_by(votes.c.created, votes.c.id)):
            row["prompt"], other = asked(row["prompt"]), asked(row.pop("other"))
            hashes = {prompt_hash(m["content"]) for m in row["prompt"] if m["role"] == "user"}
            has_text = any(m["content"] for m in row["prompt"])
            if has_text and spoken(row["prompt"]) == spoken(other) and not hashes & kept_back:
                pairs.append(row)
        return pairs


def _values(row: Mapping[str, Any]) -> list[Any]:
    """A vote's columns in their order. Raises HerdError for what cannot be one."""
    if unknown := row.keys() - set(COLUMNS):
        raise HerdError(f"a vote has no field {min(unknown)!r}", status=500)
    if row.get("outcome") not in OUTCOMES:
        raise HerdError(f"outcome must be one of {', '.join(OUTCOMES)}, not {row.get('outcome')!r:.60}")
    return [row.get(name) for name in COLUMNS]


def _plain(row: Mapping[str, Any], now: float) -> list[Any]:
    """A vote's columns as the driver takes them."""
    values = _values({"created": now, **row})
    for name in NEEDED:
        if row.get(name) is None:
            raise HerdError(f"the store cannot keep this: a vote without {name}")
    try:
        return [value if value is None else bind(value) for bind, value in zip(_BIND, values, strict=True)]
    except TypeError as error:
        raise HerdError(f"the store cannot keep this: {error}") from None


def battle_vote(connection: Connection, battle: str) -> Row | None:
    return first(connection, _OF_BATTLE, battle=battle)


def votes_of(connection: Connection, voter: str | None) -> int:
    return int(connection.execute(_CAST, {"voter": voter}).scalar_one())


def put_vote(connection: Connection, given: Mapping[str, Any], *, whole: bool = False) -> Row:
    """As `add_vote`, within a write. `whole`: battle and generations are there, and know nothing more."""
    now = time.time()
    row = dict(zip(COLUMNS, _values(given), strict=True))
    row["created"] = now if row["created"] is None else row["created"]
    battle = row["battle"] if row["rater"] is None else None
    if not whole:
        _complete(connection, row, battle)
    said = any(row[name] is not None for name in WORDS)
    if said and was_deleted(connection, row["conversation"], row["created"]):
        row.update(dict.fromkeys(WORDS))
    if add(connection, votes, row):
        if battle is not None:
            connection.execute(_CLOSE, {"of": battle, "now": now})
        return row
    kept = dict(connection.execute(_KEPT, {"id": row["id"], "battle": battle}).mappings().one())
    if battle is not None and kept["battle"] == battle:
        if kept["outcome"] != row["outcome"]:
            raise HerdError("this battle has its vote already, another one", status=409, code="voted")
        return kept
    same = ("battle", "a", "b", "a_target", "b_target", "outcome", "rater")
    if any(kept[name] != row[name] for name in same):
        raise HerdError(f"vote {row['id']!r:.100} says something else already", status=409, code="conflict")
    return kept


def _complete(connection: Connection, row: Row, battle: str | None) -> None:
    """What is not given and the generations know. Raises HerdError where the vote is not about what it says."""
    if battle is not None:
        open_ = connection.execute(_OPEN, {"id": battle}).first()
        if open_ is None:
            raise HerdError(f"no battle {battle!r:.100}", status=404, code="not_found")
        last = open_.turns[-1] if open_.turns else {}
        if row["a"] is not None and (row["a"], row["b"]) != (last.get("left"), last.get("right")):
            raise HerdError("these replies were made anew; look at them again", status=409, code="not_ready")
    if row["a"] is None and row["b"] is None:
        return
    query = _ASKED if row["prompt"] is None else _BOTH
    known = {found.id: found for found in connection.execute(query, {"a": row["a"], "b": row["b"]})}
    for side in ("a", "b"):
        found = known.get(row[side])
        if found is None:
            raise HerdError(f"no generation {row[side]!r:.100}", status=404, code="not_found")
        row[f"{side}_target"] = row[f"{side}_target"] or found.target or found.route
        row[f"{side}_digest"] = row[f"{side}_digest"] or found.target_digest
    row["conversation"] = row["conversation"] or known[row["a"]].conversation
    if row["prompt"] is None:
        said = asked(known[row["a"]].request)
        first = next((message["content"] for message in said if message["role"] == "user"), "")
        row["prompt"] = prompt_hash(first)


# Many at once go by the driver alone: with a statement's types each row would take three times as long.
_BIND: tuple[Callable[[Any], Any], ...] = tuple(
    to_json if isinstance(column.type, sa.JSON)
    else partial(column.type.process_bind_param, dialect=None) if isinstance(column.type, Text)
    else column.type.python_type
    for column in votes.c
)  # fmt: skip
_INTO = "INSERT INTO votes (" + ", ".join(f'"{name}"' for name in COLUMNS) + ")"
_VALUES = f"{_INTO} VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
_CASTS = {"JSON": "::json", "FLOAT": "::float8", "INTEGER": "::int8"}
_PARTS = ", ".join(f"(row->>{n}){_CASTS.get(str(column.type), '')}" for n, column in enumerate(votes.c))
_JSON = f"{_INTO} SELECT {_PARTS} FROM jsonb_array_elements(%s::jsonb) AS row ON CONFLICT DO NOTHING"


def _add_all(connection: Connection, file: IO[str]) -> int:
    file.seek(0)
    sqlite, new = connection.dialect.name == "sqlite", 0
    while lines := list(islice(file, AT_ONCE)):
        many: Any = [tuple(json.loads(line)) for line in lines] if sqlite else (f"[{','.join(lines)}]",)
        new += connection.exec_driver_sql(_VALUES if sqlite else _JSON, many).rowcount
    return new


def asked(request: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in request.get("messages", [])]


def spoken(prompt: list[dict[str, str]]) -> list[dict[str, str]]:
    """The prompt without system messages, which belong to the target."""
    return [message for message in prompt if message["role"] != "system"]
