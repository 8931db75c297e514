"""Votes in and out under /api/arena: import, export, what judges judge and how far they agree, frozen prompts."""

import asyncio
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Annotated, Any, get_args

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from herd.arena import exports, judging
from herd.arena.columns import JUDGE, PEOPLE
from herd.arena.formats import Format
from herd.arena.imports import MAX_NAME, import_votes
from herd.errors import HerdError
from herd.gateway.route import Use
from herd.protocol import ProtocolError
from herd.server import body
from herd.server.state import State, state
from herd.store.votes import prompt_hash

router = APIRouter(prefix="/api/arena")

MAX_FILE = 2 << 30  # bytes of an import
SILENCE = 30.0  # seconds without a byte of it
PAIRS = 50  # for a judge at once
MAX_PAGE = 8 << 20  # characters of pairs after which there are no more of them
CHUNK = 1 << 16
USE = get_args(Use)
Word = Annotated[str | None, Query(max_length=MAX_NAME)]
_FILE = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}  # fmt: skip


@router.post("/import", status_code=201, openapi_extra=_FILE)
async def import_(
    request: Request,
    format: Format = "fastchat",
    judge: Word = None,
    use: Annotated[list[str], Query(max_length=len(USE))] = ["evaluate"],  # noqa: B006  (FastAPI copies it)
) -> dict[str, Any]:
    """Keep the votes of the file in the body, all of them or none; a caller who goes away meanwhile stops it."""
    here, gone = state(request), threading.Event()
    for word in use:
        body.one_of("use", word, USE)

    def go_on(at: int) -> None:
        if gone.is_set():
            raise HerdError("the caller has gone", status=499, code="stopped")

    with tempfile.TemporaryFile(dir=here.settings.home) as file:
        await _receive(request, file)
        reading = asyncio.to_thread(import_votes, file, format, here.store, use=use, judge=judge, progress=go_on)  # fmt: skip
        work = asyncio.create_task(reading)
        while not work.done():
            await asyncio.wait({work}, timeout=1)
            if not work.done() and await request.is_disconnected():
                gone.set()
        return work.result().to_json()


@router.get("/export")
def export(
    request: Request,
    format: exports.Form = "fastchat",
    raters: Annotated[str, Query(max_length=MAX_NAME)] = PEOPLE,
    purpose: exports.Purpose = "train",
) -> StreamingResponse:
    """The votes as a file, or preference pairs. It is whole before its first byte is sent, so that its length is known
    and `X-Herd-Left-Out` says what was left out, by reason."""
    here = state(request)
    if raters.startswith(JUDGE):
        here.board.refresh()
        here.board.chosen(raters)  # which says who there are
    file = tempfile.TemporaryFile(dir=here.settings.home)  # noqa: SIM115
    try:
        left_out = exports.export(
            file, format, here.store, raters=raters, flagged=_flagged(here), purpose=purpose,
            about=here.board.about,
        )  # fmt: skip
        kind, end = exports.TYPES[format]
        headers = {
            "Content-Disposition": f'attachment; filename="votes.{end}"',
            "Content-Length": str(file.tell()),
            "X-Herd-Left-Out": json.dumps(left_out),
        }
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return StreamingResponse(_chunks(file), media_type=kind, headers=headers)


@router.get("/pairs")
def pairs(
    request: Request,
    judge: Annotated[str, Query(min_length=1, max_length=MAX_NAME)],
    limit: Annotated[int, Query(ge=1, le=PAIRS)] = PAIRS,
) -> dict[str, Any]:
    """Stored replies of two targets to one prompt that this judge has not judged, the newest first."""
    found: list[dict[str, Any]] = []
    size = 0
    store = state(request).store
    for pair in store.stored_pairs(limit, unjudged_by=judge):
        size += len(json.dumps(pair))
        if found and size > MAX_PAGE:
            break
        battle = store.battle(pair["battle"]) if pair["battle"] else None
        found.append({**pair, "tags": battle["tags"] if battle else None})
    return {"data": found}


@router.get("/agreement")
def agreement(request: Request, judge: Word = None) -> dict[str, Any]:
    """How far judges agree with people, what sways them, and what both together say of each two targets."""
    here = state(request)
    return {"judges": judging.report(here.store, judge, _flagged(here))}


@router.post("/frozen")
def freeze(
    request: Request, given: Annotated[dict[str, Any], Depends(body.Fields("prompts", prompts=list))]
) -> dict[str, Any]:
    """Mark evaluation prompts: no pair on one of them is exported for training. Kept by their hashes alone."""
    hashes = set()
    for place, prompt in enumerate(given["prompts"]):
        made = prompt_hash(prompt) if isinstance(prompt, str) else None
        if made is None:
            raise ProtocolError(f"prompts[{place}] must be text", f"prompts.{place}")
        hashes.add(made)
    new = state(request).store.freeze(hashes)
    return {"frozen": new, "known": len(hashes) - new}


async def _receive(request: Request, file: IO[bytes]) -> None:
    """The body into the file. Raises HerdError 413 if it is over MAX_FILE, 408 if it falls silent, 415 if it is compressed."""
    body.refuse_encoded(request)
    announced = request.headers.get("content-length", "")
    size = int(announced[:20]) if announced.isdecimal() else 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(SILENCE) as clock:
            if size <= MAX_FILE:
                size = 0
                async for chunk in request.stream():
                    clock.reschedule(loop.time() + SILENCE)
                    size += len(chunk)
                    if size > MAX_FILE:
                        break
                    file.write(chunk)
    except TimeoutError:
        message = f"nothing came for {SILENCE:g} seconds"
        raise HerdError(message, status=408, code="request_timeout") from None
    if size > MAX_FILE:
        message = f"the file is over {MAX_FILE >> 30} GiB; import it in parts, or with no server running"
        raise HerdError(message, status=413, code="body_too_large")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def _flagged(here: State) -> Callable[[str | None], bool]:
    here.board.refresh()
    here.board.suspects()
    return here.board.is_flagged
