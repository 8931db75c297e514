"""Routes made through the API, keys, and what the probes of targets have found."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, update

from herd.errors import HerdError
from herd.store.database import Database, Row, first
from herd.store.tables import findings, keys, probes, routes

_LAST = func.max(routes.c.version).label("version")
_NEWEST = select(routes.c.name, _LAST).group_by(routes.c.name).subquery()
_CHANGED = select(func.coalesce(func.max(keys.c.changed), 0) + 1).scalar_subquery()


class Routes(Database):
    """The part of the store that says what may be called, and by whom."""

    def routes(self) -> dict[str, tuple[int, Row]]:
        """name → version and definition of the routes that there are."""
        newest = (routes.c.name == _NEWEST.c.name) & (routes.c.version == _NEWEST.c.version)
        query = select(*routes.c["name", "version", "definition"]).join(_NEWEST, newest)
        found = self._fetch(query.where(routes.c.definition.is_not(None)))
        return {row["name"]: (row["version"], row["definition"]) for row in found}

    def route_versions(self, name: str) -> list[Row]:
        """The newest first; one without a definition says that the route was removed."""
        return self._fetch(select(routes).where(routes.c.name == name).order_by(routes.c.version.desc()))

    def put_route(
        self,
        name: str,
        definition: Mapping[str, Any] | None,
        author: str | None,
        note: str | None,
        expect: int | None,
    ) -> int:
        """A new version of the route, and its number; None removes it. Raises HerdError 409 if `expect` is given and is
        not the newest version (0: there is none)."""

        def work(connection: Connection) -> int:
            query = select(func.coalesce(func.max(routes.c.version), 0)).where(routes.c.name == name)
            newest: int = connection.execute(query).scalar_one()
            if expect is not None and expect != newest:
                changed = f"route {name!r:.100} is at version {newest} by now, not {expect}; look at it again"
                raise HerdError(changed, status=409, code="conflict")
            row = {"name": name, "version": newest + 1, "definition": definition}
            row |= {"author": author, "note": note, "created": time.time()}
            connection.execute(insert(routes), row)
            return newest + 1

        return self._write(work)

    def changed_keys(self, since: int) -> list[Row]:
        """The keys whose `changed` is above `since`."""
        return self._fetch(select(keys).where(keys.c.changed > since))

    def put_key(self, row: Mapping[str, Any]) -> "asyncio.Future[Row]":
        """Keep a new key; its row."""

        def work(connection: Connection) -> Row:
            connection.execute(insert(keys).values({**row, "changed": _CHANGED}))
            return _key(connection, row["id"])

        return self.write(work)

    def change_key(self, id: str, values: Mapping[str, Any]) -> "asyncio.Future[Row]":
        """The key with other values. Raises HerdError 404; what was revoked stays so, since when it was."""

        def work(connection: Connection) -> Row:
            found = _key(connection, id)
            if found["revoked"] is not None and "revoked" in values:
                return found
            connection.execute(update(keys).where(keys.c.id == id).values({**values, "changed": _CHANGED}))
            return _key(connection, id)

        return self.write(work)

    def add_finding(self, target: str, kind: str, said: str, before: Any = None, after: Any = None) -> Row:
        found = {"kind": kind, "said": said, "before": before, "after": after, "seen": None}
        return self._added(findings, target, found)

    def findings(self, *, limit: int = 100, before: float | None = None) -> list[Row]:
        """The newest first; `before`: only those created earlier."""
        query = select(findings).order_by(findings.c.created.desc()).limit(limit)
        return self._fetch(query if before is None else query.where(findings.c.created < before))

    def see_finding(self, id: str) -> Row | None:
        """The finding, which somebody has read; None if there is none of this id."""
        one = findings.c.id == id
        seen = update(findings).where(one).values(seen=func.coalesce(findings.c.seen, time.time()))

        def work(connection: Connection) -> Row | None:
            connection.execute(seen)
            return first(connection, select(findings).where(one))

        return self._write(work)

    def add_probe(self, target: str, results: Any) -> Row:
        return self._added(probes, target, {"results": results})

    def probes(self, target: str, *, limit: int = 100) -> list[Row]:
        """The newest first."""
        query = select(probes).where(probes.c.target == target)
        return self._fetch(query.order_by(probes.c.created.desc()).limit(limit))

    def _added(self, table: Table, target: str, about: Mapping[str, Any]) -> Row:
        row = {"id": uuid.uuid4().hex, "target": target, "created": time.time(), **about}
        self._write(lambda connection: connection.execute(insert(table), row).rowcount)
        return row


def _key(connection: Connection, id: str) -> Row:
    if found := first(connection, select(keys).where(keys.c.id == id)):
        return found
    raise HerdError(f"no key {id!r:.100}", status=404, code="not_found")
