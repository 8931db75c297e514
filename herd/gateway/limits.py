"""Limits of keys and experiments: so much of a unit in a period."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

from herd.errors import HerdError

Unit = Literal["requests", "tokens", "dollars"]
Period = Literal["minute", "hour", "day", "week", "month", "total"]

SECONDS = {"minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
MONDAY = 4 * 86400  # the first one of unix time
MAX_AMOUNT = 2**62


class LimitError(HerdError):
    """429; `retry_after`: the seconds until the limit's next period, None where waiting does not help."""

    def __init__(self, message: str, code: str, retry_after: float | None) -> None:
        super().__init__(message, status=429, code=code, retry_after=retry_after)


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

    @property
    def is_good(self) -> bool:
        """Whether the ledger can keep it."""
        known = self.unit in get_args(Unit) and self.period in get_args(Period)
        return known and type(self.amount) is int and 0 < self.amount <= MAX_AMOUNT

    def start(self, now: float) -> int:
        """When the period that holds `now` began, in unix seconds."""
        if self.period == "total":
            return 0
        if self.period == "month":
            day = datetime.fromtimestamp(now, UTC)
            return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
        since = MONDAY if self.period == "week" else 0
        return int(now - since) // SECONDS[self.period] * SECONDS[self.period] + since

    def refusal(self, amount: int, now: float) -> LimitError:
        """Why `amount` more is too much."""
        said = f"{self.amount / 10**12:g} dollars" if self.unit == "dollars" else f"{self.amount} {self.unit}"
        said += " in all" if self.period == "total" else f" a {self.period}"
        if amount > self.amount:
            message = f"this request may need more than the limit of {said}; ask for fewer tokens"
            return LimitError(message, "budget_exhausted", None)
        if self.unit == "dollars" or self.period not in ("minute", "hour"):
            return LimitError(f"the limit of {said} is reached", "budget_exhausted", None)
        left = self.start(now) + SECONDS[self.period] - now
        return LimitError(f"the limit of {said} is reached", "rate_limit_exceeded", left)
