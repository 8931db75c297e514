"""A whole server before a provider that fails in every way: no fault is told to an application as a success, no reply is
made of two, and the provider's key is in nothing that is said or kept."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ..gateway.test_faults import EXPECTED, GOOD
from ..gateway.upstream import TEXT, Upstream
from .conftest import StartClient

CANARY = {"openai": "canary-openai-0123456789-abc", "anthropic": "canary-anthropic-0123456789"}
SLOW = {"silent", "slow_head", "stall", "error_stall", "lingers", "endless", "endless_event"}
FAULTS = sorted(EXPECTED.keys() - SLOW)
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
PROVIDERS = ("openai", "anthropic")
WHOLE = "".join(TEXT)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The fake upstream in a thread of its own."""
    made, loop = Upstream(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result(60)
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def client(start: StartClient, home: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A route for each fault and dialect, with a provider of its own, so that no circuit opens for another; and one more
    that falls back to a provider that is well."""
    lines = []
    for dialect in PROVIDERS:
        monkeypatch.setenv(f"KEY_{dialect}".upper(), CANARY[dialect])
        for fault in (*EXPECTED, *GOOD, "echo_in_text"):
            name = f"{dialect}-{fault.replace(' ', '_')}"
            times = "first_token = 1.5, total = 2" if fault in SLOW else "first_token = 60, total = 120"
            lines += [
                f"[providers.{name}]",
                f'dialect = "{dialect}"',
                f'base_url = "{upstream.url}"',
                f'key = "env:KEY_{dialect.upper()}"',
                "private = true",
                f"[targets.{name}-target]",
                f'provider = "{name}"',
                f"model = {json.dumps(fault)}",
                f"[routes.{name}]",
                f'targets = ["{name}-target"]',
                "retries = 0",
                f"timeout = {{ {times} }}",
                f"[routes.{name}-or-ok]",
                f'targets = ["{name}-target"]',
                f'fallbacks = ["{dialect}-ok-target"]',
                "retries = 0",
                f"timeout = {{ {times} }}",
            ]
    (home / "herd.toml").write_text("\n".join(lines))
    return start()


def body(route: str, path: str, stream: bool) -> dict[str, Any]:
    asked = {"model": route, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return asked | ({"max_tokens": 50} if path == "messages" else {})


def ask(client: TestClient, route: str, path: str, stream: bool) -> tuple[int, str, bool, str]:
    """The status, the text, whether the reply says that it is complete, and all that was said."""
    answer = client.post(PATHS[path], json=body(route, path, stream))
    said = answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"], said
        return answer.status_code, "", False, said
    if not stream:
        whole = answer.json()
        if path == "chat":
            return 200, whole["choices"][0]["message"]["content"], True, said
        return 200, "".join(block.get("text", "") for block in whole["content"]), True, said
    text, complete, failed = "", False, False
    for line in said.splitlines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            complete = True
            continue
        event = json.loads(line.removeprefix("data: "))
        assert not failed, "it went on after its error"
        failed = bool(event.get("error"))
        complete = complete or event.get("type") == "message_stop"
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
        text += event.get("delta", {}).get("text") or ""
    assert complete is not failed, said
    return 200, text, complete and not failed, said


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dialect", PROVIDERS)
def test_no_fault_is_a_success(client: TestClient, dialect: str, path: str, stream: bool) -> None:
    for fault in FAULTS:
        expected = EXPECTED[fault]
        expected = expected if isinstance(expected[0], int) else expected[stream]
        status, text, complete, said = ask(client, f"{dialect}-{fault.replace(' ', '_')}", path, stream)
        assert not complete, (fault, said)
        if not stream or status != 200:
            assert status == expected[0], (fault, said)
        else:
            assert text and WHOLE.startswith(text) or fault in ("twice", "half_character"), (fault, said)
    for fault in GOOD:
        assert ask(client, f"{dialect}-{fault}", path, stream)[:3] == (200, WHOLE, True), fault
    states = {(row["provider"], row["state"]) for row in attempts(client)}
    for fault in FAULTS:
        name = f"{dialect}-{fault.replace(' ', '_')}"
        assert (name, "failed") in states or (name, "refused") in states
        assert (name, "done") not in states


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", PROVIDERS)
def test_slow_faults_are_cut_by_the_routes_times(client: TestClient, dialect: str, stream: bool) -> None:
    for fault in ("silent", "stall", "endless"):
        status, _, complete, said = ask(client, f"{dialect}-{fault}", "chat", stream)
        assert not complete, (fault, said)
        assert status in ((200, 502, 504) if stream else (502, 504)), (fault, said)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", PROVIDERS)
def test_no_reply_is_made_of_two(client: TestClient, dialect: str, stream: bool) -> None:
    """With a fallback that is well: its whole reply, or an error after the beginning of the first."""
    healed = 0
    for fault in FAULTS:
        status, text, complete, said = ask(
            client, f"{dialect}-{fault.replace(' ', '_')}-or-ok", "chat", stream
        )
        if status != 200:
            assert status in (400, 413, 422), (fault, said)  # such a request is wrong everywhere
        elif complete:
            healed += 1
            assert text == WHOLE, (fault, said)
        else:
            assert stream and fault not in ("500", "429", "html", "closed"), (fault, said)
    assert healed > len(FAULTS) / 2


def test_the_wait_that_a_provider_asks_for_is_passed_on(client: TestClient) -> None:
    for fault, seconds in (("429 seconds", "2"), ("429 ms", "2")):
        name = f"openai-{fault.replace(' ', '_')}"
        answer = client.post(PATHS["chat"], json=body(name, "chat", False))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, seconds)


def test_unknown_models_of_a_provider_do_not_open_its_circuit(client: TestClient) -> None:
    """Who asks for what is not there must not take the provider from the others."""
    for _ in range(12):
        answer = client.post(PATHS["chat"], json=body("openai-ok/404", "chat", False))
        assert answer.status_code == 404
    assert ask(client, "openai-ok", "chat", False)[:3] == (200, WHOLE, True)


@pytest.mark.slow
def test_no_key_of_a_provider_is_said_or_kept(
    client: TestClient, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for dialect in PROVIDERS:
        for fault in (*FAULTS, "echo_in_text", "ok"):
            for stream in (False, True):
                name = f"{dialect}-{fault.replace(' ', '_')}"
                answer = client.post(PATHS["chat"], json=body(name, "chat", stream))
                said.append(answer.text + str(answer.headers))
    assert "wrong key" in "".join(said) and "Your key" in "".join(said)  # it was echoed
    pages = """/api/providers /api/routes /api/targets /api/keys /api/generations /api/conversations /api/traffic
        /api/generations/export?format=jsonl /api/findings /v1/models /metrics /health /openapi.json / """.split()
    for page in pages:
        answer = client.get(page)
        assert answer.status_code in (200, 404), (page, answer.text)
        said.append(answer.text)
    said += [f"{record.getMessage()} {record.exc_info} {record.exc_text}" for record in caplog.records]
    everything = "\n".join(said).encode()
    for file in home.rglob("*"):
        if file.is_file():
            everything += file.read_bytes()
    for canary in CANARY.values():
        assert canary.encode() not in everything
        assert canary[:-4].encode() not in everything, "most of it was"


def attempts(client: TestClient) -> list[dict[str, Any]]:
    from herd.store.tables import attempts as table

    store = client.app.state.herd.store  # type: ignore[attr-defined]
    with store._engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(table.select())]


def test_many_inputs_are_one_call(client: TestClient, upstream: Upstream) -> None:
    for form in ({}, {"encoding_format": "base64"}):
        before, texts = len(upstream.seen), [f"text {i}" for i in range(40)]
        reply = client.post("/v1/embeddings", json={"model": "openai-ok", "input": texts, **form})
        assert reply.status_code == 200, reply.text
        assert [item["index"] for item in reply.json()["data"]] == list(range(40))
        (call,) = [one for one in upstream.seen[before:] if one.path.endswith("/embeddings")]
        assert call.body["input"] == texts
