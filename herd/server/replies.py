"""From a request to its events, and to the generation that the store keeps of it."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from herd.errors import HerdError
from herd.protocol import Delta, Embedded, Event, Failed, Finished, ProtocolError, Request, Started, Usage
from herd.registry.registry import Target
from herd.server.engines import Engines
from herd.server.metrics import Metrics
from herd.store import Store

MAX_ROUTE = 200  # characters


@dataclass
class Reply:
    """One request on its way: what is known of it so far."""

    id: str
    request: Request
    target: Target
    conversation: str | None
    key: str | None
    created: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    started: float | None = None  # perf_counter() at Started, the first and the last token
    first: float | None = None
    last: float | None = None
    texts: dict[int, list[str]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: Usage | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    failed: Failed | None = None

    @property
    def complete(self) -> bool:
        return len(self.finish) == self.request.n


class Replies:
    """Answers requests, at most as fast as the engine; knows how many are in flight."""

    def __init__(self, engines: Engines, store: Store, metrics: Metrics) -> None:
        self.engines, self.store, self.metrics = engines, store, metrics
        self.in_flight = 0
        self.closing = False
        self.on_change: Callable[[], None] = lambda: None

    def begin(self, request: Request, conversation: str | None, key: str | None, prefix: str) -> Reply:
        """`prefix`: of the reply's id. Raises HerdError 404 for an unknown model, ProtocolError for a target that is wrong."""
        if self.closing:
            raise HerdError("the server is stopping", status=503, code="stopping")
        if len(request.route) > MAX_ROUTE:
            raise ProtocolError("no model has so long a name", "model", "model_not_found", 404)
        target = self.engines.target(request.route)
        merged = request.for_target(target.system, target.sampling)
        return Reply(f"{prefix}{uuid.uuid4().hex}", merged, target, conversation, key)

    async def events(self, reply: Reply) -> AsyncGenerator[Event, None]:
        """The reply's events; the generation is durable before the iterator ends, however it ends.

        A failure, or an engine that stops before the end, is a last event `Failed`. Closing the iterator
        cancels the request.
        """
        self._count(+1)
        try:
            async with self.engines.hold(reply.request.route, reply.target) as key:
                # Whose prefixes are cached is not for others to find out by how soon a reply begins.
                events = self.engines.engine.generate(key, reply.request, salt=reply.key or "")
                async with aclosing(events):
                    async for event in events:
                        self._see(reply, event)
                        if isinstance(event, Failed):
                            break
                        yield event
            if not reply.complete and reply.failed is None:
                reply.failed = Failed("the engine stopped before the reply was complete", "engine_gone", 503)
        except Exception as error:  # whatever went wrong in the engine, the caller gets an error event
            status, code = getattr(error, "status", 500), getattr(error, "code", "engine_error")
            reply.failed = Failed(str(error) or type(error).__name__, code or "engine_error", status)
        finally:
            self._count(-1)
            try:
                await asyncio.to_thread(self._keep, reply)
            except HerdError as error:  # a full disk, say: a reply that is not kept is not called complete
                reply.failed = reply.failed or Failed(str(error), error.code, error.status)
        if reply.failed is not None:
            yield reply.failed

    def _count(self, change: int) -> None:
        self.in_flight += change
        self.on_change()

    def _see(self, reply: Reply, event: Event) -> None:
        now, model = time.perf_counter(), reply.request.route
        if isinstance(event, Started):
            reply.started = now
            reply.prompt_tokens, reply.cached_tokens = event.prompt_tokens, event.cached_tokens
            self.metrics.queued.labels(model).observe(now - reply.began)
        elif isinstance(event, Delta):
            if reply.first is None:
                reply.first = now
                self.metrics.first_token.labels(model).observe(now - reply.began)
            elif reply.last is not None:
                self.metrics.between.labels(model).observe(now - reply.last)
            reply.last = now
            reply.texts.setdefault(event.index, []).append(event.text)
            reply.completion_tokens += len(event.tokens)
        elif isinstance(event, Embedded):
            reply.finish[event.index] = "stop"
        elif isinstance(event, Finished):
            reply.finish[event.index] = event.reason
            self.metrics.success.labels(model, event.reason).inc()
        elif isinstance(event, Usage):
            reply.prompt_tokens, reply.cached_tokens = event.prompt_tokens, event.cached_tokens
            reply.completion_tokens = event.completion_tokens
        elif isinstance(event, Failed):
            reply.failed = event

    def _keep(self, reply: Reply) -> None:
        """Write the generation, one row a choice: the first has the reply's id, choice 1 the id + "-1"."""
        now, model = time.perf_counter(), reply.request.route
        self.metrics.whole.labels(model).observe(now - reply.began)
        self.metrics.prompt_tokens.labels(model).inc(reply.prompt_tokens)
        self.metrics.generation_tokens.labels(model).inc(reply.completion_tokens)
        unfinished = "error" if reply.failed else "cancelled"
        for index in range(reply.request.n):
            row = generation(reply, index, now)
            row["finish"] = reply.finish.get(index, unfinished)
            self.store.add_generation(row, keep="text" if reply.request.store else "metadata")


def generation(reply: Reply, index: int, now: float) -> dict[str, Any]:
    """The store's row of one choice, without `finish`."""
    request = reply.request

    def ms(until: float | None) -> float | None:
        return None if until is None else round((until - reply.began) * 1000, 3)

    return {
        "id": reply.id if index == 0 else f"{reply.id}-{index}",
        "conversation": reply.conversation,
        "route": request.route,
        "target": reply.target.name,
        "target_digest": reply.target.digest,
        "model_ref": (reply.target.adapter or reply.target.model).ref,
        "request": request.to_json(),
        "reply": "".join(reply.texts.get(index, [])),
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens if reply.request.n == 1 else None,
        "cached_tokens": reply.cached_tokens,
        "queue_ms": ms(reply.started),
        "first_token_ms": ms(reply.first),
        "total_ms": ms(now),
        "error": reply.failed.message if reply.failed else None,
        "key": reply.key,
        "created": reply.created,
        "labels": dict(request.labels),
    }
