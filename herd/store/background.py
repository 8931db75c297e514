"""Replies that nobody waits for: what is kept of each from its beginning to its end."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from herd.store.database import Database, rows
from herd.store.generations import put_generation
from herd.store.tables import background, generations

TWICE = "it was cut short twice"


class Background(Database):
    """The part of the store that is about replies in the background."""

    def get_background(self, id: str) -> dict[str, Any] | None:
        """The generation that a reply is going to be, with the columns of its table; None if none is on its way."""
        found = self._fetch(select(background.c.generation).where(background.c.id == id))
        return found[0]["generation"] if found else None


def put_background(
    connection: Connection,
    row: Mapping[str, Any],
    gateway: str,
    asked: Mapping[str, Any] | None,
    lost: str | None,
) -> None:
    """Keep the generation's `row` as it is at the beginning. `asked`: the request, to be made again if `gateway` ends
    before the reply; `lost`: else why it must not be."""
    values = {"id": row["id"], "gateway": gateway, "conversation": row["conversation"], "generation": row}
    connection.execute(insert(background).values(**values, asked=asked, lost=lost))


def end_background(connection: Connection, id: str, failed: Mapping[str, Any] | None = None) -> None:
    """A reply is no more on its way: its generation is kept, or is `failed`."""
    connection.execute(delete(background).where(background.c.id == id))
    if failed is not None:
        put_generation(connection, failed, "text")


def claim_background(
    connection: Connection, gateway: str, gone: Callable[[str], bool], running: Collection[str]
) -> dict[str, Any] | None:
    """The row of one whose gateway is gone, but of none that is `running` here. It is `gateway`'s now, which may make it
    again, once."""
    for row in rows(connection, select(background)):
        if row["id"] in running or not gone(row["gateway"]):
            continue
        ended = select(generations.c.id).where(generations.c.id == row["id"])
        if connection.execute(ended).first():  # between its last two writes
            end_background(connection, row["id"])
            continue
        own = update(background).where(background.c.id == row["id"])
        connection.execute(own.values(gateway=gateway, asked=None, lost=row["lost"] or TWICE))
        return row
    return None


def release_background(connection: Connection, row: Mapping[str, Any]) -> None:
    """A row that was claimed is as it was: nothing was done about it."""
    was = {name: row[name] for name in ("gateway", "asked", "lost")}
    connection.execute(update(background).where(background.c.id == row["id"]).values(**was))
