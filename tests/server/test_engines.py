"""Engines come when asked for, are shared, and are replaced while replies run."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

from herd.errors import HerdError
from herd.registry.registry import Registry
from herd.server.engines import Engines
from herd.server.settings import Settings


def test_ready_comes_after_health(
    start: Callable[..., TestClient], engine: Any, wait_for: Callable[..., None]
) -> None:
    engine.may_load = False
    client = start()
    assert client.get("/health").status_code == 200
    reply = client.get("/ready")
    assert reply.status_code == 503 and "loading" in reply.json()["reason"]
    assert client.get("/api/status").json()["engine"]["state"] == "starting"
    engine.may_load = True
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
    none = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    assert client.get("/v1/models").json() == none
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


def test_a_replaced_engine_goes_however_its_last_reply_ends(home: Path, tmp_path: Path, engine: Any) -> None:
    async def work() -> None:
        engines = Engines(engine, Registry(home))
        engines.start()
        with pytest.raises(HerdError, match="broke off"):
            async with engines.hold("cria", engines.target("cria")):
                promote(home, tmp_path, 1)
                await engines.reload()
                assert len(engine.loaded) == 2
                raise HerdError("broke off")
        assert len(engine.loaded) == 1
        await engines.close()

    asyncio.run(work())


def test_what_a_new_process_refused_is_loaded_again_when_it_is_asked_for(home: Path, engine: Any) -> None:
    async def work() -> None:
        engines = Engines(engine, Registry(home))
        engines.start()
        async with engines.hold("cria", engines.target("cria")) as key:
            pass
        del engine.loaded[key]
        async with engines.hold("cria", engines.target("cria")):
            assert key in engine.loaded
        await engines.close()

    asyncio.run(work())


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
        route["model"]
        for route in httpx.get(f"{url}/api/status", timeout=60).json()["routes"]
        if route["name"] == "cria"
    ] == ["cria@2"]
    wait_for(lambda: [what for what, _ in engine.log] == ["load", "load", "unload"])
    (adapter,) = [adapter for _, adapter in engine.loaded.values()]
    assert adapter == home / "models" / "cria" / "2"
    assert httpx.post(f"{url}/api/routes/cria/rollback", timeout=60).json() == {
        "name": "cria",
        "current": "cria@1",
    }
    httpx.post(f"{url}/v1/chat/completions", json=chat(), timeout=60)
    assert [adapter for _, adapter in engine.loaded.values()] == [None]


def test_metrics_name_the_adapters_in_use(
    url: str, home: Path, tmp_path: Path, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    def info() -> str:
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        (found,) = [line for line in lines if line.startswith("vllm:lora_requests_info")]
        labels, _, value = found.partition("{")[2].partition("} ")
        assert abs(float(value) - time.time()) < 60
        return labels

    promote(home, tmp_path, 1)
    httpx.post(f"{url}/api/reload", timeout=20)
    assert info() == 'max_lora="0",running_lora_adapters="",waiting_lora_adapters=""'
    engine.words, engine.delay = ("word ",) * 1000, 0.05  # 50 s, unless it is hurried
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=chat(), timeout=20)
        wait_for(
            lambda: 'waiting_lora_adapters="cria@2"' in info() or 'running_lora_adapters="cria@2"' in info()
        )
        wait_for(lambda: 'running_lora_adapters="cria@2",waiting_lora_adapters=""' in info())
        engine.delay = 0
        assert reply.result().status_code == 200
    assert 'running_lora_adapters="",waiting_lora_adapters=""' in info()


def test_swaps_to_and_fro_under_load_fail_no_request(
    url: str, home: Path, tmp_path: Path, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Whole replies and streams, by every dialect, while the model behind their name changes six times."""
    engine.delay = 0.005
    done = 0
    broken: list[str] = []
    stop = False
    asks: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat()), ("/v1/chat/completions", chat(stream=True)),
        ("/v1/responses", {"model": "cria", "input": "Hi", "stream": True}), ("/v1/messages", chat(max_tokens=9)),
    ]  # fmt: skip

    def keep_asking(path: str, body: dict[str, Any]) -> None:
        nonlocal done
        with httpx.Client(base_url=url, timeout=20) as client:
            while not stop:
                reply = client.post(path, json=body)
                if reply.status_code != 200 or "time." not in reply.text or '"error": {' in reply.text:
                    broken.append(reply.text)
                done += 1

    promote(home, tmp_path, 1)
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking, path, body) for path, body in asks * 2]
        for step in range(6):
            before = done
            wait_for(lambda before=before: done > before + 10)
            if step % 2:
                Registry(home).promote("cria", 2, {"decision": "SWITCH"})
                assert httpx.post(f"{url}/api/reload", timeout=20).status_code == 200
            else:
                assert httpx.post(f"{url}/api/routes/cria/rollback", timeout=20).status_code == 200
        stop = True
        for job in asking:
            job.result()
    assert not broken and done > 60
    wait_for(lambda: len(engine.loaded) == 1)
    assert [what for what, _ in engine.log].count("load") >= 6


def models(home: Path, tmp_path: Path, **sizes: int) -> Registry:
    """Models of so many bytes of weights."""
    registry = Registry(home)
    for name, size in sizes.items():
        source = tmp_path / name
        source.mkdir()
        (source / "model.safetensors").write_bytes(name.encode() * size)  # names have one letter
        registry.add(source, name, kind="model")
    return registry


def test_the_longest_unused_makes_room_and_what_is_in_use_stays(
    home: Path, engine: Any, tmp_path: Path
) -> None:
    registry = models(home, tmp_path, a=100, b=100, c=100, d=100, e=301)

    async def use() -> None:
        engines = Engines(engine, registry, memory=300)
        engines.start()

        def names() -> str:
            return "".join(
                sorted(path.parent.name for path, _ in engine.loaded.values() if path.parent.name != "cria")
            )

        async with engines.hold("a", registry.target("a")):
            for name in "bcd":
                await engines.load(name)
            assert names() == "acd"
            assert sum(part["bytes"] for part in engines.loaded().values()) == 300
            with pytest.raises(HerdError, match="answering") as caught:
                await engines.unload("a")
            assert caught.value.status == 409
            with pytest.raises(HerdError, match="it needs 0 MiB, and of the 0 MiB") as caught:
                await engines.load("e")
            assert (
                caught.value.status == 503 and names() == "acd"
            )  # nothing had to leave for what cannot come
            async with engines.hold("c", registry.target("c")), engines.hold("d", registry.target("d")):
                with pytest.raises(HerdError, match="HERD_MEMORY"):
                    await engines.load("b")
        await engines.unload("a")
        assert names() == "cd"
        await engines.load("c")
        await engines.load("a")
        await engines.load("b")
        assert names() == "abc"  # d was the longest unused
        await engines.close()

    asyncio.run(use())


@pytest.mark.parametrize(
    "weights, fits", [("fp32", False), ("bf16", False), (None, False), ("int8", True), ("int4", True)]
)
def test_room_is_made_for_what_the_engine_will_keep(
    home: Path, engine: Any, tmp_path: Path, weights: str | None, fits: bool
) -> None:
    registry = models(home, tmp_path, a=100)
    save_file({"w": np.zeros((1000, 100), np.float16)}, tmp_path / "a" / "model.safetensors")  # 200 kB
    registry.add(tmp_path / "a", "b", kind="model")
    engine.weights = weights

    async def use() -> None:
        engines = Engines(engine, registry, memory=150_000)
        engines.start()
        if fits:
            await engines.load("b")
        else:
            with pytest.raises(HerdError, match="HERD_MEMORY"):
                await engines.load("b")
        assert ("b" in [path.parent.name for path, _ in engine.loaded.values()]) == fits
        await engines.close()

    asyncio.run(use())


def test_what_turns_out_too_large_goes_again(home: Path, engine: Any, tmp_path: Path) -> None:
    registry = models(home, tmp_path, a=100, b=100)
    engine.takes = {"b": 301}

    def names() -> set[str]:
        return {path.parent.name for path, _ in engine.loaded.values()}

    async def use() -> None:
        engines = Engines(engine, registry, memory=300)
        engines.start()
        async with engines.hold("a", registry.target("a")):
            with pytest.raises(HerdError, match="HERD_MEMORY") as caught:
                await engines.load("b")
            assert caught.value.status == 503 and caught.value.code == "out_of_memory"
            assert names() >= {"a"} and "b" not in names()
        engine.takes = {"b": 250}
        await engines.load("b")  # and what nobody uses any more makes room
        assert "b" in names() and "a" not in names()
        await engines.close()

    asyncio.run(use())


def test_what_nobody_uses_goes_and_the_server_stays_ready(
    home: Path, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    async def use() -> None:
        engines = Engines(engine, Registry(home), keep_alive=0.2)
        engines.start()
        async with engines.hold("cria", engines.target("cria")):
            await asyncio.sleep(0.4)
            assert engine.loaded and engines.ready
        async with asyncio.timeout(60):
            while engine.loaded:
                await asyncio.sleep(0.01)
        assert engines.ready
        await engines.load("cria")
        assert engine.loaded
        await engines.close()

    asyncio.run(use())


def test_load_and_unload_by_http(client: TestClient, engine: Any, wait_for: Callable[..., None]) -> None:
    wait_for(lambda: client.get("/ready").status_code == 200)
    whole = client.get("/api/models").json()
    assert whole["data"][0]["loaded"] == {"bytes": whole["data"][0]["memory"]["weights"], "in_use": 0}
    assert 0 < whole["memory"]["used"] < whole["memory"]["budget"]
    assert client.post("/api/models/tale/unload").json() == {"name": "tale", "loaded": False}
    assert not engine.loaded and client.get("/api/models").json()["data"][0]["loaded"] is None
    assert client.post("/api/models/cria@1/load").json() == {"name": "cria@1", "loaded": True}
    assert engine.loaded
    assert client.post("/api/models/crai/load").status_code == 404
    assert client.post("/api/models/crai/unload").status_code == 404


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GiB", 6 * 2**30), ("800 MB", 800_000_000), ("1.5g", 1_500_000_000), ("12345", 12345), ("", None)],
)
def test_the_budget_is_read_as_people_write_it(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int | None
) -> None:
    monkeypatch.setenv("HERD_MEMORY", text)
    assert Settings.from_environment().memory == size


@pytest.mark.parametrize(("name", "value"), [("HERD_MEMORY", "much"), ("HERD_KEEP_ALIVE", "-1")])
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(HerdError, match=name):
        Settings.from_environment()
