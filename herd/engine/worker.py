"""The engine's process: models, caches and replies behind a socket, so that nothing here can stop the server.

    python -m herd.engine.worker <file descriptor of a connected socket>

Messages in: load {key, model, adapter}, unload {key}, submit {key, id, request, salt}, cancel {id}.
Messages out: ready, loaded {key, info}, refused {key, message, code, status}, unloaded {key}, events [[id, event], …],
status {running, waiting, metrics}.

The process ends when the socket closes, however that comes about; SIGINT and SIGTERM are its parent's business.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from herd.engine import frames
from herd.engine.choice import Job
from herd.engine.engine import STEP, Engine
from herd.engine.loading import open_engine
from herd.errors import HerdError
from herd.protocol.types import Event, Failed, Request

STATUS_EVERY = 0.25  # seconds, while busy

Message = dict[str, Any]


class Worker:
    """One thread steps all engines in turn; others read the socket, tokenise prompts and load models."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.engines: dict[str, Engine] = {}
        self.leaving: set[str] = set()  # to be unloaded once they are idle
        self.owner: dict[str, str] = {}  # request id → engine key, until its prompt is read
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # One thread a model: its prompts stay in order of arrival, and a slow template keeps no other model waiting.
        self.readers: dict[str, ThreadPoolExecutor] = {}
        self.loaders = ThreadPoolExecutor(1, "models")
        self.told: tuple[Message, float] = ({}, 0.0)
        self.turn = 0.0  # since when other models than the one that steps have been waiting

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"op": "ready"})
        while True:
            idle = all(engine.idle for engine in self.engines.values())
            if idle:
                self._settle()
                self.inbox.get()()
            self._handle()
            for engine in list(self.engines.values()):
                self.turn = time.monotonic()
                self._step(engine)
            self._tell(at_once=False)

    def _handle(self) -> None:
        while not self.inbox.empty():
            self.inbox.get()()

    def _between(self, key: str) -> None:
        """Between the layers of a step: handle messages, and let no other model wait for long."""
        self._handle()
        if time.monotonic() - self.turn > STEP:
            self.turn = math.inf  # not within a step that is within this one
            for other, engine in list(self.engines.items()):
                if other != key:
                    self._step(engine)
            self.turn = time.monotonic()
        self._tell(at_once=False)

    def _listen(self) -> None:
        """Read messages until the parent is gone, then end the process whatever it is doing."""
        try:
            while (message := frames.receive(self.connection)) is not None:
                self.inbox.put(lambda m=message: getattr(self, "on_" + m["op"])(m))  # type: ignore[misc]
        except (OSError, ValueError):
            pass
        os._exit(0)

    def _send(self, message: Message) -> None:
        try:
            self.connection.sendall(frames.pack(message))
        except OSError:
            os._exit(0)

    def _emit(self, events: list[tuple[str, Event]]) -> None:
        if events:
            self._send({"op": "events", "events": [[id, event.to_json()] for id, event in events]})

    def _step(self, engine: Engine) -> None:
        if engine.idle:
            return
        try:
            events = engine.step()
        except Exception as error:  # out of memory, or a fault of ours: its replies fail, the process lives
            print(f"herd engine: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            engine.abort(f"the engine failed ({type(error).__name__}); try again")
            events = engine.step()
        self._emit(events)

    def _settle(self) -> None:
        for key in list(self.leaving):
            self._leave(key)
        self._tell(at_once=True)

    def _leave(self, key: str) -> None:
        if self.engines[key].idle and key not in self.owner.values():
            self.leaving.discard(key)
            del self.engines[key]
            self.readers.pop(key).shutdown(wait=False)
            self._send({"op": "unloaded", "key": key})

    def _tell(self, *, at_once: bool) -> None:
        before, when = self.told
        if not at_once and time.monotonic() - when < STATUS_EVERY:
            return
        status = {
            "op": "status",
            "running": sum(len(e.running) for e in self.engines.values()),
            "waiting": sum(len(e.waiting) for e in self.engines.values()) + len(self.owner),
            "metrics": {key: engine.metrics() for key, engine in self.engines.items()},
        }
        if status != before:
            self._send(status)
        self.told = (status, time.monotonic())
        for key in [k for k in self.leaving if self.engines[k].idle]:
            self._leave(key)

    # --- messages

    def on_load(self, message: Message) -> None:
        key, model = message["key"], Path(message["model"])
        adapter = Path(message["adapter"]) if message["adapter"] else None

        def work() -> None:
            try:
                engine = open_engine(model, adapter)
            except HerdError as error:
                self._refuse(key, str(error), error.code, error.status)
            except (Exception, MemoryError) as error:
                reason = f"{model} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
                self._refuse(key, reason, "model_unreadable", 500)
            else:
                self.inbox.put(lambda: self._loaded(key, engine))

        self.loaders.submit(work)

    def _refuse(self, key: str, text: str, code: str, status: int) -> None:
        refusal = {"op": "refused", "key": key, "message": text, "code": code, "status": status}
        self.inbox.put(lambda: self._send(refusal))

    def _loaded(self, key: str, engine: Engine) -> None:
        engine.between = partial(self._between, key)
        self.engines[key] = engine
        self.readers.setdefault(key, ThreadPoolExecutor(1, "prompts"))
        self.leaving.discard(key)
        info = {
            "context": engine.context,
            "slots": len(engine.cache.length),
            "parameters": engine.model.config.parameters,
            "dtype": str(engine.dtype).removeprefix("torch."),
        }
        self._send({"op": "loaded", "key": key, "info": info})

    def on_unload(self, message: Message) -> None:
        if message["key"] in self.engines:
            self.leaving.add(message["key"])
        else:
            self._send({"op": "unloaded", "key": message["key"]})

    def on_submit(self, message: Message) -> None:
        key, id = message["key"], message["id"]
        engine = self.engines.get(key)
        if engine is None:
            self._emit([(id, Failed("this model is not loaded", "model_not_loaded", 503))])
            return
        self.owner[id] = key

        def read() -> None:
            if id not in self.owner:
                return  # cancelled while it waited
            try:
                job = engine.prepare(id, Request.from_json(message["request"]), salt=message["salt"])
            except Exception as error:  # a tokenizer that fails in its own way
                job = Failed(f"the prompt cannot be read ({type(error).__name__})", "invalid_prompt", 400)
            self.inbox.put(lambda: self._read(engine, id, job))

        self.readers[key].submit(read)

    def _read(self, engine: Engine, id: str, job: Job | Failed) -> None:
        if self.owner.pop(id, None):  # else it was cancelled meanwhile
            engine.enqueue(id, job)

    def on_cancel(self, message: Message) -> None:
        if self.owner.pop(message["id"], None) is None:
            for engine in self.engines.values():
                engine.cancel(message["id"])


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
