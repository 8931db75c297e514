"""A whole server in the test's own event loop, with an engine that is a list of words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from herd.registry.registry import Registry
from herd.server.app import create_app
from herd.server.engines import Engines
from herd.server.serve import config
from herd.server.settings import Settings

from ..server.conftest import FakeEngine


@asynccontextmanager
async def serving(home: Path, **settings: Any) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listener.getsockname()[1]
    app = create_app(Settings(home=home, port=port, **settings), Engines(FakeEngine(), Registry(home)))
    server = uvicorn.Server(config(app))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task
