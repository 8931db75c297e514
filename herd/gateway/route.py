"""Routes, and how they and the providers are written: plain values, checked when they are read (`config`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Keep = Literal["none", "metadata", "text"]
Use = Literal["evaluate", "train"]


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A table [providers.NAME]. `key`: "env:NAME" or "file:/path"; never the secret itself. `private`: its addresses may
    be private or loopback ones."""

    name: str
    dialect: Literal["openai", "anthropic", "any-llm"]
    urls: tuple[str, ...] = ()  # base_url: one address or a list of replicas
    key: str | None = None
    private: bool = False
    vendor: str | None = None  # any-llm's name of the provider
    concurrency: int | None = None  # attempts at a time, for each address
    headers: Mapping[str, str] = field(default_factory=dict)  # values may be "env:NAME" or "file:/path"


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A table [targets.NAME]: a provider's model with defaults of its own. `price`: dollars per million tokens, by
    "input", "output", "cached" and "written", in place of the bundled table's."""

    name: str
    provider: str
    model: str
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    price: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Weighted:
    target: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Shadow:
    """A copy of `share` of the requests goes to `target`, is never shown, and is booked to the experiment. At most
    `concurrency` copies at a time, and `budget` dollars a day."""

    target: str
    share: float = 0.01
    concurrency: int = 2
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The name that applications call. Targets are names of [targets], of the registry, or "provider/model".

    Times are seconds. A conversation keeps the target that it has. `drop`: fields that may be left out, and reported, for
    a target that cannot honour them; "*" for all.
    """

    name: str
    targets: tuple[Weighted, ...]
    fallbacks: tuple[str, ...] = ()
    retries: int = 1  # more attempts at a target before the next one's turn
    first_token: float = 60.0
    total: float = 600.0  # over all attempts
    concurrency: int | None = None
    drop: frozenset[str] = frozenset()
    shadow: Shadow | None = None
    keep: Keep = "text"
    use: frozenset[Use] = frozenset({"evaluate"})
    redact: tuple[str, ...] = ()  # "email", "phone", "card", "secret", "ip", or regular expressions
    retain_days: float | None = None
    source: Literal["file", "store", "own"] = "own"  # "own": a model's or target's own route
    version: int = 0  # of a stored one

    @property
    def names(self) -> tuple[str, ...]:
        """Of all targets that may answer, each once."""
        return tuple(dict.fromkeys((*(one.target for one in self.targets), *self.fallbacks)))


@dataclass(frozen=True, slots=True)
class ArenaModel:
    """A table [arena.models."NAME"]: what is said of a target. `open`: whether its weights are, None for unknown;
    `terms`: of the model's provider, on what may be done with its replies."""

    open: bool | None = None
    licence: str | None = None
    terms: str | None = None


@dataclass(frozen=True, slots=True)
class ArenaSpec:
    """The table [arena]. `targets`: who may be drawn for a battle, () for every model here and every configured target;
    limits are of one voter; `identities`: further words in a reply that give a target away."""

    targets: tuple[str, ...] = ()
    votes_per_hour: int = 60
    battles_per_hour: int = 60
    expires_hours: float = 24.0
    max_tokens: int = 512  # of a reply
    max_turns: int = 20
    identities: tuple[str, ...] = ()
    models: Mapping[str, ArenaModel] = field(default_factory=dict)
