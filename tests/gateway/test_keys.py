"""Keys: who is who, what they may, and how soon they may not any more."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway.keys import ANYBODY, ROOT, Keys, Principal
from herd.gateway.limits import Limit
from herd.store import Store

LIMIT = Limit("dollars", 5 * 10**12, "month")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store.open(database)
    yield store
    store.close()


def make(keys: Keys, **given: Any) -> tuple[dict[str, Any], str]:
    return asyncio.run(keys.create(**{"application": "app", "scopes": ["use:cria"], **given}))


def test_a_key_is_known_by_its_secret(store: Store) -> None:
    keys = Keys(store, "root-secret")
    row, secret = make(keys, limits=[LIMIT], keep="metadata", use=["evaluate"], expires=time.time() + 60)
    assert secret.startswith("hk-") and len(secret) == 46 and row["shown"] == secret[:8]
    assert row["limits"] == [{"unit": "dollars", "amount": 5 * 10**12, "period": "month"}]
    for known in (keys, Keys(store, None)):  # now, and after a restart
        found = known.find(secret)
        assert found is not None and (found.id, found.application) == (row["id"], "app")
        assert found.limits == (LIMIT,) and found.keep == "metadata" and found.use == {"evaluate"}
        assert found.name == row["id"]
        assert known.list() == [row]
    assert keys.find(secret[:-1]) is None and keys.find("hk-" + "x" * 43) is None and keys.find("") is None
    assert keys.find("root-secret") == ROOT and keys.find("root-secret ") is None


def test_only_a_hash_is_kept(store: Store) -> None:
    keys = Keys(store, None)
    row, secret = make(keys)
    everything = str(store.changed_keys(0)) + str(keys.list())
    assert secret not in everything and secret[8:] not in everything
    assert hashlib.sha256(secret.encode()).hexdigest() in everything
    assert "hash" not in row and "hash" not in keys.list()[0]


def test_an_open_server_takes_anybody_but_no_wrong_key(store: Store) -> None:
    keys = Keys(store, None)
    assert (
        keys.find("") == keys.find("sk-whatever") == ANYBODY and ANYBODY.name is None and ANYBODY.may("admin")
    )
    assert keys.find("hk-unknown") is None
    row, secret = make(keys, scopes=["vote"])
    found = keys.find(secret)
    assert found is not None and not found.may("admin")
    cookie = keys.cookie(found)
    assert keys.find_cookie(cookie) == found and keys.find_cookie("") == ANYBODY
    asyncio.run(keys.revoke(row["id"]))
    assert keys.find(secret) is None and keys.find_cookie(cookie) is None


@pytest.mark.parametrize(
    ("scopes", "may", "may_not"),
    [
        (["admin"], ["admin", "read", "vote", "use:a", "feed:me"], []),
        (["use:a"], ["use:a"], ["use:b", "use:*", "use:a2", "read", "vote", "admin"]),
        (["use:*"], ["use:a", "use:b", "use:*"], ["read", "vote", "admin", "feed:me"]),
        (["vote", "feed:me"], ["vote", "feed:me"], ["feed:you", "use:vote", "admin"]),
    ],
)
def test_scopes(scopes: list[str], may: list[str], may_not: list[str]) -> None:
    principal = Principal("id", scopes=frozenset(scopes))
    assert all(principal.may(scope) for scope in may) and not any(principal.may(scope) for scope in may_not)


def test_revocation_counts_at_once_and_once(store: Store) -> None:
    keys = Keys(store, "root")
    ended: list[str] = []
    keys.on_revoke = ended.append
    row, secret = make(keys)
    other, other_secret = make(keys)
    revoked = asyncio.run(keys.revoke(row["id"]))
    assert keys.find(secret) is None and keys.find(other_secret) and ended == [row["id"]]
    again = asyncio.run(keys.revoke(row["id"]))
    assert again["revoked"] == revoked["revoked"] <= time.time() and ended == [row["id"]]
    asyncio.run(keys.update(row["id"], scopes=["admin"]))  # what is revoked stays so
    assert keys.find(secret) is None and Keys(store, "root").find(secret) is None
    with pytest.raises(HerdError, match="no key 'none'") as caught:
        asyncio.run(keys.revoke("none"))
    assert caught.value.status == 404


def test_another_gateway_hears_of_it(database: str, store: Store) -> None:
    here, there = Keys(store, None), Keys(Store.open(database), None)
    ended: list[str] = []
    there.on_revoke = ended.append
    first, secret = make(here)
    second, theirs = make(there)  # its own write is no reason to miss another's before it
    assert there.find(secret) is None
    asyncio.run(there.refresh())
    asyncio.run(here.refresh())
    assert there.find(secret) and here.find(theirs)
    asyncio.run(here.update(second["id"], scopes=["read"], limits=[LIMIT]))
    asyncio.run(here.revoke(first["id"]))
    asyncio.run(there.refresh())
    assert there.find(secret) is None and ended == [first["id"]]
    changed = there.find(theirs)
    assert changed and changed.scopes == {"read"} and changed.limits == (LIMIT,)
    asyncio.run(there.refresh())
    assert ended == [first["id"]]
    there.store.close()


def test_a_key_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, later = Keys(store, "root"), time.time() + 3600
    row, secret = make(keys, expires=later)
    found = keys.find(secret)
    assert found is not None
    cookie = keys.cookie(found)
    monkeypatch.setattr("herd.gateway.keys.time.time", lambda: later)
    assert keys.find(secret) is None and keys.find_cookie(cookie) is None
    asyncio.run(keys.update(row["id"], expires=None))
    assert keys.find(secret)


def test_cookies_are_worth_nothing_elsewhere(store: Store) -> None:
    keys = Keys(store, "root")
    row, secret = make(keys)
    found = keys.find(secret)
    assert found is not None
    cookie, root = keys.cookie(found), keys.cookie(ROOT)
    assert keys.find_cookie(cookie) == found and keys.find_cookie(root) == ROOT
    assert Keys(store, "root").find_cookie(cookie) == found
    assert Keys(store, "another root").find_cookie(root) is None
    assert Keys(store, "another root").find_cookie(cookie) is None
    forged = root.replace("root.", f"{row['id']}.")
    for wrong in ("", ".", "root", "root.", cookie[:-1], cookie + "0", forged, f"é.{cookie}", "\ud800"):
        assert keys.find_cookie(wrong) is None
    assert secret not in cookie and hashlib.sha256(secret.encode()).hexdigest() not in cookie


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("application", ""), ("application", "x" * 201), ("application", 7),
        ("scopes", []), ("scopes", ["use:"]), ("scopes", ["everything"]), ("scopes", ["use:a b"]), ("scopes", [7]),
        ("limits", [Limit("dollars", 0, "day")]), ("limits", [Limit("dollars", 1.5, "day")]),  # type: ignore[arg-type]
        ("limits", [Limit("euros", 1, "day")]), ("limits", [Limit("tokens", 1, "year")]),  # type: ignore[arg-type]
        ("limits", [Limit("tokens", True, "day")]), ("limits", [Limit("tokens", 2**63, "day")]),
        ("limits", [Limit("tokens", 1, "day"), Limit("tokens", 2, "day")]),
        ("expires", float("inf")), ("expires", float("nan")), ("expires", "tomorrow"), ("expires", True),
        ("keep", "all"), ("use", ["sell"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(store: Store, field: str, value: Any) -> None:
    keys = Keys(store, None)
    with pytest.raises(HerdError, match=field) as caught:
        make(keys, **{field: value})
    assert caught.value.status == 400 and keys.list() == []
    row, _ = make(keys)
    with pytest.raises(HerdError, match=field):
        asyncio.run(keys.update(row["id"], **{field: value}))
    assert keys.list() == [row]
