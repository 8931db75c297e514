"""Virtual keys under /api/keys: made, changed, revoked, and what they have spent. For admins.

Amounts of dollars are whole numbers of 10⁻¹² dollars.
"""

import time
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Query

from herd.gateway.limits import Limit, Period, Unit
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.errors import found
from herd.server.state import Here, State

router = APIRouter(prefix="/api/keys")

MAX_DAYS = 36_500
FIELDS: dict[str, Any] = {
    "application": str, "scopes": list, "limits": list, "expires_days": body.NUMBER, "keep": str, "use": list,
}  # fmt: skip
New = Annotated[dict[str, Any], Depends(body.Fields("application", "scopes", **FIELDS))]
Changed = Annotated[dict[str, Any], Depends(body.Fields(nulls=True, **FIELDS))]


@router.get("")
async def list_keys(
    here: Here,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    """The newest first, each with what it has spent of its limits in the periods that run."""
    rows = [row for row in here.keys.list() if before is None or row["created"] < before]
    return {"data": [await _view(here, row) for row in rows[:limit]], "more": len(rows) > limit}


@router.post("", status_code=201)
async def create_key(here: Here, given: New) -> dict[str, Any]:
    """The new key, with its secret: this once, since only a hash of it is kept."""
    row, secret = await here.keys.create(**_given(given))
    return {**await _view(here, row), "secret": secret}


@router.get("/{id}")
async def get_key(here: Here, id: str) -> dict[str, Any]:
    row = next((row for row in here.keys.list() if row["id"] == id), None)
    return await _view(here, found(row, "key", id))


@router.patch("/{id}")
async def update_key(here: Here, id: str, given: Changed) -> dict[str, Any]:
    """Null takes away: the limits, the end, or what the key says of keeping and using in place of its routes."""
    for name in ("application", "scopes"):
        if name in given and given[name] is None:
            raise ProtocolError(f"{name} cannot be null", name)
    return await _view(here, await here.keys.update(id, **_given(given)))


@router.post("/{id}/revoke")
async def revoke_key(here: Here, id: str) -> dict[str, Any]:
    """From now on the key opens nothing: its sessions and its running replies end, too. It cannot be undone."""
    return await _view(here, await here.keys.revoke(id))


async def _view(here: State, row: dict[str, Any]) -> dict[str, Any]:
    limits = [Limit.from_json(limit) for limit in row["limits"]]
    return {**row, "spend": await here.ledger.spend(f"key:{row['id']}", limits)}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as `Keys` takes and checks them. Raises ProtocolError for one that has not the form of its kind."""
    given = dict(fields)
    if given.get("application", "x").strip() == "":
        raise ProtocolError("application is empty; it says whose key this is", "application")
    for name in ("scopes", "use"):
        for place, word in enumerate(given.get(name) or ()):
            if not isinstance(word, str):
                raise ProtocolError(f"{name}[{place}] must be text", f"{name}.{place}")
    if "limits" in given:
        given["limits"] = [_limit(one, f"limits.{i}") for i, one in enumerate(given["limits"] or ())]
    if "expires_days" in given:
        days = given.pop("expires_days")
        if days is not None and not 0 < days <= MAX_DAYS:
            raise ProtocolError(f"expires_days must be over 0 and at most {MAX_DAYS}", "expires_days")
        given["expires"] = None if days is None else time.time() + days * 86_400
    return given


def _limit(one: Any, where: str) -> Limit:
    if not isinstance(one, dict) or one.keys() != {"unit", "amount", "period"}:
        raise ProtocolError(f"{where} must be an object of unit, amount and period", where)
    body.one_of(f"{where}.unit", one["unit"], get_args(Unit))
    body.one_of(f"{where}.period", one["period"], get_args(Period))
    if type(one["amount"]) is not int or one["amount"] <= 0:
        raise ProtocolError(f"{where}.amount must be a whole number above 0", f"{where}.amount")
    return Limit.from_json(one)
