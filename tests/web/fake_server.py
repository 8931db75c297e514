"""The pages' server for tests: herd/web, /api and /v1 as the contract says, in memory, with words that stream."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import fake_arena, fake_gateway, fake_leaderboard

WEB = Path(__file__).resolve().parents[2] / "herd" / "web"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
PAGES = ("/", "/arena", "/leaderboard", "/traffic", "/conversations", "/routes", "/keys", "/models", "/runs")
CSP = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
STORY = "Once upon a time there was a little dog. He liked to run and play. One day he found a **red ball**. "
DIGEST = "a1b2c3d4" * 8


def model(ref: str, **fields: Any) -> dict[str, Any]:
    name, version = ref.split("@")
    return {
        "ref": ref, "name": name, "version": int(version), "kind": "model", "base": None, "parents": [],
        "licence": "Apache-2.0", "description": "A very small Llama that tells stories.", "digest": DIGEST,
        "bytes": 23_900_000, "parameters": 11_900_000, "current": True, "bundled": True, "plots": [],
        "config": {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2,
                   "vocab_size": 8192, "max_position_embeddings": 2048},
        "metrics": {"bits_per_byte": 0.842}, "card": "# cria\n\nTrained on **open** text.\n\n| compressor | bits per byte |\n|---|---|\n| gzip | 2.61 |\n| cria | 0.84 |\n",
        "memory": {"weights": 23_900_000, "kv_per_token": 4096, "fits_tokens": 900_000}, **fields,
    }  # fmt: skip


class State:
    """Everything the fake server knows; a test reads and changes it directly."""

    def __init__(self) -> None:
        self.conversations: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.votes: list[dict[str, Any]] = []
        self.generations: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.models = [model("cria@1"), model("cria@2", kind="adapter", base="cria@1", bundled=False, parents=[DIGEST],
                                              digest="beef0042" * 8, bytes=410_000, current=False)]  # fmt: skip
        self.runs: list[dict[str, Any]] = []
        self.serving = "cria@1"
        self.remote: tuple[str, ...] = ()  # targets of gpt-4o, by their names
        self.engine = {"state": "idle", "running": 0, "waiting": 0}
        self.runs_active = 0
        self.keys: list[str] = []
        self.delay = 0.01
        self.reply = STORY * 2
        self.fail: dict[str, int] = {}  # "POST /path" → status of its next answer
        self.held: dict[str, threading.Event] = {}  # "GET /path" is answered once its event is set
        self.held_at: dict[int, threading.Event] = {}  # the word of this number comes once its event is set
        self.broken_after: int | None = None  # the stream ends without a finish after so many words
        self.counter = 0
        self.gateway, self.arena = fake_gateway.Gateway(), fake_arena.Arena()
        self.board = fake_leaderboard.Board()

    def next(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}-{self.counter}"


def words(text: str) -> Iterator[str]:
    yield from re.findall(r"\S+\s*|\s+", text)


KEPT = "max-age=3600"  # the pages do not change while they are tested


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def send(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(data)), "Cache_Control": "no-store",
            "Content-Security-Policy": CSP, **fake_arena.CORS, "X-Request-Id": self.server.state.next("req"), **headers,
        }.items():  # fmt: skip
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def json(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode())

    def error(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        headers = {"Retry_After": "7"} if status == 429 else {}
        body = {"error": {"message": message, "type": "error", "param": param, "code": code}}
        self.send(status, json.dumps(body).encode(), **headers)

    def page(self, path: str) -> None:
        if path in PAGES or path.startswith("/c/"):
            path = "/web/index.html"
        file = (WEB / path.removeprefix("/web").lstrip("/")).resolve()
        if not path.startswith(("/web/", "/embed.js")) or not file.is_file() or WEB not in file.parents:
            return self.error(404, f"There is no {path}.")
        self.send(
            200,
            file.read_bytes(),
            TYPES[file.suffix],
            Cache_Control=KEPT if path.startswith("/web/") else "no-store",
        )

    def handle_any(self) -> None:
        state, method = self.server.state, self.command
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        body = self.body() if method in ("POST", "PUT", "PATCH", "DELETE") else {}
        if gate := state.held.get(f"{method} {path}"):
            gate.wait(30)
        status = state.fail.pop(f"{method} {path}", None)
        if status:
            return self.error(
                status, "The queue is full." if status == 429 else "The fake server was told to fail."
            )
        if path == "/v1/chat/completions" or method == "OPTIONS":
            return self.stream(self.chat(body)) if method != "OPTIONS" else self.send(204, b"")
        if not path.startswith("/api/"):
            return self.page(path)
        if path == "/api/generations/export":
            rows = fake_gateway.found(state, query)
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            disposition = f'attachment; filename="generations.{query["format"][0]}"'
            return self.send(200, text.encode(), "application/jsonl", Content_Disposition=disposition)
        for (verb, pattern), answer in {**STREAMS, **ROUTES}.items():
            match = re.fullmatch(pattern, path.removeprefix("/api/"))
            if match and verb == method:
                try:
                    found = answer(state, *match.groups(), body=body, query=query)
                    if (verb, pattern) in STREAMS:
                        return self.stream(found)
                except fake_gateway.Refused as error:
                    return self.error(error.status, error.message, error.param, error.code)
                return self.error(404, f"There is no {path}.") if found is None else self.json(found)
        self.error(404, f"There is no {path}.")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any

    def chunk(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        data = f"data: {text}\n\n".encode()
        half = len(data) // 2  # borders in the middle of events and characters
        for piece in (data[:half], data[half:]):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()

    def stream(self, events: Iterator[Any]) -> None:
        """Events as they come; the connection breaks where the generator ends without its last one, None."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Request-Id", self.server.state.next("req"))
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):  # whoever listened has gone
            for event in events:
                if event is None:
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.chunk(event)

    def chat(self, body: dict[str, Any]) -> Iterator[Any]:
        state = self.server.state
        state.requests.append(body)
        id = state.next("chatcmpl")
        written, finish = [], "cancelled"
        base = {"id": id, "object": "chat.completion.chunk", "model": body["model"]}
        time.sleep(state.delay * 5)
        try:
            for i, word in enumerate(words(state.reply)):
                if gate := state.held_at.get(i):
                    gate.wait(30)
                if i == state.broken_after:
                    finish = "error"
                    yield None
                    return
                yield {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
                written.append(word)
                time.sleep(state.delay)
            finish = "stop"
            yield {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
            n = len(written)
            usage = {"prompt_tokens": 12, "completion_tokens": n, "total_tokens": 12 + n}
            yield {**base, "choices": [], "usage": usage}
            yield "[DONE]"
            yield None
        finally:
            state.generations[id] = {
                "id": id, "route": body["model"], "target": body["model"], "target_digest": DIGEST, "model_ref": "cria@1",
                "request": {"sampling": {"seed": body.get("seed"), "temperature": body.get("temperature", 0.8)}},
                "tokens": {"prompt": 12, "completion": len(written), "cached": 0}, "latency": {"queue": 1, "first_token": 52, "total": 400}, "finish": finish,
            }  # fmt: skip


def list_conversations(state: State, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    wanted = query.get("query", [""])[0].lower()
    rows = [
        c
        for c in state.conversations.values()
        if wanted in (c["title"] or "").lower()
        or any(wanted in m["content"].lower() for m in state.messages[c["id"]])
    ]
    rows.sort(key=lambda c: -c["updated"])
    limit = int(query.get("limit", ["50"])[0])
    return {"data": rows[:limit], "more": len(rows) > limit}


def create(state: State, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    now = time.time()
    row = {"id": body.get("id") or state.next("conv"), "title": body.get("title"), "route": body.get("route"), "system": body.get("system"),
           "settings": body.get("settings") or {}, "created": now, "updated": now}  # fmt: skip
    state.conversations[row["id"]] = row
    state.messages[row["id"]] = []
    return row


def read(state: State, id: str, **_: Any) -> dict[str, Any] | None:
    if id not in state.conversations:
        return None
    generations = {m.get("generation") for m in state.messages[id]} - {None}
    votes = [v for v in state.votes if {v["a"], v["b"]} & generations]
    return {**state.conversations[id], "messages": state.messages[id], "votes": votes}


def change(state: State, id: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any] | None:
    state.conversations[id].update(body, updated=time.time())
    return state.conversations[id]


def delete(state: State, id: str, **_: Any) -> dict[str, Any]:
    state.conversations.pop(id, None)
    fake_gateway.forget(state, id)
    return {"deleted": True}


def add_message(state: State, id: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any] | None:
    message = {"created": time.time(), "generation": None, **body}
    if message["id"] not in {m["id"] for m in state.messages[id]}:
        state.messages[id].append(message)
    state.conversations[id]["updated"] = time.time()
    return message


def export(state: State, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    ids = [i for i in query.get("ids", [""])[0].split(",") if i] or list(state.conversations)
    return copy.deepcopy({"conversations": [read(state, id) for id in ids]})


def import_(state: State, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    for conversation in body["conversations"]:
        made = create(state, body={**conversation, "id": None})
        state.messages[made["id"]] = conversation["messages"]
    return {"imported": len(body["conversations"])}


def vote(state: State, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    state.votes.append(body)
    return body


def status(state: State, **_: Any) -> dict[str, Any]:
    routes = [
        {"name": "cria", "target": "cria", "model": state.serving, "kind": "model"},
        {"name": "tale", "target": "tale", "model": "cria@1", "kind": "target"},
        *({"name": n, "target": n, "model": "gpt-4o", "kind": "remote"} for n in state.remote),
    ]
    return {
        "version": "0.1.0",
        "engine": state.engine,
        "routes": routes,
        "arena": ["cria", "tale"],
        "default_route": "cria",
        "runs_active": state.runs_active,
    }


def lineage(state: State, **_: Any) -> dict[str, Any]:
    if not state.models:
        return {"nodes": [], "edges": []}
    nodes = [
        ("data", "corpus", "TinyStories"),
        ("chat", "pairs", "dialogues"),
        ("m1", "model", "cria@1"),
        ("votes", "votes", "14 votes"),
        ("m2", "adapter", "cria@2"),
    ]
    return {"nodes": [{"id": i, "digest": f"{n:x}" * 64, "kind": k, "label": label} for n, (i, k, label) in enumerate(nodes, 1)],
            "edges": [["data", "m1"], ["chat", "m1"], ["m1", "m2"], ["votes", "m2"]]}  # fmt: skip


def start_run(state: State, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    run = {"id": state.next("run"), "kind": body["kind"], "args": body["args"], "state": "running", "created": time.time(),
           "stages": ["collect", "train", "judge", "promote"], "stage": "train"}  # fmt: skip
    state.runs.insert(0, run)
    return run


def read_run(state: State, id: str, **_: Any) -> dict[str, Any] | None:
    run = next((r for r in state.runs if r["id"] == id), None)
    metrics = [{"step": i, "loss": 0.7 * 0.97**i, "margin": 0.02 * i} for i in range(40)]
    return run and {
        "metrics": metrics,
        "log": ["collect: 12 pairs to learn from, 4 held out", "train: LoRA of rank 8 on cria@1"],
        **run,
    }


def verdict(state: State) -> None:
    """Ends the newest run the way `improve` does when the candidate is better."""
    before = {"pairs_ranked_right": 0.55, "bits_per_byte": 0.842}
    result = {"decision": "SWITCH", "reason": "the interval lies above zero", "estimate": 0.21, "low": 0.08, "high": 0.34, "n": 16,
              "clusters": 12, "needed": None, "name": "cria", "current": "cria@1", "candidate": "cria@2", "pairs": {"train": 48, "held_out": 16},
              "metrics": {"pairs_ranked_right": 0.81, "bits_per_byte": 0.845, "before": before}}  # fmt: skip
    state.runs[0].update(state="done", stage="promote", result=result)
    state.serving = "cria@2"


def cancel(state: State, id: str, **_: Any) -> dict[str, Any] | None:
    run = next((r for r in state.runs if r["id"] == id), None)
    return run and (run.update(state="cancelled") or run)


def rollback(state: State, name: str, **_: Any) -> dict[str, Any]:
    state.serving = "cria@1"
    return {"name": name, "current": state.serving}


ROUTES = {
    ("GET", "status"): status,
    ("POST", "session"): lambda state, *, body, **_: state.keys.append(body["key"]) or {},
    ("GET", "conversations"): list_conversations,
    ("POST", "conversations"): create,
    ("GET", "conversations/export"): export,
    ("POST", "conversations/import"): import_,
    ("GET", "conversations/([^/]+)"): read,
    ("PATCH", "conversations/([^/]+)"): change,
    ("DELETE", "conversations/([^/]+)"): delete,
    ("POST", "conversations/([^/]+)/messages"): add_message,
    ("POST", "votes"): vote,
    ("GET", "votes"): lambda state, **_: {"data": state.votes},
    ("GET", "models"): lambda state, **_: {"data": state.models},
    ("GET", "lineage"): lineage,
    ("GET", "runs"): lambda state, **_: {"data": state.runs},
    ("POST", "runs"): start_run,
    ("GET", "runs/([^/]+)"): read_run,
    ("POST", "runs/([^/]+)/cancel"): cancel,
    ("POST", "routes/([^/]+)/rollback"): rollback,
    **fake_gateway.ROUTES,
    **fake_arena.ROUTES,
    **fake_leaderboard.ROUTES,
}
STREAMS = {**fake_arena.STREAMS, **fake_leaderboard.STREAMS}  # their answers are generators of events


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.forget()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def forget(self) -> None:
        """As if it had just been started; whoever still listens keeps what there was."""
        self.state = State()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is what these tests do on purpose."""


if __name__ == "__main__":
    server = FakeServer(8123)
    print(server.url)
    threading.Event().wait()
