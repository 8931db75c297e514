"""The application: rooms put together, routes, pages, and what happens at start and stop."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles

import herd
from herd.arena.ballots import Ballots
from herd.arena.battles import Battles
from herd.arena.board import Board
from herd.errors import HerdError
from herd.gateway.config import ConfigError, at_line, load
from herd.gateway.drift import Drift
from herd.gateway.gateway import Gateway
from herd.gateway.keys import Keys, Principal
from herd.gateway.ledger import BEAT, Ledger
from herd.gateway.prices import Prices
from herd.gateway.provider import Provider
from herd.gateway.reload import Reloader
from herd.gateway.route import ProviderSpec
from herd.server import anthropic, api, errors, leaderboard, openai, responses
from herd.server.access import PAGES
from herd.server.body import Fields
from herd.server.engines import Engines, has_torch
from herd.server.guard import Door, Guard
from herd.server.local import LocalEngine
from herd.server.metrics import Metrics
from herd.server.runs import Scheduler
from herd.server.settings import Settings
from herd.server.state import State, state
from herd.store import Store

log = logging.getLogger("herd.server")

WEB = Path(herd.__file__).parent / "web"


def create_app(settings: Settings, engines: Engines) -> FastAPI:
    """The ASGI application. `engines` are started (unless they are) and closed with it."""
    metrics, store = Metrics(), Store.open(settings.store)
    keys = Keys(store, settings.api_key)
    ledger = Ledger(store, name=f"{socket.gethostname()}:{settings.home}")
    local = LocalEngine(engines)
    try:
        gateway = Gateway(
            load(settings.config_file, os.environ, local.names()),
            local=local,
            store=store,
            ledger=ledger,
            observe=metrics,
            build=_provider,
            price=lambda config: Prices.load(providers=config.providers),
        )
    except ConfigError as error:
        raise at_line(settings.config_file, error) from None
    reloader = Reloader(gateway, settings.config_file, os.environ)
    metrics.adapters = local.adapters
    keys.on_revoke, gateway.background.principal = gateway.revoke, keys.of
    scheduler = Scheduler(settings.home, _environment(settings), engines.reload)
    gateway.on_change = lambda: scheduler.traffic(gateway.in_flight)

    board = Board(
        store,
        targets=lambda: battles.names(),
        about=lambda name: leaderboard.about(gateway, name),
    )
    live = leaderboard.Live(board, lambda: gateway.closing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engines.start()  # pages and API answer while a model loads
        scheduler.start()
        gateway.start()
        chores = [asyncio.create_task(chore) for chore in _chores(app.state.herd)]
        yield
        for chore in chores:
            chore.cancel()
        await scheduler.close()
        await engines.close()
        await gateway.close()
        await asyncio.to_thread(store.close)

    def full(principal: Principal) -> HerdError | None:
        if gateway.reaches_out:  # a reply need not be the engine's
            return None
        return engines.engine.admission.full(principal.name or "")

    # FastAPI's own documentation pages load scripts from elsewhere; /openapi.json is the description.
    app = FastAPI(title="Herd", version=version("openherd"), lifespan=lifespan, docs_url=None, redoc_url=None)
    battles = Battles(
        gateway, store, problem=lambda: _local_problem(engines), counts=lambda: board.standing.counts
    )
    app.state.herd = State(
        settings, keys, ledger, engines.registry, store, engines, metrics, gateway, reloader, scheduler,
        board, live, battles, Ballots(battles, store, board),
    )  # fmt: skip
    app.state.door = Door(settings, keys, metrics.observe_http, full)
    app.add_middleware(Guard, door=app.state.door)
    errors.install(app)
    app.include_router(openai.router)
    app.include_router(anthropic.router)
    app.include_router(responses.router)
    for part in api.ROUTERS:
        app.include_router(part)
    app.add_api_route("/health", _health)
    app.add_api_route("/ready", _ready)
    app.add_api_route("/metrics", _metrics)
    app.add_api_route("/embed.js", _embed, methods=["GET", "HEAD"], include_in_schema=False)
    for path in PAGES:
        app.add_api_route(path, _page, methods=["GET", "HEAD"], include_in_schema=False)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    app.mount("/web", StaticFiles(directory=WEB, check_dir=False), name="web")
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """/openapi.json: FastAPI's description, with the bodies that routes read themselves, and every error's form."""
    if app.openapi_schema is None:
        text = {"type": ["string", "null"]}
        names = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
        error = {"type": "object", "properties": names, "required": list(names)}
        schema = {"type": "object", "properties": {"error": error}, "required": ["error"]}
        failed = {"description": "What is wrong", "content": {"application/json": {"schema": schema}}}
        whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operation in (operation for path in whole["paths"].values() for operation in path.values()):
            operation["responses"].pop("422", None)  # a wrong query, too, is a 400 here
            operation["responses"]["default"] = failed
        for route in (route for part in api.ROUTERS for route in part.routes):
            if isinstance(route, APIRoute):
                for needed in route.dependant.dependencies:
                    if isinstance(needed.call, Fields):
                        for method in route.methods or ():
                            whole["paths"][route.path_format][method.lower()]["requestBody"] = (
                                needed.call.description
                            )
        app.openapi_schema = whole
    return app.openapi_schema


def _provider(spec: ProviderSpec) -> Provider:
    from herd.gateway.providers import build  # the HTTP client takes a while to load

    return build(spec, os.environ)


def _chores(here: State) -> Iterator[Coroutine[Any, Any, None]]:
    """What is to be done again and again, as long as the server runs."""
    yield _every(1, here.reloader.poll)
    yield _every(BEAT, here.ledger.recover)
    yield _every(BEAT, here.gateway.background.resume)
    yield _every(leaderboard.LOOK, here.live.look)
    yield _every(3600, lambda: asyncio.to_thread(here.store.forget_expired, time.time()))
    yield Drift(here.gateway, here.store).loop()
    if here.store.shared:  # other gateways make and revoke keys, too, and change routes
        yield _every(1, here.keys.refresh)
        yield _every(1, here.gateway.refresh)


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except HerdError as error:  # of the database, say, which may be back in a while
            log.warning("%s", error)
        except (
            Exception
        ):  # the next time may be better; without it no key would be revoked elsewhere any more
            log.exception("a chore failed")
        await asyncio.sleep(seconds)


def _environment(settings: Settings) -> dict[str, str]:
    """How a run finds this server and its home."""
    env = {"HERD_HOME": str(settings.home), "HERD_HOST": settings.host, "HERD_PORT": str(settings.port)}
    return env | ({"HERD_API_KEY": settings.api_key} if settings.api_key else {})


async def _health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def _ready(request: Request) -> JSONResponse:
    """200 when a route can answer at once; else 503 and what the default one waits for or lacks."""
    here = state(request)
    lacks = "the server is stopping" if here.gateway.closing else None
    if await asyncio.to_thread(here.store.problem):
        lacks = lacks or "the database cannot be reached"
    if (here.engines.ready or here.gateway.ready) and not lacks:
        return JSONResponse({"ready": True, "model": here.engines.default_route})
    reason = lacks or here.engines.problem or "the engine is loading"
    return JSONResponse({"ready": False, "reason": reason}, 503)


async def _metrics(request: Request) -> Response:
    here = state(request)
    text = here.metrics.render(here.engines.metrics())
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _local_problem(engines: Engines) -> str | None:
    """Why no model of this machine can answer."""
    return engines.problem if has_torch() else 'models run on PyTorch: pip install "openherd[local]"'


async def _embed() -> Response:
    """What asks "which reply is better?" in an application's page."""
    script = WEB / "embed.js"
    if not script.is_file():
        raise errors.not_found("the pages are not installed; the API is at /api/battles")
    return FileResponse(script, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


async def _page() -> Response:
    index = WEB / "index.html"
    if not index.is_file():
        raise errors.not_found("the pages are not installed; the API is at /v1")
    return FileResponse(index, headers={"Cache-Control": "no-cache"})
