"""Conversations and their messages; deletion, export and import."""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, Connection, Select, Table, delete, func, insert, or_, select, text, update

from herd.errors import HerdError
from herd.store.database import Database, Row, add, first, rows
from herd.store.generations import drop_prompts, drop_text, drop_words
from herd.store.tables import background, battles, conversations, feedback, generations, messages, votes
from herd.store.votes import OUTCOMES

FIELDS = ("title", "route", "system", "settings")
OWN = ("key", "response", "deleted")  # columns that are this server's alone: neither exported nor imported
LISTS = ("calls", "use", "dropped", "tags", "style", "reasons")  # in JSON; the rest are objects
_HEAD = [conversations.c[name] for name in ("id", *FIELDS, "created", "updated")]
_MESSAGE = [messages.c[name] for name in ("id", "parent", "role", "content", "generation", "created")]


class Conversations(Database):
    """The part of the store that is about conversations. A conversation is a dict with id, title, route, system,
    settings, created, updated; a message one with id, parent, role, content, generation, created."""

    def create_conversation(
        self,
        *,
        id: str | None = None,
        title: str | None = None,
        route: str | None = None,
        system: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Row:
        """The new conversation, or the one that has this id already. Raises HerdError 410 if it was deleted."""
        now = time.time()
        row: Row = {"id": id or uuid.uuid4().hex, "title": title, "route": route, "system": system}
        row |= {"settings": dict(settings or {}), "created": now, "updated": now, "deleted": False}

        def work(connection: Connection) -> Row:
            add(connection, conversations, row)
            return _live(connection, row["id"])

        return self._write(work)

    def list_conversations(
        self, *, search: str | None = None, limit: int = 50, before: float | None = None
    ) -> list[Row]:
        """The newest first. `search`: words in the title or a message; `before`: only those updated earlier."""
        query = select(*_HEAD).where(~conversations.c.deleted)
        if search:
            said = messages.c.content.icontains(search, autoescape=True)
            found = select(messages.c.conversation).where(said)
            titled = conversations.c.title.icontains(search, autoescape=True)
            query = query.where(or_(titled, conversations.c.id.in_(found)))
        if before is not None:
            query = query.where(conversations.c.updated < before)
        return self._fetch(query.order_by(conversations.c.updated.desc()).limit(limit))

    def get_conversation(self, id: str) -> Row | None:
        return self._first(_find(id))

    def update_conversation(self, id: str, /, **fields: Any) -> Row | None:
        """The conversation with the given title, route, system or settings; None if there is none of this id."""
        if unknown := fields.keys() - set(FIELDS):
            raise HerdError(f"a conversation has no field {min(unknown)!r} that can be changed")
        if fields.get("settings", {}) is None:
            fields["settings"] = {}

        def work(connection: Connection) -> Row | None:
            live = (conversations.c.id == id) & ~conversations.c.deleted
            connection.execute(update(conversations).where(live).values(**fields, updated=time.time()))
            return first(connection, _find(id))

        return self._write(work)

    def delete_conversation(self, id: str) -> bool:
        """Remove the conversation and all text of it, in its generations too; False if there is none of this id.

        Its id and the time stay known, so that a reply still on its way brings no text back. Votes stay, as numbers.
        A battle goes as a whole, by its own id or by that of one of its sides (which end in -left and -right).
        """

        def work(connection: Connection) -> bool:
            battle = id.removesuffix("-left").removesuffix("-right")
            known = connection.execute(select(battles.c.id).where(battles.c.id == battle)).first()
            whole = [battle, f"{battle}-left", f"{battle}-right"] if known else [id]
            return sum([_delete(connection, one) for one in whole]) > 0

        deleted = self._write(work)
        if deleted:
            self._cut_log()
        return deleted

    def add_message(
        self,
        *,
        conversation: str,
        role: str,
        content: str,
        id: str | None = None,
        parent: str | None = None,
        generation: str | None = None,
        created: float | None = None,
    ) -> Row:
        """The new message, or the one that has this id already. Raises HerdError 404 without such a conversation,
        400 without such a parent."""
        now = time.time()
        row: Row = {"conversation": conversation, "id": id or uuid.uuid4().hex, "parent": parent}
        row |= {"role": role, "content": content, "generation": generation}
        row["created"] = now if created is None else created

        def work(connection: Connection) -> Row:
            _live(connection, conversation)
            own = select(*_MESSAGE).where(messages.c.conversation == conversation)
            if parent is not None and not first(connection, own.where(messages.c.id == parent)):
                raise HerdError(f"no message {parent!r:.100} in this conversation to be the parent")
            add(connection, messages, row)
            touched = update(conversations).where(conversations.c.id == conversation)
            connection.execute(touched.values(updated=now))
            return rows(connection, own.where(messages.c.id == row["id"]))[0]

        return self._write(work)

    def messages(self, conversation: str) -> list[Row]:
        """All branches, in the order in which they were made."""
        return self._fetch(_messages(conversation))

    def export_conversations(self, ids: Sequence[str] | None = None) -> list[Row]:
        """Conversations (all, or those named) with "messages", "generations", "votes" and "feedback", as import
        takes them."""
        with self._read() as connection:
            query = select(*_HEAD).where(~conversations.c.deleted).order_by(conversations.c.updated)
            heads = rows(connection, query if ids is None else query.where(conversations.c.id.in_(ids)))
            for head in heads:
                own = generations.c.conversation == head["id"]
                made = select(generations.c.id).where(own)
                about = (
                    (generations, own),
                    (votes, votes.c.a.in_(made)),
                    (feedback, feedback.c.generation.in_(made)),
                )
                head["messages"] = rows(connection, _messages(head["id"]))
                for table, which in about:
                    columns = [column for column in table.c if column.name not in OWN]
                    query = select(*columns).where(which).order_by(table.c.created)
                    head[table.name] = rows(connection, query)
            return heads

    def import_conversations(self, exported: Iterable[Mapping[str, Any]]) -> int:
        """Keep exported conversations, all or none; how many are new. One that is here already stays as it is.

        Raises HerdError for what export did not write.
        """
        whole = [_exported(item, place) for place, item in enumerate(exported)]

        def work(connection: Connection) -> int:
            new = 0
            for head, parts in whole:
                known = select(conversations.c.deleted).where(conversations.c.id == head["id"])
                if (deleted := connection.execute(known).scalar()) is False:
                    continue
                if deleted:
                    connection.execute(delete(conversations).where(conversations.c.id == head["id"]))
                    connection.execute(delete(generations).where(generations.c.conversation == head["id"]))
                connection.execute(insert(conversations).values(head))
                for table, items in parts:
                    if items:
                        add(connection, table, items)
                new += 1
            return new

        return self._write(work)


def _delete(connection: Connection, id: str) -> bool:
    now = time.time()
    gone: Row = {"title": None, "system": None, "settings": {}, "deleted": True, "updated": now}
    known = conversations.c.id == id
    closed = update(conversations).where(known, ~conversations.c.deleted).values(gone)
    if not connection.execute(closed).rowcount:
        # An application's has generations only; so has one that was spoken in again.
        before = func.coalesce(select(conversations.c.updated).where(known).scalar_subquery(), 0.0)
        made, asked = (
            select(table.c.id).where(table.c.conversation == id, table.c.created > before)
            for table in (generations, battles)
        )
        coming = select(background.c.id).where(background.c.conversation == id)
        if not connection.execute(made.union_all(asked, coming).limit(1)).first():
            return False
        connection.execute(delete(conversations).where(known))
        connection.execute(insert(conversations).values(id=id, created=now, **gone))
    connection.execute(delete(messages).where(messages.c.conversation == id))
    connection.execute(delete(background).where(background.c.conversation == id))
    drop_text(connection, generations.c.conversation == id)
    drop_prompts(connection, battles.c.conversation == id)
    drop_words(connection, votes.c.conversation == id)
    return True


def _find(id: str) -> Select[Any]:
    return select(*_HEAD).where(conversations.c.id == id, ~conversations.c.deleted)


def _live(connection: Connection, id: str) -> Row:
    if found := first(connection, _find(id)):
        return found
    if connection.execute(select(conversations.c.id).where(conversations.c.id == id)).first():
        raise HerdError(f"conversation {id!r:.100} was deleted", status=410, code="deleted")
    raise HerdError(f"no conversation {id!r:.100}", status=404, code="not_found")


def _messages(conversation: str) -> Select[Any]:
    return select(*_MESSAGE).where(messages.c.conversation == conversation).order_by(text("rowid"))


Parts = list[tuple[Table, list[Row]]]


def _exported(item: Any, place: int) -> tuple[Row, Parts]:
    """An exported conversation as rows: its own, and those of what belongs to it."""
    where = f"conversations[{place}]"
    head = {**_row(item, conversations, where), "deleted": False}
    parts: Parts = []
    for table in (messages, generations, votes, feedback):
        items, own = item.get(table.name, []), f"{where}.{table.name}"
        if not isinstance(items, list):
            raise HerdError(f"{own} must be a list")
        if table is votes:
            items = [_with_targets(vote, parts[-1][1]) for vote in items]
        made = [_row(x, table, f"{own}[{i}]", conversation=head["id"]) for i, x in enumerate(items)]
        for i, row in enumerate(made):
            if table is votes and row["outcome"] not in OUTCOMES:
                raise HerdError(f"{own}[{i}].outcome must be one of {', '.join(OUTCOMES)}")
        parts.append((table, made))
    return head, parts


def _with_targets(vote: Any, made: list[Row]) -> Any:
    """An older Herd's votes do not say which targets they compare; their generations, imported beside them, do."""
    if not isinstance(vote, Mapping):
        return vote
    known = {row["id"]: row["target"] or row["route"] for row in made}
    targets = {f"{side}_target": known.get(vote.get(side), "unknown") for side in ("a", "b")}
    return {**targets, **vote}


def _row(item: Any, table: Table, where: str, **own: Any) -> Row:
    """`item`'s values for the table's columns, and `own`. Raises HerdError for a missing or wrong one."""
    if not isinstance(item, Mapping):
        raise HerdError(f"{where} must be an object")
    row = {name: own.get(name, item.get(name)) for name in table.c.keys() if name not in OWN}
    for name, value in row.items():
        column = table.c[name]
        kind: type = dict if isinstance(column.type, JSON) else column.type.python_type
        kind = list if name in LISTS else kind
        good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not good and not (value is None and column.nullable):
            raise HerdError(f"{where}.{name} is missing or not of type {kind.__name__}")
    return row
