"""Battles under /api/battles: begun, answered, voted on; what a vote reveals."""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from herd.arena.ballots import OUTCOMES, REASONS
from herd.arena.battles import KINDS, Caller, Row, replies_of
from herd.arena.voters import voter_hash
from herd.errors import HerdError
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.answer import CLIENT_GONE
from herd.server.state import principal, state
from herd.server.stream import ClientGone, EventStream, unless_gone

router = APIRouter(prefix="/api/battles")

COOKIE = "herd_voter"
YEAR = 365 * 86400
THINKING = b": they think\n\n"
MAX_TAGS, MAX_COMMENT, MAX_USER = 10, 2000, 200
TAG = re.compile(r"[^\s/][^\x00-\x1f\x7f]{0,39}")
_OURS = re.compile(r"[A-Za-z0-9_-]{20,60}")
BEGIN: dict[str, Any] = {"kind": str, "targets": list, "tags": list}
VOTE: dict[str, Any] = {"outcome": str, "reasons": list, "comment": str, "user": str}


@router.post("", status_code=201)
async def begin(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields(**BEGIN))]
) -> Response:
    """Begin a battle: "arena" between two that are drawn, "pair" between two that are named."""
    kind, targets = body.one_of("kind", given.get("kind", "arena"), KINDS), given.get("targets")
    tags = _texts("tags", given.get("tags"), MAX_TAGS, TAG)
    if (kind == "pair") != (targets is not None):
        raise ProtocolError('targets are the two of a battle of kind "pair", and of no other', "targets")
    if targets is not None and not (
        len(targets) == 2 and all(isinstance(name, str) for name in targets) and targets[0] != targets[1]
    ):
        raise ProtocolError("targets must be the names of two targets", "targets")
    return await _new(request, lambda here, who: here.begin(who, targets, tags))


@router.post("/stored", status_code=201)
async def begin_stored(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields())]
) -> Response:
    """Two replies that are there already, to be judged blindly; 404 "nothing_stored" if there are none."""
    return await _new(request, lambda here, who: here.begin_stored(who))


@router.post("/embed", status_code=201)
async def begin_embed(
    request: Request,
    given: Annotated[dict[str, Any], Depends(body.Fields("a", "b", a=str, b=str, tags=list))],
) -> JSONResponse:
    """Two generations of the caller's own, for its application's page to ask which is better."""
    tags = _texts("tags", given.get("tags"), MAX_TAGS, TAG)
    here, who = state(request).battles, Caller(principal(request), "")
    return await _seen(request, await here.begin_embed(who, given["a"], given["b"], tags), status=201)


@router.get("/{id}")
async def get(request: Request, id: str) -> JSONResponse:
    """The battle without a word of who it is, until there is a vote."""
    return await _seen(request, await state(request).battles.get(id, await _caller(request)))


@router.post("/{id}/turns")
async def say(
    request: Request, id: str, given: Annotated[dict[str, Any], Depends(body.Fields("prompt", prompt=str))]
) -> Response:
    """Both sides' answers as server-sent events."""
    here, who = state(request).battles, await _caller(request)
    return await _stream(request, here.say(await here.get(id, who), who, given["prompt"]))


@router.post("/{id}/regenerate")
async def regenerate(
    request: Request, id: str, given: Annotated[dict[str, Any], Depends(body.Fields())]
) -> Response:
    """The last turn's answers made anew."""
    here, who = state(request).battles, await _caller(request)
    return await _stream(request, here.again(await here.get(id, who), who))


@router.post("/{id}/vote")
async def vote(
    request: Request, id: str, given: Annotated[dict[str, Any], Depends(body.Fields("outcome", **VOTE))]
) -> JSONResponse:
    """One vote a battle, durable when this is answered; the same again is the same vote."""
    here, who = state(request), await _caller(request)
    outcome = body.one_of("outcome", given["outcome"], tuple(OUTCOMES))
    reasons = _texts("reasons", given.get("reasons"), len(REASONS), re.compile("|".join(REASONS)))
    comment, user = given.get("comment"), given.get("user")
    if comment is not None and len(comment) > MAX_COMMENT:
        raise ProtocolError(f"comment has over {MAX_COMMENT:,} characters", "comment")
    if user is not None and not 0 < len(user) <= MAX_USER:
        raise ProtocolError(f"user must be text of 1 to {MAX_USER} characters", "user")
    user_is = who.voter if user is None else await voter_of(request, user)
    cast = await here.ballots.vote(id, who, outcome, user=user_is, reasons=reasons, comment=comment)
    row, kept = cast.battle, cast.vote
    row["voted"] = row["voted"] or kept["created"]
    said = replies_of(row, cast.replies)
    shown = here.battles.view(row, said, await _reveal(request, row, said, kept, cast.cast))
    told = {"vote": kept["id"], "counted": kept["void"] is None, "void": kept["void"]}
    return _json({"battle": shown, **told})


async def _new(request: Request, make: Any) -> Response:
    """A battle of this caller's, who gets a cookie to be known by, unless a key says who it is."""
    here, given = state(request), _cookie(request)
    by_key = principal(request).id and ("authorization" in request.headers or "x-api-key" in request.headers)
    cookie = given or ("" if by_key else secrets.token_urlsafe(24))
    who = await _caller(request, cookie)
    answer = await _seen(request, await make(here.battles, who), status=201)
    if cookie and not given:
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        answer.set_cookie(
            COOKIE, cookie, max_age=YEAR, httponly=True, samesite="strict", secure=secure, path="/"
        )
    return answer


async def _seen(request: Request, row: Row, status: int = 200) -> JSONResponse:
    here = state(request)
    said = await asyncio.to_thread(here.battles.replies, row)
    reveal = None
    if row["voted"] and (kept := await asyncio.to_thread(here.store.battle_vote, row["id"])):
        cast = await asyncio.to_thread(here.store.votes_of, kept["voter"])
        reveal = await _reveal(request, row, said, kept, cast)
    return _json(here.battles.view(row, said, reveal), status)


async def _reveal(request: Request, row: Row, said: list[Row], vote: Row, cast: int) -> Row | None:
    """Who it was; not for an application's page, whose key may vote and see nothing else."""
    caller = principal(request)
    if not (caller.may("read") or caller.may("use:arena")):
        return None
    return await state(request).ballots.reveal(row, said, vote, cast)


def _json(content: Row, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


async def _stream(request: Request, events: AsyncGenerator[Row | None, None]) -> Response:
    """Server-sent events; an error before the first of them has its own status."""
    try:
        first = await unless_gone(request.receive, anext(events))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    return EventStream(_lines(first, events))


async def _lines(
    first: Row | None, events: AsyncGenerator[Row | None, None]
) -> AsyncGenerator[dict[str, Any] | str | bytes, None]:
    async with aclosing(events):
        yield first or THINKING
        try:
            async for event in events:
                yield event or THINKING
        except HerdError as error:  # of the caller's key, so of both sides
            for side in ("left", "right"):
                yield {"type": "failed", "side": side, "message": str(error)}


def _texts(name: str, given: Any, most: int, form: re.Pattern[str]) -> list[str]:
    if given is None:
        return []
    if len(given) > most or not all(isinstance(text, str) and form.fullmatch(text) for text in given):
        what = "names of up to 40 characters, without control characters or a leading slash"
        if name == "reasons":
            what = f"some of {', '.join(REASONS)}"
        raise ProtocolError(f"{name} must be a list of at most {most}: {what}", name)
    return list(dict.fromkeys(given))


async def _caller(request: Request, cookie: str | None = None) -> Caller:
    return Caller(principal(request), await voter_of(request, None, cookie))


async def voter_of(request: Request, user: str | None, cookie: str | None = None) -> str:
    """The salted hash of who it is: an application's user, a browser by its cookie, or a key."""
    key, cookie = principal(request).id, _cookie(request) if cookie is None else cookie
    who = ("user", key, user) if user is not None else ("browser", cookie) if cookie else ("key", key)
    return voter_hash(await state(request).battles.salt(), *who)


def _cookie(request: Request) -> str:
    """The browser's own, "" if it has none that is ours."""
    found = request.cookies.get(COOKIE, "")
    return found if _OURS.fullmatch(found) else ""
