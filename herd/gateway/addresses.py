"""Which addresses a provider may have: checked when they are written, and again on the socket that is connected."""

import ipaddress
import socket

from aiohttp import AddrInfoType
from yarl import URL

from herd.errors import HerdError


def _networks(names: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, names.split()))


_PRIVATE = _networks("10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1 fc00::/7")
_GLOBAL6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Teredo and 6to4 hold an IPv4 address, and no provider needs them; the others are set aside, but not in every Python.
_NEVER = _networks("2001::/23 2002::/16 3fff::/20 192.0.0.0/24 192.88.99.0/24")


def allowed(address: str, private: bool) -> bool:
    """Whether a provider may be at this IP address: a public one or, with `private`, one of a private network or of
    this machine; never a link-local, multicast or otherwise special one. Raises ValueError if it is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        ip = inner or ip
    if any(ip in network for network in _PRIVATE):
        return private
    if (ip.version == 6 and ip not in _GLOBAL6) or any(ip in network for network in _NEVER):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class Refused(OSError):
    """An address that a provider may not have."""


def guarded(info: AddrInfoType, private: bool) -> socket.socket:
    """A socket for this address and no other. Names, redirects and odd spellings have all become addresses here, and
    there is no moment between the check and the connection."""
    family, kind, protocol, _, address = info
    if not allowed(str(address[0]), private):
        raise Refused("not an address that a provider may have")
    return socket.socket(family, kind, protocol)


def check_url(url: str, private: bool) -> str:
    """`url` without its last slash. Raises HerdError for one that no provider may have."""

    def wrong(why: str, shown: str = f" {url!r:.200}") -> HerdError:
        return HerdError(f"base_url{shown} {why}", code="bad_provider")

    try:
        parts = URL(url)
        host, _ = parts.host, parts.port
    except ValueError:
        raise wrong("is not a URL", "") from None  # it may hold a password
    if parts.user is not None or parts.password is not None or "@" in url:
        raise wrong("must not hold a name or password: use key", "")
    if parts.scheme not in ("http", "https") or not host:
        raise wrong("must begin with https:// or http:// and a host", "")  # it may be a key
    if "?" in url or "#" in url:
        raise wrong("must end with its path")
    if parts.scheme == "http" and not private:
        raise wrong("must begin with https://, unless the provider says private = true")
    last = host.rstrip(".").rpartition(".")[2]
    try:
        good = allowed(host, private)
    except ValueError:  # a name, unless some resolver reads a number in it
        good = not (last.isdecimal() or last.lower().startswith("0x"))
    if not good:
        without = "" if private else " without private = true"
        raise wrong(f"is not an address that a provider may have{without}")
    return str(parts).rstrip("/")
