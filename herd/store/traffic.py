"""Traffic: what attempts took and cost, by time and by whom."""

from typing import Any, Literal

from sqlalchemy import select

from herd.store.database import Database
from herd.store.tables import attempts

By = Literal["route", "target", "key", "provider"]
PERCENTILES = (50, 95, 99)
BAD = ("failed", "lost")


class Traffic(Database):
    """The part of the store that adds attempts up."""

    def attempts(self, generation: str) -> list[dict[str, Any]]:
        """A generation's, in their order."""
        query = select(attempts).where(attempts.c.generation == generation)
        return self._fetch(query.order_by(attempts.c.number))

    def traffic(
        self,
        since: float,
        until: float,
        step: int,
        by: By | None = None,
        *,
        route: str | None = None,
        target: str | None = None,
        key: str | None = None,
        shadow: bool = False,
    ) -> list[dict[str, Any]]:
        """The attempts that began in since ≤ t < until and have ended, by steps of `step` seconds and a group.

        Each row has start, group, requests, errors, cost, prompt_tokens, completion_tokens, and p50, p95, p99 of
        total_ms and of first_token_ms ({"p50": …} or None). By target or provider, all that were tried there count as
        requests; else each request counts once, and as an error if it was not answered in the end.
        """
        raise NotImplementedError
