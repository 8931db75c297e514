"""Who may call: Host, Origin, key; and what every reply carries."""

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from herd.errors import HerdError
from herd.protocol import Failed
from herd.server.settings import Settings

KEY = "a secret of some length"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.1.2.3", ""]
)
def test_another_host_is_misdirected(client: TestClient, host: str) -> None:
    for path in ("/", "/health", "/v1/models", "/api/status", "/web/app.js"):
        reply = client.get(path, headers={"Host": host})
        assert reply.status_code == 421
        assert reply.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
def test_our_own_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_bound_to_every_address_serves_literal_addresses_but_no_foreign_name(
    start: Callable[..., Any],
) -> None:
    client = start(host="0.0.0.0", api_key=KEY)
    assert client.get("/health", headers={"Host": "192.168.1.5:8000"}).status_code == 200
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "file://"])
def test_another_origin_is_forbidden(client: TestClient, origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        reply = client.request(method, "/v1/models", headers={"Origin": origin})
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers


def test_our_own_page_and_a_named_origin_may_call(start: Callable[..., Any]) -> None:
    client = start(origins=frozenset({"https://app.example"}))
    assert client.get("/v1/models", headers={"Origin": "http://localhost:8000"}).status_code == 200
    asked = "authorization, content-type, x-stainless-os, x-stainless-retry-count, x-evil"
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    reply = client.options(
        "/v1/chat/completions", headers=headers | {"Access-Control-Request-Headers": asked}
    )
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    allowed = reply.headers["access-control-allow-headers"].split(", ")
    assert set(allowed) == set(asked.split(", ")) - {"x-evil"}


def test_without_the_key_nothing_is_told(start: Callable[..., Any]) -> None:
    client = start(api_key=KEY)
    for path in (
        "/v1/models", "/api/status", "/metrics", "/openapi.json", "/api/conversations", "/api/models/x@1/files/a.png",
        "/nowhere", "/api/session/", "/web", "/c",
    ):  # fmt: skip
        for headers in (
            {}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer "},
            {"Cookie": "herd_key=x"}, {"Cookie": "herd_key=" + KEY},
        ):  # fmt: skip
            reply = client.get(path, headers=headers)
            assert reply.status_code == 401, path
            assert reply.json()["error"]["type"] == "authentication_error"


def test_key_in_the_header_or_a_cookie_got_for_it(start: Callable[..., Any]) -> None:
    client = start(api_key=KEY)
    assert client.get("/api/status", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert client.post("/api/session", json={"key": "wrong"}).status_code == 401
    reply = client.post("/api/session", json={"key": KEY})
    assert reply.status_code == 204
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and KEY not in cookie
    assert client.get("/api/status").status_code == 200  # the client keeps the cookie


def test_probes_and_pages_are_open(start: Callable[..., Any]) -> None:
    client = start(api_key=KEY)
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code in (200, 503)
    assert client.get("/").status_code == 200


def test_a_network_address_without_a_key_is_refused() -> None:
    with pytest.raises(HerdError, match="HERD_API_KEY"):
        Settings(home=None, host="0.0.0.0")  # type: ignore[arg-type]


def test_every_reply_has_an_id_and_security_headers(client: TestClient) -> None:
    for path, status in (("/", 200), ("/v1/models", 200), ("/nowhere", 404), ("/v1/chat/completions", 405)):
        reply = client.get(path)
        assert reply.status_code == status
        assert reply.headers["x-request-id"].startswith("req_")
        policy = reply.headers["content-security-policy"]
        assert (
            "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
    assert client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/health", headers={"X-Request-Id": "a\tb"}).headers["x-request-id"].startswith("req_")


def test_access_log_has_no_text(
    client: TestClient, caplog: pytest.LogCaptureFixture, chat: Callable[..., Any]
) -> None:
    with caplog.at_level(logging.INFO, logger="herd.access"):
        client.post("/v1/chat/completions", json=chat("my deepest secret"))
        client.get("/api/conversations?query=deepest")
        client.post(
            "/v1/responses",
            json={"model": "cria", "input": "deepest"},
            headers={"Authorization": "Bearer deepest"},
        )
        client.get("/v1/responses/deepest?include[]=deepest")
        client.get("/deepest")
    lines = [record.getMessage() for record in caplog.records if record.name == "herd.access"]
    assert any("POST /v1/chat/completions 200" in line for line in lines)
    assert not any("deepest" in line for line in lines)


def test_metrics_have_the_names_of_vllm(
    client: TestClient, engine: Any, chat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/chat/completions", json=chat())
    (key,) = engine.loaded
    counts = {"kv_cache_usage_perc": 0.25, "prefix_cache_hits": 7, "num_preemptions": 2, "other": 1}
    status = {**engine.status(), "metrics": {key: counts}}
    monkeypatch.setattr(engine, "status", lambda: status)
    text = client.get("/metrics").text
    for line in (
        'vllm:prompt_tokens_total{model_name="cria"} 3.0',
        'vllm:generation_tokens_total{model_name="cria"} 4.0',
        'vllm:request_success_total{finished_reason="stop",model_name="cria"} 1.0',
        'vllm:time_to_first_token_seconds_count{model_name="cria"} 1.0',
        'vllm:num_requests_running{model_name="cria"} 0.0',
        'vllm:num_requests_waiting{model_name="cria"} 0.0',
        'vllm:kv_cache_usage_perc{model_name="cria"} 0.25',
        'vllm:prefix_cache_hits_total{model_name="cria"} 7.0',
        'vllm:num_preemptions_total{model_name="cria"} 2.0',
        'vllm:spec_decode_num_accepted_tokens_total{model_name="cria"} 0.0',
        'herd_http_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0',
    ):
        assert f"\n{line}\n" in text, line
    for name in ("e2e_request_latency_seconds", "inter_token_latency_seconds", "request_queue_time_seconds"):
        assert f"vllm:{name}_bucket" in text
    assert "other" not in text
    counted = (
        "num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total prefix_cache_hits_total \
        prompt_tokens_total generation_tokens_total request_success_total lora_requests_info".split()
    )
    timed = ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time")
    for name in (
        *counted,
        *(f"{name}_seconds_{part}" for name in timed for part in ("bucket", "sum", "count")),
    ):
        assert f"\nvllm:{name}{{" in text, name


def test_what_is_refused_is_not_timed(client: TestClient, engine: Any, chat: Callable[..., Any]) -> None:
    client.post("/v1/chat/completions", json=chat())
    engine.fail = Failed("the grammar has an end too many", "invalid_grammar", 400)
    assert client.post("/v1/chat/completions", json=chat()).status_code == 400
    assert 'vllm:e2e_request_latency_seconds_count{model_name="cria"} 1.0' in client.get("/metrics").text


def test_what_runs_and_waits_is_counted(
    url: str, engine: Any, chat: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    def gauge(name: str) -> float:
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith(f"vllm:num_requests_{name}{{")
        )

    engine.words, engine.delay = ("word ",) * 1000, 0.02  # 20 s, unless it is hurried
    with ThreadPoolExecutor() as pool:
        replies = [
            pool.submit(httpx.post, f"{url}/v1/chat/completions", json=chat(), timeout=60) for _ in range(3)
        ]
        wait_for(lambda: gauge("running") == 3)
        assert gauge("waiting") == 0
        engine.delay = 0
        assert {reply.result().status_code for reply in replies} == {200}
    assert gauge("running") == gauge("waiting") == 0


def test_what_is_refused_for_want_of_room_costs_no_write(
    client: TestClient, engine: Any, chat: Callable[..., Any], home: Path
) -> None:
    engine.fail = Failed("the queue is full; try again later", "queue_full", 429)
    for path, body in (
        ("/v1/chat/completions", chat()), ("/v1/chat/completions", chat(stream=True)),
        ("/v1/responses", {"model": "cria", "input": "Hi"}), ("/v1/messages", chat(max_tokens=9)),
    ):  # fmt: skip
        reply = client.post(path, json=body)
        assert (
            reply.status_code == 429 and reply.headers["retry-after"] == "7" and "queue is full" in reply.text
        )
    with sqlite3.connect(f"file:{home / 'herd.db'}?mode=ro", uri=True) as database:
        assert database.execute("select count(*) from generations").fetchone() == (0,)
    text = client.get("/metrics").text
    assert 'herd_http_requests_total{method="POST",route="/v1/responses",status="429"} 1.0' in text
    assert 'vllm:num_requests_waiting{model_name="cria"} 0.0' in text


def test_a_full_queue_is_said_before_a_body_is_decoded(
    client: TestClient, engine: Any, chat: Callable[..., Any]
) -> None:
    engine.admission.crowded = True
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
    ):  # fmt: skip
        reply = client.post(path, content=b"[" * 200_000, headers={"Content-Type": "application/json"})
        assert reply.status_code == 429 and reply.headers["retry-after"] == "7"
    assert client.post("/v1/messages/count_tokens", json=chat()).status_code == 200
