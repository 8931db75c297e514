"""The engine's process: models, caches and replies behind a socket, so that nothing here can stop the server.

Messages in: load {key, model, adapter, weights}, unload {key}, submit {key, id, request, salt}, cancel {id}, ping.
Messages out: ready {weights}, loaded {key, info}, refused {key, message, code, status}, unloaded {key}, events (see `frames`),
pong, status {running, waiting, metrics}. Keys with the same model and weights share an engine, whatever their adapters.

The process ends when the socket closes, however that comes about; SIGINT and SIGTERM are its parent's business.
"""

from __future__ import annotations

import hashlib
import json
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
from weakref import WeakValueDictionary

import torch

from herd.engine import frames
from herd.engine.adapter import load_adapter
from herd.engine.choice import Job
from herd.engine.engine import Engine
from herd.engine.frames import Message
from herd.engine.grammar import NotCompiled
from herd.engine.loading import chosen, open_engine
from herd.engine.pace import STEP
from herd.engine.readers import Readers
from herd.engine.step import Adapter
from herd.errors import HerdError
from herd.protocol.types import Delta, Event, Failed, Request, Usage

STATUS_EVERY = 0.25  # seconds, while busy
HEARD_EVERY = 0.25  # seconds: the server would spend more time on each token than the engine
LARGE = 64 << 10  # bytes of tools or of a format that take long to read, even where their grammar is known


class Worker:
    """One thread steps all engines in turn; others read the socket, tokenise prompts and load models."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.engines: dict[str, Engine] = {}  # by what they were loaded from
        self.keys: dict[
            str, tuple[str, Adapter | None]
        ] = {}  # what each key stands for: an engine, an adapter
        self.leaving: set[str] = set()  # keys to be unloaded once their requests have ended
        self.requests: dict[str, str] = {}  # id → key, of all that have not ended
        self.streamed: set[str] = set()  # those whose reply somebody reads while it is made
        self.held: dict[str, list[Delta]] = {}  # what the others said since they were last heard of
        self.heard = 0.0  # when that was
        self.unread: set[str] = set()  # requests whose prompts are not read yet
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Threads a model: its prompts stay in order of arrival, and a slow template keeps no other model waiting.
        self.readers: dict[str, Readers] = {}
        self.loaders = ThreadPoolExecutor(1, "models")
        self.opened: WeakValueDictionary[str, Engine] = WeakValueDictionary()  # the loader's own list
        self.told: tuple[Message, float] = ({}, 0.0)
        self.turn = 0.0  # since when other models than the one that steps have been waiting

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"op": "ready", "weights": _weights()})
        while True:
            for key in list(self.leaving):
                self._leave(key)
            if all(engine.idle for engine in self.engines.values()):
                self._tell(at_once=True)
                while self.inbox.empty() and any(engine.rest() for engine in self.engines.values()):
                    pass
                self.inbox.get()()
            self._handle()
            for name, engine in list(self.engines.items()):
                self.turn = time.monotonic()
                self._step(name, engine)
            self._tell(at_once=False)

    def _handle(self) -> None:
        while not self.inbox.empty():
            self.inbox.get()()

    def _between(self, name: str) -> None:
        """Between the layers of a step: handle messages, and let no other model wait for long."""
        self._handle()
        if time.monotonic() - self.turn > STEP:
            self.turn = math.inf  # not within a step that is within this one
            for other, engine in list(self.engines.items()):
                if other != name:
                    self._step(other, engine)
            self.turn = time.monotonic()
        self._tell(at_once=False)

    def _listen(self) -> None:
        """Read messages until the parent is gone, then end the process whatever it is doing."""
        try:
            # In large pieces: after each it may have to wait for a thread that compiles.
            for line in self.connection.makefile("rb", 1 << 20):
                message = frames.unpack(line)
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
        """Send events; the text of replies that nobody reads along, but for its beginning, only every now and then."""
        out: list[tuple[str, Event]] = []
        if time.monotonic() - self.heard > HEARD_EVERY:
            self.heard = time.monotonic()
            for id in self.held:
                self._release(id, out)
        for id, event in events:
            held = self.held.get(id)
            if held is not None and type(event) is Delta:
                held.append(event)
                continue
            if held:
                self._release(id, out)
            out.append((id, event))
            if isinstance(event, Usage | Failed):
                self.requests.pop(id, None)
                self.streamed.discard(id)
                self.held.pop(id, None)
            elif type(event) is Delta and id not in self.streamed:
                self.held[id] = []
        if out:
            self._send_events(out)

    def _send_events(self, events: list[tuple[str, Event]]) -> None:
        """Send them in as many messages as they need; a reply with an event that is too long for one fails."""
        try:
            return self._send(frames.events(events))
        except ValueError as error:
            (id, _), half = events[0], len(events) // 2
            if not half:
                self.on_cancel({"id": id})
                return self._send(frames.events([(id, Failed(str(error), "reply_too_large", 400))]))
        self._send_events(events[:half])
        self._send_events(events[half:])

    def _release(self, id: str, out: list[tuple[str, Event]]) -> None:
        """Put what is held of a reply at the end of `out`, as one event for each choice."""
        held, self.held[id] = self.held[id], []
        for index in sorted({d.index for d in held}):
            parts = [d for d in held if d.index == index]
            text = "".join([d.text for d in parts])
            tokens = tuple([t for d in parts for t in d.tokens])
            out.append((id, Delta(index, text, tokens, tuple([p for d in parts for p in d.logprobs]))))

    def _step(self, name: str, engine: Engine) -> None:
        if engine.idle:
            return
        try:
            events = engine.step()
        except Exception as error:  # out of memory, or a fault of ours: its replies fail, the process lives
            print(f"herd engine: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            engine.abort(f"the engine failed ({type(error).__name__}); try again")
            events = engine.take()
        self._emit(events)

    def _leave(self, key: str) -> None:
        """Unload a key whose requests have ended, and the engine that no key is left for."""
        if key in self.requests.values():
            return
        self.leaving.discard(key)
        name, _ = self.keys.pop(key)
        if not any(name == other for other, _ in self.keys.values()):
            del self.engines[name]
            self.readers.pop(name).close()
        self._send({"op": "unloaded", "key": key})

    def _tell(self, *, at_once: bool) -> None:
        before, when = self.told
        if not at_once and time.monotonic() - when < STATUS_EVERY:
            return
        status = {
            "op": "status",
            "running": sum(len(e.running) for e in self.engines.values()),
            "waiting": sum(len(e.waiting) for e in self.engines.values()) + len(self.unread),
            "metrics": {name: engine.metrics() for name, engine in self.engines.items()},
        }
        if status != before:
            self._send(status)
        self.told = (status, time.monotonic())

    # --- messages

    def on_load(self, message: Message) -> None:
        self.loaders.submit(self._load, **{k: v for k, v in message.items() if k != "op"})

    def _load(self, key: str, model: str, adapter: str | None, weights: str) -> None:
        """In the loader's thread: open the engine if there is none yet, and the adapter."""
        try:
            name = _name(Path(model), weights)
            promised = sum(engine.cache_bytes for engine in self.opened.values())
            engine = self.opened.get(name) or open_engine(Path(model), weights=weights, promised=promised)
            self.opened[name] = engine
            lora = load_adapter(engine.runner.config, adapter) if adapter else None
        except HerdError as error:
            self._refuse(key, str(error), error.code, error.status)
        except BaseException as error:  # a panic of a library in Rust is no Exception
            reason = f"{model} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
            self._refuse(key, reason, "model_unreadable", 500)
        else:
            self.inbox.put(lambda: self._loaded(key, name, engine, lora))

    def _refuse(self, key: str, text: str, code: str, status: int) -> None:
        refusal = {"op": "refused", "key": key, "message": text, "code": code, "status": status}
        self.inbox.put(lambda: self._send(refusal))

    def _loaded(self, key: str, name: str, engine: Engine, adapter: Adapter | None) -> None:
        engine.between = partial(self._between, name)
        self.engines[name] = engine
        self.keys[key] = name, adapter
        self.readers.setdefault(name, Readers())
        if key in self.leaving:  # it was to go, and was asked for again before it had
            self.leaving.discard(key)
            self._send({"op": "unloaded", "key": key})
        runner = engine.runner
        info = {
            "context": engine.context,
            "slots": engine.pace.slots,
            "parameters": runner.config.parameters,
            "engine": name,  # keys of one engine share its bytes
            "weight_bytes": runner.weight_bytes,
            "cache_bytes": engine.cache_bytes,
            "adapter_bytes": adapter.bytes if adapter else 0,
        }
        self._send({"op": "loaded", "key": key, "info": info})

    def on_unload(self, message: Message) -> None:
        if message["key"] in self.keys:
            self.leaving.add(message["key"])
        else:
            self._send({"op": "unloaded", "key": message["key"]})

    def on_submit(self, message: Message) -> None:
        key, id = message["key"], message["id"]
        if key not in self.keys:
            self._emit([(id, Failed("this model is not loaded", "model_not_loaded", 503))])
            return
        name, adapter = self.keys[key]
        engine, readers = self.engines[name], self.readers[name]
        self.requests[id] = key
        self.unread.add(id)
        asked, salt = message["request"], message["salt"]
        if asked.get("stream"):
            self.streamed.add(id)
        bound = [part for part in (asked.get("format"), asked.get("tools")) if part]

        def read(wait: bool) -> None:
            if id not in self.unread:
                return  # cancelled while it waited
            prepared: Job | list[Event]
            try:
                if bound and not wait and len(json.dumps(bound)) > LARGE:
                    raise NotCompiled
                request = Request.from_json(asked)
                prepared = engine.prepare(id, request, salt=salt, adapter=adapter, wait=wait)
            except NotCompiled:
                readers.compile(partial(read, wait=True), salt)
                return
            except BaseException as error:  # a tokenizer that fails in its own way
                reason = f"the prompt cannot be read ({type(error).__name__})"
                prepared = [Failed(reason, "invalid_prompt", 400)]
            self.inbox.put(lambda: self._read(engine, id, prepared))

        readers.read(partial(read, wait=False), constrained=bool(bound))

    def _read(self, engine: Engine, id: str, prepared: Job | list[Event]) -> None:
        if id in self.unread:  # else it was cancelled meanwhile
            self.unread.discard(id)
            engine.enqueue(id, prepared)
            self._emit(engine.take())

    def on_cancel(self, message: Message) -> None:
        id = message["id"]
        key = self.requests.pop(id, None)
        if id in self.unread:
            self.unread.discard(id)
            self.streamed.discard(id)
        elif key in self.keys:
            self.engines[self.keys[key][0]].cancel(id)

    def on_ping(self, message: Message) -> None:
        self._send({"op": "pong"})


def _name(model_dir: Path, weights: str) -> str:
    """Names what an engine is loaded from; files that were replaced are other files."""
    files = sorted(p for p in model_dir.glob("*") if p.suffix in (".json", ".safetensors", ".jinja"))
    stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    digest = hashlib.sha256(repr((str(model_dir.resolve()), stamps, weights)).encode()).hexdigest()
    return f"{model_dir.name}-{weights}-{digest[:16]}"


def _weights() -> str | None:
    """What models are kept in, unless a load says otherwise; None if HERD_WEIGHTS names nothing."""
    try:
        return chosen("auto")
    except HerdError:  # each load says so
        return None


def main() -> None:
    """Serve the connected socket whose file descriptor is the first argument."""
    if sys.stderr:
        os.dup2(sys.stderr.fileno(), 1)  # what libraries print is no part of the server's own output
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()
