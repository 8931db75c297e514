"""What tests of an engine in a process of its own have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from herd.engine.client import EngineClient
from herd.protocol import Delta, Event, Message, Request, Sampling

CHAT = Request(
    "t", "chat", messages=(Message("user", "hello"),), sampling=Sampling(temperature=0, max_tokens=12)
)


def with_client(work: Callable[[EngineClient], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        client = EngineClient(**options)
        try:
            await client.start()
            await asyncio.wait_for(work(client), 200)
        finally:
            await client.close()
        assert client.status()["state"] == "gone"

    asyncio.run(main())


async def reply(client: EngineClient, request: Request, key: str = "t") -> list[Event]:
    return [event async for event in client.generate(key, request)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def text(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))
