"""Virtual keys: who may do what. A key's secret is shown once, when it is made; only its hash is kept."""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from herd.errors import HerdError
from herd.gateway.limits import MAX_AMOUNT, Limit
from herd.gateway.route import Keep, Use
from herd.store import Store

MARK = "hk-"
SCOPE = re.compile(r"admin|read|vote|use:\*|(use|feed):[^\s*,]{1,200}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: without `id` anybody, on a server without keys."""

    id: str = ""
    application: str = ""
    scopes: frozenset[str] = frozenset({"admin"})
    limits: tuple[Limit, ...] = ()
    keep: Keep | None = None
    use: frozenset[str] | None = None
    expires: float | None = None

    def may(self, scope: str) -> bool:
        """ "admin" may all, "use:*" use all routes."""
        everywhere = scope.startswith("use:") and "use:*" in self.scopes
        return scope in self.scopes or everywhere or "admin" in self.scopes

    @property
    def name(self) -> str | None:
        """What is stored as `key`."""
        return self.id or None


ANYBODY = Principal()
ROOT = Principal("root")


class Keys:
    """The keys of the store, in memory, and `root`, the server's own (HERD_API_KEY), which may all. Without `root`
    whoever shows no key may all as well. `on_revoke(id)` is called when a key is revoked, here or elsewhere."""

    def __init__(self, store: Store, root: str | None) -> None:
        self.store = store
        self.open = root is None
        self.on_revoke: Callable[[str], None] = lambda id: None
        self._root = None if root is None else _sha256(root)
        self._cookie_key = hashlib.sha256(b"herd cookie" + (root or "").encode()).digest()
        self._rows: dict[str, dict[str, Any]] = {}  # by id
        self._found: dict[str, Principal] = {}  # by hash: those not revoked
        self._seen = self._take(store.changed_keys(0))

    def find(self, secret: str) -> Principal | None:
        """Whose secret it is; None for an unknown, expired or revoked key."""
        digest = _sha256(secret)
        if self._root is not None and hmac.compare_digest(digest, self._root):
            return ROOT
        if self.open and not secret.startswith(MARK):
            return ANYBODY
        return self._live(self._found.get(digest))

    def cookie(self, principal: Principal) -> str:
        """What a browser keeps in place of the secret; worth nothing once the key or HERD_API_KEY has changed."""
        digest = self._root if principal == ROOT else self._rows.get(principal.id, {}).get("hash")
        return f"{principal.id}.{self._sign(principal.id, digest or '')}"

    def find_cookie(self, value: str) -> Principal | None:
        id, _, signature = value.rpartition(".")
        if id == ROOT.id and self._root is not None:
            digest, found = self._root, ROOT
        elif kept := self._found.get(self._rows.get(id, {}).get("hash", "")):
            digest, found = self._rows[id]["hash"], kept
        else:
            return ANYBODY if self.open and not value.startswith("key_") else None
        good = hmac.compare_digest(signature.encode(), self._sign(id, digest).encode())
        return self._live(found) if good else None

    def of(self, id: str) -> Principal | None:
        """Whose stored name this is, "" being anybody's; None if that opens nothing (any more)."""
        if not id:
            return ANYBODY if self.open else None
        if id == ROOT.id:
            return None if self._root is None else ROOT
        return self._live(self._found.get(self._rows.get(id, {}).get("hash", "")))

    async def create(
        self,
        application: str,
        scopes: Iterable[str],
        limits: Iterable[Limit] = (),
        expires: float | None = None,
        keep: Keep | None = None,
        use: Iterable[Use] | None = None,
    ) -> tuple[dict[str, Any], str]:
        """The new key's row, without the hash, and its secret. Raises HerdError that names a wrong field."""
        secret = MARK + secrets.token_urlsafe(32)
        given = {"application": application, "scopes": list(scopes), "limits": list(limits)}
        row: dict[str, Any] = {"id": f"key_{uuid.uuid4().hex}", "hash": _sha256(secret), "shown": secret[:8]}
        row |= {"created": time.time(), "revoked": None}
        row |= _checked({**given, "expires": expires, "keep": keep, "use": use})
        self._take([await self.store.put_key(row)])
        return _public(row), secret

    async def update(self, id: str, **fields: Any) -> dict[str, Any]:
        """The key with some of application, scopes, limits, expires, keep, use changed. Raises HerdError, 404 too."""
        return await self._change(id, _checked(fields))

    async def revoke(self, id: str) -> dict[str, Any]:
        """From now on the key is unknown, and what it has running ends. Raises HerdError 404."""
        return await self._change(id, {"revoked": time.time()})

    async def refresh(self) -> None:
        """Take in what other gateways did to keys; to be called each second where the store is shared."""
        changed = await asyncio.to_thread(self.store.changed_keys, self._seen)
        self._seen = max(self._seen, self._take(changed))

    def list(self) -> list[dict[str, Any]]:
        """All keys, the newest first, with `scopes` and `limits` as they are stored; without hashes."""
        return [_public(row) for row in sorted(self._rows.values(), key=lambda row: -row["created"])]

    async def _change(self, id: str, values: Mapping[str, Any]) -> dict[str, Any]:
        row = await self.store.change_key(id, values)
        self._take([row])
        return _public(row)

    def _take(self, rows: Iterable[dict[str, Any]]) -> int:
        """Use the rows, unless a newer one is known; the newest change in them."""
        newest = 0
        for row in rows:
            newest = max(newest, row["changed"])
            if self._rows.get(row["id"], row)["changed"] > row["changed"]:
                continue
            self._rows[row["id"]] = row
            if row["revoked"] is None:
                self._found[row["hash"]] = _principal(row)
            elif self._found.pop(row["hash"], None):
                self.on_revoke(row["id"])
        return newest

    def _live(self, found: Principal | None) -> Principal | None:
        expired = found is not None and found.expires is not None and found.expires <= time.time()
        return None if expired else found

    def _sign(self, id: str, digest: str) -> str:
        return hmac.new(self._cookie_key, f"{id}:{digest}".encode(), hashlib.sha256).hexdigest()


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _principal(row: Mapping[str, Any]) -> Principal:
    scopes, limits = frozenset(row["scopes"]), tuple(map(Limit.from_json, row["limits"]))
    use = None if row["use"] is None else frozenset(row["use"])
    return Principal(row["id"], row["application"], scopes, limits, row["keep"], use, row["expires"])


def _public(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("hash", "changed")}


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they are stored. Raises HerdError that names a wrong one."""
    row = dict(given)
    for name, (good, rule) in FIELDS.items():
        if name in row and not good(row[name]):
            raise HerdError(f"{name} must be {rule}")
    if unknown := row.keys() - FIELDS.keys():
        raise HerdError(f"a key has no field {min(unknown)!r} that can be given")
    for name in ("scopes", "use"):
        if row.get(name) is not None:
            row[name] = sorted(set(row[name]))
    if "limits" in row:
        row["limits"] = [limit.to_json() for limit in row["limits"]]
    return row


def _are_limits(limits: Any) -> bool:
    places = {(limit.unit, limit.period) for limit in limits if limit.is_good}
    return len(places) == len(limits)


# What holds for a good value, and what is said to another.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "application": (lambda name: isinstance(name, str) and 0 < len(name) <= 200, "a name of up to 200 characters"),
    "scopes": (lambda scopes: bool(scopes) and all(isinstance(s, str) and SCOPE.fullmatch(s) for s in scopes),
               "some of admin, read, vote, use:*, use:<route> and feed:<user>"),
    "limits": (_are_limits, f"of requests, tokens or dollars, each once by a period, and from 1 to {MAX_AMOUNT}"),
    "expires": (lambda at: at is None or (type(at) in (int, float) and 0 < at < 1e11), "a time in unix seconds"),
    "keep": (lambda keep: keep in (None, *get_args(Keep)), f"one of {', '.join(get_args(Keep))}"),
    "use": (lambda use: set(use or ()) <= set(get_args(Use)), f"some of {', '.join(get_args(Use))}"),
}  # fmt: skip
