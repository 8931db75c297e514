"""Several streams as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")
TOGETHER = 16  # parts of one request that the engine has at a time, so that it cannot fill its queue


async def together(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What the streams give as it comes, and of which it is, a few of them at a time. Raises what one of them raises."""
    queue: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()
    waiting = iter(enumerate(streams))

    async def work() -> None:
        try:
            for place, stream in waiting:
                async with aclosing(stream):
                    async for item in stream:
                        queue.put_nowait((place, item))
        finally:
            queue.put_nowait(None)

    workers = [asyncio.ensure_future(work()) for _ in range(min(TOGETHER, len(streams)))]
    try:
        for _ in workers:
            while (one := await queue.get()) is not None:
                yield one
        for worker in workers:
            worker.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
