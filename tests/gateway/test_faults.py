"""Everything that a provider can do wrong, in both dialects, whole and streamed, translated and passed through: none is
taken for a success, and each is named for what it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from herd.gateway.http import Bounds
from herd.gateway.provider import Call, Chunk, Target, UpstreamError
from herd.gateway.remote import Anthropic, OpenAI, Remote
from herd.gateway.route import ProviderSpec
from herd.protocol import Called, Delta, Embedded, Event, Finished, Message, Request, Tool, Usage

from .fakes import until
from .upstream import TEXT, Upstream, running
from .upstream_faults import FAULTS
from .upstream_replies import MODELS, PROMPT_TOKENS, VECTOR, events, whole

KEY = "sk-0123456789abcdef"
BOUNDS = Bounds(connect=60, wait=60, stall=60, grace=60, event=2**18, reply=2**20)
CLASSES: dict[str, type[Remote]] = {"openai": OpenAI, "anthropic": Anthropic}
WHOLE, STREAM = False, True

TIMEOUT = (504, "upstream_timeout", True)
BROKEN = (502, "upstream_broken", True)
MALFORMED = (502, "upstream_malformed", True)
TOO_LONG = (502, "upstream_too_long", True)
BUSY = (503, "overloaded_error", True)
ERROR = (502, "upstream_error", True)

# What the caller of the provider gets: status, code, retryable; of whole replies and of streams, if they differ.
EXPECTED: dict[str, Any] = {
    "silent": TIMEOUT,
    "slow_head": TIMEOUT,
    "stall": TIMEOUT,
    "closed": BROKEN,
    "cut": BROKEN,
    "reset": BROKEN,
    "reset_at_once": BROKEN,
    "not_http": BROKEN,
    "long_header": BROKEN,
    "endless_headers": BROKEN,
    "bad_chunk": BROKEN,
    "short_length": BROKEN,
    "long_length": BROKEN,
    "truncated": MALFORMED,
    "no_end": MALFORMED,
    "malformed": MALFORMED,
    "half_character": MALFORMED,
    "deep": MALFORMED,
    "html": MALFORMED,
    "other_kind": MALFORMED,
    "zipped": MALFORMED,
    "empty": MALFORMED,
    "nothing": MALFORMED,
    "twice": MALFORMED,
    "endless": TOO_LONG,
    "endless_event": (TOO_LONG, MALFORMED),
    "redirect": ERROR,
    "error_page": ERROR,
    "error_endless": ERROR,
    "error_stall": ERROR,
    "error_in_body": BUSY,
    "echo": (503, "upstream_key", True),
    "echo_in_body": (503, "upstream_key", True),
    "400": (400, "invalid_request_error", False),
    "401": (503, "upstream_key", True),
    "403": (503, "upstream_key", True),
    "404": (404, "not_found_error", True),
    "408": (504, "server_error", True),
    "409": (502, "server_error", True),
    "413": (413, "request_too_large", False),
    "422": (422, "invalid_request_error", False),
    "429": (429, "rate_limit_error", True),
    "429 seconds": (429, "rate_limit_error", True),
    "429 ms": (429, "rate_limit_error", True),
    "429 date": (429, "rate_limit_error", True),
    "429 nonsense": (429, "rate_limit_error", True),
    "429 for ever": (429, "rate_limit_error", True),
    "quota": (503, "insufficient_quota", True),
    "500": (502, "server_error", True),
    "502": (502, "server_error", True),
    "503": (503, "server_error", True),
    "504": (504, "server_error", True),
    "529": (503, "server_error", True),
    "lingers": (TIMEOUT, None),  # whole replies end with HTTP; streams by themselves
}
PATIENCE = {  # which take their time: what ends them
    **dict.fromkeys(("silent", "slow_head"), replace(BOUNDS, wait=0.5)),
    **dict.fromkeys(("stall", "error_stall", "lingers"), replace(BOUNDS, stall=0.5, grace=0.2)),
}
GOOD = ("ok", "tools", "split", "slow", "comments", "carriage", "no_usage")
WAITS = {"429 seconds": 2.0, "429 ms": 1.5, "429 date": 30.0, "429 for ever": 86400.0}


def test_every_fault_is_expected() -> None:
    assert FAULTS.keys() == EXPECTED.keys() | set(GOOD) - {"tools"} | {"echo_in_text"}


@pytest.mark.parametrize("dialect", CLASSES)
@pytest.mark.parametrize("stream", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("passing", [False, True], ids=["translated", "passed"])
def test_no_fault_is_a_success(dialect: str, stream: bool, passing: bool) -> None:
    async def one(provider: Remote, fault: str) -> None:
        expected = EXPECTED[fault]
        if not isinstance(expected[0], int):
            expected = expected[stream]
        got: list[Event | Chunk] = []
        began = time.monotonic()
        try:
            async with aclosing(provider.generate(call(dialect, fault, stream, passing))) as answer:
                async for item in answer:
                    got.append(item)
        except UpstreamError as error:
            assert (error.status, error.code, error.retryable) == expected, (fault, error)
            said = list(flat(got))
            assert not any(isinstance(event, Usage) for event in said), "it was called complete"
            late = 20 if fault == "429 date" else 0.01  # the clock goes on
            assert error.retry_after == (
                None if fault not in WAITS else pytest.approx(WAITS[fault], abs=late)
            ), fault
            if fault.isdigit():
                assert error.upstream == int(fault)
        else:
            assert expected is None, f"{fault} was taken for a success: {got}"
        assert time.monotonic() - began < BOUNDS.wait / 2, fault

    async def hasty(upstream: Upstream, fault: str) -> None:
        async with provider(dialect, upstream, PATIENCE[fault]) as tested:
            await one(tested, fault)

    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            await asyncio.gather(*(hasty(upstream, fault) for fault in PATIENCE))
            for fault in EXPECTED.keys() - PATIENCE.keys():
                await one(tested, fault)
            await one(tested, "429 seconds")  # after all that, the provider still works
            assert [asked.path for asked in upstream.seen if "elsewhere" in asked.path] == []
            await until(lambda: upstream.live == 0)  # no connection of a failed reply is left open

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
@pytest.mark.parametrize("stream", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", GOOD)
def test_what_is_only_hard_to_read_is_read(dialect: str, stream: bool, fault: str) -> None:
    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            said = await events_of(tested, call(dialect, fault, stream))
            text = "".join(event.text for event in said if isinstance(event, Delta))
            assert text == "".join(TEXT)
            finished = [event for event in said if isinstance(event, Finished)]
            assert [f.reason for f in finished] == ["tool_calls" if fault == "tools" else "stop"]
            calls = [event.call for event in said if isinstance(event, Called)]
            assert [(c.name, json.loads(c.arguments)) for c in calls] == (
                [("weather", {"city": "Oslo"})] if fault == "tools" else []
            )
            used = said[-1]
            assert isinstance(used, Usage)
            if fault != "no_usage":
                assert used == Usage(PROMPT_TOKENS, len(TEXT))
            elif dialect == "openai" or not stream:  # Anthropic's streams say it in two more places
                assert used.estimated
            assert upstream.gone == []

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
@pytest.mark.parametrize("fault", ["ok", "tools", "comments", "carriage", "split"])
@pytest.mark.parametrize("asks", [False, True], ids=["", "usage"])
def test_a_stream_passes_byte_for_byte(dialect: str, fault: str, asks: bool) -> None:
    """What the upstream says when nothing stands between, but for the usage that nobody asked for."""

    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            made = call(dialect, fault, STREAM, passing=True)
            if asks and dialect == "openai":
                body = {**(made.body or {}), "stream_options": {"include_usage": True}}
                made = replace(made, body=body, request=replace(made.request, include_usage=True))
            got = b"".join([item.data async for item in tested.generate(made) if isinstance(item, Chunk)])
            asked = upstream.seen[-1]
            assert {**asked.body, "stream_options": None} == {
                **(made.body or {}), "model": fault, "stream_options": None,
            }  # fmt: skip
            expected = events(asked)
            if dialect == "openai" and not asks:
                expected = [data for data in expected if b'"total_tokens"' not in data]
            if fault == "comments":
                expected = [part for data in events(asked) for part in (b": alive\n\n", data)]
                if dialect == "openai" and not asks:
                    del expected[-3]
                assert b"".join(expected).replace(b": alive\n\n", b"") == got.replace(b": alive\n\n", b"")
            else:
                whole_bytes = b"".join(expected)
                assert got == (whole_bytes.replace(b"\n", b"\r\n") if fault == "carriage" else whole_bytes)

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
def test_a_whole_reply_passes_byte_for_byte(dialect: str) -> None:
    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            (chunk,) = [item async for item in tested.generate(call(dialect, "tools", WHOLE, passing=True))]
            assert isinstance(chunk, Chunk)
            assert json.loads(chunk.data) == whole(upstream.seen[-1])
            assert chunk.events[-1] == Usage(PROMPT_TOKENS, len(TEXT))

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
@pytest.mark.parametrize("fault", ["stall", "endless", "silent", "error_stall", "lingers"])
@pytest.mark.parametrize("stream", [WHOLE, STREAM], ids=["whole", "stream"])
def test_a_cancelled_reply_stops_upstream_at_once(dialect: str, fault: str, stream: bool) -> None:
    async def main() -> None:
        patient = Bounds(grace=60)
        async with running() as upstream, provider(dialect, upstream, patient) as tested:
            answer = tested.generate(call(dialect, fault, stream))
            reading = asyncio.ensure_future(anext(answer))
            while not upstream.live:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await answer.aclose()
            for _ in range(5000):  # turns of the loop, in which no timer's time comes, and not seconds
                if upstream.left.is_set():
                    break
                await asyncio.sleep(0)
            assert upstream.gone

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
def test_connections_are_used_again(dialect: str) -> None:
    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            for stream in (WHOLE, STREAM) * 3:
                await events_of(tested, call(dialect, "ok", stream))
            assert upstream.connections == 1

    asyncio.run(main())


@pytest.mark.parametrize("dialect", CLASSES)
def test_models_are_listed(dialect: str) -> None:
    async def main() -> None:
        async with running() as upstream, provider(dialect, upstream) as tested:
            assert await tested.models() == MODELS
            for fault in ("500", "malformed", "html", "cut", "empty"):
                upstream.script.append(fault)
                if fault == "empty":
                    assert await tested.models() == []
                    continue
                with pytest.raises(UpstreamError):
                    await tested.models()

    asyncio.run(main())


def test_other_kinds_of_request() -> None:
    async def main() -> None:
        async with running() as upstream:
            async with provider("openai", upstream) as tested:
                embedding = Request("r", "embedding", prompt="hi")
                said = await events_of(tested, Call(embedding, target("ok")))
                assert [event.vector for event in said if isinstance(event, Embedded)] == [tuple(VECTOR)]
                completion = Request("r", "completion", prompt="hi", n=2, stream=True)
                said = await events_of(tested, Call(completion, target("ok")))
                for index in range(2):
                    texts = [e.text for e in said if isinstance(e, Delta) and e.index == index]
                    assert "".join(texts) == "".join(TEXT)
                with pytest.raises(UpstreamError):
                    await events_of(tested, Call(embedding, target("malformed")))
            async with provider("anthropic", upstream) as tested:
                counted = replace(request("ok", WHOLE), count=True)
                said = await events_of(tested, Call(counted, target("ok")))
                assert said[-1] == Usage(PROMPT_TOKENS, 0)
                assert upstream.seen[-1].path == "/v1/messages/count_tokens"

    asyncio.run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        async with running() as upstream:
            gone = replace(spec("openai", upstream))
        tested = OpenAI(gone, {"KEY": KEY}, BOUNDS)
        with pytest.raises(UpstreamError) as caught:
            await events_of(tested, call("openai", "ok", STREAM))
        assert (caught.value.code, caught.value.retryable) == ("upstream_unreachable", True)
        await tested.close()

    asyncio.run(main())


# What the tests share


def spec(dialect: Any, upstream: Upstream) -> ProviderSpec:
    return ProviderSpec("p", dialect, (upstream.url,), key="env:KEY", private=True)


@asynccontextmanager
async def provider(dialect: str, upstream: Upstream, bounds: Bounds = BOUNDS) -> AsyncIterator[Remote]:
    made = CLASSES[dialect](spec(dialect, upstream), {"KEY": KEY}, bounds)
    try:
        yield made
    finally:
        await made.close()


def target(model: str) -> Target:
    return Target("t", "p", model, "digest")


def request(fault: str, stream: bool) -> Request:
    tools = (Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}}),)
    return Request(
        "r", "chat", (Message("user", "hi"),), stream=stream, tools=tools if fault == "tools" else ()
    )


def call(dialect: str, fault: str, stream: bool, passing: bool = False) -> Call:
    made = Call(request(fault, stream), target(fault))
    if not passing:
        return made
    body: dict[str, Any] = {
        "model": "route",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
    }
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool: dict[str, Any] = {"name": "weather", "input_schema": parameters}
    if dialect == "openai":
        tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    else:
        body["max_tokens"] = 100
    if fault == "tools":
        body["tools"] = [tool]
    return replace(made, dialect="chat" if dialect == "openai" else "messages", body=body)


def flat(items: list[Event | Chunk]) -> list[Event]:
    return [event for item in items for event in (item.events if isinstance(item, Chunk) else (item,))]


async def events_of(provider: Remote, call: Call) -> list[Event]:
    async with aclosing(provider.generate(call)) as answer:
        return flat([item async for item in answer])
