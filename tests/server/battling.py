"""What tests of battles over HTTP share: two voices, and the calls of one battle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from herd.arena import pace
from herd.protocol import Delta, Event, Finished, Request, Started, Usage

from .conftest import FakeEngine
from .test_access import ROOT

HEADER = {"Authorization": f"Bearer {ROOT}"}
TALES, PLAIN = ("Once ", "there ", "was ", "a ", "dog."), ("A ", "dog ", "barks.")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "TICK", 0.001)
    monkeypatch.setattr(pace, "GRACE", 0.0)


@pytest.fixture
def engine() -> FakeEngine:
    """Two voices: of tale, which has a system prompt, and of cria."""
    engine = FakeEngine()
    engine.script = lambda request: said(TALES if is_tale(request) else PLAIN)
    return engine


def is_tale(request: Request) -> bool:
    return request.messages[0].role == "system"


def said(words: tuple[str, ...], end: Event | None = None) -> list[Event]:
    texts: list[Event] = [Started(3, 0), *(Delta(0, word, (i,)) for i, word in enumerate(words))]
    return [*texts, end] if end else [*texts, Finished(0, "stop"), Usage(3, len(words))]


def begin(client: TestClient, **fields: Any) -> dict[str, Any]:
    made = client.post("/api/battles", json=fields)
    assert made.status_code == 201, made.text
    return made.json()  # type: ignore[no-any-return]


def events(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines]


def turn(
    client: TestClient, battle: dict[str, Any], prompt: str = "Tell me of a dog."
) -> list[dict[str, Any]]:
    return events(client.post(f"/api/battles/{battle['id']}/turns", json={"prompt": prompt}))


def vote(client: TestClient, battle: dict[str, Any], outcome: str = "left", **fields: Any) -> Any:
    return client.post(f"/api/battles/{battle['id']}/vote", json={"outcome": outcome, **fields})


def refused(answer: Any, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return str(answer.json()["error"]["message"])


def store(client: TestClient) -> Any:
    return client.app.state.herd.store  # type: ignore[attr-defined]
