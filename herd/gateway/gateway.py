"""The gateway: what a name means now, and replies from their beginning to their end."""

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakSet

from herd.errors import HerdError
from herd.gateway.attempts import FOREVER, Alarm, attempts
from herd.gateway.background import Background
from herd.gateway.breaker import Places, Replicas
from herd.gateway.config import LOCAL, Config, ConfigError, parse_route
from herd.gateway.keys import Principal
from herd.gateway.ledger import Ledger
from herd.gateway.prices import Prices
from herd.gateway.provider import Call, Provider, Target, UpstreamError
from herd.gateway.redact import redact_row
from herd.gateway.reply import Item, Reply, Watch, generation
from herd.gateway.route import ProviderSpec, Route, Weighted
from herd.gateway.shadow import Shadows
from herd.gateway.table import Local, Table, sticky
from herd.nearest import nearest
from herd.protocol import Dialect, ProtocolError, Request
from herd.protocol.refusals import leave_out, may_drop
from herd.store import Store

log = logging.getLogger("herd.gateway")

WHOLE = ("model", "messages", "n")  # no field, but all of a request; or how many replies there must be
MAX_ROUTE = 200  # characters
MAX_LISTED = 5000  # of a provider's names: all of them are looked through where one is unknown
LISTED = 600.0  # seconds for which a provider's list of models is good
MAX_OWN = 4096  # names of models whose meaning is remembered
PREFIX = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}


class Observer(Protocol):
    """Who counts."""

    def watch(self, route: str) -> Watch: ...
    def attempt(self, provider: str, state: str) -> None: ...
    def shadow(self, route: str, outcome: str) -> None: ...


class Gateway:
    """Answers requests by routes; knows how many are in flight.

    `build` makes a provider of its specification, `price` prices of a configuration's.
    """

    def __init__(
        self,
        config: Config,
        *,
        local: Local,
        store: Store,
        ledger: Ledger,
        observe: Observer,
        build: Callable[[ProviderSpec], Provider],
        price: Callable[[Config], Prices],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.ledger, self.observe = store, ledger, observe
        self.in_flight, self.closing = 0, False
        self.on_change: Callable[[], None] = lambda: None
        self.replicas, self.shadows, self.background = Replicas(clock), Shadows(self), Background(self)
        self._build, self._price = build, price
        self._active: dict[str, Reply] = {}
        self._begun = WeakSet[Reply]()  # and have not ended: their providers stay open
        self._revoked: set[str] = set()
        self._retired: list[Provider] = []
        self._places: dict[str, Places] = defaultdict(Places)
        self._stored: dict[str, tuple[int, Any]] = {}
        self._listed: dict[str, list[str]] = {}
        self._own: dict[str, Route] = {}
        self._chores: list[asyncio.Task[None]] = []
        self.now = Table(Config(), {}, {LOCAL: local}, price(Config()), local)
        self._one = asyncio.Lock()  # a change of what is configured at a time: the last read counts
        self._set(config, store.routes())

    # --- what names mean

    def route(self, name: str, principal: Principal) -> Route:
        """The route that answers for `name`. Raises HerdError: 403 for a key that may not use it, 404 for no such name."""
        if len(name) > MAX_ROUTE:
            raise ProtocolError("no model has so long a name", "model", "model_not_found", 404)
        if not principal.may(f"use:{name}"):
            message = f"this key may not use {name!r}; its scopes do not have use:{name}"
            raise HerdError(message, status=403, code="missing_scope")
        return self.now.routes.get(name) or self._own.get(name) or self._own_route(name)

    def routes(self) -> list[Route]:
        """The configured ones, of the file and of the store."""
        return list(self.now.routes.values())

    def models(self) -> dict[str, float]:
        """All names that can be asked for, and when each was made (0 where nobody knows)."""
        found = dict.fromkeys((*self.now.routes, *self.now.config.targets), 0.0)
        found |= self.now.local.names()
        return found | {f"{name}/{m}": 0.0 for name in self.now.providers for m in self._listed.get(name, ())}

    def _own_route(self, name: str) -> Route:
        """Whatever is no route is one of its own: a target, a model here, or one of a provider."""
        now, provider = self.now, name.partition("/")[0]
        spec = now.config.targets.get(name)
        if (spec and spec.provider != LOCAL) or (provider != name and provider in now.config.providers):
            return Route(name, (Weighted(name),))
        try:
            now.target(name)
        except HerdError as error:
            if error.status != 404:
                raise
            if owner := self._provider_of(name):
                if len(self._own) >= MAX_OWN:
                    self._own.clear()
                return self._own.setdefault(name, Route(name, (Weighted(f"{owner}/{name}"),)))
            if near := nearest(name, self.models()):
                text = f"no model {name[:80]!r}; did you mean {near!r}?"
                raise HerdError(text, status=404, code="model_not_found") from None
            raise
        # The engine has a queue that says so when it is full, and no other place to go to.
        return Route(name, (Weighted(name),), retries=0, first_token=FOREVER, total=FOREVER)

    def _direct(self, name: str) -> Route:
        own = self._own_route(name)
        said = self.now.routes.get(name, own)
        return replace(own, keep=said.keep, use=said.use, redact=said.redact, retain_days=said.retain_days)

    def _provider_of(self, model: str) -> str | None:
        """Who has a model of this name: the first that lists it or has a price for it, or the only one there is, as long
        as it has not said what it has."""
        names = list(self.now.config.providers)
        for name in names:
            if model in self._listed.get(name, ()) or self.now.prices.known(name, model):
                return name
        return names[0] if len(names) == 1 and names[0] not in self._listed else None

    # --- replies

    def begin(
        self,
        request: Request,
        *,
        principal: Principal,
        conversation: str | None = None,
        dialect: Dialect | None = None,
        body: dict[str, Any] | None = None,
        prefix: str | None = None,
        direct: bool = False,
    ) -> Reply:
        """A reply whose id begins with `prefix` (by default, what OpenAI's ids of this kind begin with).
        `direct`: by the target of this name, whatever route has it, and whatever routes the key may use; kept as the
        route of the same name says.

        Raises HerdError: 404 for an unknown model, 403 for one that is not the key's, 400 for what the target cannot do.
        """
        if self.closing:
            raise HerdError("the server is stopping", status=503, code="stopping")
        route = self._direct(request.route) if direct else self.route(request.route, principal)
        id = (PREFIX[request.kind] if prefix is None else prefix) + uuid.uuid4().hex
        reply = Reply(id, request, route, principal, conversation, self.now, dialect, body)
        self.aim(reply, first=True)
        self._begun.add(reply)
        return reply

    def aim(self, reply: Reply, first: bool = False) -> bool:
        """Let a reply's next attempts go to the next target that can answer it; False if there is none left.

        With `first`, to the conversation's own. Raises HerdError if that refuses the request, or none can be reached.
        """
        if first:
            reply.names = [sticky(reply.route, reply.conversation or reply.id), *reply.route.fallbacks]
        error: HerdError | None = None
        while reply.names:
            try:
                self._prepare(reply, reply.table.target(reply.names.pop(0)))
                return True
            except HerdError as wrong:
                if first and error is None and isinstance(wrong, ProtocolError) and wrong.status < 404:
                    raise
                error = error or wrong
        if first and error is not None:
            raise error
        return False

    def _prepare(self, reply: Reply, target: Target) -> None:
        request, provider = reply.asked, reply.table.providers[target.provider]
        if target.system or target.sampling:
            request = request.for_target(target.system, target.sampling)
        body = reply.body if reply.dialect in provider.passes and request == reply.asked else None
        call = Call(request, target, salt=reply.key or "", dialect=reply.dialect, body=body)
        refused = provider.unsupported(call)
        for field, reason in refused.items():
            if field in WHOLE or not may_drop(field, reply.route.drop):
                raise ProtocolError(f"{field} {reason}", field, "unsupported_field")
        if refused:
            call = replace(call, request=leave_out(request, refused), body=None)
        reply.call, reply.dropped = call, tuple(refused)

    async def events(self, reply: Reply) -> AsyncGenerator[Item, None]:
        """The reply's events; the generation is durable before the iterator ends, however it ends.

        A failure, or a provider that stops before the end, is a last event `Failed`. Closing the iterator cancels the
        request.
        """
        route = reply.route
        reply.watch, reply.alarm = self.observe.watch(route.name), Alarm()
        message = f"no whole reply within {route.total:g} s"
        late = UpstreamError(message, status=504, code="timeout", retryable=False)
        timer = reply.alarm.later(route.total, late)
        self._active[reply.id] = reply
        self._begun.add(reply)
        if reply.principal.id in self._revoked:  # while its body came
            self._end_revoked(reply)
        self._count(+1)
        try:
            place = self._place(route).one(route.name, reply.alarm.wait)
            async with place, aclosing(attempts(self, reply)) as items:
                async for item in items:
                    yield item
        except HerdError as error:
            reply.fail(error)
        except Exception as error:  # whatever went wrong in a provider, the caller gets an error event
            log.exception("reply %s failed", reply.id)
            reply.fail(HerdError(str(error) or type(error).__name__, status=500, code="engine_error"))
        finally:
            timer.cancel()
            self._count(-1)
            del self._active[reply.id]
            await asyncio.shield(self._end(reply))
        if reply.failed is not None:
            yield reply.failed

    async def finish(self, reply: Reply) -> None:
        """Let the reply be made, and read by nobody."""
        async for _ in self.events(reply):
            pass

    async def _end(self, reply: Reply) -> None:
        """Count a reply that has ended, and keep what is not kept yet."""
        failed = reply.failed
        free = not reply.background and not reply.cost
        turned_away = failed is not None and free and reply.was_turned_away(failed.status)
        counts = not (turned_away or reply.asked.count)
        reply.watch.ended(reply, time.perf_counter() - reply.began, counts)
        try:
            if counts:
                await self.keep(reply)
        except HerdError as error:  # a full disk, say: a reply that is not kept is not called complete
            reply.fail(error)
        self._begun.discard(reply)
        used = [begun.table.providers for begun in self._begun] if self._retired else []
        for provider in [p for p in self._retired if not any(of.get(p.name) is p for of in used)]:
            self._retired.remove(provider)
            await provider.close()

    def row(self, reply: Reply, index: int) -> dict[str, Any]:
        """The generation of a choice as it is kept, redacted as the route says."""
        return redact_row(generation(reply, index), reply.route.redact)

    async def keep(self, reply: Reply) -> None:
        """Keep the generations that are not yet."""
        while reply.kept < reply.asked.n:
            await asyncio.to_thread(self.store.add_generation, self.row(reply, reply.kept), reply.keep)
            reply.kept += 1

    def revoke(self, key: str) -> None:
        """End the replies of a key that is not valid any more, and those that it begins yet."""
        self._revoked.add(key)
        for reply in self._active.values():
            if reply.principal.id == key:
                self._end_revoked(reply)

    def _end_revoked(self, reply: Reply) -> None:
        reply.alarm.ring(HerdError("this key was revoked", status=401, code="invalid_api_key"))

    def _count(self, change: int) -> None:
        self.in_flight += change
        self.on_change()

    def _place(self, route: Route) -> Places:
        places = self._places[route.name] if route.concurrency else Places()
        places.most = route.concurrency
        return places

    # --- what is configured

    async def apply(self, config: Config) -> None:
        """Let `config` count from now on, all of it at once. Raises ConfigError, and nothing has changed then."""
        async with self._one:
            self._set(config, await asyncio.to_thread(self.store.routes))

    async def refresh(self) -> None:
        """Read the store's routes again: after a change here, and now and then for changes elsewhere."""
        async with self._one:
            stored = await asyncio.to_thread(self.store.routes)
            if stored != self._stored:
                self._set(self.now.config, stored)

    def _set(self, config: Config, stored: dict[str, tuple[int, Any]]) -> None:
        if both := next((name for name in config.routes if name in stored), None):
            fix = "rename or remove it here, or `herd routes remove` the other"
            raise ConfigError(("routes", both), f"the store has a route of this name too; {fix}")
        before = self.now
        providers: dict[str, Provider] = {LOCAL: before.local}
        for name, spec in config.providers.items():
            kept = before.config.providers.get(name) == spec
            providers[name] = before.providers[name] if kept else self._made(spec)
        routes = dict(config.routes)
        for name, (version, definition) in stored.items():
            try:
                routes[name] = replace(parse_route(name, definition, config), source="store", version=version)
            except ConfigError as error:  # of a provider that is gone, say: the others go on
                log.warning("the stored route %s does not count: %s", name, error)
        self.replicas.keep({(name, url) for name, p in providers.items() for url in p.urls})
        for name, spec in config.providers.items():
            for replica in self.replicas.of(name, providers[name].urls):
                replica.places.most = spec.concurrency
        self.now = Table(config, routes, providers, self._price(config), before.local)
        self._stored = stored
        self._own.clear()
        self._retired += [p for n, p in before.providers.items() if providers.get(n) is not p]

    def _made(self, spec: ProviderSpec) -> Provider:
        try:
            return self._build(spec)
        except HerdError as error:
            raise ConfigError(("providers", spec.name), str(error)) from None

    def start(self) -> None:
        """Begin to ask providers for their models, now and again."""
        self._chores = [asyncio.create_task(self._list())]

    async def close(self) -> None:
        """Wait for what runs in the background, once the engine makes no more of it."""
        for chore in self._chores:
            chore.cancel()
        await self.shadows.close()
        await self.background.close()
        for provider in (*self._retired, *self.now.providers.values()):
            await provider.close()

    async def _list(self) -> None:
        while True:
            for name, provider in list(self.now.providers.items()):
                if name != LOCAL:
                    try:
                        async with asyncio.timeout(LISTED / 10):
                            self._heard(name, await provider.models())
                    except (HerdError, TimeoutError) as error:
                        log.info("%s does not list its models: %s", name, error)
                    except Exception:  # it was closed meanwhile, say
                        log.exception("%s does not list its models", name)
            await asyncio.sleep(LISTED)

    def _heard(self, provider: str, models: list[str]) -> None:
        self._listed[provider] = [name for name in models if len(name) <= MAX_ROUTE][:MAX_LISTED]
        self._own.clear()

    # --- how it is

    @property
    def reaches_out(self) -> bool:
        """Whether there is a provider other than the local engine."""
        return len(self.now.providers) > 1

    @property
    def ready(self) -> bool:
        """Whether a provider other than the local engine can be asked."""
        return any(one["state"] != "open" for one in self.health() if one["provider"] != LOCAL)

    def health(self) -> list[dict[str, Any]]:
        """Each address: provider, url, state (closed | open | half-open), in_flight, error, latency_ms."""
        return [r.describe() for n, p in self.now.providers.items() for r in self.replicas.of(n, p.urls)]
