"""Replies that are made though nobody waits for them. Each is kept from its beginning, so that no end of a server leaves
one unaccounted for: what was made here is made again, and what a provider may have been paid for is called failed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from herd.errors import HerdError
from herd.gateway.config import LOCAL
from herd.gateway.keys import ANYBODY, Principal
from herd.gateway.provider import Chunk
from herd.gateway.redact import redact_row
from herd.gateway.reply import Reply, generation
from herd.protocol import Event, Finished, Request, Usage
from herd.store.background import claim_background, end_background, put_background, release_background

if TYPE_CHECKING:
    from herd.gateway.gateway import Gateway

MAX_BACKGROUND = 256
MAX_TOLD = 32  # replies that have ended, and whose events can still be read
REMOTE = "a provider may have been asked and paid for it already"
REDACTED = "what was asked is not kept as it was said"


class Told:
    """The events of a reply as they come, for any number of readers: each begins with the first."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self._events: list[Event] = []
        self._ended, self._news = False, asyncio.Event()

    def add(self, *events: Event) -> None:
        self._events += events
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self) -> AsyncGenerator[Event, None]:
        read = 0
        while read < len(self._events) or not self._ended:
            if read == len(self._events):
                await self._news.wait()
            else:
                yield self._events[read]
                read += 1


class Background:
    """The replies on their way. `principal`: whose key a stored name is, None if it is not in force."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.principal: Callable[[str], Principal | None] = lambda id: ANYBODY
        self._replies: dict[str, Reply] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._told: dict[str, Told] = {}  # the oldest first

    async def run(self, reply: Reply) -> None:
        """Let the reply be made; that it will be is durable when this returns. Raises HerdError 429 if many are."""
        if len(self._replies) >= MAX_BACKGROUND:
            message = f"{MAX_BACKGROUND} replies are made in the background already"
            raise HerdError(message, status=429, code="queue_full")
        self._replies[reply.id] = reply
        try:
            await self._keep(reply)
        except BaseException:
            del self._replies[reply.id]
            raise
        if reply.asked.stream:
            self._told[reply.id] = Told(reply)
        self._start(reply)

    def get(self, id: str) -> Reply | None:
        """The reply of this id, if it is still being made here."""
        return self._replies.get(id)

    def told(self, id: str) -> Told | None:
        """The events of a reply that was begun here to be streamed, unless it ended long ago."""
        return self._told.get(id)

    def forget(self, id: str) -> None:
        self._told.pop(id, None)

    async def cancel(self, id: str) -> None:
        """Stop a reply that is made here; returns when what was said is kept."""
        if task := self._tasks.get(id):
            if id not in self._cancelled:  # twice would cut short what is done at its end
                self._cancelled.add(id)
                await asyncio.sleep(0)  # a task that has not begun has no end either
                task.cancel()
            await asyncio.wait({task})

    async def resume(self) -> None:
        """Make again, or call failed, what ended with its gateway; to be called at the start and now and then."""
        gateway = self._gateway
        name, gone = gateway.ledger.name, gateway.ledger.gone

        def claim(connection: Connection) -> dict[str, Any] | None:
            return claim_background(connection, name, gone(connection), self._replies)

        while not gateway.closing and (lost := await gateway.store.write(claim)):
            try:
                self._start(await self._again(lost))
            except HerdError as error:
                if gateway.closing:
                    return await gateway.store.write(partial(release_background, row=lost))
                message = f"the server ended before this reply was complete; it is not made again: {error}"
                failed = {**lost["generation"], "finish": "error", "error": message}
                await gateway.store.write(partial(end_background, id=failed["id"], failed=failed))

    async def close(self) -> None:
        """Wait for all, once the engine makes no more of them."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _keep(self, reply: Reply) -> None:
        whole = generation(reply)
        row = redact_row(whole, reply.route.redact)
        lost = REMOTE if self._reaches_out(reply) else REDACTED if row != whole else None
        asked = None if lost else reply.asked.to_json()
        if reply.keep == "text":  # else nobody will ask for it
            name = self._gateway.ledger.name
            await self._gateway.store.write(lambda c: put_background(c, row, name, asked, lost))

    @staticmethod
    def _reaches_out(reply: Reply) -> bool:
        """Whether any of the targets that may answer is a provider's."""
        for name in (reply.target.name, *reply.names):
            with suppress(HerdError):  # one that is gone answers nothing
                if reply.table.target(name).provider != LOCAL:
                    return True
        return False

    async def _again(self, lost: Mapping[str, Any]) -> Reply:
        """The reply, as far as it was on the day. Raises HerdError if it cannot be made again."""
        gateway, row = self._gateway, lost["generation"]
        if lost["asked"] is None:
            raise HerdError(lost["lost"])
        who = self.principal(row["key"] or "")
        if who is None:
            raise HerdError("its key is not in force any more")
        asked = Request.from_json(lost["asked"])
        reply = gateway.begin(asked, principal=who, conversation=row["conversation"], dialect=asked.dialect)
        if reply.target.digest != row["target_digest"] or self._reaches_out(reply):
            raise HerdError(f"{asked.route} means another target now")
        reply.id, reply.response, reply.created = row["id"], row["response"], row["created"]
        reply.began -= time.time() - reply.created
        made = await asyncio.to_thread(gateway.store.attempts, reply.id)
        reply.attempts = made[-1]["number"] + 1 if made else 0
        return reply

    def _start(self, reply: Reply) -> None:
        reply.background = True
        self._replies[reply.id] = reply
        self._tasks[reply.id] = asyncio.create_task(self._make(reply))

    async def _make(self, reply: Reply) -> None:
        told = self._told.get(reply.id)
        try:
            async for event in self._gateway.events(reply):
                if told and not isinstance(event, Chunk):
                    told.add(event)
        except asyncio.CancelledError:
            if told:
                told.add(Finished(0, "cancelled"), reply.used(True) or Usage(0, 0))
            raise
        finally:
            del self._replies[reply.id], self._tasks[reply.id]
            self._cancelled.discard(reply.id)
            if told:
                told.end()
                self._retire(reply)
            if reply.kept:
                with suppress(HerdError):  # `resume` looks after it then, and after what could not be kept
                    await self._gateway.store.write(partial(end_background, id=reply.id))

    def _retire(self, reply: Reply) -> None:
        """Keep the events of the last few that have ended, for who was cut off; of none whose text is not kept."""
        if reply.keep != "text":
            self.forget(reply.id)
        ended = [id for id in self._told if id not in self._replies]
        for id in ended[:-MAX_TOLD]:
            self.forget(id)
