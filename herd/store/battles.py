"""Battles, the pairs of replies that are there to be voted on, and the prompts that are frozen."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, insert, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_new

from herd.errors import HerdError
from herd.store.database import Row, add, first
from herd.store.generations import Generations, was_deleted
from herd.store.tables import Text, battle_turns, battles, frozen, generations, messages, settings, votes
from herd.store.votes import battle_vote, put_vote, votes_of

Turns = Sequence[Mapping[str, Any]]
Fill = Callable[[Row | None, Mapping[str, Row], Row | None], Row]

_INSERT_TURN = insert_new(battle_turns)
_SIDES = {"a": _INSERT_TURN.excluded.a, "b": _INSERT_TURN.excluded.b}
_PUT_TURN = _INSERT_TURN.on_conflict_do_update(index_elements=["battle", "turn"], set_=_SIDES)
# Built once: each vote asks.
_BATTLE = select(battles).where(battles.c.id == bindparam("id"))
_REPLY = ("id", "reply", "finish", "cost", "total_ms", "target_digest")
_REPLIES = select(*generations.c[_REPLY]).where(generations.c.id.in_(bindparam("ids", expanding=True)))
_left, _right = generations.alias("left"), generations.alias("right")
_OF = battles.outerjoin(battle_turns, battle_turns.c.battle == battles.c.id)
_OF = _OF.outerjoin(_left, _left.c.id == battle_turns.c.a).outerjoin(_right, _right.c.id == battle_turns.c.b)
_WHOLE = select(*battles.c, *_left.c[_REPLY], *_right.c[_REPLY]).select_from(_OF)
_WHOLE = _WHOLE.where(battles.c.id == bindparam("id"))


class Ballot(NamedTuple):
    """A battle, its replies by id, the vote on it, and how many this voter has cast."""

    battle: Row
    replies: dict[str, Row]
    vote: Row
    cast: int


class Battles(Generations):
    """The part of the store that is about battles. One is a dict with the columns of its table."""

    def put_battle(self, row: Mapping[str, Any]) -> Row:
        """Keep a new battle."""
        return self._write(lambda connection: _put(connection, row))

    def write_battle(self, row: Mapping[str, Any]) -> "asyncio.Future[Row]":
        """As `put_battle`, for a coroutine to await."""
        return self.write(lambda connection: _put(connection, row))

    def battle(self, id: str) -> Row | None:
        return self._first(_BATTLE, id=id)

    def battle_replies(self, ids: Sequence[str]) -> dict[str, Row]:
        """Of the generations with these ids: id, reply, finish, cost, total_ms, target_digest."""
        return {row["id"]: row for row in self._fetch(_REPLIES, ids=ids)}

    def write_ballot(self, battle: str, fill: Fill) -> "asyncio.Future[Ballot]":
        """A person's vote on a battle, all in one transaction. `fill` is given the battle, its replies by id, and the vote
        that it has already; it returns that one or a new one with all its columns, and is perhaps called twice."""
        return self.write(lambda connection: _ballot(connection, battle, fill))

    def change_battle(self, id: str, values: Mapping[str, Any], was: Turns | None = None) -> Row:
        """The battle with other values; turns only as long as there is no vote, and the turns are as they `was`. Raises
        HerdError 404, 409 "voted" or "changed"."""
        return self._write(lambda connection: _change(connection, id, values, was))

    def write_battle_change(
        self, id: str, values: Mapping[str, Any], was: Turns | None = None
    ) -> "asyncio.Future[Row]":
        """As `change_battle`, for a coroutine to await."""
        return self.write(lambda connection: _change(connection, id, values, was))

    def stored_pairs(
        self, limit: int, *, unjudged_by: str | None = None, unvoted_by: str | None = None
    ) -> list[Row]:
        """Replies of two targets to the same prompt whose text is here, the newest first: first turns of battles, shadows
        beside what was shown, replies that were written again, imports of one turn, as far as they may be used for
        evaluation. Without those that this judge, or this voter, has voted on.

        Each is {"battle": id or None, "a", "b": generations, "a_target", "b_target", "conversation"}.
        """
        found: dict[frozenset[str], Row] = {}
        for source in (_battled(), _shadowed(), _rewritten(), _imported()):
            for row in self._fetch(_unseen(source, unjudged_by, unvoted_by).limit(limit)):
                found.setdefault(frozenset((row["a"], row["b"])), row)
        newest = sorted(found.values(), key=lambda row: row["created"], reverse=True)[:limit]
        ids = {row[side] for row in newest for side in ("a", "b")}
        whole = self._generations(select(generations).where(generations.c.id.in_(ids)))
        texts = {row["id"]: row for row in whole}
        for row in newest:
            del row["created"]
            row["a"], row["b"] = a, b = texts[row["a"]], texts[row["b"]]
            row["a_target"], row["b_target"] = a["target"] or a["route"], b["target"] or b["route"]
            row["conversation"] = a["conversation"]
        return newest

    def setting(self, name: str, make: Callable[[], str]) -> str:
        """The value that is kept under a name; `make()` where there is none yet. The first writer wins."""
        new = make()

        def work(connection: Connection) -> str:
            add(connection, settings, {"name": name, "value": new})
            return str(connection.execute(kept).scalar_one())

        kept = select(settings.c.value).where(settings.c.name == name)
        known = self._first(kept)
        return str(known["value"]) if known else self._write(work)

    def freeze(self, hashes: Iterable[str]) -> int:
        """Keep prompts, by their `prompt_hash`, as frozen; how many were not."""
        new = [{"prompt": one, "created": time.time()} for one in sorted(set(hashes))]
        return self._write(lambda connection: add(connection, frozen, new)) if new else 0

    def frozen(self) -> set[str]:
        return {row["prompt"] for row in self._fetch(select(frozen.c.prompt))}


def _ballot(connection: Connection, battle: str, fill: Fill) -> Ballot:
    found = connection.execute(_WHOLE, {"id": battle}).all()
    row = dict(zip(battles.c.keys(), found[0], strict=False)) if found else None
    replies: dict[str, Row] = {}
    for turn in found:
        for at in (-2 * len(_REPLY), -len(_REPLY)):
            if (id := turn[at]) is not None:
                replies[id] = dict(zip(_REPLY, turn[at:], strict=False))
    kept = battle_vote(connection, battle) if row and row["voted"] else None
    vote = fill(row, replies, kept)
    if vote is not kept:
        vote = put_vote(connection, vote, whole=True)
    return Ballot(row or {}, replies, vote, votes_of(connection, vote["voter"]))


def _put(connection: Connection, row: Mapping[str, Any]) -> Row:
    if unknown := row.keys() - set(battles.c.keys()):
        raise HerdError(f"a battle has no field {min(unknown)!r}", status=500)
    whole = {**dict.fromkeys(battles.c.keys()), "turns": [], "created": time.time(), **row}
    connection.execute(insert(battles), whole)
    _put_turns(connection, whole["id"], whole["turns"])
    return whole


def _change(connection: Connection, id: str, values: Mapping[str, Any], was: Turns | None) -> Row:
    kept, new = first(connection, _BATTLE, id=id), dict(values)
    if not kept:
        raise HerdError(f"no battle {id!r:.100}", status=404, code="not_found")
    if "turns" in new and kept["voted"]:
        raise HerdError("this battle has its vote; begin a new one", status=409, code="voted")
    if was is not None and kept["turns"] != list(was):  # by another gateway, or a deletion
        raise HerdError("this battle has changed meanwhile; look at it again", status=409, code="changed")
    if turns := new.get("turns"):
        if was_deleted(connection, kept["conversation"], kept["created"]):
            new["turns"] = [{**turn, "prompt": ""} for turn in turns]
        _put_turns(connection, id, turns)
    connection.execute(update(battles).where(battles.c.id == id).values(new))
    return {**kept, **new}


def _put_turns(connection: Connection, battle: str, turns: Turns) -> None:
    for place, turn in enumerate(turns):
        row = {"battle": battle, "turn": place, "a": turn.get("left"), "b": turn.get("right")}
        connection.execute(_PUT_TURN, row)


_a, _b = generations.alias("one"), generations.alias("two")


def _may_be_judged(made: sa.FromClause) -> ColumnElement[bool]:
    """What may not be used for evaluation is shown to nobody."""
    return made.c.use.is_(None) | sa.cast(made.c.use, Text).contains('"evaluate"')


_SAID = (_a.c.reply != "") & (_b.c.reply != "") & _a.c.error.is_(None) & _b.c.error.is_(None)
_SAID &= _may_be_judged(_a) & _may_be_judged(_b)
_APART = func.coalesce(_a.c.target, _a.c.route) != func.coalesce(_b.c.target, _b.c.route)


def _pair(battle: ColumnElement[Any]) -> Select[Any]:
    columns = (_a.c.id.label("a"), _b.c.id.label("b"), _a.c.created, battle.label("battle"))
    return select(*columns).where(_SAID, _APART).order_by(_a.c.created.desc(), _a.c.id)


def _battled() -> Select[Any]:
    turn = battle_turns.c
    of = battle_turns.join(_a, _a.c.id == turn.a).join(_b, _b.c.id == turn.b)
    first = _pair(turn.battle).select_from(of.join(battles, battles.c.id == turn.battle))
    return first.where(turn.turn == 0, battles.c.kind != "stored")


def _shadowed() -> Select[Any]:
    return _pair(null()).select_from(_a.join(_b, _b.c.shadow_of == _a.c.id))


def _rewritten() -> Select[Any]:
    """Each two replies to one message, once."""
    m, n = messages.alias("m"), messages.alias("n")
    beside = (n.c.conversation == m.c.conversation) & (n.c.parent == m.c.parent) & (n.c.id != m.c.id)
    both = _a.join(m, m.c.generation == _a.c.id).join(n, beside).join(_b, n.c.generation == _b.c.id)
    return _pair(null()).select_from(both).where(_a.c.id < _b.c.id)


def _imported() -> Select[Any]:
    v = votes.alias("v")
    both = v.join(_a, _a.c.id == v.c.a).join(_b, _b.c.id == v.c.b)
    return _pair(null()).select_from(both).where(v.c.batch.is_not(None), v.c.turns == 1)


def _unseen(query: Select[Any], judge: str | None, voter: str | None) -> Select[Any]:
    given = ((votes.c.rater, judge), (votes.c.voter, voter))
    for of in [column == name for column, name in given if name is not None]:
        forth = (votes.c.a == _a.c.id) & (votes.c.b == _b.c.id)
        back = (votes.c.a == _b.c.id) & (votes.c.b == _a.c.id)
        query = query.where(~select(votes.c.id).where(of, or_(forth, back)).exists())
    return query
