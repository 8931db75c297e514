"""Shadows: a sampled copy of the traffic goes to a candidate. Nobody sees it, and it costs an experiment of its own."""

import asyncio
import random
import uuid
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from herd.errors import HerdError
from herd.gateway.keys import Principal
from herd.gateway.limits import Limit
from herd.gateway.reply import Reply
from herd.gateway.route import Weighted

if TYPE_CHECKING:
    from herd.gateway.gateway import Gateway

PICODOLLARS = 10**12


class Shadows:
    """Copies on their way. One for which there is no room or no money is left out, and counted as "dropped"."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._running: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def cast(self, reply: Reply) -> None:
        """Perhaps send a copy of a reply that has begun to be answered."""
        shadow, asked = reply.route.shadow, reply.asked
        wordless = asked.count or asked.kind == "embedding"
        if shadow is None or reply.shadow_of or wordless or self._gateway.closing:
            return
        if random.random() >= shadow.share:
            return
        name = reply.route.name
        if self._running[name] >= shadow.concurrency:
            self._gateway.observe.shadow(name, "dropped")
            return
        limits: tuple[Limit, ...] = ()
        if shadow.budget is not None:
            limits = (Limit("dollars", round(shadow.budget * PICODOLLARS), "day"),)
        asking = reply.principal
        payer = Principal(application=asking.application, limits=limits, keep=reply.keep, use=asking.use)
        route = replace(
            reply.route, targets=(Weighted(shadow.target),), fallbacks=(), retries=0, concurrency=None,
            drop=frozenset("*"), shadow=None,
        )  # fmt: skip
        id, plain = f"shadow-{uuid.uuid4().hex}", replace(asked, stream=False)
        copy = Reply(id, plain, route, payer, reply.conversation, reply.table, shadow_of=reply.id)
        self._running[name] += 1
        task = asyncio.create_task(self._run(copy))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, copy: Reply) -> None:
        name, outcome = copy.route.name, "failed"
        try:
            self._gateway.aim(copy, first=True)
            await self._gateway.finish(copy)
            broke = copy.failed is not None and copy.failed.status == 429
            outcome = "dropped" if broke else "failed" if copy.failed else "done"
        except HerdError:
            pass
        finally:
            self._running[name] -= 1
            self._gateway.observe.shadow(name, outcome)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
