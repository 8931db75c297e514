"""herd.toml: providers, targets and routes, checked before any of it counts; an error names its line and the fix."""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from herd.errors import HerdError
from herd.gateway.lines import line_of
from herd.gateway.prices import MAX_OWN
from herd.gateway.prices import OWN as PRICES
from herd.gateway.redact import check_rules
from herd.gateway.route import Keep, ProviderSpec, Route, Shadow, TargetSpec, Use, Weighted
from herd.nearest import nearest
from herd.protocol import ProtocolError, Sampling

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
LOCAL = "local"  # the provider that is this machine's engine
MAX_LIST = 100
MAX_TEXT = 100_000  # characters
DIALECTS = ("openai", "anthropic", "any-llm")
VENDORS: dict[str, tuple[Literal["openai", "anthropic"], str]] = {
    "openai": ("openai", "https://api.openai.com/v1"),
    "anthropic": ("anthropic", "https://api.anthropic.com"),
    "mistral": ("openai", "https://api.mistral.ai/v1"),
    "gemini": ("openai", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "cohere": ("openai", "https://api.cohere.ai/compatibility/v1"),
}  # those that <NAME>_API_KEY alone configures: their dialect and address
SERVER: dict[str, tuple[type, ...]] = {
    "host": (str,), "port": (int,), "key": (str,), "hosts": (list,), "origins": (list,), "memory": (str, int),
    "keep_alive": (int, float), "database": (str,),
}  # fmt: skip

_ROUTE, _SHADOW = Route("", ()), Shadow("")  # whose fields are the defaults

Place = tuple[str | int, ...]
T = TypeVar("T")


class ConfigError(ProtocolError):
    """What is wrong at `place` of the configuration; `param` is the place as text, `value` what stands there, `where`
    the file and the line."""

    def __init__(self, place: Place, problem: str, value: object = None, where: str = "") -> None:
        self.where = where
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        self.place, self.problem, self.value = place, problem, value
        super().__init__(where + (f"{text}: {problem}" if text else problem), text or None, "bad_config")


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """`every_hours`: between two rounds of probes, None for none; `targets`: those probed, () for all that are remote."""

    every_hours: float | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    providers: Mapping[str, ProviderSpec] = field(default_factory=dict)
    targets: Mapping[str, TargetSpec] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    drift: DriftSpec = DriftSpec()
    server: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path | None, env: Mapping[str, str], local: Collection[str] | None = None) -> Config:
    """What the file says, and the providers whose keys are in the environment; the latter alone without a file.

    `local`: the registry's names, None if they are not to be checked. Raises ConfigError that says file and line, what
    is wrong there and what would be right.
    """
    try:
        text = path.read_bytes().decode() if path and path.exists() else ""
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((), f"{path}: not TOML: {error}") from None
    except (OSError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError((), f"{path}: cannot be read: {error}") from None
    try:
        return _config(table, env, local)
    except ConfigError as error:
        raise at_line(path, error) from None


def at_line(path: Path | None, error: ConfigError) -> ConfigError:
    """The error with the file and the line of it."""
    if path is None or error.where or not error.place or not path.exists():
        return error
    line = line_of(path.read_text(), error.place, error.value)
    return ConfigError(error.place, error.problem, where=f"{path}, line {line}: ")


def parse_route(
    name: str, table: Any, config: Config, local: Collection[str] | None = None, place: Place = ()
) -> Route:
    """The route of a table [routes.NAME], which is at `place`. Raises ConfigError."""
    _check_name(place, name)

    def target(at: Place, value: Any) -> str:
        return _target_name(at, value, config, local)

    def weighted(at: Place, value: Any) -> Weighted:
        if isinstance(value, str):
            return Weighted(target(at, value))
        entry = _Table(at, value, ("target", "weight"))
        return Weighted(entry.get("target", target), entry.number("weight", 1.0, 0, 1e6))

    def shadow(at: Place, value: Any) -> Shadow:
        entry = _Table(at, value, ("target", "share", "concurrency", "budget"))
        return Shadow(
            entry.get("target", target),
            entry.number("share", _SHADOW.share, 0, 1),
            entry.whole("concurrency", _SHADOW.concurrency, 1, 1000),
            entry.number("budget", None, 0, 1e9),
        )

    keys = ("targets", "fallbacks", "retries", "timeout", "concurrency", "drop", "shadow", "keep", "use", "redact",
            "retain_days")  # fmt: skip
    read = _Table(place, table, keys)
    targets = read.items("targets", weighted)
    names = [one.target for one in targets]
    if not targets or not sum(one.weight for one in targets):
        raise ConfigError(
            (*place, "targets"), 'needs a target with a weight above 0, as in targets = ["cria"]'
        )
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError((*place, "targets"), f"{twice} stands here twice; give it one weight", twice)
    times = _Table((*place, "timeout"), table.get("timeout", {}), ("first_token", "total"))
    return Route(
        name,
        targets,
        fallbacks=read.items("fallbacks", target, ()),
        retries=read.whole("retries", _ROUTE.retries, 0, 10),
        first_token=times.number("first_token", _ROUTE.first_token, 0.001, 86_400),
        total=times.number("total", _ROUTE.total, 0.001, 86_400),
        concurrency=read.whole("concurrency", None, 1, 100_000),
        drop=frozenset(read.items("drop", _text, ())),
        shadow=read.get("shadow", shadow, None),
        keep=read.get("keep", _one_of(get_args(Keep)), _ROUTE.keep),
        use=frozenset(read.items("use", _one_of(get_args(Use)), ("evaluate",))),
        redact=read.items("redact", _pattern, ()),
        retain_days=read.number("retain_days", None, 0.001, 36_500),
    )


def _config(table: dict[str, Any], env: Mapping[str, str], local: Collection[str] | None) -> Config:
    read = _Table((), table, ("providers", "targets", "routes", "drift", "server"))
    providers = _vendors(env) | read.tables(
        "providers", lambda at, name, value: _provider(at, name, value, env)
    )
    targets = read.tables("targets", lambda at, name, value: _target(at, name, value, providers, local))
    known = Config(providers, targets)

    def route(at: Place, name: str, value: Any) -> Route:
        return replace(parse_route(name, value, known, local, at), source="file")

    routes = read.tables("routes", route)
    drift = _Table(("drift",), table.get("drift", {}), ("every_hours", "targets"))
    probed = drift.items("targets", lambda at, value: _target_name(at, value, known, local), ())
    drifting = DriftSpec(drift.number("every_hours", None, 0.01, 8760), probed)
    server = _Table(("server",), table.get("server", {}), tuple(SERVER)).table
    for name, value in server.items():
        if not isinstance(value, SERVER[name]) or isinstance(value, bool):
            raise ConfigError(("server", name), f"must be {_KINDS[SERVER[name][0]]}", value)
    return Config(providers, targets, routes, drifting, server)


def _vendors(env: Mapping[str, str]) -> dict[str, ProviderSpec]:
    """Providers that need no file: those whose key is in the environment."""
    found = {}
    for name, (dialect, url) in VENDORS.items():
        if env.get(f"{name.upper()}_API_KEY"):
            given = env.get(f"{name.upper()}_BASE_URL")
            url = _url((), given, private=True) if given else url
            key = f"env:{name.upper()}_API_KEY"
            found[name] = ProviderSpec(
                name, dialect, (url,), key, private=given is not None and _is_private(url)
            )
    return found


def _provider(place: Place, name: str, value: Any, env: Mapping[str, str]) -> ProviderSpec:
    _check_name(place, name)
    if name == LOCAL:
        raise ConfigError(place, f"{LOCAL!r} is this machine's engine; choose another name")
    read = _Table(place, value, ("dialect", "base_url", "key", "private", "vendor", "concurrency", "headers"))
    dialect = read.get("dialect", _one_of(DIALECTS))
    private = read.get("private", _flag, False)
    if isinstance(read.table.get("base_url"), str):
        urls: tuple[str, ...] = (read.get("base_url", lambda at, url: _url(at, url, private)),)
    else:
        urls = read.items("base_url", lambda at, url: _url(at, url, private), ())
    vendor = read.get("vendor", _text, None)
    if (dialect == "any-llm") != (vendor is not None):
        raise ConfigError(
            (*place, "vendor"), 'is any-llm\'s name of the provider, with dialect = "any-llm" only'
        )
    if not urls and dialect in VENDORS:
        urls = (VENDORS[dialect][1],)

    def secret(at: Place, value: Any) -> str:
        kind, _, word = _text(at, value).partition(":")
        if kind not in ("env", "file") or not word:
            raise ConfigError(at, 'is never written here; say where it is, as "env:NAME" or "file:/path"')
        if kind == "env" and not env.get(word):
            raise ConfigError(at, f"the environment has no {word}; set it, or name another", value)
        return str(value)

    def header(at: Place, word: str, value: Any) -> str:
        text = _text(at, value)
        return secret(at, text) if text.startswith(("env:", "file:")) else text

    return ProviderSpec(
        name,
        dialect,
        urls,
        read.get("key", secret, None),
        private,
        vendor,
        read.whole("concurrency", None, 1, 100_000),
        read.tables("headers", header),
    )


def _target(
    place: Place,
    name: str,
    value: Any,
    providers: Mapping[str, ProviderSpec],
    local: Collection[str] | None,
) -> TargetSpec:
    _check_name(place, name)
    read = _Table(place, value, ("provider", "model", "system", "sampling", "price"))
    provider, model = read.get("provider", _one_of((*providers, LOCAL))), read.get("model", _text)
    if provider == LOCAL and local is not None:
        _local_name((*place, "model"), model, local)

    def sampling(at: Place, table: Any) -> Mapping[str, Any]:
        try:
            Sampling.from_json(_Table(at, table, tuple(Sampling.__dataclass_fields__)).table)
        except (TypeError, ValueError) as error:
            raise ConfigError(at, str(error)) from None
        return dict(table)

    def price(at: Place, table: Any) -> Mapping[str, float]:
        entry = _Table(at, table, PRICES)
        return {name: entry.number(name, None, 0, MAX_OWN) for name in entry.table}

    system = read.get("system", _text, None)
    return TargetSpec(
        name, provider, model, system, read.get("sampling", sampling, {}), read.get("price", price, None)
    )


def _target_name(place: Place, value: Any, config: Config, local: Collection[str] | None) -> str:
    """`value`, if a target has this name: one of [targets], of the registry, or "provider/model"."""
    name = _text(place, value)
    provider, slash, model = name.partition("/")
    if name in config.targets or (slash and model and provider in config.providers):
        return name
    if slash and provider != LOCAL:
        near = nearest(provider, config.providers) or "providers.NAME"
        raise ConfigError(place, f"no provider {provider!r:.80}; did you mean {near!r}?", name)
    if local is not None:
        _local_name(place, model if slash else name, {*local, *config.targets})
    return name


def _local_name(place: Place, name: str, known: Collection[str]) -> None:
    if name not in known and name.partition("@")[0] not in known:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else '`herd models` lists them; others are "provider/model"'
        raise ConfigError(place, f"no target or model {name!r:.80}; {hint}", name)


class _Table:
    """A table of which only `keys` are known; an unknown one is refused with the nearest known."""

    def __init__(self, place: Place, table: Any, keys: tuple[str, ...] | None = None) -> None:
        if not isinstance(table, dict):
            raise ConfigError(place, f"must be a table, not {_kind(table)}")
        for key in table:
            if keys is not None and key not in keys:
                near = nearest(key[:100], keys)
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(keys)}"
                raise ConfigError((*place, key), f"unknown key; {hint}")
        self.place, self.table = place, table

    def get(self, name: str, check: Callable[[Place, Any], T], *default: Any) -> T:
        """The value of `name` as `check` gives it, or the default; without one it must be there."""
        if name in self.table:
            return check((*self.place, name), self.table[name])
        if default:
            return default[0]  # type: ignore[no-any-return]
        raise ConfigError(self.place, f"{name} is missing")

    def items(self, name: str, check: Callable[[Place, Any], T], *default: Any) -> tuple[T, ...]:
        def listed(at: Place, value: Any) -> tuple[T, ...]:
            if not isinstance(value, list) or len(value) > MAX_LIST:
                raise ConfigError(at, f"must be a list of at most {MAX_LIST}")
            return tuple(check((*at, i), item) for i, item in enumerate(value))

        return self.get(name, listed, *default)

    def tables(self, name: str, check: Callable[[Place, str, Any], T]) -> dict[str, T]:
        """The entries of a table whose keys are names."""
        at = (*self.place, name)
        entries = _Table(at, self.table.get(name, {})).table
        return {key: check((*at, key), key, value) for key, value in entries.items()}

    def number(self, name: str, default: Any, least: float, most: float) -> Any:
        def number(at: Place, value: Any) -> float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise ConfigError(at, f"must be a number from {least:g} to {most:g}, not {value!r:.40}")
            return value

        return self.get(name, number, default)

    def whole(self, name: str, default: Any, least: int, most: int) -> Any:
        value = self.number(name, default, least, most)
        if name in self.table and not isinstance(value, int):
            raise ConfigError((*self.place, name), f"must be a whole number, not {value!r}")
        return value


_KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list of names"}


def _kind(value: Any) -> str:
    """What a value is: to repeat it might tell a secret that was written in the wrong place."""
    if value == "":
        return "an empty one"
    return {**_KINDS, bool: "true or false", list: "a list", dict: "a table"}.get(type(value), "a number")


def _text(place: Place, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise ConfigError(place, f"must be text of 1 to {MAX_TEXT:,} characters, not {_kind(value)}")
    return value


def _flag(place: Place, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(place, f"must be true or false, not {_kind(value)}")
    return value


def _one_of(choices: tuple[str, ...]) -> Callable[[Place, Any], Any]:
    def check(place: Place, value: Any) -> Any:
        if value not in choices:
            near = isinstance(value, str) and nearest(value, choices)
            hint = f"did you mean {near!r}?" if near else f"must be one of {', '.join(choices)}"
            raise ConfigError(place, f"{value!r:.60} is not known here; {hint}", value)
        return value

    return check


def _check_name(place: Place, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(
            place, f"{name!r:.80} is no name: letters, digits, '.', '_', ':' and '-', at most 64"
        )


def _pattern(place: Place, value: Any) -> str:
    text = _text(place, value)
    try:
        check_rules([text])
    except HerdError as error:
        raise ConfigError(place, str(error), text) from None
    return text


def _url(place: Place, value: Any, private: bool) -> str:
    from herd.gateway.addresses import check_url  # the HTTP client takes a while to load

    try:
        return check_url(_text(place, value), private)
    except ConfigError:
        raise
    except HerdError as error:
        raise ConfigError(place, str(error)) from None


def _is_private(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"
