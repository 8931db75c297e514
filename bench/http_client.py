"""What HTTP clients cost as the gateway uses them: processor time of this process for each request, and for each piece of
a stream, against the mock upstream in a process of its own. The clients take turns; the median of the rounds counts.

python bench/http_client.py [--rounds 5] [--requests 200] [--tokens 64] [--interval 0.002]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AT_A_TIME = 8
Ask = Callable[[bool], Awaitable[int]]


def body(stream: bool) -> dict[str, Any]:
    return {"model": "ok", "messages": [{"role": "user", "content": "hi"}], "stream": stream}


@asynccontextmanager
async def by_aiohttp(url: str) -> AsyncIterator[Ask]:
    import aiohttp

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
    ) as session:

        async def ask(stream: bool) -> int:
            async with session.post(f"{url}/chat/completions", data=json.dumps(body(stream))) as response:
                pieces = 0
                while await response.content.readany():
                    pieces += 1
                return pieces

        yield ask


@asynccontextmanager
async def by_httpx(url: str) -> AsyncIterator[Ask]:
    import httpx2

    async with httpx2.AsyncClient(trust_env=False) as client:

        async def ask(stream: bool) -> int:
            async with client.stream(
                "POST", f"{url}/chat/completions", content=json.dumps(body(stream))
            ) as response:
                return sum([1 async for _ in response.aiter_raw()])

        yield ask


@asynccontextmanager
async def by_herd(url: str) -> AsyncIterator[Ask]:
    """The whole provider: aiohttp, the guard, the events decoded for the ledger."""
    from herd.gateway.provider import Call, Target
    from herd.gateway.remote import OpenAI
    from herd.gateway.route import ProviderSpec
    from herd.protocol import Message, Request

    provider = OpenAI(ProviderSpec("mock", "openai", (url,), private=True), {})
    target = Target("mock", "mock", "ok", "")

    async def ask(stream: bool) -> int:
        request = Request("mock", "chat", (Message("user", "hi"),), stream=stream)
        call = Call(request, target, dialect="chat", body=body(stream))
        return sum([1 async for _ in provider.generate(call)])

    yield ask
    await provider.close()


async def cost(ask: Ask, stream: bool, requests: int) -> tuple[float, float, int]:
    """Seconds of processor time and of the clock for each request; pieces of the last."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def one() -> int:
        async with places:
            return await ask(stream)

    for _ in range(AT_A_TIME):
        await one()
    used, began = time.process_time(), time.perf_counter()
    pieces = await asyncio.gather(*(one() for _ in range(requests)))
    return (time.process_time() - used) / requests, (time.perf_counter() - began) / requests, pieces[-1]


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--interval", type=float, default=0.002, help="seconds from one event to the next")
    asked = parser.parse_args()
    command = [sys.executable, "-m", "tests.gateway.upstream", "--tokens", str(asked.tokens)]
    command += ["--interval", str(asked.interval)]
    mock = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert mock.stdout is not None
        url = mock.stdout.readline().strip()
        found: dict[tuple[str, bool], list[tuple[float, float, int]]] = {}
        for _ in range(asked.rounds):
            for name, client in (("aiohttp", by_aiohttp), ("httpx2", by_httpx), ("herd's provider", by_herd)):
                async with client(url) as ask:
                    for stream in (False, True):
                        found.setdefault((name, stream), []).append(await cost(ask, stream, asked.requests))
        print(f"{'client':16} {'reply':8} {'CPU ms':>8} {'clock ms':>9} {'pieces':>7} {'CPU µs a piece':>15}")
        for (name, stream), rounds in found.items():
            cpu, clock = (statistics.median(r[i] for r in rounds) for i in (0, 1))
            pieces = rounds[-1][2]
            each = f"{cpu * 1e6 / pieces:15.1f}" if stream else ""
            kind = "stream" if stream else "whole"
            print(f"{name:16} {kind:8} {cpu * 1e3:8.3f} {clock * 1e3:9.3f} {pieces:7} {each}")
    finally:
        mock.terminate()
        mock.wait()


if __name__ == "__main__":
    asyncio.run(main())
