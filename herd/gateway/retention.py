"""Text that was kept for a time goes when the time is over."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from herd.errors import HerdError
from herd.store import Store

log = logging.getLogger("herd.store")

HOUR = 3600.0


async def forget_expired(
    store: Store,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Each hour, and at once, remove the text of the generations whose time is over; until it is cancelled."""
    while True:
        try:
            if count := await asyncio.to_thread(store.forget_expired, clock()):
                log.info("the text of %d generations was removed: their time is over", count)
        except HerdError as error:  # a locked or full database, say: in an hour again
            log.warning("the text whose time is over is still there: %s", error)
        await sleep(HOUR)
