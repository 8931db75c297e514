"""What people say of generations."""

import math
import time
import uuid
from typing import Literal

from sqlalchemy import Connection, select

from herd.errors import HerdError
from herd.store.database import Database, Row, add, rows
from herd.store.generations import called
from herd.store.tables import conversations, feedback, generations

Kind = Literal["thumbs", "score", "correction", "comment"]


class Feedback(Database):
    """The part of the store that is about feedback, a dict with the columns of its table."""

    def add_feedback(
        self,
        *,
        generation: str,
        kind: Kind,
        value: float | None = None,
        text: str | None = None,
        key: str | None = None,
        id: str | None = None,
    ) -> Row:
        """The feedback as it is kept; the same id again is the same feedback. `generation`: its id, or its `reply_id`.

        thumbs have the value 1 or -1, a score any number; a correction (what should have been said) and a comment have
        a text. Raises HerdError for another, 404 for an unknown generation, 409 if the id is other feedback's.
        """
        needs = {
            "thumbs": (value in (1, -1), "value: thumbs are 1 or -1"),
            "score": (value is not None and math.isfinite(value), "value: a score is a number"),
            "correction": (bool(text), "text: a correction says what the reply should have been"),
            "comment": (bool(text), "text: a comment says something"),
        }
        if kind not in needs:
            raise HerdError(f"kind must be one of {', '.join(needs)}, not {kind!r:.60}")
        good, wrong = needs[kind]
        if not good:
            raise HerdError(wrong)
        row = {"id": id or uuid.uuid4().hex, "kind": kind, "value": value, "text": text, "key": key}

        def work(connection: Connection) -> Row:
            gone = conversations.c.deleted & (conversations.c.updated >= generations.c.created)
            known = select(generations.c.id, gone.label("deleted")).where(called(generation))
            known = known.outerjoin(conversations, conversations.c.id == generations.c.conversation)
            ordered = known.order_by(generations.c.id != generation, generations.c.created)
            found = connection.execute(ordered).first()
            if found is None:
                raise HerdError(f"no generation {generation!r:.100}", status=404, code="not_found")
            new = {**row, "generation": found.id, "created": time.time()}
            if found.deleted:
                new["text"] = None
            if add(connection, feedback, new):
                return new
            kept = rows(connection, select(feedback).where(feedback.c.id == row["id"]))[0]
            if any(kept[name] != new[name] for name in ("generation", "kind", "value", "text")):
                other = f"feedback {id!r:.100} says something else already"
                raise HerdError(other, status=409, code="conflict")
            return kept

        return self._write(work)

    def feedback(self, generation: str) -> list[Row]:
        """The oldest first."""
        query = select(feedback).where(feedback.c.generation == generation)
        return self._fetch(query.order_by(feedback.c.created, feedback.c.id))
