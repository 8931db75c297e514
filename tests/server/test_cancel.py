"""A client that leaves frees its place at once, streaming or not; and what was said is kept."""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from herd.store import Store


def leave(url: str, body: dict[str, Any], *, after: Callable[[http.client.HTTPConnection], None]) -> float:
    """Send a request, wait for `after`, hang up; returns when."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    after(connection)
    connection.close()
    return time.monotonic()


@pytest.mark.parametrize("stream", [True, False])
def test_the_slot_is_free_within_250_ms(
    url: str, home: Any, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None], stream: bool
) -> None:
    engine.words, engine.delay = ("word ",) * 10_000, 0.02

    def some_words(connection: http.client.HTTPConnection) -> None:
        if stream:
            assert connection.getresponse().read(600)
        else:
            wait_for(lambda: engine.running)
            time.sleep(0.1)

    left = leave(url, chat(stream=stream), after=some_words)
    wait_for(lambda: engine.cancelled)
    assert engine.cancelled[0] - left < 0.25
    assert engine.running == 0

    def kept() -> list[dict[str, Any]]:
        store = Store.open(home / "herd.db")
        try:
            return store.generations()
        finally:
            store.close()

    wait_for(kept)
    record = kept()[0]
    assert record["finish"] == "cancelled" and record["reply"].startswith("word word ")
    assert httpx.get(f"{url}/health").status_code == 200


def test_a_client_that_leaves_before_the_first_token(
    url: str, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    engine.delay = 0.3  # loading takes as long, too
    leave(url, chat(stream=True), after=lambda _: time.sleep(0.05))
    time.sleep(1)
    assert engine.running == 0
    assert httpx.post(f"{url}/v1/chat/completions", json=chat(), timeout=20).status_code == 200
