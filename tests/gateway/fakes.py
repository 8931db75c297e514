"""A gateway without a network: providers that play a script, a ledger in memory, and a clock that need not be waited for."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from herd.errors import HerdError
from herd.gateway.config import Config
from herd.gateway.gateway import Gateway
from herd.gateway.keys import Principal
from herd.gateway.ledger import Attempt
from herd.gateway.provider import Call, Chunk, Dialect, Target, UpstreamError
from herd.gateway.reply import Item, Reply
from herd.gateway.route import ProviderSpec, Route, Weighted
from herd.protocol import Delta, Event, Finished, Message, Request, Sampling, Started, Usage

T = TypeVar("T")
Act = Callable[[Call], AsyncGenerator[Event | Chunk, None]]
ANYBODY = Principal()


class _Selector(selectors.DefaultSelector):
    """Where nothing but time has to pass, it passes at once, and not otherwise: a slow machine changes nothing."""

    loop: Clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout and self.loop.threads:
            return super().select()
        ready = super().select(timeout and 0)
        if not ready and timeout:
            self.loop.now += timeout
        return ready


class Clock(asyncio.SelectorEventLoop):
    """`threads`: how many are at work, for whose results there is somebody who waits."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop, self.now, self.threads = self, time.perf_counter(), 0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        def done(_: asyncio.Future[T]) -> None:
            self.threads -= 1

        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        await super().shutdown_default_executor()  # its time would be over at once


def run(work: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch | None = None) -> T:
    """The result of `work`, by a clock of its own."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        if monkeypatch:
            monkeypatch.setattr(time, "perf_counter", runner.get_loop().time)
        return runner.run(work)


async def now() -> float:
    return asyncio.get_running_loop().time()


def says(*words: str, delay: float = 0.0, ends: bool = True, prompt: int = 5) -> Act:
    """An answer; without `ends` it stops in its middle."""

    async def act(call: Call) -> AsyncGenerator[Event, None]:
        yield Started(prompt)
        for index in range(call.request.n):
            for word in words:
                await asyncio.sleep(delay)
                yield Delta(index, word)
            if ends:
                yield Finished(index, "stop")
        if ends:
            yield Usage(prompt, len(words) * call.request.n)

    return act


def fails(status: int = 502, after: tuple[str, ...] = (), **more: Any) -> Act:
    async def act(call: Call) -> AsyncGenerator[Event, None]:
        for word in after:
            yield Delta(0, word)
        raise UpstreamError(f"it answered {status}", status=status, **more)

    return act


def hangs(*words: str) -> Act:
    async def act(call: Call) -> AsyncGenerator[Event, None]:
        for word in words:
            yield Delta(0, word)
        await asyncio.Event().wait()
        yield Usage(0, 0)

    return act


class Fake:
    """A provider that plays `script`, one act a call, and then says "ok". `calls`: with when they came; `running`: how
    many; `ended`: how many were begun and are no more."""

    passes: frozenset[Dialect] = frozenset()

    def __init__(self, name: str, *script: Act, urls: tuple[str, ...] = ("https://a.example",)) -> None:
        self.name, self.urls, self.script = name, urls, deque(script)
        self.calls: list[tuple[float, Call]] = []
        self.refuses: dict[str, str] = {}
        self.by_url: dict[str, Act] = {}
        self.running = self.ended = self.most = 0
        self.closed = False

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return self.refuses

    async def generate(self, call: Call) -> AsyncGenerator[Event | Chunk, None]:
        self.calls.append((await now(), call))
        act = self.by_url.get(call.url) or (self.script.popleft() if self.script else says("ok"))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async with aclosing(act(call)) as items:
                async for item in items:
                    yield item
        finally:
            self.running -= 1
            self.ended += 1

    async def models(self) -> list[str]:
        return ["listed"]

    async def close(self) -> None:
        self.closed = True

    @property
    def times(self) -> list[float]:
        return [at - self.calls[0][0] for at, _ in self.calls]


class FakeLocal(Fake):
    """Knows the models cria and tale."""

    def __init__(self, *script: Act) -> None:
        super().__init__("local", *script, urls=("",))

    def target(self, name: str) -> Target:
        if name.partition("@")[0] not in ("cria", "tale"):
            raise HerdError(f"no model {name!r}", status=404, code="model_not_found")
        return Target(name, "local", name, name, "Tell." if name == "tale" else None)

    def names(self) -> Mapping[str, float]:
        return {"cria": 1.0, "tale": 2.0}


class FakeLedger:
    """`rows`: what was settled, in order; `open_`: ids that are not."""

    name = "here"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.open_: dict[str, Attempt] = {}
        self.reserved: list[tuple[int, int]] = []
        self.refuse: HerdError | None = None

    async def open(self, attempt: Attempt, *, tokens: int, cost: int) -> None:
        if self.refuse:
            raise self.refuse
        self.open_[attempt.id] = attempt
        self.reserved.append((tokens, cost))
        await asyncio.sleep(0)

    async def settle(self, attempt: Attempt, **row: Any) -> None:
        del self.open_[attempt.id]
        self.rows.append({"attempt": attempt, **row})
        await asyncio.sleep(0)

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(row["attempt"].target, row["state"]) for row in self.rows]


class FakeStore:
    def __init__(self) -> None:
        self.stored: dict[str, tuple[int, Any]] = {}
        self.kept: list[tuple[dict[str, Any], str]] = []

    def routes(self) -> dict[str, tuple[int, Any]]:
        return dict(self.stored)

    def add_generation(self, row: dict[str, Any], keep: str = "text") -> None:
        self.kept.append((row, keep))

    async def write(self, work: Callable[[Any], object]) -> None:
        """Of no database."""


class Seen:
    """An observer that counts, and the watch of every reply."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def watch(self, route: str) -> Seen:
        return self

    def attempt(self, provider: str, state: str) -> None:
        self.counts[provider, state] += 1

    def shadow(self, route: str, outcome: str) -> None:
        self.counts["shadow", outcome] += 1

    def started(self, after: float) -> None: ...
    def first(self, after: float) -> None: ...
    def next(self, gap: float) -> None: ...
    def ended(self, reply: Reply, seconds: float, counts: bool) -> None: ...


class Price:
    """A millionth of a dollar for each token."""

    def known(self, provider: str, model: str) -> bool:
        return model.startswith("gpt")

    def cost(self, provider: str, model: str, usage: Usage, override: Any = None) -> int:
        return (usage.prompt_tokens + usage.completion_tokens) * 10**6


class Made:
    """A gateway with its fakes; each of `providers` has a route of its own name beside those given."""

    def __init__(
        self, *providers: Fake, routes: tuple[Route, ...] = (), local: FakeLocal | None = None
    ) -> None:
        self.store, self.ledger, self.seen = FakeStore(), FakeLedger(), Seen()
        self.providers = {provider.name: provider for provider in providers}
        self.local = local or FakeLocal()
        self.config = config(*providers, routes=routes)
        self.gateway = Gateway(
            self.config, local=self.local, store=self.store, ledger=self.ledger, observe=self.seen,  # type: ignore[arg-type]
            build=lambda spec: self.providers[spec.name], price=lambda config: Price(),
            clock=lambda: asyncio.get_running_loop().time(),
        )  # fmt: skip

    def begin(self, name: str, *, who: Principal = ANYBODY, conversation: str = "c", **fields: Any) -> Reply:
        return self.gateway.begin(ask(name, **fields), principal=who, conversation=conversation)

    async def ask(self, name: str, **fields: Any) -> tuple[Reply, list[Item]]:
        reply = self.begin(name, **fields)
        return reply, [item async for item in self.gateway.events(reply)]


def config(*providers: Fake, routes: tuple[Route, ...] = (), concurrency: int | None = None) -> Config:
    specs = {p.name: ProviderSpec(p.name, "openai", p.urls, concurrency=concurrency) for p in providers}
    return Config(specs, {}, {route.name: route for route in routes})


def ask(name: str, *, stream: bool = True, **fields: Any) -> Request:
    said = (Message("user", "Hello, who are you?"),)
    return Request(name, fields.pop("kind", "chat"), said, stream=stream, sampling=Sampling(), **fields)


def route(name: str, *targets: str, **more: Any) -> Route:
    return Route(name, tuple(Weighted(target) for target in targets), **more)


def text(items: list[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0)


async def first_of(items: AsyncGenerator[Item, None], work: Callable[[Item], Awaitable[None]]) -> None:
    async with aclosing(items):
        async for item in items:
            await work(item)
            return
