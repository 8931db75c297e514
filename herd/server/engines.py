"""Which models the engine process holds: loaded when first asked for, replaced without a failed request."""

import asyncio
import importlib.util
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from herd.engine.admission import Admission
from herd.errors import HerdError
from herd.memory import available_memory
from herd.protocol import Event, Request
from herd.registry.registry import ModelEntry, Registry, Target
from herd.server import models

log = logging.getLogger("herd.server")

SHARE = 0.5  # of the memory that is free at the start, for weights, unless the settings say how much; the rest is for caches


class Engine(Protocol):
    """What the server needs of `herd.engine.client.EngineClient`."""

    admission: Admission

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def load(self, key: str, model_dir: Path, adapter_dir: Path | None) -> None: ...
    async def unload(self, key: str) -> None: ...
    def has(self, key: str) -> bool: ...
    def generate(self, key: str, request: Request, *, salt: str) -> AsyncGenerator[Event, None]: ...
    def status(self) -> dict[str, Any]: ...


class Engines:
    """Targets by route, and the engine of each, within `memory` bytes (None: a share of what is free).

    A route keeps the target it has until `reload` has loaded the one that replaces it. An engine that nobody has used
    for `keep_alive` seconds goes (0: it stays); one that is in use never does.
    """

    def __init__(
        self, engine: Engine, registry: Registry, *, memory: int | None = None, keep_alive: float = 0
    ) -> None:
        self.engine, self.registry = engine, registry
        self.memory = memory or int(SHARE * (available_memory() or 2**60))
        self.keep_alive = keep_alive
        self.problem: str | None = None  # why the default route cannot answer, if it cannot
        self._targets: dict[str, Target] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}  # by engine key, in order of last use
        self._held: dict[str, Target] = {}  # by engine key: what is loaded, or about to be
        self._used: dict[str, float] = {}  # by engine key: when it was used last, by the loop's clock
        self._in_use: Counter[str] = Counter()
        self._reloading, self._admitting = asyncio.Lock(), asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._chores: list[asyncio.Task[None]] = []

    @property
    def default_route(self) -> str | None:
        """The route that pages open with: "cria" if there is one, else the first."""
        names = [target.name for target in self.registry.targets()]
        names = names or [model.name for model in self.registry.models()]
        return "cria" if "cria" in names else next(iter(names), None)

    def target(self, route: str) -> Target:
        """The target that answers for `route` now. Raises HerdError 404 with the nearest name."""
        return self._targets.get(route) or self.registry.target(route)

    @property
    def ready(self) -> bool:
        """Whether the engine runs and the default route has answered or could; its model may be resting since."""
        running = self.engine.status()["state"] in ("idle", "busy")
        return running and self.problem is None and bool(self._chores) and self._chores[0].done()

    def start(self) -> None:
        """Start the engine process and load the default route, in the background; a second call does nothing.

        What is missing is said in `problem`, and HTTP goes on without it.
        """
        if not self._chores:
            self._starting = asyncio.create_task(self.engine.start()) if has_torch() else None
            self._chores = [asyncio.create_task(self._warm())]
            if self.keep_alive:
                self._chores.append(asyncio.create_task(self._let_rest()))

    async def close(self) -> None:
        """Stop the engine process; replies that still run end with an error event."""
        for chore in self._chores:
            chore.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await self.engine.close()

    async def _warm(self) -> None:
        try:
            route = self.default_route
            if route is None:
                raise HerdError("no model is here yet; `herd pull` or `herd train` brings one", status=503)
            if self._starting is not None:
                await asyncio.wait([self._starting])
                await asyncio.sleep(0)  # what somebody waits for already comes first
            async with self.hold(route, self.target(route)):
                pass
        except (HerdError, OSError) as error:
            self.problem = str(error)
            if has_torch():  # else models are not meant to run here
                log.warning("no model answers: %s", error)

    async def _let_rest(self) -> None:
        while True:
            await asyncio.sleep(min(self.keep_alive / 4, 15))
            before = asyncio.get_running_loop().time() - self.keep_alive
            for key in [key for key, when in self._used.items() if when < before]:
                await self._unload(key)

    @asynccontextmanager
    async def hold(self, route: str, target: Target) -> AsyncIterator[str]:
        """The key of the target's engine, loaded and kept while the block runs. Raises HerdError."""
        try:
            with self._using(target.engine_key):
                await self._load(target)
                if self.problem and route == self.default_route:
                    self.problem = None
                self._targets.setdefault(route, target)
                yield target.engine_key
        finally:
            if target.engine_key not in self._named():  # it was replaced while it answered
                await self._unload(target.engine_key)

    async def load(self, route: str) -> None:
        """Load what answers for `route`. Raises HerdError if it cannot be."""
        async with self.hold(route, self.target(route)):
            pass

    async def unload(self, route: str) -> None:
        """Give the memory of the route's engine back. Raises HerdError 409 while it answers."""
        key = self.target(route).engine_key
        if not await self._unload(key) and key in self._held:
            raise HerdError(f"{route} is answering; try again later", status=409, code="in_use")

    async def reload(self) -> None:
        """Let every loaded route answer by what the registry says now; old engines go when they are idle."""
        async with self._reloading:
            for route in list(self._targets):
                try:
                    target = self.registry.target(route)
                    with self._using(target.engine_key):
                        await self._load(target)
                        self._targets[route] = target
                except HerdError as error:
                    log.warning("%s stays as it was: %s", route, error)
            for key in self._held.keys() - self._named():
                await self._unload(key)

    def loaded(self) -> dict[str, dict[str, Any]]:
        """By digest of model and adapter: {"bytes", "in_use": replies} of what is loaded."""
        found: dict[str, dict[str, Any]] = {}
        for key, target in self._held.items():
            if (load := self._loads.get(key)) and load.done():
                for entry in filter(None, (target.model, target.adapter)):
                    state = found.setdefault(entry.digest, {"bytes": self.size(entry), "in_use": 0})
                    state["in_use"] += self._in_use[key]
        return found

    def metrics(self) -> dict[str, Mapping[str, float]]:
        """What the engine counts, by the first route that uses it."""
        status = self.engine.status()
        names: dict[str, str] = {}
        for route, target in self._targets.items():
            info = status.get("models", {}).get(target.engine_key, {})
            names.setdefault(info.get("engine", target.engine_key), route)
        return {names[key]: count for key, count in status["metrics"].items() if key in names}

    @contextmanager
    def _using(self, key: str) -> Iterator[None]:
        self._in_use[key] += 1
        try:
            yield
        finally:
            self._in_use[key] -= 1
            self._used[key] = asyncio.get_running_loop().time()

    async def _load(self, target: Target) -> None:
        """To be called while the target's engine is counted as in use, so that it stays."""
        if self._starting is None:
            message = 'models run on PyTorch, which is not installed: pip install "openherd[local]"'
            raise HerdError(message, status=503, code="engine_missing")
        await asyncio.shield(self._starting)
        key = target.engine_key
        task = self._loads.pop(key, None)
        if task is None or (task.done() and not self._holds(key, task)):
            task = asyncio.ensure_future(self._admit(key, target))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may be waiting
        self._loads[key] = task
        try:
            await asyncio.shield(task)
        except HerdError as error:  # bad files: whoever asked for the model has made no mistake
            status = error.status if error.status >= 500 else 503
            raise HerdError(
                f"{target.name} cannot be served: {error}", status=status, code=error.code
            ) from None

    def _holds(self, key: str, load: asyncio.Task[None]) -> bool:
        """Whether a load came to its end, and the engine, which may have had to load it again since, still has it."""
        return not load.cancelled() and load.exception() is None and self.engine.has(key)

    async def _admit(self, key: str, target: Target) -> None:
        """Make room for the target and load it; it goes again if it turns out to be too large."""
        try:
            async with self._admitting:  # one at a time, so that two do not count on the same room
                await self._make_room(key, target)
                self._held[key] = target
            await self.engine.load(key, target.model_dir, target.adapter_dir)
            async with self._admitting:  # before, its size was an estimate
                await self._make_room(key, target)
        except BaseException:
            if self._held.pop(key, None) and self.engine.has(key):
                await self.engine.unload(key)
            raise

    async def _make_room(self, key: str, target: Target) -> None:
        """Unload what nobody uses, the longest unused first, until the target fits. Raises HerdError 503 if it cannot."""
        staying = {k: t for k, t in self._held.items() if self._in_use[k] and k != key}
        taken, total = self._sum(staying), self._sum({**staying, key: target})
        if total > self.memory:
            needs = f"it needs {_mib(total - taken)}, and of the {_mib(self.memory)} for models {_mib(taken)}"
            message = f"{needs} are in use; HERD_MEMORY says how much models may have"
            raise HerdError(message, status=503, code="out_of_memory")
        for other in list(self._loads):
            if self._sum({**self._held, key: target}) <= self.memory:
                break
            await self._unload(other)

    async def _unload(self, key: str) -> bool:
        """Whether the engine is gone now: not if it is in use, or on its way."""
        load = self._loads.get(key)
        if load is None or not load.done() or self._in_use[key]:
            return False
        self._targets = {name: t for name, t in self._targets.items() if t.engine_key != key}
        del self._loads[key]
        self._used.pop(key, None)
        if self._held.pop(key, None):
            await self.engine.unload(key)
        return True

    def _named(self) -> set[str]:
        return {target.engine_key for target in self._targets.values()}

    def _sum(self, held: Mapping[str, Target]) -> int:
        """Bytes of these targets together; those of one model share its weights."""
        parts = [entry for target in held.values() for entry in (target.model, target.adapter) if entry]
        return sum({entry.digest: self.size(entry) for entry in parts}.values())

    def size(self, entry: ModelEntry) -> int:
        """Bytes that the engine says it holds of a model, without its cache; an estimate before it is loaded."""
        status = self.engine.status()
        own = entry.digest[:16]
        for key, info in status.get("models", {}).items():
            model, _, adapter = key.partition("+")
            if own == model and "weight_bytes" in info:
                return int(info["weight_bytes"])
            if own == adapter and "adapter_bytes" in info:
                return int(info["adapter_bytes"])
        return models.size(entry, status.get("weights"))


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
