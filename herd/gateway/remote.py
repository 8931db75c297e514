"""Providers of OpenAI's and Anthropic's dialects: a call becomes a body, a reply's bytes become events, and nothing is
trusted."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from yarl import URL

from herd.gateway.addresses import check_url
from herd.gateway.http import BOUNDS, EVENTS, Bounds, Client
from herd.gateway.provider import Call, Chunk
from herd.gateway.route import ProviderSpec
from herd.gateway.secrets import Secrets
from herd.protocol import Dialect, Event, Request, Usage, upstream, upstream_anthropic, upstream_openai
from herd.protocol.sse import Parser, ServerSent

LISTING = 60.0  # seconds for the list of models
PATHS = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


class Stream(Protocol):
    hidden: bool

    def feed(self, event: str | None, data: str) -> tuple[Event, ...]: ...

    def end(self) -> tuple[Event, ...]: ...


class Codec(Protocol):
    """A dialect's module of `herd.protocol`, as far as both are alike."""

    def Stream(self, request: Request) -> Stream: ...

    def decode(self, body: bytes, request: Request) -> tuple[Event, ...]: ...


class Remote(ABC):
    """A provider over HTTP. Raises HerdError for an address or a secret that cannot be."""

    codec: ClassVar[Codec]
    home: ClassVar[str]  # the address of the dialect's author
    auth: ClassVar[tuple[str, str]]
    fixed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    listing: ClassVar[str] = "/models"
    passes: frozenset[Dialect]

    def __init__(self, spec: ProviderSpec, environ: Mapping[str, str], bounds: Bounds = BOUNDS) -> None:
        self.name, self.spec = spec.name, spec
        self.urls = tuple(check_url(url, spec.private) for url in spec.urls or (self.home,))
        self.secrets = Secrets(spec.name, environ)
        self.client = Client(spec, self.secrets, self.auth, self.fixed, bounds)

    @abstractmethod
    def unsupported(self, call: Call) -> Mapping[str, str]: ...

    @abstractmethod
    def path(self, request: Request) -> str:
        """Where it goes, after the address."""

    @abstractmethod
    def encode(self, call: Call) -> dict[str, Any]: ...

    def body(self, call: Call) -> dict[str, Any]:
        return self.encode(call) if call.body is None else {**call.body, "model": call.target.model}

    def decode(self, body: bytes, request: Request) -> tuple[Event, ...]:
        return self.codec.decode(body, request)

    async def generate(self, call: Call) -> AsyncGenerator[Event | Chunk, None]:
        url = call.url or self.urls[0]
        if url not in self.urls:
            raise ValueError(f"{url!r:.200} is not one of the addresses of {self.name}")
        url, body, problem = url + self.path(call.request), self.body(call), None
        try:
            if not call.request.stream:
                data = await self.client.whole("POST", url, body)
                events = self.decode(data, call.request)
                for item in events if call.body is None else (Chunk(events, data),):
                    yield item
                return
            reader, held = _Reader(self, call), list[Event | Chunk]()
            async with aclosing(self.client.pieces("POST", url, body, EVENTS)) as pieces:
                async for piece in pieces:
                    ready: list[Event | Chunk] = []
                    try:
                        for item in reader.feed(piece):
                            (held if reader.done else ready).append(item)
                    finally:
                        for item in _joined(ready):
                            yield item
                    if reader.done:
                        break
                held += reader.end()
                # The reply has ended; it is complete if nothing follows, and HTTP's end does or is not waited for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.client.bounds.grace):
                        async for piece in pieces:
                            held += reader.feed(piece)
                for item in held:
                    yield item
        except upstream.ErrorEvent as error:
            problem = self.secrets.told(error.told)
        except ValueError as error:
            problem = self.secrets.error(str(error), "upstream_malformed")
        if problem is not None:
            raise problem

    async def models(self) -> list[str]:
        try:
            async with asyncio.timeout(LISTING):
                found = upstream.read(await self.client.whole("GET", self.urls[0] + self.listing))
            models = [upstream.part({"m": model}, "m", dict) for model in upstream.part(found, "data", list)]
            return [upstream.part(model, "id", str) for model in models]
        except TimeoutError:
            raise self.secrets.error("it does not answer in time", "upstream_timeout", 504) from None
        except ValueError as error:
            raise self.secrets.error(str(error), "upstream_malformed") from None

    async def close(self) -> None:
        await self.client.close()


class OpenAI(Remote):
    """OpenAI, vLLM, other Herds, and most vendors beside their own dialect.

    With `private` it is taken for vLLM or Herd, which know more fields than OpenAI itself.
    """

    codec: ClassVar[Codec] = upstream_openai
    home = "https://api.openai.com/v1"
    auth = ("Authorization", "Bearer ")
    passes: frozenset[Dialect] = frozenset({"chat", "completion"})  # a vector is decoded in any case

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return upstream_openai.unsupported(
            call.request, extended=self.spec.private, whole=call.body is not None
        )

    def path(self, request: Request) -> str:
        return PATHS[request.kind]

    def encode(self, call: Call) -> dict[str, Any]:
        newest = URL(call.url or self.urls[0]).host == URL(self.home).host
        return upstream_openai.encode(
            call.request, call.target.model, extended=self.spec.private, new_limit=newest
        )

    def body(self, call: Call) -> dict[str, Any]:
        body = super().body(call)
        if call.body is not None and call.request.stream:  # for the ledger: unasked, it is `hidden`
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body


class Anthropic(Remote):
    codec: ClassVar[Codec] = upstream_anthropic
    home = "https://api.anthropic.com"
    auth = ("x-api-key", "")
    fixed = {"anthropic-version": "2023-06-01"}
    listing = "/models?limit=1000"
    passes: frozenset[Dialect] = frozenset({"messages"})

    def __init__(self, spec: ProviderSpec, environ: Mapping[str, str], bounds: Bounds = BOUNDS) -> None:
        super().__init__(spec, environ, bounds)
        # Its own clients are told an address without the version; others with it.
        self.urls = tuple(url if url.endswith("/v1") else f"{url}/v1" for url in self.urls)

    def unsupported(self, call: Call) -> Mapping[str, str]:
        return upstream_anthropic.unsupported(call.request, whole=call.body is not None)

    def path(self, request: Request) -> str:
        return "/messages/count_tokens" if request.count else "/messages"

    def encode(self, call: Call) -> dict[str, Any]:
        return upstream_anthropic.encode(call.request, call.target.model)

    def decode(self, body: bytes, request: Request) -> tuple[Event, ...]:
        return upstream_anthropic.decode_count(body) if request.count else super().decode(body, request)


def _joined(items: list[Event | Chunk]) -> Iterator[Event | Chunk]:
    """Chunks in a row as one: what came together goes on together."""
    for chunks, run in groupby(items, lambda item: isinstance(item, Chunk)):
        if chunks:
            found = [item for item in run if isinstance(item, Chunk)]
            events = tuple(event for item in found for event in item.events)
            yield Chunk(events, b"".join(item.data for item in found))
        else:
            yield from run


class _Reader:
    """A stream's bytes in, its events out; with their bytes where they pass through. `done`: the reply is complete."""

    def __init__(self, provider: Remote, call: Call) -> None:
        self.clean, self.passing, self.done = provider.secrets.clean, call.body is not None, False
        self.parser, self.stream = Parser(provider.client.bounds.event), provider.codec.Stream(call.request)

    def feed(self, piece: bytes) -> Iterator[Event | Chunk]:
        """Raises ValueError."""
        return self._items(self.parser.feed(piece))

    def end(self) -> Iterator[Event | Chunk]:
        """What is left when the bytes have ended. Raises ValueError if the reply is not complete."""
        yield from self._items(self.parser.end())
        yield from self.stream.end()

    def _items(self, found: list[ServerSent]) -> Iterator[Event | Chunk]:
        for name, data, raw in found:
            if (clean := self.clean(raw)) is not raw:
                raw, data = clean, self.clean(data.encode()).decode()
            self.stream.hidden = False
            events = self.stream.feed(name, data)
            self.done = self.done or any(isinstance(event, Usage) for event in events)
            if self.passing and not self.stream.hidden:
                yield Chunk(events, raw)
            else:
                yield from events
