"""The engine on this machine, as a provider like any other."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import herd.registry
from herd.errors import HerdError
from herd.gateway.config import LOCAL
from herd.gateway.provider import Call, Target, UpstreamError
from herd.protocol import Dialect, Embedded, Event, Failed, Usage
from herd.protocol.refusals import at_fault, unsupported_fields
from herd.server.engines import Engines, has_torch
from herd.server.metrics import ADAPTERS
from herd.server.together import together


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTarget(Target):
    """A registry's target: `entry` is what answers, also if the name means another one by then."""

    entry: herd.registry.Target


class LocalEngine:
    """`Engines`, as `herd.gateway` asks for them: held while they answer, and hot to swap."""

    name = LOCAL
    urls: tuple[str, ...] = ("",)
    passes: frozenset[Dialect] = frozenset()

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self._waiting: Counter[str] = Counter()  # replies by adapter
        self._running: Counter[str] = Counter()

    def target(self, name: str) -> LocalTarget:
        """Raises HerdError 404 with the nearest name, 503 for a broken one."""
        entry = self.engines.target(name)
        ref = (entry.adapter or entry.model).ref
        return LocalTarget(name, LOCAL, ref, entry.digest, entry.system, entry.sampling, entry=entry)

    def names(self) -> Mapping[str, float]:
        """What can answer here: nothing without torch."""
        found = self.engines.registry.targets() if has_torch() else ()
        return {target.name: target.model.created or 0.0 for target in found}

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return unsupported_fields(call.request)

    async def generate(self, call: Call) -> AsyncGenerator[Event, None]:
        assert isinstance(call.target, LocalTarget)
        entry, engine, whole = call.target.entry, self.engines.engine, False
        adapter, counted = entry.adapter.ref if entry.adapter else "", self._waiting
        counted[adapter] += 1
        try:
            async with (
                self.engines.hold(entry.name, entry) as key,
                aclosing((self._several if call.request.more else self._one)(key, call)) as events,
            ):
                async for event in events:
                    if isinstance(event, Failed):
                        raise HerdError(event.message, status=event.status, code=event.code)
                    if counted is self._waiting:
                        counted[adapter] -= 1
                        counted = self._running
                        counted[adapter] += 1
                    whole = isinstance(event, Usage)
                    yield event
            if not whole:
                raise HerdError(
                    "the engine stopped before the reply was complete", status=503, code="engine_gone"
                )
        except UpstreamError:
            raise
        except HerdError as error:
            full = error.status == 429
            raise UpstreamError(
                str(error),
                status=error.status,
                code=error.code,
                retryable=full or error.status >= 500,
                retry_after=float(engine.admission.retry_after) if full else None,
                param=at_fault(call.request, error.code) if error.status == 400 else None,
            ) from None

        finally:
            counted[adapter] -= 1

    def _one(self, key: str, call: Call) -> AsyncGenerator[Event, None]:
        # Whose prefixes are cached is not for others to find out by how soon a reply begins.
        return self.engines.engine.generate(key, call.request, salt=call.salt)

    async def _several(self, key: str, call: Call) -> AsyncGenerator[Event, None]:
        """The vectors of several inputs, of which the engine takes one a request, and what all used."""
        inputs = (call.request.prompt, *call.request.more)
        asked = [replace(call, request=replace(call.request, prompt=one, more=())) for one in inputs]
        used: list[Usage] = []
        async with aclosing(together([self._one(key, one) for one in asked])) as events:
            async for place, event in events:
                match event:
                    case Usage():
                        used.append(event)
                    case Embedded(_, vector):
                        yield Embedded(place, vector)
                    case _:
                        yield event
        if len(used) == len(inputs):
            yield Usage.total(used)

    def adapters(self) -> dict[str, str]:
        """The adapters of replies that run and that wait, and how many of them a step can mix: one a reply."""
        slots = [info.get("slots", 0) for info in self.engines.engine.status().get("models", {}).values()]
        running, waiting = (
            ",".join(sorted(name for name in +counts if name)) for counts in (self._running, self._waiting)
        )
        return dict(zip(ADAPTERS, (running, waiting, str(max(slots, default=0))), strict=True))

    async def models(self) -> list[str]:
        return list(self.names())

    async def close(self) -> None:
        """The engines are closed by whoever started them."""
