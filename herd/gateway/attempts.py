"""From a request to its events: one attempt after the other until one is good, and never two in one reply."""

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from herd.errors import HerdError
from herd.gateway.breaker import Replica
from herd.gateway.config import LOCAL
from herd.gateway.ledger import Attempt
from herd.gateway.provider import Chunk, UpstreamError
from herd.gateway.redact import redact
from herd.gateway.reply import Item, Reply, tokens_of
from herd.protocol import Failed, Usage

if TYPE_CHECKING:
    from herd.gateway.gateway import Gateway

BACKOFF = (0.25, 8.0)  # seconds before the first retry, and at most: twice as long each time
LONG = 2.0  # seconds of Retry-After for which a fallback does not wait
UNSAID = 1024  # tokens of a reply for which room is reserved if the request has no limit of its own
CANCELLED = 499
FOREVER = 10**6  # seconds

# The first in what a provider says is the reply's.
_ID = re.compile(rb'"id"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,200})"')

State = Literal["done", "failed", "cancelled", "refused"]
T = TypeVar("T")


class Alarm:
    """Ends a reply from outside: its time is up, or its key was revoked. One for a reply, not one for each token."""

    def __init__(self) -> None:
        self.error: HerdError | None = None
        self._task: asyncio.Task[object] | None = None

    def later(self, seconds: float, error: HerdError) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(min(seconds, FOREVER), self.ring, error)

    def ring(self, error: HerdError) -> None:
        if self.error is None or _passing(self.error):
            self.error = error
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def forget(self) -> None:
        """The end of one attempt need not be that of the reply."""
        if self.error is not None and _passing(self.error):
            self.error = None

    async def wait(self, work: Awaitable[T]) -> T:
        """The result of `work`. Raises the alarm's error as soon as there is one."""
        if self.error is not None:
            if asyncio.iscoroutine(work):
                work.close()
            raise self.error
        task = asyncio.current_task()
        assert task is not None
        cancels, self._task = task.cancelling(), task
        try:
            return await work
        except BaseException:
            if self._task is None and task.uncancel() <= cancels:
                assert self.error is not None
                raise self.error from None
            raise
        finally:
            self._task = None


def _passing(error: HerdError) -> bool:
    return isinstance(error, UpstreamError) and error.retryable


async def attempts(gateway: "Gateway", reply: Reply) -> AsyncGenerator[Item, None]:
    """The items of the first attempt that is good. Raises HerdError: of the last that was not, or in the middle of it."""
    route, tried = reply.route, set[str]()
    while True:
        for again in range(route.retries + 1):
            try:
                async with aclosing(_attempt(gateway, reply, tried)) as items:
                    async for item in items:
                        yield item
                return
            except UpstreamError as error:
                if reply.committed or not error.retryable:
                    raise
                failure, asked = error, error.retry_after or 0.0
            if again == route.retries or failure.code == "upstream_resting" or (reply.names and asked > LONG):
                break
            pause = max(asked, min(BACKOFF[0] * 2**again, BACKOFF[1])) * random.uniform(1, 1.25)
            if time.perf_counter() + pause > reply.began + route.total:
                break
            await reply.alarm.wait(asyncio.sleep(pause))
        if not gateway.aim(reply):
            raise failure
        tried.clear()


async def _attempt(gateway: "Gateway", reply: Reply, tried: set[str]) -> AsyncGenerator[Item, None]:
    """One attempt: booked, made, and settled with what it used, however it ends.

    Items are held back until there is content, and again from the end on until the reply is kept; all of them if the
    caller does not read a stream.
    """
    provider = reply.table.providers[reply.target.provider]
    replica = gateway.replicas.choose(provider.name, provider.urls, tried)
    tried.add(replica.url)
    reply.restart()
    async with replica.places.one(provider.name, reply.alarm.wait):
        reply.attempts += 1
        booked, began = _booking(reply, replica), time.perf_counter()
        held: list[Item] = []
        done, sent, content, failure = False, False, False, None
        slow = _slow(reply)
        probe = replica.begin()
        try:
            await gateway.ledger.open(booked, **_reserve(reply))
            sent = True
            async with aclosing(provider.generate(replace(reply.call, url=replica.url))) as source:
                while (item := await reply.alarm.wait(anext(source, None))) is not None:
                    if isinstance(item, Chunk) and reply.reply_id is None and (id := _ID.search(item.data)):
                        reply.reply_id = id[1].decode()
                    for event in item.events if isinstance(item, Chunk) else (item,):
                        if isinstance(event, Failed):
                            raise UpstreamError.of(event)
                        content = reply.see(event) or content
                    held.append(item)
                    if content and reply.asked.stream and not reply.ended:
                        if not reply.committed:
                            slow.cancel()
                            _commit(gateway, reply)
                        for one in held:
                            yield one
                        held.clear()
            if not reply.complete:
                message = f"{provider.name} stopped before the reply was complete"
                raise UpstreamError(message, code="upstream_incomplete")
            done = True
        except HerdError as error:
            failure = error
            raise
        except Exception as error:
            failure = HerdError(type(error).__name__, status=500)
            raise
        finally:
            slow.cancel()
            reply.alarm.forget()
            _tell(replica, probe, done, failure, reply, began)
            if sent or failure is None:  # else the ledger has refused it
                await _settle(gateway, reply, booked, done, failure, sent)
        if not reply.committed:
            _commit(gateway, reply)
        for one in held:
            yield one


def _commit(gateway: "Gateway", reply: Reply) -> None:
    """From now on something of this attempt may have been sent."""
    reply.committed = True
    gateway.shadows.cast(reply)


def _slow(reply: Reply) -> asyncio.TimerHandle:
    """Rings if no content comes in time; a reply that does not stream has until its end for that."""
    seconds = reply.route.first_token if reply.asked.stream else FOREVER
    message = f"{reply.target.provider} sent nothing within {seconds:g} s"
    return reply.alarm.later(seconds, UpstreamError(message, status=504, code="upstream_timeout"))


def _booking(reply: Reply, replica: Replica) -> Attempt:
    shadow = reply.shadow_of is not None
    return Attempt(
        id=f"{reply.id}.{reply.attempts - 1}", generation=reply.id, number=reply.attempts - 1,
        route=reply.route.name, target=reply.target.name, provider=replica.provider, url=replica.url,
        key=reply.key, application=reply.principal.application, shadow=shadow,
        owner=f"experiment:{reply.route.name}" if shadow else f"key:{reply.principal.id}",
        limits=reply.principal.limits, created=time.time(),
    )  # fmt: skip


def _reserve(reply: Reply) -> dict[str, int]:
    """What an attempt may use, to be held until it is known; nothing where nothing is limited."""
    if not reply.principal.limits or reply.asked.count:
        return {"tokens": 0, "cost": 0}
    prompt, request = tokens_of(reply.request), reply.request
    most = request.sampling.max_tokens
    written = 0 if request.kind == "embedding" else request.n * (UNSAID if most is None else most)
    return {"tokens": prompt + written, "cost": reply.table.cost(reply.target, Usage(prompt, written))}


def _tell(
    replica: Replica, probe: bool, done: bool, failure: HerdError | None, reply: Reply, began: float
) -> None:
    """Let the address's health know. That it is busy, or has no such model, or that the request was wrong, says nothing
    against it; neither does an experiment that fails: a bad candidate must not keep others from the address."""
    if done:
        replica.succeeded(None if reply.first is None else reply.first - began, probe)
    elif failure and _passing(failure) and failure.status not in (404, 429) and reply.shadow_of is None:
        replica.failed(failure.code, probe)
    else:
        replica.ended(probe)


async def _settle(
    gateway: "Gateway", reply: Reply, booked: Attempt, done: bool, failure: HerdError | None, sent: bool
) -> None:
    state: State = "done" if done else "cancelled"
    if failure is not None:
        state = "refused" if reply.was_turned_away(failure.status) else "failed"
    status = failure.status if failure is not None else 200 if done else CANCELLED
    took = reply.ms(time.perf_counter())
    # What was sent and then left alone may be billed, though nothing has come back. To count is free.
    left = sent and (state == "cancelled" or status == 504)
    usage = None if reply.asked.count else reply.used(sent=left and reply.target.provider != LOCAL)
    if usage is not None:  # the generation's row says what is booked, estimated or not
        reply.prompt_tokens, reply.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        reply.completion_tokens = usage.completion_tokens
    cost = 0 if usage is None else reply.table.cost(reply.target, usage)
    reply.cost += cost
    kept = done and not reply.asked.count
    if kept:
        reply.took = took
    said = str(failure) if failure and reply.keep == "text" else None  # it may quote the prompt
    await gateway.ledger.settle(
        booked, state=state, usage=usage, cost=cost, status=status, code=failure.code if failure else None,
        error=said and redact(said, reply.route.redact), first_token_ms=reply.ms(reply.first), total_ms=took,
        generation_row=gateway.row(reply, 0) if kept else None, keep=reply.keep,
    )  # fmt: skip
    reply.kept = int(kept)
    if kept:
        await gateway.keep(reply)
    gateway.observe.attempt(booked.provider, state)
