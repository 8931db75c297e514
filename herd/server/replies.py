"""From a request to its events, and to the generation that the store keeps of it."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from herd.errors import HerdError
from herd.protocol import (
    Called,
    Delta,
    Event,
    Failed,
    Finished,
    Message,
    ProtocolError,
    Request,
    Started,
    ToolCall,
    Usage,
)
from herd.registry.registry import Target
from herd.server.engines import Engines
from herd.server.metrics import Metrics
from herd.store import Store
from herd.store.store import Keep

MAX_ROUTE = 200  # characters
MAX_BACKGROUND = 256
PREFIX = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}
TURNED_AWAY = (429, 503)  # before it started: counted, not kept, so that an overload costs no writes
_DEFAULTS, _PLAIN = Request("", "chat").to_json(), Message("user", "").to_json()


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
    calls: dict[int, list[ToolCall]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: Usage | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    failed: Failed | None = None
    response: dict[str, Any] | None = None  # what the Responses API keeps beside the request
    background: bool = False  # nobody waits for it: it is kept however it ends

    @property
    def complete(self) -> bool:
        return self.usage is not None and (
            self.request.kind == "embedding" or len(self.finish) == self.request.n
        )


class Replies:
    """Answers requests, at most as fast as the engine; knows how many are in flight."""

    def __init__(self, engines: Engines, store: Store, metrics: Metrics) -> None:
        self.engines, self.store, self.metrics = engines, store, metrics
        self.in_flight = 0
        self.closing = False
        self.on_change: Callable[[], None] = lambda: None
        self._background: dict[str, tuple[Reply, asyncio.Task[None]]] = {}

    def begin(
        self, request: Request, conversation: str | None, key: str | None, prefix: str | None = None
    ) -> Reply:
        """A reply whose id begins with `prefix` (by default, what OpenAI's ids of this kind begin with).

        Raises HerdError 404 for an unknown model, ProtocolError for a target that is wrong.
        """
        if self.closing:
            raise HerdError("the server is stopping", status=503, code="stopping")
        if len(request.route) > MAX_ROUTE:
            raise ProtocolError("no model has so long a name", "model", "model_not_found", 404)
        target = self.engines.target(request.route)
        merged = request.for_target(target.system, target.sampling)
        id = (PREFIX[request.kind] if prefix is None else prefix) + uuid.uuid4().hex
        return Reply(id, merged, target, conversation, key)

    async def events(self, reply: Reply) -> AsyncGenerator[Event, None]:
        """The reply's events; the generation is durable before the iterator ends, however it ends.

        A failure, or an engine that stops before the end, is a last event `Failed`. Closing the iterator
        cancels the request.
        """
        self._count(+1)
        self.metrics.waiting.labels(reply.request.route).inc()
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
            gauge = self.metrics.waiting if reply.started is None else self.metrics.running
            gauge.labels(reply.request.route).dec()
            try:
                if keep := self._observe(reply):
                    await asyncio.to_thread(self._keep, reply, keep)
            except HerdError as error:  # a full disk, say: a reply that is not kept is not called complete
                reply.failed = reply.failed or Failed(str(error), error.code, error.status)
        if reply.failed is not None:
            yield reply.failed

    def run_in_background(self, reply: Reply) -> None:
        """Let the reply be made though nobody reads it. Raises HerdError 429 if many are on their way."""
        if len(self._background) >= MAX_BACKGROUND:
            raise HerdError(
                f"{MAX_BACKGROUND} replies are made in the background already", status=429, code="queue_full"
            )

        async def work() -> None:
            try:
                async for _ in self.events(reply):
                    pass
            finally:
                del self._background[reply.id]

        reply.background = True
        self._background[reply.id] = (reply, asyncio.create_task(work()))

    def in_background(self, id: str) -> Reply | None:
        """The reply of this id, if it is still being made in the background."""
        return self._background[id][0] if id in self._background else None

    async def cancel(self, id: str) -> None:
        """Stop a reply in the background; returns when what was said is kept."""
        if id in self._background:
            task = self._background[id][1]
            task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        """Wait for what runs in the background, once the engine makes no more of it."""
        if tasks := [task for _, task in self._background.values()]:
            await asyncio.wait(tasks)

    def _count(self, change: int) -> None:
        self.in_flight += change
        self.on_change()

    def _see(self, reply: Reply, event: Event) -> None:
        now, model = time.perf_counter(), reply.request.route
        if isinstance(event, Started):
            if reply.started is None:
                self.metrics.waiting.labels(model).dec()
                self.metrics.running.labels(model).inc()
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
        elif isinstance(event, Called):
            reply.calls.setdefault(event.index, []).append(event.call)
        elif isinstance(event, Finished):
            reply.finish[event.index] = event.reason
            self.metrics.success.labels(model, event.reason).inc()
        elif isinstance(event, Usage):
            reply.usage = event
            reply.prompt_tokens, reply.cached_tokens = event.prompt_tokens, event.cached_tokens
            reply.completion_tokens = event.completion_tokens
        elif isinstance(event, Failed):
            reply.failed = event

    def _observe(self, reply: Reply) -> Keep | None:
        """Count a reply that has ended; how much of it is to be kept, None for nothing."""
        model = reply.request.route
        turned_away = reply.started is None and reply.failed and reply.failed.status in TURNED_AWAY
        if turned_away and not reply.background:
            return None
        self.metrics.whole.labels(model).observe(time.perf_counter() - reply.began)
        self.metrics.prompt_tokens.labels(model).inc(reply.prompt_tokens)
        self.metrics.generation_tokens.labels(model).inc(reply.completion_tokens)
        if reply.request.count:
            return None
        # What is embedded may be a whole library: it is not text that a person wrote to a model.
        return "text" if reply.request.store and reply.request.kind != "embedding" else "metadata"

    def _keep(self, reply: Reply, keep: Keep) -> None:
        """Write the generation, one row a choice: the first has the reply's id, choice 1 the id + "-1"."""
        now = time.perf_counter()
        unfinished = "error" if reply.failed else "stop" if reply.complete else "cancelled"
        for index in range(reply.request.n):
            row = generation(reply, index, now)
            row["finish"] = reply.finish.get(index, unfinished)
            self.store.add_generation(row, keep=keep)


def recorded(request: Request) -> dict[str, Any]:
    """The request as the store has it: what is at its default is left out, except of the sampling."""
    whole = request.to_json()
    slim = {k: v for k, v in whole.items() if v != _DEFAULTS[k] or k in ("route", "kind", "sampling")}
    if request.messages:
        slim["messages"] = [
            {k: v for k, v in message.items() if v != _PLAIN[k] or k in ("role", "content")}
            for message in whole["messages"]
        ]
    return slim


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
        "request": recorded(request),
        "reply": "".join(reply.texts.get(index, [])),
        "calls": [call.to_json() for call in reply.calls.get(index, ())] or None,
        "response": reply.response,
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
