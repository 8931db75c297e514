"""Routes under /api/routes, and what they may point at: /api/targets, /api/providers. For admins.

A route that herd.toml writes is read-only here; one that is made here has versions in the store, and each can be
brought back.
"""

import asyncio
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from herd.errors import HerdError
from herd.gateway.config import LOCAL, parse_route
from herd.gateway.keys import Principal
from herd.gateway.route import Route, Shadow, Weighted
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.errors import found, not_found
from herd.server.state import Here, State, Who

router = APIRouter(prefix="/api")

MAX_NOTE, MAX_NAME = 500, 200
Given = dict[str, Any]
Checked = Annotated[Given, Depends(body.Fields("name", "definition", name=str, definition=dict))]
Change = Annotated[Given, Depends(body.Fields("definition", definition=dict, expect=int, note=str))]
Version = Annotated[Given, Depends(body.Fields("version", version=int))]


@router.get("/routes")
def list_routes(here: Here) -> dict[str, Any]:
    """Those of herd.toml and of the store, then each target and model under its own name."""
    return {"data": [_view(here, route) for route in _all(here).values()]}


@router.get("/targets")
def list_targets(here: Here) -> dict[str, Any]:
    """What a route may point at: kind "target" is one of [targets], "model" one that is here, "remote" a provider's."""
    gateway, data = here.gateway, []
    configured = gateway.now.config.targets.keys()
    for name in sorted(gateway.models().keys() - gateway.now.routes.keys() | configured):
        with suppress(HerdError):  # a broken model is nothing to point at
            target = gateway.now.target(name)
            kind = "target" if name in configured else "model" if target.provider == LOCAL else "remote"
            data.append({"name": name, "provider": target.provider, "model": target.model, "kind": kind})
    return {"data": data}


@router.get("/providers")
def list_providers(here: Here) -> dict[str, Any]:
    """Each with its addresses and how they are; where its key is to be found, but no key."""
    health, data = here.gateway.health(), []
    for name in here.gateway.now.providers:
        spec = here.gateway.now.config.providers.get(name)
        about = {"dialect": spec.dialect, "key": spec.key} if spec else {"dialect": None}
        urls = [one for one in health if one["provider"] == name]
        data.append({"name": name, **about, "urls": urls})
    return {"data": data}


@router.post("/routes/check")
async def check_route(here: Here, given: Checked) -> dict[str, bool]:
    """Whether a definition would be taken; the error's `param` says what of it is wrong."""
    _check(here, given["name"], given["definition"])
    return {"ok": True}


@router.get("/routes/{name:path}")
def get_route(here: Here, name: str) -> dict[str, Any]:
    """The route with its versions, the newest first.

    Without a version it does not count: it was removed, and has no definition, or what it points at is gone.
    """
    versions, route = here.store.route_versions(name), _all(here).get(name)
    if route is not None:
        return {**_view(here, route), "versions": versions}
    newest = found(versions, "route", name)[0]
    gone: dict[str, Any] = {"name": name, "source": "store", "version": None, "editable": True, "health": []}
    return {**gone, "definition": newest["definition"], "versions": versions}


@router.put("/routes/{name:path}")
async def put_route(here: Here, who: Who, name: str, given: Change) -> dict[str, Any]:
    """Make the route, or its next version. `expect`: the version that the change is of; another one is a 409."""
    _check(here, name, given["definition"])
    return await _keep(here, who, name, given["definition"], given.get("note"), given.get("expect"))


@router.delete("/routes/{name:path}", status_code=204)
async def remove_route(here: Here, who: Who, name: str) -> Response:
    _editable(here, name)
    found((await asyncio.to_thread(here.store.routes)).get(name), "route", name)
    await _keep(here, who, name, None, "removed")
    return Response(status_code=204)


@router.post("/routes/{name:path}/restore")
async def restore_route(here: Here, who: Who, name: str, given: Version) -> dict[str, Any]:
    """Make an old version the newest one."""
    number = given["version"]
    rows = await asyncio.to_thread(here.store.route_versions, name)
    definition = next((row["definition"] for row in rows if row["version"] == number), None)
    if definition is None:
        raise not_found(f"route {name!r:.100} has no version {number} to go back to")
    _check(here, name, definition)
    return await _keep(here, who, name, definition, f"version {number} again")


@router.post("/routes/{name}/rollback")
async def rollback(here: Here, name: str) -> dict[str, Any]:
    """Let a model's own route serve the version before."""
    entry = here.registry.rollback(name)
    await here.engines.reload()
    return {"name": name, "current": entry.ref}


def _check(here: State, name: str, definition: dict[str, Any]) -> Route:
    """The route. Raises HerdError 409 for a name of herd.toml's, ProtocolError that names the wrong field."""
    _editable(here, name)
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or " " in name:
        raise ProtocolError(f"a route's name has 1 to {MAX_NAME} printable characters and no spaces", "name")
    now = here.gateway.now
    return parse_route(name, definition, now.config, now.local.names())


def _editable(here: State, name: str) -> None:
    if name in here.gateway.now.config.routes:
        message = f"route {name!r:.100} is written in {here.settings.config_file}: change it there"
        raise HerdError(message, status=409, code="read_only")


async def _keep(
    here: State,
    who: Principal,
    name: str,
    definition: Given | None,
    note: str | None,
    expect: int | None = None,
) -> dict[str, Any]:
    if note and len(note) > MAX_NOTE:
        raise ProtocolError(f"note has over {MAX_NOTE} characters", "note")
    by = who.application or who.name
    version = await asyncio.to_thread(here.store.put_route, name, definition, by, note, expect)
    await here.gateway.refresh()
    return {"name": name, "version": version}


def _all(here: State) -> dict[str, Route]:
    now = here.gateway.now
    own = sorted((now.config.targets.keys() | now.local.names().keys()) - now.routes.keys())
    return dict(now.routes) | {name: Route(name, (Weighted(name),)) for name in own}


def _view(here: State, route: Route) -> dict[str, Any]:
    health, all_of = [], here.gateway.health()
    for name in route.names:
        with suppress(HerdError):
            provider = here.gateway.now.target(name).provider
            health += [{"target": name, **one} for one in all_of if one["provider"] == provider]
    return {
        "name": route.name, "source": route.source, "version": route.version or None,
        "editable": route.source == "store", "definition": definition(route), "health": health,
    }  # fmt: skip


def definition(route: Route) -> dict[str, Any]:
    """The route as its table in herd.toml would say it; what is at its default is left out."""
    table = _changed(route, Route(route.name, (), source=route.source, version=route.version))
    if times := {name: table.pop(name) for name in ("first_token", "total") if name in table}:
        table["timeout"] = times
    return table


def _changed(of: Any, plain: Any) -> dict[str, Any]:
    values = {one.name: getattr(of, one.name) for one in fields(of)}
    return {name: _plain(value) for name, value in values.items() if value != getattr(plain, name)}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, frozenset)):
        return [_plain(one) for one in (value if isinstance(value, tuple) else sorted(value))]
    if isinstance(value, (Shadow, Weighted)):
        table = _changed(value, type(value)(""))
        return table if isinstance(value, Shadow) or len(table) > 1 else value.target
    return value
