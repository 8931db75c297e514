"""Running the server: the home's lock, the port, a bounded drain, and one line for whatever stands in the way."""

import asyncio
import errno
import gc
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from herd.engine.client import EngineClient
from herd.errors import HerdError
from herd.registry.home import lock
from herd.registry.registry import Registry
from herd.server.engines import Engines
from herd.server.loop import runner
from herd.server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from herd.server.state import State

DRAIN = 10.0  # seconds that running replies have to end
BACKLOG = 512  # also how many asyncio accepts before it looks at those it has: a flood must not fill all places at once
SAY_GOODBYE = 1  # then, seconds for the error events of those that did not


class Server(uvicorn.Server):
    """Stops as people expect: the first signal lets replies end, the second does not."""

    here: "State"  # set when the application is made

    def __init__(
        self, config: uvicorn.Config, say: Callable[[str], None], started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.say, self.on_started = say, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # The 220,000 objects that imports have made stay: looking for garbage in them would take a tenth of a second of
        # every reply that runs, again and again. Replies live for seconds, so little of what is new is garbage soon.
        gc.freeze()
        gc.set_threshold(10_000, 4, 4)
        gc.enable()
        if self.started and not self.should_exit:
            self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # At once: what was acknowledged is on the disk, and the engine ends when its connection does.
            if hasattr(self, "here"):
                self.here.scheduler.kill()
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        replies = self.here.gateway
        replies.closing = True
        if replies.in_flight:
            left = f"finishing {replies.in_flight} replies, at most {DRAIN:.0f} s"
            self.say(f"Herd: {left}; Ctrl-C again stops at once")
        loop = asyncio.get_running_loop()
        end = loop.time() + DRAIN
        while replies.in_flight and loop.time() < end:
            await asyncio.sleep(0.05)
        await self.here.engines.close()  # replies that still run end with an error event
        await super().shutdown(sockets)


def config(app: Any, *, factory: bool = False) -> uvicorn.Config:
    """How uvicorn serves the application: with limits of ours, and without a word of its own."""
    from herd.server.connection import IDLE, Connection

    return uvicorn.Config(
        app, factory=factory, http=Connection, timeout_keep_alive=IDLE, log_config=None, access_log=False,
        backlog=BACKLOG, proxy_headers=False, server_header=False, ws="none",
        timeout_graceful_shutdown=SAY_GOODBYE,
    )  # fmt: skip


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises HerdError that names the port, or the address, and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small writes at once; without, each waits for the last one to be acknowledged.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: f"port {port} is in use; choose another with --port, as in --port {port + 1}",
            errno.EACCES: f"port {port} needs more rights than you have; choose one over 1023 with --port",
        }
        other = f"cannot listen on {host}: {error.strerror}; choose an address with --host"
        raise HerdError(reasons.get(error.errno or 0, other)) from None
    return listener


def serve(
    settings: Settings, *, say: Callable[[str], None], started: Callable[[Settings], None], access: bool
) -> None:
    """Serve until a signal. `started` is called with the true address once HTTP answers.

    Raises HerdError if the home is in use by another server, or the port by anything.
    """
    level = logging.INFO if access else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("herd.access").setLevel(level)
    gc.disable()  # until all is imported
    with lock(settings.home), bind(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        engine = EngineClient()
        with runner(lambda: engine.in_flight) as loop:
            loop.run(_serve(settings, engine, listener, say, started))


async def _serve(
    settings: Settings,
    engine: EngineClient,
    listener: socket.socket,
    say: Callable[[str], None],
    started: Callable[[Settings], None],
) -> None:
    registry = Registry(settings.home)
    engines = Engines(engine, registry, memory=settings.memory, keep_alive=settings.keep_alive)
    engines.start()
    # A round of the loop for who looks after the child, one for the child, which then imports PyTorch beside FastAPI here.
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    def make() -> "FastAPI":  # called by the server once it listens to signals
        from herd.server.app import create_app

        app = create_app(settings, engines)
        server.here = app.state.herd
        return app

    from herd.server.connection import Connection, max_connections

    Connection.most = max_connections()
    server = Server(config(make, factory=True), say, lambda: started(settings))
    try:
        await server.serve(sockets=[listener])
    finally:
        await engines.close()
