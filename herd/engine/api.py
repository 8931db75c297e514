"""`herd.load(name)`: a model in this process, without a server."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, overload

from herd.engine.adapter import load_adapter
from herd.engine.engine import Engine
from herd.engine.loading import open_engine
from herd.engine.step import Adapter
from herd.errors import HerdError
from herd.nearest import nearest
from herd.protocol.openai import decode_chat
from herd.protocol.refusals import unsupported_fields
from herd.protocol.types import Called, Delta, Event, Failed, Format, Request, Sampling, ToolCall, Usage
from herd.registry.home import home as default_home
from herd.registry.registry import Registry

Said = str | Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any]
Pieces = Generator[str, None, tuple[ToolCall, ...]]
_CHAT = {"tools", "tool_choice", "parallel_tool_calls", "response_format", "structured_outputs"}
_FIELDS = {f.name for f in fields(Sampling)}


def load(name: str = "cria", *, home: Path | None = None, weights: str = "auto") -> Model:
    """The target of this name, as a server would serve it. Raises HerdError (404) that names the nearest."""
    target = Registry(home or default_home()).target(name)
    engine = open_engine(target.model_dir, weights=weights)
    adapter = load_adapter(engine.runner.config, target.adapter_dir) if target.adapter_dir else None
    return Model(engine, target.system, target.sampling, adapter)


class Reply(str):
    """A reply's text, and the tools that it calls."""

    tool_calls: tuple[ToolCall, ...]

    def __new__(cls, text: str, tool_calls: tuple[ToolCall, ...] = ()) -> Reply:
        reply = super().__new__(cls, text)
        reply.tool_calls = tool_calls
        return reply


class Model:
    """Replies of one target. Sampling arguments are `Sampling`'s fields; those not given are the target's.

    `stream=True` gives an iterator of text as it is made; closing it ends the reply.
    """

    def __init__(
        self,
        engine: Engine,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.engine, self.adapter = engine, adapter
        self.system, self.sampling = system, dict(sampling or {})
        self._ids = itertools.count()
        self._inbox: dict[str, deque[Event]] = {}  # streams of one model may be read in turns

    @overload
    def generate(self, prompt: str, *, stream: Literal[False] = False, **sampling: Any) -> Reply: ...
    @overload
    def generate(self, prompt: str, *, stream: Literal[True], **sampling: Any) -> Pieces: ...
    def generate(self, prompt: str, *, stream: bool = False, **sampling: Any) -> Reply | Pieces:
        """Text that goes on from `prompt`. Raises HerdError for a wrong argument or a prompt that is too long."""
        return self._answer(Request("", "completion", prompt=prompt), stream, sampling)

    @overload
    def chat(self, messages: Said, *, stream: Literal[False] = False, **options: Any) -> Reply: ...
    @overload
    def chat(self, messages: Said, *, stream: Literal[True], **options: Any) -> Pieces: ...
    def chat(
        self, messages: Said, *, schema: Schema | None = None, stream: bool = False, **options: Any
    ) -> Reply | Pieces:
        """The assistant's reply to messages, or to one text; with `schema`, JSON of that JSON schema.

        Messages, and `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and `structured_outputs` (with
        "regex", "grammar" or "choice"), are those of /v1/chat/completions; other options are sampling arguments.
        The calls of a reply are its `tool_calls`; of a stream, the value that the generator returns.

        Raises HerdError as `generate` does, and for messages, tools or a format that are wrong or not supported.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        own = {name: options.pop(name) for name in _CHAT & options.keys()}
        request = decode_chat({"model": "-", "messages": list(messages), **own})
        for path, reason in unsupported_fields(request).items():
            raise HerdError(f"{path} {reason}")
        if schema is not None:
            request = replace(request, format=Format("json_schema", schema))
        return self._answer(request, stream, options)

    def _answer(self, request: Request, stream: bool, sampling: Mapping[str, Any]) -> Reply | Pieces:
        request = replace(request, sampling=_sampling(sampling), explicit=frozenset(sampling))
        pieces = self._pieces(request.for_target(self.system, self.sampling))
        return pieces if stream else _whole(pieces)

    def _pieces(self, request: Request) -> Pieces:
        id = str(next(self._ids))
        inbox = self._inbox[id] = deque()
        calls: list[ToolCall] = []
        self.engine.submit(id, request, adapter=self.adapter)
        try:
            while True:
                while not inbox:
                    self._step()
                event = inbox.popleft()
                if isinstance(event, Failed):
                    raise HerdError(event.message, status=event.status, code=event.code)
                if isinstance(event, Delta) and event.text:
                    yield event.text
                if isinstance(event, Called):
                    calls.append(event.call)
                if isinstance(event, Usage):
                    return tuple(calls)
        finally:
            self.engine.cancel(id)
            del self._inbox[id]

    def _step(self) -> None:
        for id, event in self.engine.step():
            if id in self._inbox:
                self._inbox[id].append(event)


def _whole(pieces: Pieces) -> Reply:
    texts = []
    while True:
        try:
            texts.append(next(pieces))
        except StopIteration as end:
            return Reply("".join(texts), end.value)


def _sampling(values: Mapping[str, Any]) -> Sampling:
    if unknown := sorted(values.keys() - _FIELDS):
        near = nearest(unknown[0], _FIELDS | _CHAT)
        hint = f"; did you mean {near}?" if near else f"; there are {', '.join(sorted(_FIELDS))}"
        raise HerdError(f"sampling has no argument {unknown[0]!r}{hint}")
    stop = values.get("stop")
    table = dict(values) | ({"stop": (stop,)} if isinstance(stop, str) else {})
    try:
        return Sampling.from_json(table)
    except (TypeError, ValueError) as error:
        raise HerdError(f"sampling: {error}") from None
