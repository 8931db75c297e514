"""The server's hold on the engine process: start, load, generate, cancel, and start again when it dies. No torch."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from herd.engine import frames
from herd.engine.admission import MAX_QUEUE, Admission
from herd.engine.frames import Message
from herd.errors import HerdError
from herd.protocol.types import Event, Failed, Request, Started, Usage

log = logging.getLogger("herd.engine")

PATIENCE = 5.0  # seconds that a process has to end by itself
PING = 10.0  # seconds between two questions whether it is there
MISSED = 6  # of them without a word in between, and it is not
DEATHS = 3  # of processes that were loading a model: then nobody loads it again
STOPPING = "the server is shutting down"
BACKOFF = (0.1, 30.0)  # seconds before a dead process is started again: at first, at most


@dataclass
class _Model:
    """What asks for it, again if need be, and when it is there."""

    load: Message
    ready: asyncio.Future[None]
    info: Message = field(default_factory=dict)


class _Stream(asyncio.Queue[Event]):
    """Events of one request, which is `sent` (when, 0.0: not yet) once its model is there, and in time starts."""

    sent = 0.0

    def __init__(self, salt: str, tokens: int) -> None:
        super().__init__()
        self.salt, self.tokens = salt, tokens


class EngineClient:
    """One engine process. All methods belong to one event loop."""

    def __init__(self, *, max_queue: int = MAX_QUEUE) -> None:
        self.admission = Admission(max_queue)
        self._ids = itertools.count()
        self._streams: dict[str, _Stream] = {}
        self._queued: dict[str, _Stream] = {}  # those that have not started
        self._models: dict[str, _Model] = {}
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._deaths: Counter[str] = Counter()  # by the key that was being loaded
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._up, self._closed, self._heard = asyncio.Event(), False, False
        self._status: Message = {}
        self._weights: str | None = None

    async def start(self) -> None:
        """Start the process and wait until it answers. Raises HerdError (503) if it ends instead."""
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise())
        up = asyncio.create_task(self._up.wait())
        await asyncio.wait({up, self._supervisor}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            raise HerdError("the engine process did not start; `herd doctor` looks for the cause", status=503)

    async def close(self) -> None:
        """End the process; replies that still run fail with 503."""
        self._closed = True
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._lost(STOPPING)
        for model in self._models.values():
            _refuse(model.ready, HerdError(STOPPING, status=503))
        self._models.clear()

    async def load(
        self, key: str, model_dir: Path, adapter_dir: Path | None = None, weights: str = "auto"
    ) -> None:
        """Have a model loaded under `key`, while others run; at once if it is. Raises HerdError if it is refused.

        Keys whose model and weights are the same share them; each may have an adapter of its own.
        """
        model = self._models.get(key)
        if deadly := self._deadly(key):
            raise deadly
        if self._closed:
            raise HerdError(STOPPING, status=503)
        if model is None:
            adapter = str(adapter_dir) if adapter_dir else None
            load = {"op": "load", "key": key, "model": str(model_dir), "adapter": adapter, "weights": weights}
            model = self._models[key] = _Model(load, _future())
            if self._up.is_set():
                self._send(load)
        await asyncio.shield(model.ready)

    def has(self, key: str) -> bool:
        """Whether a model is there, or on its way: loaded under `key`, not refused, not unloaded since."""
        return key in self._models

    async def unload(self, key: str) -> None:
        """Give a model's memory back once its replies have ended; returns then. Unknown keys are none to unload."""
        model = self._models.pop(key, None)
        if model is None:
            return
        early = HerdError("the model was unloaded before it was there", status=503, code="model_not_loaded")
        _refuse(model.ready, early)
        if self._writer:
            gone = self._leaving[key] = _future()
            self._send({"op": "unload", "key": key})
            await gone

    async def generate(self, key: str, request: Request, *, salt: str = "") -> AsyncGenerator[Event, None]:
        """The request's events, to `Usage` or `Failed`; closing the iterator cancels it.

        `salt`: only requests of one salt share cached prefixes (give the caller's key).
        """
        model = self._models.get(key)
        stream = _Stream(salt, 0 if request.count else _estimate(request))
        if not request.count and (full := self.admission.full(salt, stream.tokens)):
            yield Failed(str(full), full.code, full.status, full.retry_after)
            return
        if model is None:
            why = self._deadly(key) or HerdError(
                "this model is not loaded", status=503, code="model_not_loaded"
            )
            yield Failed(str(why), why.code, why.status)
            return
        id = str(next(self._ids))
        self._streams[id] = self._queued[id] = stream
        self.admission.enter(salt, stream.tokens)
        ended = False
        try:
            await asyncio.shield(model.ready)
            stream.sent = asyncio.get_running_loop().time()
            self._send({"op": "submit", "key": key, "id": id, "request": request.to_json(), "salt": salt})
            while not ended:
                event = await stream.get()
                ended = isinstance(event, (Usage, Failed))
                yield event
        except HerdError as error:  # of loading it: whoever asks for the model has made no mistake
            ended = True
            yield Failed(str(error), error.code, max(error.status, 503))
        except ValueError as error:  # the frame would be too long
            ended = True
            yield Failed(str(error), "request_too_large", 413)
        finally:
            self._streams.pop(id, None)
            self._leave_queue(id)
            if stream.sent and not ended:
                self._send({"op": "cancel", "id": id})

    def _leave_queue(self, id: str) -> None:
        if stream := self._queued.pop(id, None):
            self.admission.leave(stream.salt, stream.tokens)

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._streams)

    def status(self) -> Message:
        """{"state": starting | idle | busy | gone, "running", "waiting", "models": {key: info}, "metrics", "weights"}.

        What the process said last, at most a quarter of a second ago. `weights`: what models are kept in, once known.
        """
        running, waiting = self._status.get("running", 0), self._status.get("waiting", 0)
        if self._supervisor is None or self._supervisor.done():
            state = "gone"
        elif not self._up.is_set():
            state = "starting"
        else:
            state = "busy" if running or waiting else "idle"
        models = {k: m.info for k, m in self._models.items() if m.ready.done() and m.info}
        metrics = self._status.get("metrics", {})
        return {
            "state": state, "running": running, "waiting": waiting, "models": models, "metrics": metrics,
            "weights": self._weights,
        }  # fmt: skip

    # --- the process

    async def _supervise(self) -> None:
        """Keep a process alive, with growing pauses while it dies before it has loaded anything."""
        pause, again = BACKOFF[0], False
        while True:
            up = False
            watch = asyncio.create_task(self._watch())
            try:
                healthy = await self._read(await self._spawn())
                up = self._up.is_set()
            except OSError:  # no descriptors or no memory left, for now
                if not again:
                    raise
                healthy = False
            finally:
                watch.cancel()
                how = await self._reap()
            again = True
            lost = sum(stream.sent > 0 for stream in self._streams.values())
            log.warning("the engine process ended (%s); %d replies were lost; it starts again", how, lost)
            if up:
                self._count_death()
            self._lost("the engine process ended unexpectedly and is starting again; try again")
            pause = BACKOFF[0] if healthy else min(2 * pause, BACKOFF[1])
            await asyncio.sleep(pause)

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "herd.engine", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # a terminal's Ctrl-C is for the server, which ends this in good order
            )
            undo.pop_all()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=frames.MAX_FRAME)
        return reader

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        """Handle messages until the process is gone; whether it had got as far as a loaded model."""
        healthy = False
        try:
            while True:
                message = frames.unpack(await reader.readline())
                healthy = healthy or message["op"] == "loaded"
                self._handle(message)
        except (OSError, ValueError):  # no line is no JSON
            return healthy

    async def _watch(self) -> None:
        """Kill a process that hangs or was stopped. Whatever it does, its one thread looks at its messages meanwhile."""
        missed = 0  # in a row, and not time: this process may have been stopped, too
        while missed < MISSED:
            self._heard = False
            if self._up.is_set():
                self._send({"op": "ping"})
            await asyncio.sleep(PING)
            missed = 0 if self._heard or not self._up.is_set() else missed + 1
        log.error("the engine process has said nothing for %d seconds", PING * MISSED)
        if self._process:
            self._process.kill()

    async def _reap(self) -> str:
        """Close the socket, which ends the process; kill it if it does not listen. How it ended."""
        self._up.clear()
        process, writer = self._process, self._writer
        self._process = self._writer = None
        if writer:
            writer.close()
        if process:
            try:
                await asyncio.to_thread(process.wait, PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        status = process.returncode if process else None
        if status is None or status >= 0:
            return "it did not begin" if status is None else f"exit status {status}"
        return f"signal {-status}, {signal.strsignal(-status)}"

    def _count_death(self) -> None:
        """Note which model was being loaded, the first that is not there yet, and give up on one that ends every process."""
        key = next((key for key, model in self._models.items() if not model.ready.done()), None)
        if key is not None:
            self._deaths[key] += 1
            if deadly := self._deadly(key):
                _refuse(self._models.pop(key).ready, deadly)

    def _deadly(self, key: str) -> HerdError | None:
        if self._deaths[key] < DEATHS:
            return None
        message = (
            f"loading this model ended the engine process {DEATHS} times; start the server again to try anew"
        )
        return HerdError(message, status=503, code="model_unreadable")

    def _lost(self, reason: str) -> None:
        """Fail what was running, and let models wait for the next process."""
        self._status = {}
        for stream in self._streams.values():
            if stream.sent:
                stream.put_nowait(Failed(reason, "engine_unavailable", 503))
        for key in list(self._leaving):
            self._left(key)
        for model in self._models.values():
            if model.ready.done():
                model.ready = _future()

    def _send(self, message: Message) -> None:
        if self._writer:
            self._writer.write(frames.pack(message))

    def _handle(self, message: Message) -> None:
        self._heard = True
        match message["op"]:
            case "ready":
                self._weights = message["weights"]
                self._up.set()
                for model in self._models.values():
                    self._send(model.load)
            case "loaded":
                loaded = self._models.get(message["key"])
                if not loaded:  # unloaded meanwhile, when there was nothing to unload yet
                    self._send({"op": "unload", "key": message["key"]})
                elif not loaded.ready.done():
                    loaded.info = message["info"]
                    self._deaths.pop(message["key"], None)
                    loaded.ready.set_result(None)
            case "refused":
                if refused := self._models.pop(message["key"], None):
                    text, status, code = message["message"], message["status"], message["code"]
                    _refuse(refused.ready, HerdError(text, status=status, code=code))
            case "unloaded":
                self._left(message["key"])
            case "events":
                for id, event in frames.read_events(message):
                    self._deliver(id, event)
            case "status":
                self._status = message

    def _left(self, key: str) -> None:
        if (gone := self._leaving.pop(key, None)) and not gone.done():
            gone.set_result(None)

    def _deliver(self, id: str, event: Event) -> None:
        if stream := self._streams.get(id):
            if isinstance(event, Started):
                self._leave_queue(id)
            stream.put_nowait(event)
            if isinstance(event, Usage):
                self.admission.ended(stream.sent)


def _estimate(request: Request) -> int:
    """Tokens of a prompt, near enough for a queue's limit: four characters each."""
    texts = [m.content for m in request.messages]
    if not isinstance(request.prompt, str):
        return len(request.prompt)
    return (len(request.prompt) + sum(map(len, texts))) // 4


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _refuse(future: asyncio.Future[None], error: HerdError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting for it
