"""What is configured: targets by their names, what they cost, and which of them a conversation has."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from herd.gateway.config import LOCAL, Config
from herd.gateway.prices import Prices
from herd.gateway.provider import Provider, Target
from herd.gateway.route import Route, Weighted
from herd.protocol import Usage


class Local(Provider, Protocol):
    """The local engine: a provider that knows targets by the registry's names."""

    def target(self, name: str) -> Target:
        """Raises HerdError 404 with the nearest name, 503 for a broken one."""
        ...

    def names(self) -> Mapping[str, float]:
        """When each was made, in unix seconds."""
        ...


@dataclass(frozen=True)
class Table:
    """What was configured when a reply began: it goes on with it, whatever is configured since."""

    config: Config
    routes: Mapping[str, Route]
    providers: Mapping[str, Provider]
    prices: Prices
    local: Local

    def target(self, name: str) -> Target:
        """The target of a name of [targets] or the registry, or of "provider/model". Raises HerdError."""
        if spec := self.config.targets.get(name):
            if spec.provider != LOCAL:
                return _remote(name, spec.provider, spec.model, spec.system, spec.sampling)
            base = self.local.target(spec.model)
            system, sampling = spec.system or base.system, {**base.sampling, **spec.sampling}
            digest = _digest(base.digest, system, sampling)
            return replace(base, name=name, digest=digest, system=system, sampling=sampling)
        provider, _, model = name.partition("/")
        if model and provider == LOCAL:
            return self.local.target(model)
        if model and provider in self.providers:
            return _remote(name, provider, model, None, {})
        return self.local.target(name)

    def cost(self, target: Target, usage: Usage) -> int:
        """10⁻¹² dollars."""
        if target.provider == LOCAL:
            return 0
        spec = self.config.targets.get(target.name)
        return self.prices.cost(target.provider, target.model, usage, spec.price if spec else None)


def sticky(route: Route, conversation: str) -> str:
    """The target of a conversation on a route: by weight, and the same as long as the weights are.

    Each target draws -ln(u) / weight with u from a hash, and the least wins (weighted rendezvous hashing): a change of
    weights moves no more conversations than it must.
    """
    if len(route.targets) == 1:
        return route.targets[0].target

    def draw(one: Weighted) -> float:
        text = f"{route.name}\0{conversation}\0{one.target}".encode()
        u = (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") + 1) / (2**64 + 1)
        return -math.log(u) / one.weight if one.weight else math.inf

    return min(route.targets, key=draw).target


def _remote(name: str, provider: str, model: str, system: str | None, sampling: Mapping[str, Any]) -> Target:
    digest = _digest(f"{provider}/{model}", system, sampling)
    return Target(name, provider, model, digest, system, sampling)


def _digest(base: str, system: str | None, sampling: Mapping[str, Any]) -> str:
    parts = json.dumps([base, system, dict(sampling)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()
