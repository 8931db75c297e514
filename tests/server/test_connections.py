"""Peers that stall, flood or leave: each is dropped in time, told why where it can be, and nobody else notices."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from herd.server import body, connection
from herd.server.connection import STALL, Connection
from herd.server.guard import HEADER_BYTES

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "


def request(content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    return POST + str(len(data)).encode() + b"\r\n\r\n" + data


def connect(url: str, receive_buffer: int | None = None) -> socket.socket:
    parts = urlsplit(url)
    peer = socket.socket()
    if receive_buffer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.settimeout(60)
    peer.connect((parts.hostname, parts.port))
    return peer


def answer(peer: socket.socket) -> tuple[int, dict[str, Any], http.client.HTTPResponse]:
    """Status, error and headers of what comes, to the end of the connection."""
    reply = http.client.HTTPResponse(peer)
    reply.begin()
    error: dict[str, Any] = json.loads(reply.read())["error"]
    assert peer.recv(1) == b""  # and it is closed
    assert reply.headers["X-Request-Id"].startswith("req_")
    return reply.status, error, reply


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the server, in seconds."""
    monkeypatch.setattr(Connection, "stall", 0.4)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.4)
    return 0.4


@pytest.mark.parametrize("begun", [b"", b"GET /hea", GET])
def test_headers_that_do_not_come(url: str, patience: float, begun: bytes) -> None:
    with connect(url) as peer:
        peer.sendall(begun)
        began = time.monotonic()
        status, error, _ = answer(peer)
        assert (status, error["code"]) == (408, "request_timeout")
        assert time.monotonic() - began < STALL / 2


def test_headers_byte_by_byte(url: str, patience: float) -> None:
    with connect(url) as peer:
        for byte in GET + b"X: " + b"a" * 1000:
            try:
                peer.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("was never dropped")


def test_a_second_request_that_does_not_come(url: str, patience: float) -> None:
    with connect(url) as peer:
        peer.sendall(GET + b"\r\n")
        reply = http.client.HTTPResponse(peer)
        reply.begin()
        assert reply.status == 200 and reply.read()
        time.sleep(2 * patience)  # a pause between requests is no stall
        peer.sendall(GET)
        assert answer(peer)[0] == 408


def test_a_body_that_does_not_come(url: str, engine: Any, patience: float) -> None:
    with connect(url) as peer:
        peer.sendall(POST + b"1000\r\n\r\n{")
        reply = http.client.HTTPResponse(peer)
        reply.begin()
        assert reply.status == 408 and "seconds" in json.loads(reply.read())["error"]["message"]
        for _ in range(100):  # what goes on to trickle in is not waited for either
            try:
                peer.sendall(b" ")
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("was never dropped")
    assert not engine.requests


def test_headers_too_long_and_too_many(url: str) -> None:
    for headers, named in (
        (b"X: " + b"a" * 2 * HEADER_BYTES, "KiB"),
        (b"\r\n".join([b"X: a"] * 200), "100 headers"),
    ):
        with connect(url) as peer:
            peer.sendall(GET + headers + b"\r\nConnection: close\r\n\r\n")
            status, error, _ = answer(peer)
            assert status == 431 and named in error["message"] and error["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\0" * 99]
)
def test_what_is_not_http(url: str, data: bytes) -> None:
    with connect(url) as peer:
        peer.sendall(data + b"\r\n\r\n")
        status, error, _ = answer(peer)
        assert status == 400 and error["code"] == "invalid_http"
    counted = 'herd_http_requests_total{method="other",route="unmatched",status="400"} 1.0'
    assert counted in httpx.get(f"{url}/metrics", timeout=60).text


def test_an_offered_upgrade_is_not_taken_and_the_connection_goes_on(url: str) -> None:
    """Java's client offers HTTP/2 so with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n"
    with connect(url) as peer:
        for more in (offer, b"\r\n", offer, b"Connection: close\r\n\r\n"):
            peer.sendall(GET + more)
            reply = http.client.HTTPResponse(peer)
            reply.begin()
            assert reply.status == 200 and reply.read()
        assert peer.recv(1) == b""


def test_a_request_before_the_last_was_answered_ends_the_connection(url: str, engine: Any, chat: Any) -> None:
    """Whole answers or none: the first reply is not cut, and what came too early is not run."""
    with connect(url) as peer:
        peer.sendall(request(chat()) * 2000)
        reply = http.client.HTTPResponse(peer)
        reply.begin()
        assert reply.status == 200 and json.loads(reply.read())["choices"]
        assert reply.headers["Connection"] == "close" and peer.recv(1) == b""
    assert len(engine.requests) == 1


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: other\r\n"])
def test_one_host_is_named(url: str, hosts: bytes) -> None:
    with connect(url) as peer:
        peer.sendall(b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n")
        status, error, _ = answer(peer)
        assert status == 400 and "Host" in error["message"]


def test_headers_behind_a_body_and_of_chunks_have_an_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER", 60)  # for all that is sent
    head = POST.replace(b"Content-Length: ", b"Transfer-Encoding: chunked")
    for endless in (b"0\r\nX: " + b"a" * 40 * HEADER_BYTES, b"1;" + b"a" * 40 * HEADER_BYTES):
        with connect(url) as peer:
            peer.sendall(head + b"\r\n\r\n2\r\n{}\r\n")
            time.sleep(0.1)
            peer.sendall(endless)
            status, error, _ = answer(peer)
            assert status == 431 and error["code"] == "headers_too_large"


@pytest.mark.parametrize("media", [b"application/json", b"text/plain"])
def test_a_body_that_is_not_http_is_answered_once(
    url: str, media: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: "
    with connect(url) as peer:
        peer.sendall(head + media + b"\r\n\r\nzz\r\n{}\r\n")
        status, error, _ = answer(peer)
        assert status == 400 and error["code"] == "invalid_http"
    assert httpx.get(f"{url}/health", timeout=60).status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_who_is_turned_away_may_ask_again(url: str, engine: Any, chat: Callable[..., Any]) -> None:
    """On the same connection, whatever the length of the body that nobody reads."""
    engine.admission.crowded = True
    with connect(url) as peer:
        for content in (chat(), chat("x" * 300_000), chat()):
            peer.sendall(request(content))
            reply = http.client.HTTPResponse(peer)
            reply.begin()
            assert reply.status == 429 and json.loads(reply.read())["error"]["code"] == "queue_full"
            assert reply.headers["X-Request-Id"].startswith("req_") and reply.headers["Retry-After"] == "7"
        foreign = GET.replace(b"localhost", b"evil.example") + b"\r\n"
        for sent, status in ((foreign.replace(b"GET", b"HEAD"), 421), (foreign, 421), (GET + b"\r\n", 200)):
            peer.sendall(sent)
            reply = http.client.HTTPResponse(peer, method=sent.split()[0].decode())
            reply.begin()
            assert reply.status == status and bool(reply.read()) == (sent[:4] != b"HEAD")
        peer.sendall(request(chat()).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert answer(peer)[0] == 429
    assert not engine.requests


def test_who_was_turned_away_may_rest(
    url: str, engine: Any, chat: Callable[..., Any], patience: float
) -> None:
    engine.admission.crowded = True
    with connect(url) as peer:
        for sent in (request(chat()), GET.replace(b"localhost", b"evil.example") + b"\r\n"):
            peer.sendall(sent)
            reply = http.client.HTTPResponse(peer)
            reply.begin()
            assert reply.status in (429, 421) and reply.read()
            peer.settimeout(2 * patience)
            with pytest.raises(TimeoutError):  # nothing comes that was not asked for
                peer.recv(1)
            peer.settimeout(60)
        peer.sendall(GET + b"\r\n")
        reply = http.client.HTTPResponse(peer)
        reply.begin()
        assert reply.status == 200


def test_who_asks_on_and_on_without_reading_is_dropped(
    url: str, engine: Any, chat: Callable[..., Any], patience: float
) -> None:
    engine.admission.crowded, end = True, time.monotonic() + 60
    with connect(url, 4096) as peer, pytest.raises(ConnectionError):
        while time.monotonic() < end:
            peer.sendall(request(chat()))
    assert httpx.get(f"{url}/health", timeout=60).status_code == 200


def test_one_connection_too_many(
    url: str, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    monkeypatch.setattr(Connection, "most", 8)
    peers = [connect(url) for _ in range(8)]
    with connect(url) as ninth:
        status, error, reply = answer(ninth)
        assert (status, error["code"]) == (503, "too_many_connections") and reply.headers["Retry-After"]
    for peer in peers:
        peer.close()

    def served() -> bool:
        return httpx.get(f"{url}/health", timeout=60).status_code == 200

    wait_for(served)


def test_readers_that_do_not_read_lose_their_places(
    url: str, engine: Any, chat: Callable[..., Any], patience: float, wait_for: Callable[..., None]
) -> None:
    engine.words = ("word " * 200,) * 20_000  # far more than all buffers on the way hold
    peers = [connect(url, 4096) for _ in range(5)]
    try:
        for peer in peers:
            peer.sendall(request(chat(stream=True)))
        wait_for(lambda: len(engine.requests) == 5)
        wait_for(lambda: len(engine.cancelled) == 5)
        assert not engine.running
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
    finally:
        for peer in peers:
            peer.close()


def test_a_reader_that_reads_slowly_keeps_its_place(
    url: str, engine: Any, chat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the server can see: what the reader's own system holds for it counts as read."""
    monkeypatch.setattr(Connection, "stall", 2.0)
    engine.words = ("word " * 200,) * 4_000
    with connect(url, 32768) as peer:
        peer.sendall(request(chat(stream=True)))
        read, last, longest = b"", time.monotonic(), 0.0
        with contextlib.suppress(ConnectionError):
            for count in range(10**6):
                piece = peer.recv(16384)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                read = read[-100:] + piece
                if count < 100:
                    time.sleep(0.04)
                if not piece or read.endswith(b"0\r\n\r\n"):
                    break
    if longest < Connection.stall / 2:  # else it stood still with the machine, and may have lost its place
        assert b"data: [DONE]" in read and not engine.cancelled


def test_many_connect_and_drop(url: str) -> None:
    for i in range(1000):
        with connect(url) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # dropped, not closed
            if i % 3:
                peer.sendall(GET if i % 3 == 1 else GET + b"\r\n")
    assert httpx.get(f"{url}/health", timeout=20).status_code == 200


def test_nothing_is_begun_for_who_left_behind_the_request(
    url: str, engine: Any, chat: Callable[..., Any]
) -> None:
    for stream in (True, False) * 10:
        with connect(url) as peer:
            peer.send(request(chat(stream=stream)), getattr(socket, "MSG_MORE", 0))  # goes with the end
    assert httpx.post(f"{url}/v1/chat/completions", json=chat(), timeout=60).status_code == 200
    assert len(engine.requests) == 1
