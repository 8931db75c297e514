"""A model of forty words that obeys every field it is given, but for the faults it is told."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from .probe_transport import CONTEXT, LONGEST, WORDS, Refusal, Reply, Transport


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


class Model(Transport):
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
            steer.append(min(self.script.most, 2))
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
