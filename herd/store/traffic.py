"""Traffic: what attempts took and cost, by time and by whom."""

from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, case, cast, func, null, select, true

from herd.store.database import Database, Row
from herd.store.tables import attempts, generations

By = Literal["route", "target", "key", "provider"]
TIMES = ("total_ms", "first_token_ms")
PERCENTILES = (50, 95, 99)
Figures = tuple[int | None, float | None, float | None]
SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost")


class Traffic(Database):
    """The part of the store that adds attempts up."""

    def attempts(self, generation: str) -> list[Row]:
        """Those at a generation, in their order."""
        query = select(attempts).where(attempts.c.generation == generation)
        return self._fetch(query.order_by(attempts.c.number))

    def replies(self, target: str, since: float, limit: int) -> list[Figures]:
        """cost, first_token_ms and total_ms of a target's newest good replies since then, at most so many."""
        g = generations.c
        query = select(g.cost, g.first_token_ms, g.total_ms).order_by(g.created.desc()).limit(limit)
        with self._read() as connection:
            found = connection.execute(query.where(g.target == target, g.created >= since, g.error.is_(None)))
            return [tuple(row) for row in found]

    def traffic(
        self,
        since: float,
        until: float,
        step: float,
        by: By | None = None,
        *,
        route: str | None = None,
        target: str | None = None,
        key: str | None = None,
        shadow: bool = False,
    ) -> list[Row]:
        """The attempts that began in since ≤ t < until and have ended, in steps of so many seconds, each by group.

        A row has start, group, requests, errors, prompt_tokens, completion_tokens, cost, and of total_ms and
        first_token_ms each {"p50", "p95", "p99"} (nearest rank; None without any). By target or provider, whatever was
        tried there is a request; else a request counts once, and is an error if no attempt at it was good in the end.
        """
        a = attempts.c
        place = (a.created - since) / step
        wanted = [a.created >= since, a.created < until, a.state != "open", a.shadow == shadow]
        given = {"route": route, "target": target, "key": key}
        wanted += [a[name] == value for name, value in given.items() if value]
        whole = by in ("target", "provider")
        later = attempts.alias().c
        after = select(later.id).where(later.generation == a.generation, later.number > a.number)
        bad = a.state.in_(("failed", "lost"))
        each = select(
            # Not every SQLite has floor(), but there a cast cuts off.
            (func.floor(place) if self.shared else cast(place, Integer)).label("number"),
            (a[by] if by else null()).label("group"),
            *(a[name] for name in (*TIMES, "prompt_tokens", "completion_tokens", "cost")),
            cast(true() if whole else a.number == 0, Integer).label("requests"),
            cast(bad if whole else bad & ~after.exists(), Integer).label("errors"),
        )
        row = each.where(*wanted).subquery().c
        columns: list[ColumnElement[Any]] = [*row]
        for time in TIMES:  # the share of attempts that took no longer
            each_of = (row.number, row.group, row[time].is_(None))
            share = func.cume_dist().over(partition_by=each_of, order_by=row[time])
            columns.append(share.label(f"{time}_share"))
        of = select(*columns).subquery().c
        times = [
            func.min(case((of[f"{time}_share"] >= p / 100, of[time]))).label(f"{time}_{p}")
            for time in TIMES
            for p in PERCENTILES
        ]
        query = select(of.number, of.group, *(func.sum(of[name]).label(name) for name in SUMS), *times)
        query = query.group_by(of.number, of.group).order_by(of.number, of.group)
        return [_row(row, since, step) for row in self._fetch(query)]


def _row(row: Row, since: float, step: float) -> Row:
    return {
        "start": since + int(row["number"]) * step,
        "group": row["group"],
        **{name: int(row[name] or 0) for name in SUMS},  # PostgreSQL adds up to Decimal
        **{time: {f"p{p}": row[f"{time}_{p}"] for p in PERCENTILES} for time in TIMES},
    }
