"""Herd's own API under /api: status, conversations, generations, votes, models, runs, routes."""

import hashlib
import uuid
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response

from herd.errors import HerdError
from herd.protocol import ProtocolError
from herd.registry import lineage
from herd.registry.registry import BUNDLED
from herd.registry.runs import Run
from herd.server import body, models, runs
from herd.server.errors import not_found
from herd.server.guard import COOKIE
from herd.server.state import state
from herd.store.store import OUTCOMES

router = APIRouter(prefix="/api")

T = TypeVar("T")
SOURCES = ("regenerate", "battle", "thumbs", "correction", "judge")
ROLES = ("system", "user", "assistant", "tool")
MAX_IDS = 1000
CONVERSATION: dict[str, Any] = {"title": str, "route": str, "system": str, "settings": dict}
MESSAGE: dict[str, Any] = dict.fromkeys(("id", "parent", "role", "content", "generation"), str)
VOTE: dict[str, Any] = dict.fromkeys(("id", "a", "b", "outcome", "source"), str)


@router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    here = state(request)
    engine = here.engines.engine.status()
    state_ = engine["state"] if here.engines.ready or here.engines.problem else "starting"
    served = [(target.name, target.adapter or target.model) for target in here.registry.targets()]
    return {
        "version": version("openherd"),
        "engine": {"state": state_, "running": engine["running"], "waiting": engine["waiting"]},
        "problem": here.engines.problem,
        "routes": [
            {"name": name, "target": name, "model": entry.ref, "kind": entry.kind} for name, entry in served
        ],
        "default_route": here.engines.default_route,
        "runs_active": here.scheduler.active,
    }


@router.post("/session", status_code=204)
async def session(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields(key=str))]
) -> Response:
    """Exchanges the key for a cookie that scripts cannot read."""
    keys = state(request).keys
    key = given.get("key", "")
    if not keys.accepts(key):
        raise HerdError("that is not this server's key", status=401, code="invalid_api_key")
    response = Response(status_code=204)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, keys.cookie, httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.get("/conversations")
def conversations(
    request: Request,
    query: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    found = state(request).store.list_conversations(search=query or None, limit=limit + 1, before=before)
    return {"data": found[:limit], "more": len(found) > limit}


@router.post("/conversations", status_code=201)
def create_conversation(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields(id=str, **CONVERSATION))]
) -> dict[str, Any]:
    return state(request).store.create_conversation(**given)


@router.get("/conversations/export")
def export(request: Request, ids: str = "") -> dict[str, Any]:
    """All conversations, or those whose ids are named, separated by commas."""
    wanted = [word for word in ids.split(",") if word] or None
    if wanted and len(wanted) > MAX_IDS:
        raise ProtocolError(f"at most {MAX_IDS} ids at once; without ids, all are exported", "ids")
    return {"conversations": state(request).store.export_conversations(wanted)}


@router.post("/conversations/import")
def import_(
    request: Request,
    given: Annotated[dict[str, Any], Depends(body.Fields("conversations", conversations=list))],
) -> dict[str, Any]:
    return {"imported": state(request).store.import_conversations(given["conversations"])}


@router.get("/conversations/{id}")
def conversation(request: Request, id: str) -> dict[str, Any]:
    """The conversation with its messages, what is known of each reply, and the votes among them."""
    store = state(request).store
    found = _found(store.get_conversation(id), "conversation", id)
    messages = store.messages(id)
    records = {record["id"]: record for record in store.generations(conversation=id, limit=MAX_IDS)}
    for message in messages:
        if record := records.get(message["generation"]):
            message["stats"] = _stats(record)
    return {**found, "messages": messages, "votes": store.votes(conversation=id)}


@router.patch("/conversations/{id}")
def update_conversation(
    request: Request,
    id: str,
    given: Annotated[dict[str, Any], Depends(body.Fields(nulls=True, **CONVERSATION))],
) -> dict[str, Any]:
    return _found(state(request).store.update_conversation(id, **given), "conversation", id)


@router.delete("/conversations/{id}", status_code=204)
def delete_conversation(request: Request, id: str) -> Response:
    _found(state(request).store.delete_conversation(id), "conversation", id)
    return Response(status_code=204)


@router.post("/conversations/{id}/messages", status_code=201)
def add_message(
    request: Request,
    id: str,
    given: Annotated[dict[str, Any], Depends(body.Fields("content", created=body.NUMBER, **MESSAGE))],
) -> dict[str, Any]:
    body.one_of("role", given.get("role"), ROLES)
    return state(request).store.add_message(conversation=id, **given)


@router.get("/generations/{id}")
def generation(request: Request, id: str) -> dict[str, Any]:
    return _found(state(request).store.get_generation(id), "generation", id)


@router.post("/votes", status_code=201)
def add_vote(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields("a", "b", **VOTE))]
) -> dict[str, Any]:
    """Keeps a vote; it is durable when the reply is sent. The same id again is the same vote."""
    here = state(request)
    body.one_of("outcome", given.get("outcome"), OUTCOMES)
    body.one_of("source", given.setdefault("source", "regenerate"), SOURCES)
    if given["a"] == given["b"]:
        raise ProtocolError("a and b are the same generation", "b")
    caller = f"{here.keys.name}|{request.headers.get('user-agent', '')}"
    voter = hashlib.sha256(caller.encode()).hexdigest()[:16]
    given.setdefault("id", uuid.uuid4().hex)
    return here.store.add_vote(**given, voter=voter)


@router.get("/votes")
def votes(request: Request, route: str | None = None) -> dict[str, Any]:
    return {"data": state(request).store.votes(route=route)}


@router.get("/models")
def list_models(request: Request) -> dict[str, Any]:
    here = state(request)
    registry, loaded = here.registry, here.engines.loaded()
    entries = registry.models()
    current = {registry.current(name).ref for name in {entry.name for entry in entries}}
    by_ref = {entry.ref: entry for entry in entries}
    data = [models.describe(entry, by_ref.get(entry.base or ""), entry.ref in current) for entry in entries]
    return {
        "data": [{**model, "loaded": loaded.get(model["digest"])} for model in data],
        "memory": {"budget": here.engines.memory, "used": sum(part["bytes"] for part in loaded.values())},
    }


@router.post("/models/{name}/load")
async def load_model(request: Request, name: str) -> dict[str, Any]:
    """Load what answers for a route, so that its first caller need not wait."""
    await state(request).engines.load(name)
    return {"name": name, "loaded": True}


@router.post("/models/{name}/unload")
async def unload_model(request: Request, name: str) -> dict[str, Any]:
    """Give its memory back; the next request loads it again."""
    await state(request).engines.unload(name)
    return {"name": name, "loaded": False}


@router.get("/models/{ref}/files/{name}")
def model_file(request: Request, ref: str, name: str) -> FileResponse:
    path = models.plot_file(state(request).registry.resolve(ref), name)
    if path is None:
        raise not_found(f"{ref} has no plot {name!r:.100}")
    return FileResponse(path, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


@router.get("/lineage")
def get_lineage(request: Request) -> dict[str, Any]:
    here = state(request)
    return models.lineage(here.registry, lineage.records(BUNDLED, here.settings.home))


@router.get("/runs")
async def list_runs(request: Request) -> dict[str, Any]:
    here = state(request)
    return {"data": [here.scheduler.view(run) for run in Run.list(here.settings.home)]}


@router.post("/runs", status_code=201)
async def start_run(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields(kind=str, args=dict))]
) -> dict[str, Any]:
    here = state(request)
    kind, args = given.get("kind", ""), given.get("args", {})
    runs.check(kind, args)
    here.registry.target(args["name"])  # an unknown name is said before a run begins
    return here.scheduler.view(here.scheduler.submit(kind, args))


@router.get("/runs/{id}")
async def get_run(request: Request, id: str) -> dict[str, Any]:
    here = state(request)
    run = Run.load(here.settings.home, id)
    return {**here.scheduler.view(run), "metrics": run.metrics(), "log": run.log()}


@router.post("/runs/{id}/cancel")
async def cancel_run(request: Request, id: str) -> dict[str, Any]:
    here = state(request)
    return here.scheduler.view(await here.scheduler.cancel(id))


@router.post("/routes/{name}/rollback")
async def rollback(request: Request, name: str) -> dict[str, Any]:
    here = state(request)
    entry = here.registry.rollback(name)
    await here.engines.reload()
    return {"name": name, "current": entry.ref}


@router.post("/reload")
async def reload(request: Request) -> dict[str, bool]:
    await state(request).engines.reload()
    return {"reloaded": True}


def _found(value: T | None, kind: str, id: str) -> T:
    if not value:
        raise not_found(f"no {kind} {id!r:.100}")
    return value


def _stats(record: dict[str, Any]) -> dict[str, Any]:
    """What the page shows under a reply, from its generation."""
    tokens, latency = record["tokens"], record["latency"]
    writing = (latency["total"] or 0) - (latency["first_token"] or 0)
    count = tokens["completion"] or 0
    return {
        "prompt_tokens": tokens["prompt"],
        "completion_tokens": count,
        "first_token_ms": latency["first_token"],
        "tokens_per_second": (count - 1) * 1000 / writing if count > 1 and writing > 0 else None,
        "finish": record["finish"],
    }
