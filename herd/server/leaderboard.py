"""The leaderboard under /api/leaderboard: ranks, ratings over time, comparisons, and news of each vote."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from herd.arena.board import Board
from herd.errors import HerdError
from herd.gateway.config import LOCAL
from herd.gateway.gateway import Gateway
from herd.server.state import state
from herd.server.stream import EventStream

router = APIRouter(prefix="/api/leaderboard")

CLOSED = ("openai", "anthropic", "cohere", "gemini")  # providers whose models' weights nobody can get
LOOK = 0.25  # seconds between two looks for news
LOOKS = 4  # of which one asks the store
HEARTBEAT = 15.0  # seconds
TOGETHER = 2  # answers that are worked out at a time, so that other work finds a thread
TEXTS = 16  # pages whose JSON is kept
Name = Annotated[str, Query(max_length=300)]


class Live:
    """Tells all who watch that there is news; however many they are, the store is asked once."""

    def __init__(self, board: Board, closing: Callable[[], bool]) -> None:
        self.board, self.closing = board, closing
        self._texts: dict[int, tuple[Mapping[str, Any], str]] = {}
        self.turn = asyncio.Semaphore(TOGETHER)
        self._changed, self._told, self._looks = asyncio.Event(), board.version, 0

    async def look(self) -> None:
        if self._looks % LOOKS == 0:
            await asyncio.to_thread(self.board.refresh)
        self._looks += 1
        if self.board.version != self._told or self.closing():
            self._told, changed, self._changed = self.board.version, self._changed, asyncio.Event()
            changed.set()

    def text(self, page: Mapping[str, Any]) -> str:
        """As JSON; of a page that many ask for, once."""
        known = self._texts.get(id(page))
        if known is None or known[0] is not page:
            known = page, json.dumps(page, ensure_ascii=False, allow_nan=False)
            self._texts[id(page)] = known
            while len(self._texts) > TEXTS:
                self._texts.pop(next(iter(self._texts)), None)
        return known[1]

    async def events(self) -> AsyncGenerator[dict[str, Any] | str | bytes, None]:
        """The board's version at once and whenever there is another, until the server stops."""
        told = None
        while not self.closing():
            changed, now = self._changed, self.board.version
            yield {"version": now} if now != told else b": still here\n\n"
            told = now
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()


@router.get("")
async def leaderboard(
    request: Request,
    raters: Name = "people",
    category: Name = "",
    style: bool = False,
    open: bool = False,
    anchor: Name = "",
) -> Response:
    """Targets by rating, with intervals, ranks, pairs, costs and latencies. `style`: at equal length, headers, lists and
    bold; `open`: those with open weights only; `anchor`: whose rating is 1000."""
    options = {"raters": raters, "category": category or None, "style": style, "open": open, "anchor": anchor or None}  # fmt: skip
    return await _told(request, lambda board: board.leaderboard(**options))


@router.get("/history")
async def history(request: Request, raters: Name = "people", category: Name = "") -> Response:
    """Ratings over time, and those of the best open and the best closed target."""
    return await _told(request, lambda board: board.history(raters=raters, category=category or None))


@router.get("/compare")
async def compare(request: Request, a: Name, b: Name, raters: Name = "people") -> Response:
    """Which of two targets is better, and how sure that is."""
    return await _told(request, lambda board: board.compare(a, b, raters))


@router.get("/live", include_in_schema=False)
async def live(request: Request) -> EventStream:
    """Server-sent events: {"version"} at the start and whenever votes came."""
    return EventStream(state(request).live.events())


async def _told(request: Request, ask: Callable[[Board], Mapping[str, Any]]) -> Response:
    here = state(request)

    def work() -> str:
        here.board.refresh()
        return here.live.text(ask(here.board))

    async with here.live.turn:
        return Response(await asyncio.to_thread(work), media_type="application/json")


def about(gateway: Gateway, name: str) -> dict[str, Any]:
    """What is known of a target: whether its weights are open (None: not known), its licence, its card's address, and
    the terms on what may be done with its replies. [arena.models] says it, else the registry or the provider's name."""
    now = gateway.now
    spec = now.config.targets.get(name)
    provider, slash, model = name.partition("/")
    provider, model = (spec.provider, spec.model) if spec else (provider, model) if slash else (LOCAL, name)
    found: dict[str, Any] = dict.fromkeys(("open", "licence", "card", "terms"))
    if provider in CLOSED:
        found["open"] = False
    if provider == LOCAL:
        with suppress(HerdError):  # of a model that is gone
            if entry := getattr(now.local.target(model), "entry", None):
                shown = entry.adapter or entry.model
                found |= {"open": True, "licence": shown.licence or None, "card": f"/models#{shown.ref}"}
    if said := now.config.arena.models.get(name):
        found |= {key: value for key, value in asdict(said).items() if value is not None}
    return found
