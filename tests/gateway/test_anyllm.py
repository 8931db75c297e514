"""Providers by way of any-llm, with a stand-in for that package: it takes and gives OpenAI's forms."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway.anyllm import AnyLLM
from herd.gateway.provider import Call, Provider, UpstreamError
from herd.gateway.providers import build
from herd.gateway.route import ProviderSpec
from herd.protocol import Called, Delta, Embedded, Event, Finished, Message, Request, Sampling, Tool, Usage

from .test_faults import KEY, flat, target
from .upstream_replies import VECTOR, Asked, events, whole

WORDS = ("Hä", "llo")


class Form:
    """As pydantic's models are."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.id = body.get("id")

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return self.body


class AnyLLMError(Exception):
    def __init__(self, message: str, **fields: Any) -> None:
        self.message, self.provider_name = message, "fake"
        self.__dict__ |= {"status_code": None, "code": None, **fields}
        super().__init__(message)


class UnsupportedParameterError(AnyLLMError):
    pass


class RateLimitError(AnyLLMError):
    pass


class Vendor:
    """What `AnyLLM.create` gives; `fails`: raised by the next call; `cut`: the stream ends too early."""

    made: dict[str, Any]
    stubborn = False

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.cut = False
        self.closed = False
        self.asked: dict[str, Any] = {}

    @classmethod
    def create(cls, vendor: str, key: str | None, **more: Any) -> Vendor:
        if vendor == "nobody":
            raise AnyLLMError("'nobody' is not a supported provider")
        if cls.stubborn and "max_retries" in more:
            raise UnsupportedParameterError("max_retries")
        cls.made = {"vendor": vendor, "key": key, **more}
        return cls()

    async def acompletion(self, **asked: Any) -> Any:
        self.asked = asked
        if self.fails:
            raise self.fails
        reply = Asked("POST", "/chat/completions", {}, asked, WORDS)
        return self.stream(reply) if asked.get("stream") else Form(whole(reply))

    async def stream(self, reply: Asked) -> AsyncIterator[Form]:
        try:
            chunks = [json.loads(data.removeprefix(b"data: ")) for data in events(reply)[:-1]]
            for chunk in chunks[:2] if self.cut else chunks:
                yield Form(chunk)
        finally:
            self.closed = True

    async def aembedding(self, model: str, inputs: Any) -> Form:
        return Form(whole(Asked("POST", "/embeddings", {}, {"model": model, "input": inputs}, WORDS)))

    async def alist_models(self) -> list[Form]:
        return [Form({"id": "a"}), Form({"id": "b"})]


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module, exceptions = types.ModuleType("any_llm"), types.ModuleType("any_llm.exceptions")
    module.AnyLLM = Vendor  # type: ignore[attr-defined]
    exceptions.UnsupportedParameterError = UnsupportedParameterError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "any_llm", module)
    monkeypatch.setitem(sys.modules, "any_llm.exceptions", exceptions)


def made(**more: Any) -> tuple[Provider, Vendor]:
    spec = ProviderSpec("p", "any-llm", vendor="mistral", key="env:KEY", **more)
    provider = build(spec, {"KEY": KEY})
    assert isinstance(provider, AnyLLM)
    return provider, provider._vendor


def request(stream: bool = False, **more: Any) -> Request:
    return Request("r", "chat", (Message("user", "hi"),), stream=stream, **more)


async def events_of(provider: Provider, request: Request, model: str = "m") -> list[Event]:
    async with aclosing(provider.generate(Call(request, target(model)))) as answer:
        return flat([item async for item in answer])


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat(stream: bool) -> None:
    async def main() -> None:
        provider, vendor = made()
        assert Vendor.made == {"vendor": "mistral", "key": KEY, "unified_exceptions": True, "max_retries": 0}
        tools = (Tool("weather", "", {"type": "object"}),)
        asked = request(stream, tools=tools, sampling=Sampling(temperature=0.5, max_tokens=9))
        said = await events_of(provider, asked, "tools")
        assert (vendor.asked["temperature"], vendor.asked["max_tokens"]) == (0.5, 9)
        assert vendor.asked["messages"] == [{"role": "user", "content": "hi"}]
        assert "".join(event.text for event in said if isinstance(event, Delta)) == "Hällo"
        assert [event.call.name for event in said if isinstance(event, Called)] == ["weather"]
        assert isinstance(said[-2], Finished) and said[-1] == Usage(7, 2)
        assert vendor.closed is stream

    asyncio.run(main())


def test_an_embedding_and_models() -> None:
    async def main() -> None:
        provider, _ = made()
        said = await events_of(provider, Request("r", "embedding", prompt="hi"))
        assert [event.vector for event in said if isinstance(event, Embedded)] == [tuple(VECTOR)]
        assert await provider.models() == ["a", "b"]
        assert "model" in provider.unsupported(Call(Request("r", "completion", prompt="hi"), target("m")))

    asyncio.run(main())


def test_a_stream_that_ends_too_early_is_no_success() -> None:
    async def main() -> None:
        provider, vendor = made()
        vendor.cut = True
        with pytest.raises(UpstreamError) as caught:
            await events_of(provider, request(True))
        assert caught.value.code == "upstream_malformed"

    asyncio.run(main())


def test_closing_the_iterator_closes_the_vendors() -> None:
    async def main() -> None:
        provider, vendor = made()
        answer = provider.generate(Call(request(True), target("m")))
        await anext(answer)
        assert not vendor.closed
        await answer.aclose()
        assert vendor.closed

    asyncio.run(main())


def test_errors_are_told_by_their_status_and_never_with_the_key() -> None:
    cases = [
        (AnyLLMError("no", status_code=500), 502, True),
        (AnyLLMError("x" * 490 + KEY, status_code=401), 503, True),
        (AnyLLMError("bad", status_code=400), 400, False),
        (UnsupportedParameterError("'n' is not supported"), 400, False),
        (RateLimitError("slow down", retry_after="3"), 429, True),
        (RuntimeError(f"Bearer {KEY}"), 502, True),
    ]

    async def main() -> None:
        provider, vendor = made()
        for error, status, retryable in cases:
            vendor.fails = error
            with pytest.raises(UpstreamError) as caught:
                await events_of(provider, request())
            assert (caught.value.status, caught.value.retryable) == (status, retryable)
            assert KEY[:8] not in str(caught.value) and caught.value.__context__ is None
            assert caught.value.retry_after == (3.0 if isinstance(error, RateLimitError) else None)

    asyncio.run(main())


def test_what_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(spec: ProviderSpec) -> str:
        with pytest.raises(HerdError) as caught:
            build(spec, {"KEY": KEY})
        return str(caught.value)

    assert "vendor" in refused(ProviderSpec("p", "any-llm"))
    assert "base_url" in refused(ProviderSpec("p", "any-llm", ("https://example.com",), vendor="mistral"))
    assert "not a supported" in refused(ProviderSpec("p", "any-llm", vendor="nobody"))
    monkeypatch.setattr(Vendor, "stubborn", True)
    build(ProviderSpec("p", "any-llm", vendor="cohere"), {})
    assert "max_retries" not in Vendor.made  # its client has no such number
    monkeypatch.setitem(sys.modules, "any_llm", None)
    assert 'pip install "any-llm-sdk[mistral]"' in refused(ProviderSpec("p", "any-llm", vendor="mistral"))
