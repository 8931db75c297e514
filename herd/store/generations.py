"""Generations: kept, searched, and rid of their text."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, bindparam, or_, select, update

from herd.errors import HerdError
from herd.store.database import Database, Row, add
from herd.store.tables import (
    Text,
    attempts,
    battle_turns,
    battles,
    conversations,
    feedback,
    generations,
    messages,
    quotas,
    votes,
)

Keep = Literal["none", "metadata", "text"]
WORDS = ("reasons", "comment", "details")  # what of a vote goes when its conversation is deleted

# What of a request says nothing of what was asked; the messages keep their roles, the sampling all but its words.
WORDLESS = frozenset(
    "route kind tool_choice parallel_tool_calls count n stream include_usage echo store effort explicit".split()
)
EXPIRED_AT_ONCE = 200  # generations in one write
KEPT_QUOTAS = 2 * 86400  # seconds for which minutes and hours that are over stay

# Built once: building a statement costs more than running it.
# A conversation that was deleted after the generation began.
_DELETED = conversations.c.deleted & (conversations.c.updated >= bindparam("created"))
_GONE = select(conversations.c.id).where(conversations.c.id == bindparam("id"), _DELETED)
_OTHERS = generations.c.key.is_distinct_from(bindparam("key", type_=Text))
_CALLED = select(generations).order_by(generations.c.id != bindparam("id"), _OTHERS, generations.c.created)
_CALLED = _CALLED.where(or_(generations.c.id == bindparam("id"), generations.c.reply_id == bindparam("id")))
_CALLED = _CALLED.limit(1)


class Generations(Database):
    """The part of the store that is about generations. One is a dict with the columns of its table, tokens as
    {"prompt", "completion", "cached"} and latency as {"queue", "first_token", "total"}."""

    def add_generation(self, row: Mapping[str, Any], keep: Keep = "text") -> None:
        """Keep a generation, with the columns of the table as keys; one that is kept already stays as it is.

        keep: "metadata" leaves all text out, as a deleted conversation does; "none" keeps nothing.
        """
        self._write(lambda connection: put_generation(connection, row, keep))

    def add_generations(self, rows: Sequence[Mapping[str, Any]], keep: Keep = "text") -> int:
        """As `add_generation`, all of them in one write; how many were not kept already."""
        return self._write(lambda connection: sum([put_generation(connection, row, keep) for row in rows]))

    def get_generation(self, id: str, key: str | None = None) -> Row | None:
        """The one with this id, or this `reply_id`; of several replies with the same one, sooner one of `key`."""
        return next(iter(self._generations(_CALLED, id=id, key=key)), None)

    def generations(
        self, *, route: str | None = None, conversation: str | None = None, limit: int = 100
    ) -> list[Row]:
        """The newest first."""
        return self.search_generations(route=route, conversation=conversation, limit=limit)

    def search_generations(
        self,
        *,
        text: str | None = None,
        route: str | None = None,
        target: str | None = None,
        key: str | None = None,
        finish: str | None = None,
        conversation: str | None = None,
        since: float | None = None,
        until: float | None = None,
        feedback: str | None = None,
        limit: int = 100,
        before: float | tuple[float, str] | None = None,
        blind: bool = False,
    ) -> list[Row]:
        """The newest first. `text`: words in request, reply or reasoning; `since` ≤ created < `until`, `before`, which
        may be the last row's time and id; `feedback`: "any", "good" or "bad" (thumbs), or a kind; `blind`: without those
        that are `in_open_battle`."""
        query = select(generations).order_by(generations.c.created.desc(), generations.c.id.desc())
        given = {"route": route, "target": target, "key": key, "finish": finish, "conversation": conversation}
        query = about(query, given)
        created = generations.c.created
        place = sa.tuple_(created, generations.c.id) if isinstance(before, tuple) else created
        wanted = [
            None if since is None else created >= since,
            None if until is None else created < until,
            None if before is None else place < before,
            _says(text) if text else None,
            _judged(feedback) if feedback else None,
            ~_in_open_battle() if blind else None,
        ]
        return self._generations(query.where(*(one for one in wanted if one is not None)).limit(limit))

    def in_open_battle(self, id: str) -> bool:
        """Whether a generation is of a blind battle that may still be voted on, so that its target is a secret."""
        return bool(self._fetch(select(generations.c.id).where(generations.c.id == id, _in_open_battle())))

    def forget(self, id: str) -> None:
        """Remove all text of a generation, as the deletion of its conversation would; its numbers and votes stay."""
        self._write(lambda connection: drop_text(connection, generations.c.id == id))
        self._cut_log()

    def forget_expired(self, now: float) -> int:
        """Remove all text of the generations whose time is over, also from messages that came of them; how many."""
        old = select(generations.c.id).where(generations.c.expires <= now).limit(EXPIRED_AT_ONCE)

        def work(connection: Connection) -> int:
            ids = list(connection.execute(old).scalars())
            reply = messages.c.generation.in_(ids)
            answered = select(messages.c.conversation, messages.c.parent).where(reply)
            prompts = [
                (messages.c.conversation == talk) & (messages.c.id == parent)
                for talk, parent in connection.execute(answered)
            ]
            connection.execute(update(messages).where(or_(reply, *prompts)).values(content=""))
            drop_text(connection, generations.c.id.in_(ids))
            connection.execute(update(generations).where(generations.c.id.in_(ids)).values(expires=None))
            return len(ids)

        whole = 0
        while found := self._write(work):
            whole += found
        if whole:
            self._cut_log()
        short = quotas.c.period.in_(("minute", "hour")) & (quotas.c.start < now - KEPT_QUOTAS)
        over = sa.delete(quotas).where(short, quotas.c.reserved == 0)
        self._write(lambda connection: connection.execute(over).rowcount)
        return whole

    def _generations(self, query: Select[Any], **values: Any) -> list[Row]:
        found = self._fetch(query, **values)
        for row in found:
            row["tokens"] = {part: row.pop(f"{part}_tokens") for part in ("prompt", "completion", "cached")}
            row["latency"] = {part: row.pop(f"{part}_ms") for part in ("queue", "first_token", "total")}
        return found


def put_generation(connection: Connection, row: Mapping[str, Any], keep: Keep) -> bool:
    """As `add_generation`, within a write; whether it was not kept already."""
    if unknown := row.keys() - set(generations.c.keys()):
        raise HerdError(f"a generation has no field {min(unknown)!r}", status=500)
    if keep == "none":
        return False
    values = {"labels": {}, "created": time.time(), **row}
    talk = row.get("conversation")
    gone = was_deleted(connection, talk, values["created"])
    if keep == "metadata" or gone:
        values.update(without_text(values))
    if gone:  # an attempt that failed after the deletion may quote it
        failed = attempts.c.generation == row["id"]
        connection.execute(update(attempts).where(failed).values(error=None))
    return add(connection, generations, values) > 0


def was_deleted(connection: Connection, conversation: str | None, created: float) -> bool:
    """Whether the conversation was deleted after `created`, so that no text of then may be kept."""
    return bool(conversation and connection.execute(_GONE, {"id": conversation, "created": created}).scalar())


def without_text(row: Mapping[Any, Any]) -> Row:
    """What of a generation's row changes so that no text of prompt, reply or labels is left. An error may quote it."""
    request = row["request"]
    bare = {name: value for name, value in request.items() if name in WORDLESS}
    if "messages" in request:
        bare["messages"] = [{"role": message["role"], "content": ""} for message in request["messages"]]
    bare["sampling"] = {**request.get("sampling", {}), "stop": [], "logit_bias": {}}
    blank = dict.fromkeys(("calls", "response", "reasoning", "error"))
    return {"request": bare, "reply": "", "labels": {}, **blank}


def drop_text(connection: Connection, which: ColumnElement[bool]) -> None:
    """Leave no text in these generations, in their shadows, and in what was said of them."""
    chosen = select(generations.c.id).where(which)
    query = select(*generations.c["id", "request"]).where(or_(which, generations.c.shadow_of.in_(chosen)))
    found = connection.execute(query).mappings().all()
    for row in found:
        one = update(generations).where(generations.c.id == row["id"])
        connection.execute(one.values(without_text(row)))
    ids = [row["id"] for row in found]
    connection.execute(update(feedback).where(feedback.c.generation.in_(ids)).values(text=None))
    drop_words(connection, or_(votes.c.a.in_(ids), votes.c.b.in_(ids)))
    shown = or_(battle_turns.c.a.in_(ids), battle_turns.c.b.in_(ids))
    drop_prompts(connection, battles.c.id.in_(select(battle_turns.c.battle).where(shown)))
    connection.execute(update(attempts).where(attempts.c.generation.in_(ids)).values(error=None))


def drop_words(connection: Connection, which: ColumnElement[bool]) -> None:
    """Leave nothing in these votes that people have written."""
    connection.execute(update(votes).where(which).values(dict.fromkeys(WORDS)))


def drop_prompts(connection: Connection, which: ColumnElement[bool]) -> None:
    """Leave no prompt in these battles."""
    for id, turns in connection.execute(select(*battles.c["id", "turns"]).where(which)).all():
        bare = [{**turn, "prompt": ""} for turn in turns]
        connection.execute(update(battles).where(battles.c.id == id).values(turns=bare))


def _in_open_battle() -> ColumnElement[bool]:
    battle = sa.func.replace(sa.func.replace(generations.c.conversation, "-left", ""), "-right", "")
    still = battles.c.voted.is_(None) & (battles.c.expires > time.time())
    of = select(battles.c.id).where(battles.c.id == battle, battles.c.kind == "arena", still)
    return of.exists()


def called(id: str) -> ColumnElement[bool]:
    return or_(generations.c.id == id, generations.c.reply_id == id)


def about(query: Select[Any], given: Mapping[str, Any]) -> Select[Any]:
    """Only what is about generations with these values, as far as they are not None."""
    wanted = (generations.c[name] == value for name, value in given.items() if value is not None)
    return query.where(*wanted)


def _says(words: str) -> ColumnElement[bool]:
    """Requests are JSON: older ones have all but ASCII escaped."""
    written = {json.dumps(words, ensure_ascii=plain)[1:-1] for plain in (True, False)}
    request = sa.cast(generations.c.request, Text)
    columns = (generations.c.reply, generations.c.reasoning)
    said = [column.icontains(words, autoescape=True) for column in columns]
    return or_(*said, *(request.icontains(form, autoescape=True) for form in written))


def _judged(wanted: str) -> ColumnElement[bool]:
    of = feedback.c.generation == generations.c.id
    if wanted in ("good", "bad"):
        thumb = feedback.c.value > 0 if wanted == "good" else feedback.c.value < 0
        of &= (feedback.c.kind == "thumbs") & thumb
    elif wanted != "any":
        of &= feedback.c.kind == wanted
    return select(feedback.c.id).where(of).exists()
