"""Where the server listens, where it keeps things, and who may call it."""

import hashlib
import hmac
import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from herd.errors import HerdError
from herd.registry.home import home as default_home

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD = frozenset({"0.0.0.0", "::"})
MAX_BODY = 4 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """The server's settings; `from_environment` reads HERD_* and lets arguments win."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    database: str | None = None  # None: herd.db in `home`
    hosts: frozenset[str] = frozenset()  # further names in the Host header that are ours
    origins: frozenset[str] = frozenset()  # pages elsewhere that may call, as "https://app.example"
    memory: int | None = None  # bytes for models; None: a share of what is free at the start
    keep_alive: float = 0  # seconds that an unused model stays loaded; 0: until its room is needed

    def __post_init__(self) -> None:
        """Raises HerdError for an address that would be open to a network without a key."""
        if not 0 <= self.port <= 65535:
            raise HerdError(f"port {self.port} is not between 0 and 65535; choose another with --port")
        if not self.is_loopback and not self.api_key:
            raise HerdError(
                f"listening on {self.host} would let anybody on the network in; "
                "set HERD_API_KEY to a secret, or use --host 127.0.0.1"
            )

    @classmethod
    def from_environment(
        cls, *, home: Path | None = None, host: str | None = None, port: int | None = None
    ) -> "Settings":
        env = os.environ.get
        port_text = env("HERD_PORT") or "8000"
        if port is None and not port_text.isdecimal():
            raise HerdError(
                f"HERD_PORT is {port_text!r}, which is not a number; set it to a port such as 8000"
            )
        return cls(
            home=home or default_home(),
            host=host or env("HERD_HOST") or "127.0.0.1",
            port=int(port_text) if port is None else port,
            api_key=env("HERD_API_KEY") or None,
            database=env("HERD_DATABASE_URL") or None,
            hosts=_words(env("HERD_HOSTS")),
            origins=_words(env("HERD_ORIGINS")),
            memory=_bytes(env("HERD_MEMORY")),
            keep_alive=_seconds(env("HERD_KEEP_ALIVE")),
        )

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


class KeyRing:
    """Compares keys in constant time, holding only hashes.

    The cookie is derived from the key, so that a stolen cookie does not give the key away.
    """

    def __init__(self, key: str | None) -> None:
        self.open = key is None
        self._key = _sha256(key or "")
        self.name = None if key is None else self._key.hex()[:16]  # says which key, not the key
        self.cookie = hmac.new((key or "").encode(), b"herd cookie", hashlib.sha256).hexdigest()

    def accepts(self, key: str) -> bool:
        return self.open or hmac.compare_digest(_sha256(key), self._key)

    def accepts_cookie(self, value: str) -> bool:
        return self.open or hmac.compare_digest(_sha256(value), _sha256(self.cookie))


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _words(text: str | None) -> frozenset[str]:
    return frozenset(word for word in (text or "").lower().replace(",", " ").split())


def _bytes(text: str | None) -> int | None:
    """ "6GiB", "800 MB" or plain bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(|[kmgt]i?)b?", (text or "0").strip().lower())
    if match is None:
        raise HerdError(f"HERD_MEMORY is {text!r}, which is no size; set it as in HERD_MEMORY=6GiB")
    number, unit = match.groups()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(number) * base ** " kmgt".index(unit[:1] or " ")) or None


def _seconds(text: str | None) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text or "0"):
        raise HerdError(f"HERD_KEEP_ALIVE is {text!r}, which is no number of seconds")
    return float(text or 0)


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
