"""herd.toml: providers, targets and routes, checked before any of it counts; an error names its line and the fix."""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from herd.errors import HerdError
from herd.gateway.lines import line_of
from herd.gateway.prices import MAX_OWN
from herd.gateway.prices import OWN as PRICES
from herd.gateway.redact import check_rules
from herd.gateway.route import (
    ArenaModel,
    ArenaSpec,
    Keep,
    ProviderSpec,
    Route,
    Shadow,
    TargetSpec,
    Use,
    Weighted,
)
from herd.nearest import hint
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

Names = Collection[str] | None  # of the registry; None if they are not to be checked
Place = tuple[str | int, ...]
Reader = Callable[[Place, Any], Any]  # what a value means; raises ConfigError
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
    arena: ArenaSpec = ArenaSpec()
    server: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path | None, env: Mapping[str, str], local: Names = None) -> Config:
    """What the file says, and the providers whose keys are in the environment; the latter alone without a file.

    Raises ConfigError that says file and line, what is wrong there and what would be right.
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


def parse_route(name: str, table: Any, config: Config, local: Names = None, place: Place = ()) -> Route:
    """The route of a table [routes.NAME], which is at `place`. Raises ConfigError."""
    _check_name(place, name)
    target = partial(_target_name, config=config, local=local)
    entry = _fields({"target": target, "weight": _number(0, 1e6)}, "target", make=Weighted)

    def weighted(at: Place, value: Any) -> Any:
        return Weighted(target(at, value)) if isinstance(value, str) else entry(at, value)

    seconds = _number(0.001, 86_400)
    read = _fields({
        "targets": _list(weighted), "fallbacks": _list(target), "retries": _whole(0, 10),
        "timeout": _fields({"first_token": seconds, "total": seconds}), "concurrency": _whole(1, 100_000),
        "drop": _list(_text, frozenset),
        "shadow": _fields({
            "target": target, "share": _number(0, 1), "concurrency": _whole(1, 1000), "budget": _number(0, 1e9)
        }, "target", make=Shadow),
        "keep": _one_of(get_args(Keep)), "use": _list(_one_of(get_args(Use)), frozenset), "redact": _list(_pattern),
        "retain_days": _number(0.001, 36_500),
    }, "targets")(place, table)  # fmt: skip
    names = [one.target for one in read["targets"]]
    at = (*place, "targets")
    if not sum(one.weight for one in read["targets"]):
        raise ConfigError(at, 'needs a target with a weight above 0, as in targets = ["cria"]')
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError(at, f"{twice} stands here twice; give it one weight", twice)
    return Route(name, **read.pop("timeout", {}), **read)


def _config(table: dict[str, Any], env: Mapping[str, str], local: Names) -> Config:
    _fields(dict.fromkeys(("providers", "targets", "routes", "drift", "arena", "server"), _raw))((), table)

    def section(name: str, reader: Reader) -> Any:
        return reader((name,), table.get(name, {}))

    providers = _vendors(env) | section("providers", _entries(partial(_provider, env=env)))
    targets = section("targets", _entries(partial(_target, providers=providers, local=local)))
    known = Config(providers, targets)

    def route(place: Place, name: str, value: Any) -> Route:
        return replace(parse_route(name, value, known, local, place), source="file")

    routes = section("routes", _entries(route))
    named = _list(partial(_target_name, config=known, local=local))
    drift = section("drift", _fields({"every_hours": _number(0.01, 8760), "targets": named}, make=DriftSpec))
    model = _fields({"open": _flag, "licence": _text, "terms": _text}, make=ArenaModel)
    arena = section("arena", _fields({
        "targets": named, "votes_per_hour": _whole(1, 10**6), "battles_per_hour": _whole(1, 10**6),
        "expires_hours": _number(0.001, 8760), "max_tokens": _whole(1, 10**6), "max_turns": _whole(1, 100),
        "identities": _list(_text), "models": _entries(lambda at, name, value: model(at, value)),
    }, make=ArenaSpec))  # fmt: skip
    server = section("server", _fields({name: _of_kind(kinds) for name, kinds in SERVER.items()}))
    return Config(providers, targets, routes, drift, arena, server)


def _vendors(env: Mapping[str, str]) -> dict[str, ProviderSpec]:
    """Providers that need no file: those whose key is in the environment."""
    found = {}
    for name, (dialect, url) in VENDORS.items():
        if env.get(f"{name.upper()}_API_KEY"):
            given = env.get(f"{name.upper()}_BASE_URL")
            url = _url((), given, private=True) if given else url
            private = given is not None and _is_private(url)
            found[name] = ProviderSpec(name, dialect, (url,), f"env:{name.upper()}_API_KEY", private)
    return found


def _provider(place: Place, name: str, value: Any, env: Mapping[str, str]) -> ProviderSpec:
    _check_name(place, name)
    if name == LOCAL:
        raise ConfigError(place, f"{LOCAL!r} is this machine's engine; choose another name")

    def secret(at: Place, value: Any) -> str:
        kind, _, word = _text(at, value).partition(":")
        if kind not in ("env", "file") or not word:
            raise ConfigError(at, 'is never written here; say where it is, as "env:NAME" or "file:/path"')
        if kind == "env" and not env.get(word):
            raise ConfigError(at, f"the environment has no {word}; set it, or name another", value)
        return str(value)

    def header(at: Place, word: str, value: Any) -> str:
        text: str = _text(at, value)
        return secret(at, text) if text.startswith(("env:", "file:")) else text

    url = partial(_url, private=isinstance(value, dict) and value.get("private", False) is not False)
    spec = _fields({
        "dialect": _one_of(DIALECTS),
        "base_url": lambda at, given: (url(at, given),) if isinstance(given, str) else _list(url)(at, given),
        "key": secret, "private": _flag, "vendor": _text, "concurrency": _whole(1, 100_000),
        "headers": _entries(header),
    }, "dialect")(place, value)  # fmt: skip
    dialect, urls = spec["dialect"], spec.pop("base_url", ())
    if (dialect == "any-llm") != ("vendor" in spec):
        problem = 'is any-llm\'s name of the provider, with dialect = "any-llm" only'
        raise ConfigError((*place, "vendor"), problem)
    if not urls and dialect in VENDORS:
        urls = (VENDORS[dialect][1],)
    return ProviderSpec(name, urls=urls, **spec)


def _target(place: Place, name: str, value: Any, providers: Collection[str], local: Names) -> TargetSpec:
    _check_name(place, name)

    def sampling(at: Place, table: Any) -> Mapping[str, Any]:
        given: dict[str, Any] = _fields(dict.fromkeys(Sampling.__dataclass_fields__, _raw))(at, table)
        try:
            Sampling.from_json(given)
        except (TypeError, ValueError) as error:
            raise ConfigError(at, str(error)) from None
        return given

    spec = _fields({
        "provider": _one_of((*providers, LOCAL)), "model": _text, "system": _text, "sampling": sampling,
        "price": _fields(dict.fromkeys(PRICES, _number(0, MAX_OWN))),
    }, "provider", "model")(place, value)  # fmt: skip
    if spec["provider"] == LOCAL and local is not None:
        _local_name((*place, "model"), spec["model"], local)
    return TargetSpec(name, **spec)


def _target_name(place: Place, value: Any, config: Config, local: Names) -> str:
    """`value`, if a target has this name: one of [targets], of the registry, or "provider/model"."""
    name: str = _text(place, value)
    provider, slash, model = name.partition("/")
    if name in config.targets or (slash and model and provider in config.providers):
        return name
    if slash and provider != LOCAL:
        fix = hint(provider, config.providers, "did you mean 'providers.NAME'?")
        raise ConfigError(place, f"no provider {provider!r:.80}; {fix}", name)
    if local is not None:
        _local_name(place, model if slash else name, {*local, *config.targets})
    return name


def _local_name(place: Place, name: str, known: Collection[str]) -> None:
    if name not in known and name.partition("@")[0] not in known:
        fix = hint(name, known, '`herd models` lists them; others are "provider/model"')
        raise ConfigError(place, f"no target or model {name!r:.80}; {fix}", name)


def _fields(readers: Mapping[str, Reader], *needed: str, make: Callable[..., Any] = dict) -> Reader:
    """A table of these keys, as `make` takes it; an unknown one is refused with the nearest known."""

    def read(place: Place, table: Any) -> Any:
        for key in _table(place, table):
            if key not in readers:
                fix = hint(key[:100], readers, f"known: {', '.join(readers)}")
                raise ConfigError((*place, key), f"unknown key; {fix}")
        for key in needed:
            if key not in table:
                raise ConfigError(place, f"{key} is missing")
        return make(**{key: read((*place, key), table[key]) for key, read in readers.items() if key in table})

    return read


def _entries(reader: Callable[[Place, str, Any], T]) -> Callable[[Place, Any], dict[str, T]]:
    """A table whose keys are names."""
    return lambda place, table: {
        name: reader((*place, name), name, value) for name, value in _table(place, table).items()
    }


def _list(reader: Reader, make: Callable[..., Any] = tuple) -> Reader:
    def read(place: Place, value: Any) -> Any:
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise ConfigError(place, f"must be a list of at most {MAX_LIST}")
        return make(reader((*place, i), item) for i, item in enumerate(value))

    return read


def _number(least: float, most: float) -> Reader:
    def read(place: Place, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            shown = f"{value!r:.40}" if number else _kind(value)
            raise ConfigError(place, f"must be a number from {least:g} to {most:g}, not {shown}")
        return value

    return read


def _whole(least: int, most: int) -> Reader:
    def read(place: Place, value: Any) -> Any:
        if not isinstance(_number(least, most)(place, value), int):
            raise ConfigError(place, f"must be a whole number, not {value!r}")
        return value

    return read


_KINDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list of names"}


def _of_kind(kinds: tuple[type, ...]) -> Reader:
    def read(place: Place, value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ConfigError(place, f"must be {_KINDS[kinds[0]]}", value)
        return value

    return read


def _raw(place: Place, value: Any) -> Any:
    return value


def _only(what: str, good: Callable[[Any], bool]) -> Reader:
    def read(place: Place, value: Any) -> Any:
        if not good(value):
            raise ConfigError(place, f"must be {what}, not {_kind(value)}")
        return value

    return read


_table = _only("a table", lambda value: isinstance(value, dict))
_flag = _only("true or false", lambda value: isinstance(value, bool))
_text = _only(
    f"text of 1 to {MAX_TEXT:,} characters",
    lambda value: isinstance(value, str) and 0 < len(value) <= MAX_TEXT,
)


def _kind(value: Any) -> str:
    """What a value is: to repeat it might tell a secret that was written in the wrong place."""
    if value == "":
        return "an empty one"
    return {**_KINDS, bool: "true or false", list: "a list", dict: "a table"}.get(type(value), "a number")


def _one_of(choices: tuple[str, ...]) -> Reader:
    def check(place: Place, value: Any) -> Any:
        if value not in choices:
            fix = hint(
                value if isinstance(value, str) else "", choices, f"must be one of {', '.join(choices)}"
            )
            raise ConfigError(place, f"{value!r:.60} is not known here; {fix}", value)
        return value

    return check


def _check_name(place: Place, name: str) -> None:
    if not NAME.fullmatch(name):
        rule = "letters, digits, '.', '_', ':' and '-', at most 64"
        raise ConfigError(place, f"{name!r:.80} is no name: {rule}")


def _pattern(place: Place, value: Any) -> str:
    text: str = _text(place, value)
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
