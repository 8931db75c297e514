"""What the routes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from herd.arena.ballots import Ballots
from herd.arena.battles import Battles
from herd.arena.board import Board
from herd.gateway.gateway import Gateway
from herd.gateway.keys import Keys, Principal
from herd.gateway.ledger import Ledger
from herd.gateway.reload import Reloader
from herd.registry.registry import Registry
from herd.server.engines import Engines
from herd.server.metrics import Metrics
from herd.server.runs import Scheduler
from herd.server.settings import Settings
from herd.store import Store

if TYPE_CHECKING:
    from herd.server.leaderboard import Live


@dataclass
class State:
    settings: Settings
    keys: Keys
    ledger: Ledger
    registry: Registry
    store: Store
    engines: Engines
    metrics: Metrics
    gateway: Gateway
    reloader: Reloader
    scheduler: Scheduler
    board: Board
    live: Live
    battles: Battles
    ballots: Ballots

    @property
    def problem(self) -> str | None:
        """What stands in the engine's way, where no provider can do without it."""
        return None if self.gateway.reaches_out else self.engines.problem


def state(request: Request) -> State:
    found: State = request.app.state.herd
    return found


def principal(request: Request) -> Principal:
    """Who calls, as the door has found out."""
    found: Principal = request.scope["state"]["principal"]
    return found


async def _here(request: Request) -> State:
    return state(request)


async def _who(request: Request) -> Principal:
    return principal(request)


# For routes to be handed; coroutines, since FastAPI calls plain functions in a thread.
Here = Annotated[State, Depends(_here)]
Who = Annotated[Principal, Depends(_who)]
