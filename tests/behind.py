"""The fake upstream of tests/gateway in a thread of its own, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .gateway.upstream import Upstream


@contextmanager
def upstream(**more: Any) -> Iterator[Upstream]:
    made, loop = Upstream(**more), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(made.start(), loop).result(60)
        yield made
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
