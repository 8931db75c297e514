"""The ledger: what an attempt may cost is reserved before it begins, and what it did cost is booked when it ends.

Each attempt has a row. Of a quota, `reserved` is at all times the sum of what its open attempts reserved, and `spent` the
sum of what was booked of those that ended, to the unit, whatever is cancelled, killed or done at once. An attempt that
costs more than it reserved is booked in full, above the limit if need be; then the quota takes no more.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert

from herd.errors import HerdError
from herd.gateway.limits import Limit
from herd.gateway.route import Keep
from herd.protocol import Usage
from herd.store import Store
from herd.store.generations import put_generation
from herd.store.tables import attempts, gateways, quotas

log = logging.getLogger("herd.gateway")

BEAT = 10.0  # seconds between two signs of life, which `recover` gives
LEASE = 60.0  # a gateway that gives none for so long is gone
LOST = {"state": "lost", "code": "lost", "error": "the gateway ended before the attempt did"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """`number`: 0 for the first at its generation, the only one that counts as a request. `owner` of the quotas:
    "key:<id>", or "experiment:<route>" for a shadow."""

    id: str
    generation: str
    number: int
    route: str
    target: str
    provider: str
    url: str
    key: str | None
    application: str | None
    shadow: bool
    owner: str
    limits: tuple[Limit, ...]
    created: float


# Built once: building a statement costs more than running it.
_QUOTA = ("owner", "unit", "period", "start")
_RESERVE = insert(quotas).values(spent=0)
_RESERVE = _RESERVE.on_conflict_do_update(
    index_elements=_QUOTA,
    set_={"reserved": quotas.c.reserved + _RESERVE.excluded.reserved},
    where=quotas.c.spent + quotas.c.reserved + _RESERVE.excluded.reserved <= bindparam("amount"),
)
_BOOK = update(quotas).where(*(quotas.c[name] == bindparam(f"its_{name}") for name in _QUOTA))
_BOOK = _BOOK.values(reserved=quotas.c.reserved - bindparam("was"), spent=quotas.c.spent + bindparam("now"))
_OPEN = insert(attempts)
_SETTLE = update(attempts).where(attempts.c.id == bindparam("its_id"), attempts.c.state == "open")
_OPENED = select(*attempts.c["id", "gateway", "prompt_tokens", "cost", "reserved"])
_OPENED = _OPENED.where(attempts.c.state == "open")
_SEEN = insert(gateways)
_SEEN = _SEEN.on_conflict_do_update(index_elements=["name"], set_={"seen": _SEEN.excluded.seen})
_NOW = select(extract("epoch", func.clock_timestamp()))
_COLUMNS = [field.name for field in fields(Attempt) if field.name in attempts.c]


class Ledger:
    """`name`: of this gateway; the same one after a restart, and no other running gateway's."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store, self.name = store, name
        self._open: dict[str, list[list[Any]]] = {}  # by attempt what it reserved, as its row has it
        self._ended: list[str] = []  # those of them that the next `recover` may forget
        self._watching: tuple[float, float] | None = None  # since when, and until when, without a gap

    async def open(self, attempt: Attempt, *, tokens: int, cost: int) -> None:
        """Reserve what the attempt may need at most, and keep its row as open; all of it or nothing.

        Raises LimitError. Returns when that is kept, or without limits at once. On SQLite a power cut, but no kill, may
        forget the attempts opened since the last settlement; on PostgreSQL nothing does. If it is cancelled, `settle` the
        attempt all the same.
        """
        needs = {"requests": int(attempt.number == 0), "tokens": tokens, "dollars": cost}
        reserved: list[list[Any]] = [
            [attempt.owner, limit.unit, limit.period, limit.start(attempt.created), needs[limit.unit]]
            for limit in attempt.limits
        ]
        limited = {limit.unit for limit in attempt.limits}
        row = {name: getattr(attempt, name) for name in _COLUMNS}
        row |= {"state": "open", "estimated": True}
        row |= {"prompt_tokens": tokens * ("tokens" in limited), "cost": cost * ("dollars" in limited)}
        row |= {"reserved": reserved, "gateway": self.name}

        def work(connection: Connection) -> None:
            for limit, quota in zip(attempt.limits, reserved, strict=True):
                given = dict(zip((*_QUOTA, "reserved"), quota, strict=True), amount=limit.amount)
                if quota[-1] > limit.amount or not connection.execute(_RESERVE, given).rowcount:
                    raise limit.refusal(quota[-1], attempt.created)
            connection.execute(_OPEN, row)

        self._open[attempt.id] = reserved
        opened = self.store.write(work, soon=bool(reserved), synced=False)
        if not reserved:
            opened.add_done_callback(_log_failure)
            return
        try:
            await opened
        except HerdError:  # it is not open; or if that is not known, `recover` finds out
            self._open.pop(attempt.id, None)
            raise

    async def settle(
        self,
        attempt: Attempt,
        *,
        state: Literal["done", "failed", "cancelled", "refused"],
        usage: Usage | None,
        cost: int,
        status: int | None = None,
        code: str | None = None,
        error: str | None = None,
        first_token_ms: float | None = None,
        total_ms: float | None = None,
        generation_row: Mapping[str, Any] | None = None,
        keep: Keep = "text",
    ) -> None:
        """Book what the attempt cost, once only, and keep its generation's row with it; both are durable then.

        A caller that is cancelled meanwhile does not stop it. Raises HerdError as `Store.add_generation` does; what was
        spent is booked even so.
        """
        used = (usage or Usage(0, 0)).to_json()
        del used["type"]
        values: dict[str, Any] = {
            "its_id": attempt.id,
            "state": state,
            "status": status,
            "code": code,
            **used,
        }
        values |= {"error": error, "cost": cost, "first_token_ms": first_token_ms, "total_ms": total_ms}
        spent = {"tokens": used["prompt_tokens"] + used["completion_tokens"], "dollars": cost}
        reserved = self._open.get(attempt.id)

        def book(connection: Connection) -> None:
            if reserved is not None and connection.execute(_SETTLE, values).rowcount:
                _book(connection, reserved, spent)

        def work(connection: Connection) -> None:
            book(connection)
            if generation_row is not None:
                put_generation(connection, generation_row, keep)

        try:
            await self.store.write(work)
        except HerdError as failure:
            if generation_row is not None and failure.status < 500:
                await self.store.write(book)
            raise
        finally:
            self._ended.append(attempt.id)

    async def spend(self, owner: str, limits: Sequence[Limit]) -> list[dict[str, Any]]:
        """For each limit its current period: unit, period, amount, start, spent, reserved."""
        now = time.time()
        starts = [limit.start(now) for limit in limits]
        query = select(quotas).where(quotas.c.owner == owner, quotas.c.start.in_(starts))
        rows = await asyncio.to_thread(self.store._fetch, query)
        found = {(row["unit"], row["period"], row["start"]): row for row in rows}
        spend = []
        for limit, start in zip(limits, starts, strict=True):
            row = found.get((limit.unit, limit.period, start), {})
            so_far = {name: row.get(name, 0) for name in ("spent", "reserved")}
            spend.append({**limit.to_json(), "start": start, **so_far})
        return spend

    async def recover(self) -> int:
        """Settle the attempts that ended with their gateway: "lost", at all that they had reserved. How many there were.

        To be called at the start, and then each BEAT seconds as the sign that this gateway lives. Gone is who had this
        gateway's name before, and who gave no sign for LEASE seconds while this one watched. (A database that is not
        shared has one gateway.)
        """

        def work(connection: Connection) -> int:
            gone, lost = self.gone(connection), 0
            for row in connection.execute(_OPENED).mappings().all():
                if gone(row["gateway"]) and row["id"] not in self._open:
                    connection.execute(_SETTLE, {"its_id": row["id"], **LOST})
                    spent = {"tokens": row["prompt_tokens"], "dollars": row["cost"]}
                    _book(connection, row["reserved"], spent)
                    lost += 1
            return lost

        # Writes go in their order: of those that ended before, all is booked by then.
        while self._ended:
            self._open.pop(self._ended.pop(), None)
        return await self.store.write(work)

    def gone(self, connection: Connection) -> Callable[[str], bool]:
        """Tells by a gateway's name whether it is gone, as `recover` has it; within a write."""
        alive = self._alive(connection) if self.store.shared else frozenset()
        return lambda name: name == self.name or (alive is not None and name not in alive)

    def _alive(self, connection: Connection) -> frozenset[str] | None:
        """Give a sign; the gateways that gave one lately by the database's clock, None if that cannot be said yet."""
        now = float(connection.execute(_NOW).scalar_one())
        connection.execute(_SEEN, {"name": self.name, "seen": now})
        since, until = self._watching or (now, now)
        if now - until > LEASE / 2:  # the database was out of reach, and perhaps for the others as well
            since = now
        self._watching = (since, now)
        if now - since < LEASE:
            return None
        heard = select(gateways.c.name).where(gateways.c.seen > now - LEASE)
        return frozenset(connection.execute(heard).scalars())


def _book(connection: Connection, reserved: Sequence[Sequence[Any]], spent: Mapping[str, int]) -> None:
    for owner, unit, period, start, was in reserved:
        quota = {"its_owner": owner, "its_unit": unit, "its_period": period, "its_start": start}
        connection.execute(_BOOK, {**quota, "was": was, "now": spent.get(unit, was)})


def _log_failure(opened: "asyncio.Future[None]") -> None:
    if not opened.cancelled() and (error := opened.exception()) is not None:
        log.error("the row of an attempt could not be kept: %s", error)
