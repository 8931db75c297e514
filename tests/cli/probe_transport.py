"""What a scripted server says and how: refusals, faults of the wire, events one by one."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

WORDS = [f"{a}{b}" for a in ("sun", "moon", "star", "tree", "leaf") for b in "abcdefgh"]
CONTEXT = 2000
LONGEST = 80
FIELDS = {
    "model": str, "messages": list, "max_tokens": int, "max_completion_tokens": int, "temperature": (int, float), "top_p": (int, float),
    "stream": bool, "stop": (str, list), "seed": int, "n": int, "logprobs": (bool, int), "top_logprobs": int,
    "logit_bias": dict, "frequency_penalty": (int, float), "presence_penalty": (int, float), "response_format": dict,
    "tools": list, "tool_choice": (str, dict), "parallel_tool_calls": bool, "stream_options": dict, "prompt": (str, list),
    "echo": bool, "input": (str, list), "encoding_format": str, "dimensions": int, "instructions": str, "store": bool,
    "previous_response_id": str, "max_output_tokens": int, "text": dict, "background": bool, "system": (str, list),
    "stop_sequences": list, "top_k": int,
}  # fmt: skip
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "n": (1, 8), "max_tokens": (1, 10**6)}


class Refusal(Exception):
    def __init__(
        self, status: int, message: str, param: str = "", kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.kind = status, param, kind


@dataclass
class Script:
    """`faults`: the names of what the server does wrong. `asked`: prompt and reply tokens asked for so far."""

    faults: set[str] = field(default_factory=set)
    key: str | None = None
    asked: int = 0
    running: int = 0
    most: int = 0  # that ran at once
    wrong: list[str] = field(default_factory=list)  # this server's own exceptions
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)


@dataclass
class Reply:
    tokens: list[str]
    finish: str
    prompt_tokens: int
    calls: list[dict[str, Any]] = field(default_factory=list)
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class Transport(BaseHTTPRequestHandler):
    script: Script
    timeout = 30

    def log_message(self, *_: object) -> None:
        pass

    def bad(self, fault: str) -> bool:
        return fault in self.script.faults

    # Transport

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if not self.misbehave():
                self.route(method, self.path, data)
        except Refusal as refusal:
            self.refuse(refusal)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def misbehave(self) -> bool:
        """Faults of the whole server; whether there was one."""
        if self.bad("hang"):
            self.script.closing.wait(20)
        elif self.bad("drip") or self.bad("drip body"):
            if self.bad("drip body"):
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while not self.script.closing.wait(0.02):
                self.wfile.write(b"H")
                self.wfile.flush()
        elif self.bad("drop"):
            self.wfile.write(
                b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n{"
            )
        elif self.bad("garbage"):
            self.wfile.write(b"\x00\x1b[31m\xff nonsense\r\n\r\n")
        elif self.bad("huge"):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while not self.script.closing.is_set():
                self.wfile.write(b" " * 2**20)
        elif self.bad("endless stream"):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            while not self.script.closing.is_set():
                self.wfile.write(b"data: {}\n\n" * 1000)
        elif self.bad("redirect"):
            self.head(307, "text/plain", {"Location": "http://192.0.2.1/\x1b[2J"})
        elif self.bad("html"):
            self.send(b"<html>\x1b[2JWelcome</html>", 200, "text/html")
        elif self.bad("500"):
            self.send(b'{"error": {"message": "out of memory"}}', 500)
        elif self.bad("nameless 500"):
            self.send(b"Internal Server Error", 500, "text/plain")
        elif self.bad("list"):
            self.send(b"[1]")
        elif self.bad("deep"):
            self.send(b'{"choices":' + b"[" * 100_000)
        elif self.bad("odd"):
            odd = {
                "choices": [7],
                "data": {"a": 1},
                "output": "x",
                "content": 3,
                "usage": [],
                "error": 3,
                "id": 4,
            }
            self.send(json.dumps(odd).encode())
        else:
            return False
        return True

    def head(self, status: int, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, data: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.head(status, kind, {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def give(self, value: Any) -> None:
        self.send(json.dumps(value).encode())

    def events(self, events: list[Any], named: bool = False) -> None:
        self.head(200, "text/plain" if self.bad("stream is no stream") else "text/event-stream")
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event)
            name = f"event: {event['type']}\n" if named and isinstance(event, dict) else ""
            if self.bad("wrong event names"):
                name = "event: else\n"
            self.wfile.write(f"{name}data: {data}\n\n".encode())
            self.wfile.flush()
            if self.bad("slow"):
                time.sleep(0.05)

    def refuse(self, refusal: Refusal) -> None:
        error = {"message": str(refusal), "type": refusal.kind, "param": refusal.param or None, "code": None}
        if self.bad("nameless errors"):
            error |= {"message": "bad request", "param": None}
        body: Any = {"error": error}
        if self.path.startswith("/v1/messages"):
            body = {"type": "error", "error": {"type": refusal.kind, "message": error["message"]}}
        if self.bad("errors without a body"):
            body = {"detail": "no"}
        self.send(json.dumps(body).encode(), 500 if self.bad("errors are 500") else refusal.status)
