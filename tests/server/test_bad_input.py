"""Whatever is sent, the answer is below 500, has the dialect's error body, and the server goes on."""

import gzip
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages",
         "/v1/messages/count_tokens", "/v1/responses", "/v1/responses/input_tokens", "/api/conversations", "/api/votes",
         "/api/runs",
         "/api/conversations/import", "/api/session")  # fmt: skip

BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "text": b'"hello"',
    "null": b"null",
    "NaN": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "too large a number": b'{"temperature": 1e999}',
    "too long an integer": b'{"seed": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "cria"}'.encode("utf-16"),
    "half a surrogate pair": b'{"model": "\\ud800"}',
    "half a surrogate pair in a key": b'{"\\udfff": 1}',
    "deep lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "only opening": b"[" * 1_000_000,
}


def check(reply: Any, status: int | None = None) -> None:
    assert 400 <= reply.status_code < 500
    assert status is None or reply.status_code == status, reply.text
    error = reply.json()["error"]
    anthropic = reply.json().get("type") == "error"
    assert anthropic == ("/v1/messages" in str(reply.url))
    assert set(error) == {"message", "type"} | ({"details"} if anthropic else {"param", "code"})
    assert error["message"]
    assert len(error["message"]) < 1000 and "Traceback" not in error["message"]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bodies_that_are_not_json_objects(client: TestClient, body: bytes) -> None:
    for path in PATHS:
        check(client.post(path, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages": [{"a": 1}], "seed": 1180591620717411303424, "n": 1}', "seed"),
        (b'{"temperature": 1e999}', "temperature"),
        (b'{"prompt": [1, -99999999999999999999999]}', "prompt"),
        (b'{"logit_bias": {"5": 1e999}}', "5"),
        (b'{"\\ud800": 1e999}', None),
        (b"[1e999]", None),
    ],
)
def test_a_number_that_is_too_large_is_named(client: TestClient, body: bytes, param: str | None) -> None:
    reply = client.post("/v1/chat/completions", content=body, headers=JSON)
    check(reply, 400)
    error = reply.json()["error"]
    assert error["param"] == param and "too large a number" in error["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_wrong_content_type(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    check(client.post("/v1/chat/completions", content=b'{"model": "cria"}', headers=headers), 400)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x" * 500])
def test_a_compressed_body_is_refused_as_such(client: TestClient, engine: Any, encoding: str) -> None:
    body = gzip.compress(b'{"model": "cria", "messages": [{"role": "user", "content": "Hi"}]}')
    for path in (*PATHS, "/api/arena/import"):
        reply = client.post(path, content=body, headers={**JSON, "Content-Encoding": encoding})
        check(reply, 415)
        assert reply.headers["accept-encoding"] == "identity"
        message = reply.json()["error"]["message"]
        assert encoding.split(", ")[-1][:30] in message and "without that header" in message
    assert not engine.requests


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_plain(client: TestClient, chat: Callable[..., Any], encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    assert client.post("/v1/chat/completions", json=chat(), headers=headers).status_code == 200


def test_body_limit_while_reading(client: TestClient, engine: Any) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(64):
            read += MIB
            yield b" " * MIB

    check(client.post("/v1/chat/completions", content=endless(), headers=JSON), 413)
    check(client.post("/v1/chat/completions", content=b" " * (4 * MIB + 1), headers=JSON), 413)
    assert not engine.requests


def test_ten_megabytes_of_spaces_over_a_socket(url: str) -> None:
    body = json.dumps({"model": "cria", "messages": [{"role": "user", "content": " " * (10 * MIB)}]}).encode()
    for chunked in (False, True):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
        connection.request(
            "POST", "/v1/chat/completions", pieces if chunked else body, JSON, encode_chunked=chunked
        )
        assert connection.getresponse().status == 413
        connection.close()
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


def test_a_hundred_thousand_messages(client: TestClient, engine: Any) -> None:
    body = {"model": "cria", "messages": [{"role": "user", "content": "a"}] * 100_000}
    reply = client.post("/v1/chat/completions", json=body)
    check(reply, 400)
    assert "100,000 entries" in reply.json()["error"]["message"] and not engine.requests


def test_the_smallest_seed(client: TestClient, engine: Any) -> None:
    body = b'{"model": "cria", "messages": [{"role": "user", "content": "Hi"}], "seed": %d}'
    check(client.post("/v1/chat/completions", content=body % (-(2**63) - 1), headers=JSON), 400)
    assert client.post("/v1/chat/completions", content=body % -(2**63), headers=JSON).status_code == 200
    assert engine.requests[-1].sampling.seed == -(2**63)


def test_unknown_names(client: TestClient, chat: Callable[..., Any]) -> None:
    check(client.get("/nowhere"), 404)
    check(client.get("/v1/nowhere"), 404)
    check(client.get("/api/nowhere/" + "x" * 5000), 404)
    check(client.get("/web/%00"), 400)
    check(client.get("/web/../../etc/passwd"), 404)
    check(client.get("/web/%2e%2e/%2e%2e/pyproject.toml"), 404)
    check(client.delete("/v1/models"), 405)
    reply = client.post("/v1/chat/completions", json=chat(model="criaa"))
    check(reply, 404)
    assert "'cria'" in reply.json()["error"]["message"]
    check(client.post("/v1/chat/completions", json=chat(model="x" * 3_000_000)), 404)
    check(client.post("/v1/chat/completions", json=chat(model="../cria")), 404)
    for path in ("conversations/x", "generations/x", "runs/x", "runs/%2e%2e", "models/x/files/loss.svg",
                 "models/cria@1/files/notes.txt", "models/cria@1/files/config.json"):  # fmt: skip
        check(client.get(f"/api/{path}"), 404)
    check(client.post("/api/routes/crai/rollback"), 404)


@pytest.mark.parametrize(
    "path", ["conversations?limit=0", "conversations?limit=x", "conversations?limit=99999999999999999999",
             "conversations?before=nan", "conversations?before=x", "conversations?query=" + "x" * 300])  # fmt: skip
def test_bad_queries(client: TestClient, path: str) -> None:
    check(client.get(f"/api/{path}"), 400)


def test_fields_are_honoured_recorded_or_refused(client: TestClient, chat: Callable[..., Any]) -> None:
    for fields, named in (
        ({"temprature": 1}, "temperature"), ({"tools": [{"type": "function"}]}, "tools"), ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"), ({"max_tokens": -1}, "max_tokens"), ({"stop": [1]}, "stop"), ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"), ({"logprobs": 1}, "logprobs"),
    ):  # fmt: skip
        reply = client.post("/v1/chat/completions", json=chat(**fields))
        check(reply, 400)
        assert named in reply.json()["error"]["message"]
    assert client.post("/v1/chat/completions", json=chat(user="u", metadata={"a": "b"})).status_code == 200


def test_wrong_fields_of_the_api(client: TestClient) -> None:
    for path, body in (
        ("conversations", {"titel": "x"}), ("conversations", {"title": 1}), ("conversations", {"settings": []}),
        ("votes", {"a": "x", "b": "y", "outcome": "c"}), ("votes", {"a": "x", "outcome": "a"}), ("votes", {}),
        ("votes", {"a": "x", "b": "y", "outcome": "a"}), ("runs", {}), ("runs", {"kind": "rm", "args": {"name": "cria"}}),
        ("runs", {"kind": "improve", "args": {"name": "--undo"}}), ("runs", {"kind": "improve", "args": {"name": "crai"}}),
        ("conversations/import", {}), ("conversations/import", {"conversations": [1]}), ("session", {"key": 1}),
        ("conversations/import", {"conversations": [{"messages": [{}]}]}), ("conversations/x/messages", {}),
        ("conversations/x/messages", {"role": "user", "content": "x"}),
    ):  # fmt: skip
        check(client.post(f"/api/{path}", json=body))
    check(client.patch("/api/conversations/x", json={"title": "y"}), 404)
    check(client.delete("/api/conversations/x"), 404)


def test_a_bad_conversation_header(client: TestClient, chat: Callable[..., Any]) -> None:
    for value in ("", "x" * 200, "a\tb"):
        check(client.post("/v1/chat/completions", json=chat(), headers={"X-Herd-Conversation": value}), 400)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["model", "messages", "prompt", "input", "max_tokens", "tools", "tool_choice", "response_format", "system",
     "output_config", "logit_bias", "instructions", "text", "stream", "n", "seed", "stop", "logprobs", "max_tokens", "temperature", "store",
     "id", "title", "route", "system", "settings", "parent", "role", "content", "generation", "a", "b", "outcome",
     "source", "kind", "args", "conversations", "key", "metadata", "created"])  # fmt: skip


@given(path=st.sampled_from(PATHS), body=st.dictionaries(names, values, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_a_5xx(client: TestClient, path: str, body: dict[str, Any]) -> None:
    reply = client.post(path, json=body)
    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        check(reply)
