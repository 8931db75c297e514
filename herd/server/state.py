"""What the routes share."""

from dataclasses import dataclass

from fastapi import Request

from herd.registry.registry import Registry
from herd.server.engines import Engines
from herd.server.metrics import Metrics
from herd.server.replies import Replies
from herd.server.runs import Scheduler
from herd.server.settings import KeyRing, Settings
from herd.store import Store


@dataclass
class State:
    settings: Settings
    keys: KeyRing
    registry: Registry
    store: Store
    engines: Engines
    metrics: Metrics
    replies: Replies
    scheduler: Scheduler


def state(request: Request) -> State:
    found: State = request.app.state.herd
    return found
