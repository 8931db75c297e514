"""A server of both dialects with a model of forty words, which does everything right but for the faults it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import time
from typing import Any

from .probe_model import Model, pieces
from .probe_transport import CONTEXT, FIELDS, RANGES, Refusal, Reply, Script

__all__ = ["Handler", "Script"]


class Handler(Model):
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
                self.work(60)
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
            for _ in range(20):  # until the others have come, if there are any
                time.sleep(0.02)
                self.script.most = max(self.script.most, self.script.running)
                if self.script.most > 1:
                    break

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
