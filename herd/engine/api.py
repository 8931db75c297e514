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
from herd.protocol.types import Delta, Event, Failed, Format, Message, Request, Sampling, Usage
from herd.registry.home import home as default_home
from herd.registry.registry import Registry

Said = str | Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any]
_FIELDS = {f.name for f in fields(Sampling)}


def load(name: str = "cria", *, home: Path | None = None, weights: str = "auto") -> Model:
    """The target of this name, as a server would serve it. Raises HerdError (404) that names the nearest."""
    target = Registry(home or default_home()).target(name)
    engine = open_engine(target.model_dir, weights=weights)
    adapter = load_adapter(engine.runner.config, target.adapter_dir) if target.adapter_dir else None
    return Model(engine, target.system, target.sampling, adapter)


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
    def generate(self, prompt: str, *, stream: Literal[False] = False, **sampling: Any) -> str: ...
    @overload
    def generate(
        self, prompt: str, *, stream: Literal[True], **sampling: Any
    ) -> Generator[str, None, None]: ...
    def generate(
        self, prompt: str, *, stream: bool = False, **sampling: Any
    ) -> str | Generator[str, None, None]:
        """Text that goes on from `prompt`. Raises HerdError for a wrong argument or a prompt that is too long."""
        return self._answer(Request("", "completion", prompt=prompt), stream, sampling)

    @overload
    def chat(
        self, messages: Said, *, schema: Schema | None = None, stream: Literal[False] = False, **sampling: Any
    ) -> str: ...
    @overload
    def chat(
        self, messages: Said, *, schema: Schema | None = None, stream: Literal[True], **sampling: Any
    ) -> Generator[str, None, None]: ...
    def chat(
        self, messages: Said, *, schema: Schema | None = None, stream: bool = False, **sampling: Any
    ) -> str | Generator[str, None, None]:
        """The assistant's reply to messages {"role", "content"}, or to one text; with `schema`, JSON of that JSON schema.

        Raises HerdError as `generate` does, and for a schema that is wrong or not supported.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        try:
            said = tuple(Message.from_json(m) for m in messages)
        except (TypeError, ValueError) as error:
            raise HerdError(f'messages: each is {{"role": …, "content": text}} ({error})') from None
        form = Format("json_schema", schema) if schema is not None else None
        return self._answer(Request("", "chat", messages=said, format=form), stream, sampling)

    def _answer(
        self, request: Request, stream: bool, sampling: Mapping[str, Any]
    ) -> str | Generator[str, None, None]:
        request = replace(request, sampling=_sampling(sampling), explicit=frozenset(sampling))
        pieces = self._pieces(request.for_target(self.system, self.sampling))
        return pieces if stream else "".join(pieces)

    def _pieces(self, request: Request) -> Generator[str, None, None]:
        id = str(next(self._ids))
        inbox = self._inbox[id] = deque()
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
                if isinstance(event, Usage):
                    return
        finally:
            self.engine.cancel(id)
            del self._inbox[id]

    def _step(self) -> None:
        for id, event in self.engine.step():
            if id in self._inbox:
                self._inbox[id].append(event)


def _sampling(values: Mapping[str, Any]) -> Sampling:
    if unknown := sorted(values.keys() - _FIELDS):
        near = nearest(unknown[0], _FIELDS)
        hint = f"; did you mean {near}?" if near else f"; there are {', '.join(sorted(_FIELDS))}"
        raise HerdError(f"sampling has no argument {unknown[0]!r}{hint}")
    stop = values.get("stop")
    table = dict(values) | ({"stop": (stop,)} if isinstance(stop, str) else {})
    try:
        return Sampling.from_json(table)
    except (TypeError, ValueError) as error:
        raise HerdError(f"sampling: {error}") from None
