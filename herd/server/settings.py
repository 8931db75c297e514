"""Where the server listens, where it keeps things, and who may call it."""

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from herd.errors import HerdError
from herd.gateway.secrets import secret
from herd.registry.home import home as default_home

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD = frozenset({"0.0.0.0", "::"})
TOML = "herd.toml"
MAX_BODY = 4 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The server's settings; `from_environment` reads them."""

    home: Path
    config: Path | None = None  # None: herd.toml in `home`, if it is there
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    database: str | None = field(default=None, repr=False)  # a URL; None: herd.db in `home`
    hosts: frozenset[str] = frozenset()  # further names in the Host header that are ours
    origins: frozenset[str] = frozenset()  # pages elsewhere that may call, as "https://app.example"
    memory: int | None = None  # bytes for models; None: a share of what is free at the start
    keep_alive: float = 0  # seconds that an unused model stays loaded; 0: until its room is needed

    def __post_init__(self) -> None:
        """Raises HerdError for an address that would be open to a network without a key."""
        if not 0 <= self.port <= 65535:
            raise HerdError(f"port {self.port} is not between 0 and 65535; choose another with --port")
        if not self.is_loopback and not self.api_key:
            fix = "set HERD_API_KEY to a secret, or use --host 127.0.0.1"
            raise HerdError(f"listening on {self.host} would let anybody on the network in; {fix}")

    @classmethod
    def from_environment(
        cls,
        *,
        home: Path | None = None,
        host: str | None = None,
        port: int | None = None,
        config: Path | None = None,
    ) -> "Settings":
        """The table [server] of herd.toml, then HERD_*, then the arguments. Raises HerdError for a wrong one."""
        home = home or default_home()
        if config is None and os.environ.get("HERD_CONFIG"):
            config = Path(os.environ["HERD_CONFIG"])
        if config and not config.exists():
            raise HerdError(f"{config}: no such file; --config and HERD_CONFIG name one that is there")
        file = config or home / TOML
        table = _server_table(file)

        def of(name: str, read: Callable[[Any, str], T], variable: str = "") -> T:
            """What `read` makes of a setting, and of its name where it was found."""
            variable = f"HERD_{variable or name.upper()}"
            text = os.environ.get(variable)
            return read(text, variable) if text else read(table.get(name), f"{file}: server.{name}")

        return cls(
            home=home,
            config=config,
            host=host or of("host", _text) or "127.0.0.1",
            port=of("port", _port) if port is None else port,
            api_key=os.environ.get("HERD_API_KEY") or _secret(table.get("key"), f"{file}: server.key"),
            database=of("database", _text, "DATABASE_URL"),
            hosts=of("hosts", _words),
            origins=of("origins", _words),
            memory=of("memory", _bytes),
            keep_alive=of("keep_alive", _seconds),
        )

    @property
    def config_file(self) -> Path:
        return self.config or self.home / TOML

    @property
    def store(self) -> str | Path:
        """Where the database is, as `Store.open` takes it."""
        return self.database or self.home / "herd.db"

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the server."""
        host = "127.0.0.1" if self.host in WILDCARD else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def serves_host(self, header: str) -> bool:
        """Whether a Host header names this server: the guard against DNS rebinding, which needs a foreign name.

        Bound to every address, any literal address is ours, since a rebound name is never one.
        """
        name = _host_name(header)
        if name in LOOPBACK or name == self.host or name in self.hosts:
            return True
        return self.host in WILDCARD and (name == socket.gethostname().lower() or _is_address(name))

    def allows_origin(self, origin: str, host_header: str) -> bool:
        """Whether a page at `origin` may call: one that this server gave out, or one in `origins`."""
        return origin.partition("://")[2] == host_header or origin in self.origins


def _server_table(file: Path) -> dict[str, Any]:
    """The table [server] of a herd.toml that need not be there. What else it says, `herd.gateway.config` checks."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("server", {})
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise HerdError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    return table if isinstance(table, dict) else {}


def _secret(value: Any, name: str) -> str | None:
    try:
        return None if value is None else secret(str(value), os.environ)
    except HerdError as error:
        raise HerdError(f"{name}: {error}") from None


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise HerdError(f"{name} is {value!r}, which is no text; put it in quotes")
    return value or None


def _port(value: Any, name: str) -> int:
    text = str("8000" if value is None else value)
    if not text.isdecimal():
        raise HerdError(f"{name} is {value!r}, which is not a number; set it to a port such as 8000")
    return int(text[:9])


def _words(value: Any, name: str) -> frozenset[str]:
    words = value.replace(",", " ").split() if isinstance(value, str) else value or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise HerdError(f"{name} must be a list of texts")
    return frozenset(word.lower() for word in words)


def _bytes(value: Any, name: str) -> int | None:
    """ "6GiB", "800 MB" or plain bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(|[kmgt]i?)b?", str(value or 0).strip().lower())
    if match is None:
        raise HerdError(f"{name} is {value!r}, which is no size; set it as in 6GiB")
    number, unit = match.groups()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(number) * base ** " kmgt".index(unit[:1] or " ")) or None


def _seconds(value: Any, name: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", str(value or 0)):
        raise HerdError(f"{name} is {value!r}, which is no number of seconds")
    return float(value or 0)


def _host_name(header: str) -> str:
    """`name` of "name", "name:port" or "[v6]:port", in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
