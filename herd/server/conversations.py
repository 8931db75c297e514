"""Conversations as the pages keep them, and votes: under /api."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from herd.errors import HerdError
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.battles import voter_of
from herd.server.errors import found
from herd.server.state import Here, Who
from herd.store import OUTCOMES

router = APIRouter(prefix="/api")

SOURCES = ("regenerate", "battle", "thumbs", "correction", "judge")
ROLES = ("system", "user", "assistant", "tool")
MAX_IDS = 1000
CONVERSATION: dict[str, Any] = {"title": str, "route": str, "system": str, "settings": dict}
MESSAGE: dict[str, Any] = dict.fromkeys(("id", "parent", "role", "content", "generation"), str)
VOTE: dict[str, Any] = dict.fromkeys(("id", "a", "b", "outcome", "source", "rater"), str)
VOTE |= {"details": dict, "tags": list}
NewConversation = Annotated[dict[str, Any], Depends(body.Fields(id=str, **CONVERSATION))]
Exported = Annotated[dict[str, Any], Depends(body.Fields("conversations", conversations=list))]
Changes = Annotated[dict[str, Any], Depends(body.Fields(nulls=True, **CONVERSATION))]
NewMessage = Annotated[dict[str, Any], Depends(body.Fields("content", created=body.NUMBER, **MESSAGE))]
NewVote = Annotated[dict[str, Any], Depends(body.Fields("a", "b", **VOTE))]
OWN = ("id", "a", "b", "outcome", "source", "created")  # what a publishable key sees of its vote: no target
JUDGES = ("rater", "details", "tags")  # what only a judge's vote has
MAX_TAGS, MAX_NAME = 20, 100


@router.get("/conversations")
def conversations(
    here: Here,
    query: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    rows = here.store.list_conversations(search=query or None, limit=limit + 1, before=before)
    return {"data": rows[:limit], "more": len(rows) > limit}


@router.post("/conversations", status_code=201)
def create_conversation(here: Here, given: NewConversation) -> dict[str, Any]:
    return here.store.create_conversation(**given)


@router.get("/conversations/export")
def export(here: Here, ids: str = "") -> dict[str, Any]:
    """All conversations, or those whose ids are named, separated by commas."""
    wanted = [word for word in ids.split(",") if word] or None
    if wanted and len(wanted) > MAX_IDS:
        raise ProtocolError(f"at most {MAX_IDS} ids at once; without ids, all are exported", "ids")
    return {"conversations": here.store.export_conversations(wanted)}


@router.post("/conversations/import")
def import_(here: Here, given: Exported) -> dict[str, Any]:
    return {"imported": here.store.import_conversations(given["conversations"])}


@router.get("/conversations/{id}")
def conversation(here: Here, id: str) -> dict[str, Any]:
    """The conversation with its messages, what is known of each reply, and the votes among them."""
    store = here.store
    whole = found(store.get_conversation(id), "conversation", id)
    messages = store.messages(id)
    records = {record["id"]: record for record in store.generations(conversation=id, limit=MAX_IDS)}
    for message in messages:
        if record := records.get(message["generation"]):
            message["stats"] = _stats(record)
    return {**whole, "messages": messages, "votes": [_shown(vote) for vote in store.votes(conversation=id)]}


@router.patch("/conversations/{id}")
def update_conversation(here: Here, id: str, given: Changes) -> dict[str, Any]:
    return found(here.store.update_conversation(id, **given), "conversation", id)


@router.delete("/conversations/{id}", status_code=204)
def delete_conversation(here: Here, id: str) -> Response:
    found(here.store.delete_conversation(id), "conversation", id)
    return Response(status_code=204)


@router.post("/conversations/{id}/messages", status_code=201)
def add_message(here: Here, id: str, given: NewMessage) -> dict[str, Any]:
    body.one_of("role", given.get("role"), ROLES)
    return here.store.add_message(conversation=id, **given)


@router.post("/votes", status_code=201)
async def add_vote(request: Request, here: Here, who: Who, given: NewVote) -> dict[str, Any]:
    """Keeps a vote; it is durable when the reply is sent. The same id again is the same vote.

    A model's judgement is one, too: an admin says so with source "judge" and the judge's name as "rater".
    """
    body.one_of("outcome", given.get("outcome"), OUTCOMES)
    body.one_of("source", given.setdefault("source", "regenerate"), SOURCES)
    if given["a"] == given["b"]:
        raise ProtocolError("a and b are the same generation", "b")
    _check_judge(given, who.may("admin"))
    if given.get("rater") is None:
        given["voter"] = await voter_of(request, None)
        if not who.may("admin"):
            here.ballots.hourly.take(given["voter"], here.gateway.now.config.arena.votes_per_hour)
    given.setdefault("id", uuid.uuid4().hex)
    whole = {**given, "key": who.name, "application": who.application or None}
    shown = _shown(await here.store.write_vote(whole))
    return shown if who.may("read") else {name: shown[name] for name in OWN}


def _check_judge(given: dict[str, Any], admin: bool) -> None:
    """Raises ProtocolError for a person's vote with a judge's fields, or a judge's without them; 403 for no admin."""
    if given["source"] != "judge":
        for name in JUDGES:
            if given.get(name) is not None:
                raise ProtocolError(f'{name} belongs to votes of source "judge"', name)
        return
    if not admin:
        raise HerdError("only an admin's key may vote for a judge", status=403, code="missing_scope")
    if not 0 < len(given.get("rater") or "") <= MAX_NAME:
        raise ProtocolError(f"rater must be the judge's name, of 1 to {MAX_NAME} characters", "rater")
    tags = given.get("tags") or []
    if len(tags) > MAX_TAGS or not all(isinstance(tag, str) and 0 < len(tag) <= MAX_NAME for tag in tags):
        raise ProtocolError(f"tags must be at most {MAX_TAGS} names of 1 to {MAX_NAME} characters", "tags")


def _shown(vote: dict[str, Any]) -> dict[str, Any]:
    """A vote without who cast it."""
    return {name: value for name, value in vote.items() if name != "voter"}


@router.get("/votes")
def votes(here: Here, route: str | None = None) -> dict[str, Any]:
    return {"data": [_shown(vote) for vote in here.store.votes(route=route)]}


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
