"""A server of both dialects with a model of forty words, which does everything right but for the faults it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
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


def sample(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value of a schema."""
    if "$ref" in schema:
        return sample(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return sample(schema["anyOf"][1], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "pattern" in schema:
        return "AB-123"
    match schema.get("type"):
        case "object":
            return {name: sample(inner, root) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema["items"], root)] * schema.get("minItems", 1)
        case "integer":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    raise Refusal(400, f"no such type: {schema.get('type')!r}", "response_format")


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


class Handler(BaseHTTPRequestHandler):
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
        elif self.bad("drip"):
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
                time.sleep(0.02)

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

    # Routes

    def route(self, method: str, path: str, data: bytes) -> None:
        if path == "/metrics" and not self.bad("no metrics"):
            self.send(f"vllm:num_requests_running {self.script.running}.0\n".encode(), 200, "text/plain")
            return
        sent = self.headers.get("x-api-key") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.script.key and sent != self.script.key and not self.bad("any key"):
            raise Refusal(401, "wrong key", kind="authentication_error")
        if method != "POST":
            self.look_up(method, path)
            return
        handlers = {
            "/v1/chat/completions": self.chat, "/v1/completions": self.completion, "/v1/embeddings": self.embeddings,
            "/v1/responses": self.respond, "/v1/messages": self.messages, "/v1/messages/count_tokens": self.count,
        }  # fmt: skip
        if path.endswith("/cancel"):
            self.give(
                {"id": path.split("/")[3], "status": "in_progress" if self.bad("no cancel") else "cancelled"}
            )
        elif path not in handlers or self.bad(f"no {path}"):
            raise Refusal(404, f"no route {path}", kind="not_found_error")
        else:
            handlers[path](self.checked(data))

    def look_up(self, method: str, path: str) -> None:
        if path == "/v1/models":
            entry = {"id": "forty-words", "object": "model", "created": 0, "owned_by": "us"}
            if not self.bad("no context length"):
                entry["max_model_len"] = CONTEXT
            self.give({"object": "list", "data": [] if self.bad("no models") else [entry]})
        elif path == "/v1/models/forty-words" or path.startswith("/v1/models/") and self.bad("any model"):
            self.give({"id": "another" if self.bad("another model") else "forty-words"})
        elif path.startswith("/v1/responses/") and (id := path.rpartition("/")[2]) in self.script.stored:
            found = self.script.stored[id]
            if method == "DELETE" and not self.bad("no delete"):
                del self.script.stored[id]
            self.give(found)
        else:
            raise Refusal(404, f"{path} is not here", kind="not_found_error")

    def checked(self, data: bytes) -> dict[str, Any]:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            if not self.bad("any JSON"):
                raise Refusal(400, "the body is not JSON") from None
            body = {"model": "forty-words", "messages": [{"role": "user", "content": "Hi."}]}
        if not body.get("model"):
            raise Refusal(400, "model is missing", "model")
        if body["model"] != "forty-words" and not self.bad("any model"):
            raise Refusal(404, f"no model {body['model']}", "model", "not_found_error")
        for name, value in body.items():
            if name not in FIELDS:
                if not self.bad("unknown fields"):
                    raise Refusal(400, f"unknown field {name}", name)
            elif not isinstance(value, FIELDS[name]) or isinstance(value, bool) and FIELDS[name] is int:
                if not self.bad("any type"):
                    raise Refusal(400, f"{name} has a wrong type", name)
            elif (
                name in RANGES
                and not RANGES[name][0] <= value <= RANGES[name][1]
                or value == []
                and name == "messages"
            ):
                if not self.bad("any value"):
                    raise Refusal(400, f"{name} is out of range", name)
        for name, value in list(body.items()):
            good = name in FIELDS and isinstance(value, FIELDS[name]) and value != []
            if not good or name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
                del body[name]
            if f"no {name}" in self.script.faults:
                body.pop(name, None)
            if f"refuses {name}" in self.script.faults:
                raise Refusal(400, f"{name} is not supported", name)
        return body

    # The model

    def generate(
        self, prompt: str, body: dict[str, Any], stops: Any, limit: int | None, choice: int = 0
    ) -> Reply:
        """Tokens from a hash of all that steers them."""
        read = max(1, len(pieces(prompt)) + 3)
        self.script.asked += read + (limit or 0)
        if read > CONTEXT:
            if self.bad("truncates"):
                prompt, read = prompt[-CONTEXT:], CONTEXT
            elif self.bad("no counts"):
                raise Refusal(400, "the prompt is too long", "messages")
            else:
                raise Refusal(400, f"the prompt has {read:,} tokens; the context is {CONTEXT:,}", "messages")
        tokens, calls, finish = self.constrained(body), self.called(body), "stop"
        forced = next(iter(body.get("logit_bias", {})), None)
        greedy = body.get("temperature", 1) == 0 or body.get("top_p", 1) < 0.01 or body.get("top_k") == 1
        drawn = "" if greedy or self.bad("always greedy") else f"{body.get('seed')} {choice}"
        if not greedy and "seed" not in body or self.bad("random"):
            drawn = str(time.perf_counter_ns())
        steer = [drawn, body.get("frequency_penalty"), body.get("presence_penalty")]
        if self.bad("depends on load"):
            steer.append(min(self.script.running, 2))
        steer = [value for value in steer if value]
        if calls:
            tokens = []
        elif tokens is None:
            tokens = []
            for i in range(LONGEST):
                hashed = hashlib.sha256(f"{prompt} {steer} {i}".encode()).digest()
                tokens.append(" " + WORDS[int(forced) - 1000 if forced else hashed[0] % len(WORDS)])
        size = len(tokens)
        if limit is not None and size > limit and not (self.bad("long") and limit < 20):
            tokens, finish = tokens[:limit], "stop" if self.bad("cut is called stop") else "length"
        reply = Reply(tokens, finish, read, calls)
        found = [stop for stop in stops if stop in reply.text]
        if found:
            end = reply.text.index(found[0])
            if self.bad("shows a part of stop"):
                end += 2
            elif self.bad("loses text before stop"):
                end -= 4
            reply = Reply(pieces(reply.text[:end]), "stop", read, stop=found[0])
        return reply

    def constrained(self, body: dict[str, Any]) -> list[str] | None:
        format = body.get("response_format") or body.get("text", {}).get("format", {"type": "text"})
        if format["type"] == "text" or self.bad("no schema"):
            return None
        value: Any = {"a": 1}
        if format["type"] == "json_schema":
            schema = format.get("json_schema", format)["schema"]
            try:
                value = sample(schema, schema)
            except Refusal:
                if not self.bad("any schema"):
                    raise
        text = json.dumps(value, ensure_ascii=self.bad("loses unicode"))
        if self.bad("loses unicode"):
            text = text.replace("\\u", "?")
        if self.bad("wrong schema"):
            text = '{"wrong": true}'
        if self.bad("unfinished JSON"):
            text = text[:-1]
        return [text[i : i + 4] for i in range(0, len(text), 4)]

    def called(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        choice, tools = body.get("tool_choice", "auto"), body.get("tools", [])
        choice = choice.get("type") if isinstance(choice, dict) and choice["type"] != "function" else choice
        if (
            choice in ("auto", "none")
            and not self.bad(f"calls on {choice}")
            or not tools
            or self.bad("never calls")
        ):
            return []
        named = body["tool_choice"] if isinstance(body.get("tool_choice"), dict) else {}
        name = named.get("function", named).get("name")
        functions = [tool.get("function", tool) for tool in tools]
        matching = [f for f in functions if name in (None, f["name"])]
        if not matching and not self.bad("any tool"):
            raise Refusal(400, f"tool_choice names {name}, which is not among the tools", "tool_choice")
        function = functions[0] if self.bad("another tool") or not matching else matching[0]
        schema = function.get("parameters") or function["input_schema"]
        arguments = json.dumps(sample(schema, schema))
        if self.bad("cut calls"):
            arguments = arguments[:-2]
        if self.bad("wrong arguments"):
            arguments = '{"city": "Paris"}'
        call = {
            "id": "call_1",
            "name": "invented" if self.bad("invents tools") else function["name"],
            "arguments": arguments,
        }
        return [call] * (2 if self.bad("always two") else 1)

    def prompt(self, body: dict[str, Any]) -> str:
        said = []
        for message in body["messages"]:
            content = message.get("content") or ""
            if isinstance(content, list):
                kept = [] if self.bad("no parts") else content
                content = "".join(
                    str(part.get("text") or part.get("content") or part.get("input")) for part in kept
                )
            if message["role"] == "tool" and self.bad("no results"):
                content = ""
            said.append(f"{message['role']} {content}")
        if self.bad("no system"):
            said = [line for line in said if not line.startswith("system")]
        if self.bad("last turn only"):
            said = said[-1:]
        if self.bad("no results") and '"tool_result"' in json.dumps(body):
            said = said[:1]
        return " ".join(said)

    # Dialects

    def usage(self, replies: list[Reply], first: str, second: str) -> dict[str, int]:
        written = sum(max(1, len(reply.tokens)) for reply in replies)
        read = 7 if self.bad("usage is invented") else replies[0].prompt_tokens
        return {
            first: read,
            second: written,
            "total_tokens": read + written + self.bad("usage does not add up"),
        }

    def chat(self, body: dict[str, Any]) -> None:
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        stops = body.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        if "messages" not in body:
            body["messages"] = [{"role": "user", "content": "Hi."}]
        self.begin()
        try:
            prompt = self.prompt(body)
            replies = [self.generate(prompt, body, stops, limit, i) for i in range(body.get("n", 1))]
            if self.bad("slow") and not body.get("stream"):
                self.work(1)
            head = {"id": "chat-1", "created": 1, "model": "forty-words"}
            if body.get("stream"):
                self.chat_stream(body, replies[0], head)
            else:
                choices = [self.chat_choice(i, reply, body) for i, reply in enumerate(replies)]
                kind = "thing" if self.bad("wrong object") else "chat.completion"
                usage = self.usage(replies, "prompt_tokens", "completion_tokens")
                self.give({**head, "object": kind, "choices": choices, "usage": usage})
        finally:
            self.end()

    def begin(self) -> None:
        self.script.running += 1
        if self.bad("depends on load"):
            time.sleep(0.05)

    def end(self) -> None:
        if not self.bad("never frees"):
            self.script.running -= 1

    def work(self, seconds: float) -> None:
        """Be busy until the time is over or the client has left."""
        end = time.monotonic() + seconds
        self.connection.settimeout(0.02)
        while time.monotonic() < end:
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue

    def chat_choice(self, index: int, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        finish = reply.finish
        if reply.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in reply.calls
            ]
            finish = "stop" if self.bad("calls are called stop") else "tool_calls"
        choice = {
            "index": 3 if self.bad("wrong index") else index,
            "message": message,
            "finish_reason": finish,
        }
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [self.scored(token) for token in reply.tokens]}
        return choice

    def scored(self, token: str) -> dict[str, Any]:
        best = [
            math.log(p) for p in ((0.9, 0.8, 0.7, 0.6) if self.bad("sums over 1") else (0.5, 0.2, 0.1, 0.1))
        ]
        others = [{"token": "x", "logprob": value, "bytes": None} for value in best]
        token = "x" if self.bad("other tokens") else token
        return {"token": token, "logprob": best[0], "bytes": list(token.encode()), "top_logprobs": others}

    def chat_stream(self, body: dict[str, Any], reply: Reply, head: dict[str, Any]) -> None:
        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return {**head, "object": "chat.completion.chunk", "choices": [choice]}

        tokens = [reply.text] if self.bad("all at once") else reply.tokens
        if self.bad("loses a token"):
            tokens = tokens[:-1]
        chunks: list[Any] = [] if self.bad("no role") else [chunk({"role": "assistant", "content": ""})]
        chunks += [chunk({"content": token}) for token in tokens]
        for i, call in enumerate(reply.calls):
            half = len(call["arguments"]) // 2
            function = {"name": call["name"], "arguments": call["arguments"][:half]}
            chunks.append(
                chunk(
                    {"tool_calls": [{"index": i, "id": call["id"], "type": "function", "function": function}]}
                )
            )
            rest = {"arguments": call["arguments"][half:]}
            chunks += (
                []
                if self.bad("loses a half call")
                else [chunk({"tool_calls": [{"index": i, "function": rest}]})]
            )
        finish = "tool_calls" if reply.calls else reply.finish
        chunks += [chunk({}, finish)] * (2 if self.bad("finishes twice") else 1)
        if body.get("stream_options", {}).get("include_usage"):
            usage = self.usage([reply], "prompt_tokens", "completion_tokens")
            if self.bad("another usage in streams"):
                usage["prompt_tokens"] += 1
            chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        if self.bad("error in stream"):
            chunks.append({"error": {"message": "lost"}})
        self.events(chunks + ([] if self.bad("no DONE") else ["[DONE]"]))

    def completion(self, body: dict[str, Any]) -> None:
        prompt = body.get("prompt", "")
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        stops = body.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        reply = self.generate(text, body, stops, body.get("max_tokens"))
        if not isinstance(prompt, str):
            reply.prompt_tokens = 30 if self.bad("tokens as text") else len(prompt)
        before = text if body.get("echo") else ""
        if before and self.bad("mangles echo"):
            before = " ".join(before.split())
        choice: dict[str, Any] = {"index": 0, "text": before + reply.text, "finish_reason": reply.finish}
        if body.get("logprobs"):
            scores = [0.5 if self.bad("sums over 1") else -0.5] * len(reply.tokens)
            choice["logprobs"] = {"tokens": reply.tokens, "token_logprobs": scores}
        if body.get("stream"):
            tokens = reply.tokens[1:] if self.bad("loses a token") else reply.tokens
            chunks: list[Any] = [{"choices": [{"index": 0, "text": token}]} for token in tokens]
            self.events(chunks + ["[DONE]"])
            return
        usage = self.usage([reply], "prompt_tokens", "completion_tokens")
        kind = "thing" if self.bad("wrong object") else "text_completion"
        self.give({"object": kind, "choices": [choice] * body.get("n", 1), "usage": usage})

    def embeddings(self, body: dict[str, Any]) -> None:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.script.asked += sum(len(pieces(text)) for text in texts)
        data = []
        for index, text in enumerate(texts):
            salt = f"{index}{text}" if self.bad("depends on place") else text
            hashed = hashlib.sha256(salt.encode()).digest()[: body.get("dimensions", 16)]
            length = 1 if self.bad("not normal") else math.hypot(*(byte - 128 for byte in hashed))
            vector: Any = [(byte - 128) / length for byte in hashed]
            if body.get("encoding_format") == "base64":
                order = ">" if self.bad("big end first") else "<"
                vector = base64.b64encode(struct.pack(f"{order}{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        self.give({"object": "list", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})

    def respond(self, body: dict[str, Any]) -> None:
        before = ""
        if previous := body.get("previous_response_id"):
            if previous not in self.script.stored and not self.bad("any previous"):
                raise Refusal(400, f"no response {previous}", "previous_response_id")
            before = self.script.stored.get(previous, {}).get("said", "")
        prompt = f"{body.get('instructions', '')} {before} {body['input']}"
        reply = self.generate(prompt, body, [], body.get("max_output_tokens"))
        usage = self.usage([reply], "input_tokens", "output_tokens")
        id = f"resp_{len(self.script.stored)}"
        if reply.calls:
            output = [{"type": "function_call", "id": "fc_1", "call_id": c["id"], **c} for c in reply.calls]
        else:
            part = {"type": "output_text", "text": reply.text, "annotations": []}
            output = [
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            ]
        cut = reply.finish == "length"
        response = {
            "id": id, "object": "thing" if self.bad("wrong object") else "response", "output": output, "usage": usage,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        }  # fmt: skip
        if body.get("store", True) or self.bad("stores all"):
            self.script.stored[id] = {**response, "said": prompt + reply.text}
        if not body.get("stream"):
            self.give(response)
            return
        kinds: list[Any] = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        kinds += [("response.output_text.delta", token) for token in reply.tokens]
        kinds += ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
        kinds.append("response.incomplete" if cut else "response.completed")
        if self.bad("out of order"):
            kinds[0], kinds[2] = kinds[2], kinds[0]
        if self.bad("stream breaks off"):
            kinds.pop()
        events: list[dict[str, Any]] = []
        for number, kind in enumerate(kinds):
            name, *delta = [kind] if isinstance(kind, str) else kind
            number = 0 if self.bad("numbers stand still") else number
            events.append({"type": name, "sequence_number": number, "response": response})
            events[-1] |= {"delta": delta[0]} if delta else {}
        self.events(events, named=True)

    def messages(self, body: dict[str, Any], counting: bool = False) -> None:
        if "max_tokens" not in body and not counting and not self.bad("no limit needed"):
            raise Refusal(400, "max_tokens is missing", "max_tokens")
        prompt = f"{'' if self.bad('no system') else body.get('system', '')} {self.prompt(body)}"
        reply = self.generate(prompt, body, body.get("stop_sequences", []), body.get("max_tokens"))
        usage = self.usage([reply], "input_tokens", "output_tokens")
        if counting:
            self.give({"input_tokens": usage["input_tokens"] + self.bad("counts wrong")})
            return
        reason = "max_tokens" if reply.finish == "length" else "stop_sequence" if reply.stop else "end_turn"
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}]
        if reply.calls:
            reason = "end_turn" if self.bad("calls are called stop") else "tool_use"
            content = []
            for call in reply.calls:
                try:
                    given = json.loads(call["arguments"])
                except ValueError:
                    given = {}
                content.append({"type": "tool_use", "id": "toolu_1", "name": call["name"], "input": given})
        message = {
            "id": "msg_1", "type": "message", "role": "robot" if self.bad("wrong object") else "assistant",
            "content": content, "stop_reason": reason, "usage": usage,
            "stop_sequence": "else" if self.bad("another stop") and reply.stop else reply.stop,
        }  # fmt: skip
        if not body.get("stream"):
            self.give(message)
            return
        start = {**message, "content": [], "stop_reason": None}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        for index, block in enumerate(content):
            if block["type"] == "text":
                empty, parts = (
                    {"type": "text", "text": ""},
                    [{"type": "text_delta", "text": t} for t in reply.tokens],
                )
                parts = parts[1:] if self.bad("loses a token") else parts
            else:
                arguments = reply.calls[index]["arguments"]
                parts = [
                    {"type": "input_json_delta", "partial_json": part}
                    for part in (arguments[:5], arguments[5:])
                ]
                parts = parts[:1] if self.bad("loses a half call") else parts
                empty = {**block, "input": {}}
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            events += [{"type": "content_block_delta", "index": index, "delta": part} for part in parts]
            events += [] if self.bad("block stays open") else [{"type": "content_block_stop", "index": index}]
        delta = {"stop_reason": reason, "stop_sequence": reply.stop}
        events.append(
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage["output_tokens"]}}
        )
        self.events([*events, {"type": "ping"}, {"type": "message_stop"}], named=True)

    def count(self, body: dict[str, Any]) -> None:
        self.messages(body, counting=True)
