"""Which models the engine process holds: loaded when first asked for, replaced without a failed request."""

import asyncio
import importlib.util
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from herd.errors import HerdError
from herd.protocol import Event, Request
from herd.registry.registry import Registry, Target

log = logging.getLogger("herd.server")

MAX_LOADED = 4  # engines kept; past that, the one unused for longest goes


class Engine(Protocol):
    """What the server needs of `herd.engine.client.EngineClient`."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def load(self, key: str, model_dir: Path, adapter_dir: Path | None) -> None: ...
    async def unload(self, key: str) -> None: ...
    def generate(self, key: str, request: Request, *, salt: str) -> AsyncGenerator[Event, None]: ...
    def status(self) -> dict[str, Any]: ...


class Engines:
    """Targets by route, and the engine of each.

    A route keeps the target it has until `reload` has loaded the one that replaces it.
    """

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self.engine, self.registry = engine, registry
        self.problem: str | None = None  # why the default route cannot answer, if it cannot
        self._targets: dict[str, Target] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}  # by engine key, in order of last use
        self._in_use: Counter[str] = Counter()
        self._reloading = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None

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
        """Whether the default route answers without loading anything."""
        if self.engine.status()["state"] not in ("idle", "busy"):
            return False
        route = self.default_route
        target = self._targets.get(route) if route else None
        load = self._loads.get(target.engine_key) if target else None
        return load is not None and load.done() and load.exception() is None

    def start(self) -> None:
        """Start the engine process and load the default route, in the background; a second call does nothing.

        What is missing is said in `problem`, and HTTP goes on without it.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self.engine.start()) if has_torch() else None
            self._warming = asyncio.create_task(self._warm())

    async def close(self) -> None:
        """Stop the engine process; replies that still run end with an error event."""
        if self._warming is not None:
            self._warming.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await self.engine.close()

    async def _warm(self) -> None:
        try:
            route = self.default_route
            if route is None:
                raise HerdError("no model is here yet; `herd pull` or `herd train` brings one", status=503)
            async with self.hold(route, self.target(route)):
                self.problem = None
        except (HerdError, OSError) as error:
            self.problem = str(error)

    @asynccontextmanager
    async def hold(self, route: str, target: Target) -> AsyncIterator[str]:
        """The key of the target's engine, loaded and kept while the block runs. Raises HerdError."""
        with self._using(target.engine_key):
            await self._load(target)
            self._targets.setdefault(route, target)
            yield target.engine_key
        await self._make_room()

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
            await self._make_room()

    @contextmanager
    def _using(self, key: str) -> Iterator[None]:
        self._in_use[key] += 1
        try:
            yield
        finally:
            self._in_use[key] -= 1

    async def _load(self, target: Target) -> None:
        if self._starting is None:
            message = 'models run on PyTorch, which is not installed: pip install "openherd[local]"'
            raise HerdError(message, status=503, code="engine_missing")
        await asyncio.shield(self._starting)
        key = target.engine_key
        task = self._loads.pop(key, None)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = asyncio.ensure_future(self.engine.load(key, target.model_dir, target.adapter_dir))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may be waiting
        self._loads[key] = task
        try:
            await asyncio.shield(task)
        except HerdError as error:  # bad files: whoever asked for the model has made no mistake
            status = error.status if error.status >= 500 else 503
            raise HerdError(
                f"{target.name} cannot be served: {error}", status=status, code=error.code
            ) from None

    async def _make_room(self) -> None:
        """Unload what no route names, and the longest unused beyond MAX_LOADED; never what is in use."""
        named = {target.engine_key for target in self._targets.values()}
        for key in sorted(self._loads, key=lambda key: key in named):
            load = self._loads.get(key)  # another task may have unloaded it meanwhile
            if load is None or not load.done() or self._in_use[key]:
                continue
            if key in named and len(self._loads) <= MAX_LOADED:
                break
            self._targets = {name: t for name, t in self._targets.items() if t.engine_key != key}
            del self._loads[key]
            if not load.cancelled() and load.exception() is None:
                await self.engine.unload(key)


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None
