"""The ledger: what an attempt may cost is reserved before it begins, and what it did cost is booked when it ends.

Each attempt has a row. Of a quota, `reserved` is at all times the sum of what its open attempts reserved, and `spent` the
sum of what was booked of those that ended, to the unit, whatever is cancelled, killed or done at once. An attempt that
costs more than it reserved is booked in full, above the limit if need be; then the quota takes no more.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from herd.errors import HerdError
from herd.gateway.route import Keep
from herd.protocol import Usage
from herd.store import Store
from herd.store.generations import put_generation
from herd.store.tables import attempts, gateways, quotas

log = logging.getLogger("herd.gateway")

Unit = Literal["requests", "tokens", "dollars"]
Period = Literal["minute", "hour", "day", "week", "month", "total"]
State = Literal["done", "failed", "cancelled", "refused"]

BEAT = 10.0  # seconds between two signs of life, which `recover` gives
LEASE = 60.0  # a gateway that gives none for so long is gone

SECONDS = {"minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
MONDAY = 4 * 86400  # the first one of unix time
MAX_AMOUNT = 2**62

# Built once: building a statement costs more than running it.
_RESERVE = insert(quotas).values(spent=0)
_RESERVE = _RESERVE.on_conflict_do_update(
    index_elements=["owner", "unit", "period", "start"],
    set_={"reserved": quotas.c.reserved + _RESERVE.excluded.reserved},
    where=quotas.c.spent + quotas.c.reserved + _RESERVE.excluded.reserved <= bindparam("amount"),
)
_BOOK = (
    update(quotas)
    .where(*(quotas.c[name] == bindparam(f"its_{name}") for name in ("owner", "unit", "period", "start")))
    .values(reserved=quotas.c.reserved - bindparam("was"), spent=quotas.c.spent + bindparam("now"))
)
_OPEN = insert(attempts)
_SETTLE = update(attempts).where(attempts.c.id == bindparam("its_id"), attempts.c.state == "open")
_LOST = select(attempts.c["id", "gateway", "prompt_tokens", "cost", "reserved"]).where(
    attempts.c.state == "open"
)
_SEEN = insert(gateways)
_SEEN = _SEEN.on_conflict_do_update(index_elements=["name"], set_={"seen": _SEEN.excluded.seen})


class LimitError(HerdError):
    """429; `retry_after`: the seconds until the limit's next period, None where waiting does not help."""

    def __init__(self, message: str, code: str, retry_after: float | None) -> None:
        super().__init__(message, status=429, code=code)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of a unit (dollars: 10⁻¹² of them) in a period of UTC; weeks begin on Monday."""

    unit: Unit
    amount: int
    period: Period

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["unit"], value["amount"], value["period"])

    def start(self, now: float) -> int:
        """When the period that holds `now` began, in unix seconds."""
        if self.period == "total":
            return 0
        if self.period == "month":
            day = datetime.fromtimestamp(now, UTC)
            return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
        since = MONDAY if self.period == "week" else 0
        return int(now - since) // SECONDS[self.period] * SECONDS[self.period] + since

    def refusal(self, now: float, amount: int) -> LimitError:
        said = f"{self.amount / 10**12:g} dollars" if self.unit == "dollars" else f"{self.amount} {self.unit}"
        period = "in all" if self.period == "total" else f"a {self.period}"
        if amount > self.amount:
            message = (
                f"this request may need more than the key's limit of {said} {period}; ask for fewer tokens"
            )
            return LimitError(message, "budget_exhausted", None)
        rate = self.unit != "dollars" and self.period in ("minute", "hour")
        left = self.start(now) + SECONDS[self.period] - now if rate else None
        message = f"the key's limit of {said} {period} is reached"
        return LimitError(message, "rate_limit_exceeded" if rate else "budget_exhausted", left)


@dataclass(frozen=True, slots=True)
class Attempt:
    """`number`: from 1, of its generation; only the first one counts as a request. `owner` of the quotas:
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


Quota = tuple[str, str, str, int, int]  # owner, unit, period, start, amount reserved


class Ledger:
    """`name`: of this gateway; the same one after a restart, and no other running gateway's."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store, self.name = store, name
        self._open: dict[str, tuple[Quota, ...]] = {}
        self._beating: tuple[float, float] | None = None  # the first and the last beat of an unbroken row

    async def open(self, attempt: Attempt, *, tokens: int, cost: int) -> None:
        """Reserve what the attempt may need at most, and keep its row as open; all of it or nothing.

        Raises LimitError. Returns when that is durable, or without limits at once.
        """
        needs = {"requests": int(attempt.number == 1), "tokens": tokens, "dollars": cost}
        now, reserve = attempt.created, []
        for limit in attempt.limits:
            quota = (attempt.owner, limit.unit, limit.period, limit.start(now), needs[limit.unit])
            reserve.append((limit, quota))
        row = {
            **{c: getattr(attempt, c) for c in _COPIED},
            "state": "open",
            "prompt_tokens": tokens,
            "estimated": True,
            "cost": cost,
            "reserved": [quota for _, quota in reserve],
            "gateway": self.name,
        }

        def work(connection: Connection) -> None:
            for limit, (owner, unit, period, start, amount) in reserve:
                key = {"owner": owner, "unit": unit, "period": period, "start": start}
                given = {**key, "reserved": amount, "amount": limit.amount}
                if amount > limit.amount or not connection.execute(_RESERVE, given).rowcount:
                    raise limit.refusal(now, amount)
            connection.execute(_OPEN, row)

        self._open[attempt.id] = tuple(quota for _, quota in reserve)
        try:
            opened = self.store.write(work)
            if reserve:
                await asyncio.shield(opened)
            else:
                opened.add_done_callback(_log_failure)
        except BaseException:
            del self._open[attempt.id]
            raise

    async def settle(
        self,
        attempt: Attempt,
        *,
        state: State,
        usage: Usage | None,
        cost: int,
        status: int | None = None,
        code: str | None = None,
        error: str | None = None,
        first_token_ms: float | None = None,
        total_ms: float | None = None,
        generations: Sequence[Mapping[str, Any]] = (),
        keep: Keep = "text",
    ) -> None:
        """Book what the attempt cost, once only, and keep the rows of its generation's choices with it.

        Returns when that is durable; a caller that is cancelled meanwhile does not undo it.
        """
        reserved = self._open.pop(attempt.id, ())
        used = usage or Usage(0, 0)
        spent = {"tokens": used.prompt_tokens + used.completion_tokens, "dollars": cost}
        values = {
            "its_id": attempt.id,
            "state": state,
            "status": status,
            "code": code,
            "error": error,
            **{name: getattr(used, name) for name in _USED},
            "cost": cost,
            "first_token_ms": first_token_ms,
            "total_ms": total_ms,
        }

        def work(connection: Connection) -> None:
            if connection.execute(_SETTLE, values).rowcount:
                _book(connection, reserved, spent)
            for row in generations:
                put_generation(connection, row, keep)

        await self.store.write(work)

    async def spend(self, owner: str, limits: Sequence[Limit]) -> list[dict[str, Any]]:
        """For each limit its current period: unit, period, start, spent, reserved, amount."""
        now = time.time()
        starts = {(limit.unit, limit.period): limit.start(now) for limit in limits}
        query = select(quotas).where(quotas.c.owner == owner, quotas.c.start.in_(set(starts.values())))
        kept = await asyncio.to_thread(self.store._fetch, query)
        found = {(row["unit"], row["period"], row["start"]): row for row in kept}
        none = {"spent": 0, "reserved": 0}
        spend = []
        for limit in limits:
            start = starts[limit.unit, limit.period]
            row = found.get((limit.unit, limit.period, start), none)
            spend.append(
                {**asdict(limit), "start": start, "spent": row["spent"], "reserved": row["reserved"]}
            )
        return spend

    async def recover(self) -> int:
        """Settle the attempts that ended with their gateway: "lost", at what they had reserved. How many there were.

        To be called at the start, and then each BEAT seconds as the sign that this gateway lives. Gone is who had this
        gateway's name before, and one that gave no sign for LEASE seconds while this one saw the database all along.
        """

        def work(connection: Connection) -> int:
            gone = {self.name, *self._silent(connection)} if self.store.shared else None
            lost = 0
            for row in connection.execute(_LOST).mappings().all():
                if row["id"] in self._open or (gone is not None and row["gateway"] not in gone):
                    continue
                values = {"its_id": row["id"], "state": "lost", "code": "lost", "error": LOST}
                connection.execute(_SETTLE, values)
                _book(connection, row["reserved"], {"tokens": row["prompt_tokens"], "dollars": row["cost"]})
                lost += 1
            return lost

        return await self.store.write(work)

    def _silent(self, connection: Connection) -> list[str]:
        """Sign that this gateway lives; the names of those whose leases have run out, by the database's clock."""
        now = float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
        first, last = self._beating or (now, now)
        if now - last > LEASE / 2:  # it was out of reach, for the others perhaps as well
            first = now
        self._beating = (first, now)
        connection.execute(_SEEN, {"name": self.name, "seen": now})
        if now - first < LEASE:
            return []
        old = gateways.c.seen < now - LEASE
        open_names = select(attempts.c.gateway).where(attempts.c.state == "open").distinct()
        return list(
            connection.execute(
                open_names.where(attempts.c.gateway.not_in(select(gateways.c.name).where(~old)))
            ).scalars()
        )


LOST = "the gateway ended before the attempt did"
_COPIED = ("id", "generation", "number", "route", "target", "provider", "url", "key", "application", "shadow", "created")  # fmt: skip
_USED = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "written_tokens",
    "reasoning_tokens",
    "estimated",
)


def _book(connection: Connection, reserved: Sequence[Sequence[Any]], spent: Mapping[str, int]) -> None:
    for owner, unit, period, start, amount in reserved:
        key = {"its_owner": owner, "its_unit": unit, "its_period": period, "its_start": start}
        connection.execute(_BOOK, {**key, "was": amount, "now": spent.get(unit, amount)})


def _log_failure(done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("an attempt's row could not be kept: %s", error)
