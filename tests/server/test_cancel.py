"""A client that leaves frees its place at once, streaming or not; and what was said is kept."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from herd.store import Store

from .conftest import FakeEngine, running


def leave(url: str, body: dict[str, Any], *, after: Callable[[http.client.HTTPConnection], None]) -> None:
    """Send a request, wait for `after`, hang up."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    after(connection)
    connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_the_slot_is_free_within_250_ms(
    url: str, home: Any, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None], stream: bool
) -> None:
    """By the engine's clock, a word every 20 ms, which stands still when the machine does."""
    engine.words, engine.delay = ("word ",) * 10_000, 0.02

    def some_words(connection: http.client.HTTPConnection) -> None:
        if stream:
            assert connection.getresponse().read(600)
        else:
            wait_for(lambda: engine.said > 2)

    leave(url, chat(stream=stream), after=some_words)
    left = engine.said
    wait_for(lambda: engine.cancelled)
    assert engine.cancelled[0] - left <= 12
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
    assert httpx.get(f"{url}/health", timeout=60).status_code == 200


def test_a_client_that_leaves_before_the_first_token(
    home: Path, engine: FakeEngine, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    engine.may_load = False
    with running(home, engine) as url:

        def waiting() -> bool:
            told = httpx.get(f"{url}/metrics", timeout=60).text
            return 'num_requests_waiting{model_name="cria"} 1.0' in told

        leave(url, chat(stream=True), after=lambda _: wait_for(waiting))
        wait_for(lambda: not waiting())
        engine.may_load = True
        assert httpx.post(f"{url}/v1/chat/completions", json=chat(), timeout=60).status_code == 200
    assert len(engine.requests) == 1
