"""Engines come when asked for, are shared, and are replaced while replies run."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from herd.errors import HerdError
from herd.registry.registry import Registry
from herd.server.engines import MAX_LOADED, Engines


def test_ready_comes_after_health(
    start: Callable[..., TestClient], engine: Any, wait_for: Callable[..., None]
) -> None:
    engine.delay = 0.3
    client = start()
    assert client.get("/health").status_code == 200
    reply = client.get("/ready")
    assert reply.status_code == 503 and "loading" in reply.json()["reason"]
    assert client.get("/api/status").json()["engine"]["state"] == "starting"
    wait_for(lambda: client.get("/ready").status_code == 200)


def test_without_torch_pages_work_and_ready_says_what_to_install(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, chat: Callable[..., Any]
) -> None:
    monkeypatch.setattr("herd.server.engines.has_torch", lambda: False)
    client = start()
    assert client.get("/").status_code == 200 and client.get("/v1/models").status_code == 200
    assert 'pip install "openherd[local]"' in client.get("/ready").json()["reason"]
    reply = client.post("/v1/chat/completions", json=chat())
    assert reply.status_code == 503 and "pip install" in reply.json()["error"]["message"]


def test_without_a_model_the_server_starts(start: Callable[..., TestClient], home: Path) -> None:
    (home / "targets" / "tale.json").unlink()
    for file in (home / "models" / "cria" / "1").iterdir():
        file.unlink()
    client = start()
    assert client.get("/v1/models").json() == {"object": "list", "data": []}
    assert "herd pull" in client.get("/ready").json()["reason"]
    assert client.get("/api/status").json()["default_route"] is None


def test_a_model_that_does_not_load(
    start: Callable[..., TestClient], engine: Any, chat: Callable[..., Any]
) -> None:
    engine.load_error = HerdError("model.safetensors is truncated")
    client = start()
    reply = client.post("/v1/chat/completions", json=chat())
    assert reply.status_code == 503  # the files' fault, not the caller's
    assert "truncated" in reply.json()["error"]["message"]
    assert "truncated" in client.get("/ready").json()["reason"]
    engine.load_error = None  # mended: the next request tries again
    assert client.post("/v1/chat/completions", json=chat()).status_code == 200


def test_routes_of_the_same_weights_share_an_engine(
    client: TestClient, engine: Any, chat: Callable[..., Any]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda m: client.post("/v1/chat/completions", json=chat(model=m)), ["cria", "tale"] * 4)
        )
    assert [reply.status_code for reply in replies] == [200] * 8
    assert [what for what, _ in engine.log] == ["load"]


def promote(home: Path, tmp_path: Path, seed: int) -> None:
    source = tmp_path / f"source{seed}"
    source.mkdir()
    (source / "model.safetensors").write_bytes(bytes([seed]))
    registry = Registry(home)
    entry = registry.add(source, "cria", kind="adapter", base="cria@1")
    registry.promote("cria", entry.version, {"decision": "SWITCH"})


def test_promotion_is_hot_and_no_request_fails(
    url: str, home: Path, tmp_path: Path, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    engine.delay = 0.01
    statuses: list[int] = []
    stop = False

    def keep_asking() -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            while not stop:
                statuses.append(client.post("/v1/chat/completions", json=chat()).status_code)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        wait_for(lambda: len(statuses) > 8)
        promote(home, tmp_path, 1)
        assert httpx.post(f"{url}/api/reload", timeout=20).status_code == 200
        before = len(statuses)
        wait_for(lambda: len(statuses) > before + 12)
        stop = True
        for job in asking:
            job.result()
    assert set(statuses) == {200}
    assert [
        route["model"] for route in httpx.get(f"{url}/api/status").json()["routes"] if route["name"] == "cria"
    ] == ["cria@2"]
    wait_for(lambda: [what for what, _ in engine.log] == ["load", "load", "unload"])
    (adapter,) = [adapter for _, adapter in engine.loaded.values()]
    assert adapter == home / "models" / "cria" / "2"
    assert httpx.post(f"{url}/api/routes/cria/rollback").json() == {"name": "cria", "current": "cria@1"}
    httpx.post(f"{url}/v1/chat/completions", json=chat())
    assert [adapter for _, adapter in engine.loaded.values()] == [None]


def test_engines_in_use_stay_and_the_longest_unused_goes(home: Path, engine: Any, tmp_path: Path) -> None:
    registry = Registry(home)
    for i in range(MAX_LOADED + 2):
        source = tmp_path / f"m{i}"
        source.mkdir()
        (source / "config.json").write_text(json.dumps({"i": i}))
        registry.add(source, f"m{i}", kind="model")

    async def use() -> None:
        engines = Engines(engine, registry)
        engines.start()
        async with engines.hold("m0", registry.target("m0")) as first:
            for i in range(1, MAX_LOADED + 2):
                async with engines.hold(f"m{i}", registry.target(f"m{i}")):
                    pass
            assert first in engine.loaded
        assert len(engine.loaded) <= MAX_LOADED
        assert registry.target(f"m{MAX_LOADED + 1}").engine_key in engine.loaded
        await engines.close()

    asyncio.run(use())
