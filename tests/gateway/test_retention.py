"""Text goes when its time is over, by the store's own deletion, each hour."""

import asyncio
import logging
from pathlib import Path

import pytest

from herd.errors import HerdError
from herd.gateway.retention import HOUR, forget_expired
from herd.store import Store


def test_text_goes_when_its_time_is_over_and_numbers_stay(tmp_path: Path) -> None:
    store, now = Store.open(tmp_path / "herd.db"), 1000.0
    row = {"route": "r", "reply": "words", "prompt_tokens": 7, "created": 1.0,
           "request": {"route": "r", "kind": "chat", "messages": [{"role": "user", "content": "words"}]}}  # fmt: skip
    for id, expires in (("gone", 1000.0), ("later", 1000.0 + HOUR), ("never", None)):
        store.add_generation({**row, "id": id, "expires": expires})
    seen: list[list[str]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        seen.append(sorted(g["id"] for g in store.generations() if g["reply"] == "words"))
        if len(seen) == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(forget_expired(store, clock=lambda: now, sleep=sleep))
    assert seen == [["later", "never"], ["never"]] and now == 1000 + 2 * HOUR
    gone = store.get_generation("gone")
    assert gone is not None and gone["tokens"]["prompt"] == 7 and "words" not in str(gone)
    store.close()


def test_a_store_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Locked:
        tried = 0

        def forget_expired(self, now: float) -> int:
            self.tried += 1
            raise HerdError("the database is locked")

    async def sleep(seconds: float) -> None:
        if locked.tried == 3:
            raise asyncio.CancelledError

    locked = Locked()
    with caplog.at_level(logging.WARNING, "herd.store"), pytest.raises(asyncio.CancelledError):
        asyncio.run(forget_expired(locked, sleep=sleep))  # type: ignore[arg-type]
    assert caplog.text.count("the database is locked") == 3
