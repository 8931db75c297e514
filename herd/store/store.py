"""The whole store: its parts, votes, and the preferences that they make."""

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects.postgresql import insert as insert_new

from herd.errors import HerdError
from herd.store.conversations import Conversations
from herd.store.feedback import Feedback
from herd.store.generations import Generations, Keep, about
from herd.store.routes import Routes
from herd.store.tables import generations, votes
from herd.store.traffic import Traffic

__all__ = ["OUTCOMES", "Keep", "Store"]

OUTCOMES = ("a", "b", "tie", "both_bad")

# Built once: votes come in bursts, and building a statement costs more than running it.
_INSERT_VOTE = insert_new(votes).on_conflict_do_nothing()
_VOTE = select(votes).where(votes.c.id == bindparam("id"))
_BOTH = select(generations.c.id).where(generations.c.id.in_((bindparam("a"), bindparam("b"))))


class Store(Conversations, Generations, Feedback, Routes, Traffic):
    """Everything that Herd keeps: see its parts for the rest of it. Methods that add return when what they added is
    durable."""

    def add_vote(
        self,
        *,
        a: str,
        b: str,
        outcome: str,
        source: str,
        id: str,
        voter: str | None = None,
        created: float | None = None,
    ) -> dict[str, Any]:
        """The vote as it is kept; the same id again is the same vote.

        Raises HerdError 404 for an unknown generation, 409 if this id is another vote's.
        """
        if outcome not in OUTCOMES:
            raise HerdError(f"outcome must be one of {', '.join(OUTCOMES)}, not {outcome!r:.60}")
        row = {"id": id, "a": a, "b": b, "outcome": outcome, "source": source, "voter": voter}

        def work(connection: Connection) -> dict[str, Any]:
            known = set(connection.execute(_BOTH, {"a": a, "b": b}).scalars())
            for generation in (a, b):
                if generation not in known:
                    raise HerdError(f"no generation {generation!r:.100}", status=404, code="not_found")
            new = {**row, "created": time.time() if created is None else created}
            if connection.execute(_INSERT_VOTE, new).rowcount:
                return new
            kept = dict(connection.execute(_VOTE, {"id": id}).mappings().one())
            if any(kept[name] != row[name] for name in ("a", "b", "outcome")):
                raise HerdError(f"vote {id!r:.100} says something else already", status=409, code="conflict")
            return kept

        return self._write(work)

    def votes(self, *, route: str | None = None, conversation: str | None = None) -> list[dict[str, Any]]:
        """The oldest first; those on a route's generations, or on a conversation's."""
        query = select(votes).join(generations, generations.c.id == votes.c.a)
        wanted = about(query, {"route": route, "conversation": conversation})
        return self._fetch(wanted.order_by(votes.c.created, votes.c.id))

    def pairs(self, route: str) -> list[dict[str, Any]]:
        """The votes on a route with what they are about, the oldest first.

        Each is {"id", "conversation", "prompt": chat messages, "a", "b": texts, "a_id", "b_id", "outcome"}. Left
        out are votes without text (not kept, or deleted), and those on replies to different prompts.
        """
        a, b = generations.alias("a"), generations.alias("b")
        query = (
            select(votes.c.id, votes.c.outcome, votes.c.a.label("a_id"), votes.c.b.label("b_id"))
            .add_columns(a.c.conversation, a.c.reply.label("a"), b.c.reply.label("b"))
            .add_columns(a.c.request.label("prompt"), b.c.request.label("other"))
            .join(a, a.c.id == votes.c.a)
            .join(b, b.c.id == votes.c.b)
            .where(a.c.route == route)
            .order_by(votes.c.created, votes.c.id)
        )
        pairs = []
        for row in self._fetch(query):
            row["prompt"], other = _prompt(row["prompt"]), _prompt(row.pop("other"))
            if any(m["content"] for m in row["prompt"]) and _said(row["prompt"]) == _said(other):
                pairs.append(row)
        return pairs


def _prompt(request: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in request.get("messages", [])]


def _said(prompt: list[dict[str, str]]) -> list[dict[str, str]]:
    """The prompt without system messages, which belong to the target."""
    return [message for message in prompt if message["role"] != "system"]
