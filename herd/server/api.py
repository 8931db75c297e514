"""Herd's own API under /api: status, session, models, runs; and the routers of all of it."""

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response

from herd.errors import HerdError
from herd.registry import lineage
from herd.registry.registry import BUNDLED
from herd.registry.runs import Run
from herd.server import arena, battles, body, conversations, keys, leaderboard, models, routes, runs, traffic
from herd.server.engines import has_torch
from herd.server.errors import not_found
from herd.server.guard import COOKIE
from herd.server.state import Here, State, Who

router = APIRouter(prefix="/api")
ROUTERS = (
    battles.router, router, arena.router, conversations.router, keys.router, leaderboard.router, routes.router,
    traffic.router,
)  # fmt: skip
Session = Annotated[dict[str, Any], Depends(body.Fields(key=str))]
NewRun = Annotated[dict[str, Any], Depends(body.Fields(kind=str, args=dict))]


@router.get("/status")
def status(here: Here, who: Who) -> dict[str, Any]:
    """What runs here, and the names that the key may use: routes, models here, models of providers."""
    engine = here.engines.engine.status()
    state_ = engine["state"] if here.engines.ready or here.engines.problem else "starting"
    state_ = state_ if has_torch() else "absent"
    names = [name for name in _names(here) if who.may(f"use:{name}")]
    default = here.engines.default_route
    # Who plays blind must not see when the side that is here has ended.
    busy = {name: engine[name] for name in ("running", "waiting")} if who.may("read") else {}
    return {
        "version": version("openherd"),
        "engine": {"state": state_, **busy},
        "problem": here.problem,
        # Why the running configuration is not that of herd.toml: not for a publishable key.
        "config_problem": here.reloader.problem if who.may("read") else None,
        "routes": [_served(here, name) for name in names],
        "arena": list(here.battles.names()) if who.may("use:arena") else [],  # who may battle
        "default_route": default if default in names else next(iter(names), None),
        "runs_active": here.scheduler.active,
    }


@router.post("/session", status_code=204)
async def session(request: Request, here: Here, given: Session) -> Response:
    """Exchanges a key for a cookie that scripts cannot read, and that ends when the key does."""
    keys = here.keys
    found = keys.find(given.get("key", ""))
    if found is None:
        raise HerdError("that is no key of this server's", status=401, code="invalid_api_key")
    response = Response(status_code=204)
    # Before a proxy that speaks TLS for us, too: whoever lies about it harms only himself.
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, keys.cookie(found), httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.get("/models")
def list_models(here: Here) -> dict[str, Any]:
    registry, loaded = here.registry, here.engines.loaded()
    entries = registry.models()
    current = {registry.current(name).ref for name in {entry.name for entry in entries}}
    by_ref = {entry.ref: entry for entry in entries}
    data = [
        models.describe(entry, by_ref.get(entry.base or ""), entry.ref in current, here.engines.size)
        for entry in entries
    ]
    return {
        "data": [{**model, "loaded": loaded.get(model["digest"])} for model in data],
        "memory": {"budget": here.engines.memory, "used": sum(part["bytes"] for part in loaded.values())},
    }


@router.post("/models/{name}/load")
async def load_model(here: Here, name: str) -> dict[str, Any]:
    """Load what answers for a route, so that its first caller need not wait."""
    await here.engines.load(name)
    return {"name": name, "loaded": True}


@router.post("/models/{name}/unload")
async def unload_model(here: Here, name: str) -> dict[str, Any]:
    """Give its memory back; the next request loads it again."""
    await here.engines.unload(name)
    return {"name": name, "loaded": False}


@router.get("/models/{ref}/files/{name}")
def model_file(here: Here, ref: str, name: str) -> FileResponse:
    path = models.plot_file(here.registry.resolve(ref), name)
    if path is None:
        raise not_found(f"{ref} has no plot {name!r:.100}")
    return FileResponse(path, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


@router.get("/lineage")
def get_lineage(here: Here) -> dict[str, Any]:
    return models.lineage(here.registry, lineage.records(BUNDLED, here.settings.home))


@router.get("/runs")
async def list_runs(here: Here) -> dict[str, Any]:
    return {"data": [here.scheduler.view(run) for run in Run.list(here.settings.home)]}


@router.post("/runs", status_code=201)
async def start_run(here: Here, given: NewRun) -> dict[str, Any]:
    kind, args = given.get("kind", ""), given.get("args", {})
    runs.check(kind, args)
    here.registry.target(args["name"])  # an unknown name is said before a run begins
    return here.scheduler.view(here.scheduler.submit(kind, args))


@router.get("/runs/{id}")
async def get_run(here: Here, id: str) -> dict[str, Any]:
    run = Run.load(here.settings.home, id)
    return {**here.scheduler.view(run), "metrics": run.metrics(), "log": run.log()}


@router.post("/runs/{id}/cancel")
async def cancel_run(here: Here, id: str) -> dict[str, Any]:
    return here.scheduler.view(await here.scheduler.cancel(id))


@router.post("/reload")
async def reload(here: Here) -> dict[str, Any]:
    """Serve what the registry and herd.toml say now; `problem`: why the latter does not count."""
    await here.engines.reload()
    await here.reloader.reload()
    return {"reloaded": True, "problem": here.reloader.problem}


def _names(here: State) -> list[str]:
    """The configured routes, then what is here, then what providers list."""
    return list(
        dict.fromkeys((*here.gateway.now.routes, *here.gateway.now.local.names(), *here.gateway.models()))
    )


def _served(here: State, name: str) -> dict[str, Any]:
    route = here.gateway.now.routes.get(name)
    target = route.targets[0].target if route else name
    try:
        found = here.gateway.now.target(target)
    except HerdError:  # a model that is gone or broken; whoever asks for it is told
        return {"name": name, "target": target, "model": None, "kind": "route" if route else "model"}
    entry = getattr(found, "entry", None)
    kind = (entry.adapter or entry.model).kind if entry else "remote"
    return {"name": name, "target": target, "model": found.model, "kind": "route" if route else kind}
