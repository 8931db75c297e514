"""How the command line reads a server: streams, errors, silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from herd.cli.client import Server
from herd.errors import HerdError
from herd.server.settings import Settings

from .conftest import serving


def chunk(text: str = "", finish: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server that answers as `script` says (status, body), and keeps the last request in `seen`."""
    script: dict[str, Any] = {"status": 200, "body": "{}", "seen": None}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script["seen"] = (self.path, dict(self.headers), json.loads(body or "null"))
            self.send_response(script["status"])
            self.end_headers()
            self.wfile.write(script["body"].encode())

    monkeypatch.delenv("HERD_HOST", raising=False)
    monkeypatch.setenv("HERD_API_KEY", "sesame")
    with serving(Handler) as port:
        monkeypatch.setenv("HERD_PORT", str(port))
        yield script


def say(server: Server | None) -> str:
    assert server
    return "".join(server.chat({"model": "cria", "messages": []}, {"X-Herd-Conversation": "c1"}))


def events(*lines: str) -> str:
    return "".join(f"data: {line}\n\n" for line in lines)


def test_a_reply_is_streamed_with_key_and_conversation(scripted: dict[str, Any]) -> None:
    server = Server.running()
    scripted["body"] = ": ping\n\n" + events(chunk("Hel"), chunk("lo ü"), chunk(finish="stop"), "[DONE]")
    assert say(server) == "Hello ü"
    path, headers, body = scripted["seen"]
    assert path == "/v1/chat/completions" and body == {"model": "cria", "messages": [], "stream": True}
    assert headers["Authorization"] == "Bearer sesame" and headers["X-Herd-Conversation"] == "c1"


def test_an_error_in_the_stream_is_raised(scripted: dict[str, Any]) -> None:
    server = Server.running()
    scripted["body"] = events(chunk("Once"), json.dumps({"error": {"message": "the engine was restarted"}}))
    with pytest.raises(HerdError, match="the engine was restarted"):
        say(server)


def test_a_stream_cut_off_is_not_taken_for_complete(scripted: dict[str, Any]) -> None:
    server = Server.running()
    scripted["body"] = events(chunk("Once upon"))
    with pytest.raises(HerdError, match="in the middle"):
        say(server)


def test_errors_are_the_server_s_own_words(scripted: dict[str, Any]) -> None:
    server = Server.running()
    scripted |= {
        "status": 404,
        "body": json.dumps({"error": {"message": "no model 'x'; did you mean 'cria'?"}}),
    }
    with pytest.raises(HerdError, match="did you mean 'cria'") as caught:
        say(server)
    assert caught.value.status == 404


def test_a_wrong_key_is_said(scripted: dict[str, Any]) -> None:
    scripted |= {"status": 401, "body": json.dumps({"error": {"message": "wrong key"}})}
    with pytest.raises(HerdError, match="HERD_API_KEY"):
        Server.running()


def test_somebody_else_s_server_is_not_ours(scripted: dict[str, Any]) -> None:
    scripted["body"] = "<html>hello</html>"
    assert Server.running() is None


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_PORT", "9")
    assert Server.running() is None


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it says, if it says it in seconds."""
    answers = [(429, "7"), (503, "Wed, 21 Oct 2026 07:28:00 GMT"), (200, "")]
    waited: list[float] = []

    class Busy(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, after = answers.pop(0)
            self.send_response(status)
            self.send_header("Retry-After", after)
            self.end_headers()
            self.wfile.write(b"{}")

    monkeypatch.delenv("HERD_HOST", raising=False)
    monkeypatch.setattr("herd.cli.client.time.sleep", waited.append)
    with serving(Busy) as port:
        monkeypatch.setenv("HERD_PORT", str(port))
        assert Server(Settings.from_environment()).post("/v1/completions", {})[0] == 200
    assert waited == [7, 1] and not answers
