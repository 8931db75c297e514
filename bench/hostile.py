"""Requests that no client should send: by name, and made by changing good ones at random."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from bodies import CALL, GOOD, USER
from serving import request

MIB = 1 << 20


def chat(**fields: Any) -> bytes:
    body = {"model": "cria", "messages": USER, "max_tokens": 8, **fields}
    return request("POST", "/v1/chat/completions", body)


def raw(body: bytes, **headers: str) -> bytes:
    return request("POST", "/v1/chat/completions", body, **headers)


def malformed() -> Iterator[tuple[str, bytes]]:
    """Heads and bodies that are too large, not text, not JSON, not numbers, or too deep."""
    yield "header of 1 MiB", request("GET", "/v1/models", X_Long="a" * MIB)
    yield "10,000 headers", request("GET", "/v1/models", **{f"X-{i}": "a" for i in range(10_000)})
    yield "path of 1 MiB", request("GET", "/v1/models/" + "a" * MIB)
    yield "query of 1 MiB", request("GET", "/api/conversations?query=" + "a" * MIB)
    yield "not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500
    yield "body of 64 MiB", raw(b" " * (64 * MIB))
    yield "body of spaces", raw(b" " * (4 * MIB - 1))
    yield "content of 3 MiB", chat(messages=[{"role": "user", "content": "a " * (3 * MIB // 2)}])
    yield "announced 1 TB", raw(b"{}", Content_Length=str(10**12))
    yield "negative length", raw(b"{}", Content_Length="-1")
    yield "two lengths", raw(b'{"model": "cria"}', content_length="5")
    yield (
        "bad chunk size",
        request("POST", "/v1/chat/completions", Transfer_Encoding="chunked") + b"zz\r\n{}\r\n",
    )
    yield "Latin-1", raw('{"model": "cría"}'.encode("latin-1"))
    yield "UTF-16", raw('{"model": "cria"}'.encode("utf-16"))
    yield "half a pair", raw(b'{"model": "\\ud800"}')
    yield "overlong UTF-8", raw(b'{"model": "\xc0\xaf"}')
    yield "NUL", chat(model="cria\0")
    yield "deep lists", raw(b'{"messages": ' + b"[" * 500_000 + b"]" * 500_000 + b"}")
    yield "deep objects", raw(b'{"a":' * 200_000 + b"1" + b"}" * 200_000)
    for number in (
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "9" * 400_000,
        "-" + "9" * 30,
        "1e-400",
        "-0",
        "0.1e1",
    ):
        for name in ("temperature", "max_tokens", "seed", "n", "top_logprobs"):
            yield (
                f"{name} {number:.12}",
                raw(
                    b'{"model":"cria","messages":[{"role":"user","content":"Hi"}],"max_completion_tokens":4,"%s":%s}'
                    % (name.encode(), number.encode())
                ),
            )
    yield "100,000 messages", chat(messages=USER * 100_000)
    yield "100,000 keys", chat(**{f"k{i}": 1 for i in range(100_000)})
    yield "100,000 stops", chat(stop=["x"] * 100_000)
    yield "stop of 1 MiB", chat(stop="x" * MIB)
    yield "100,000 biases", chat(logit_bias={str(i): 1 for i in range(100_000)})
    yield "metadata of 1 MiB", chat(metadata={"a": "x" * MIB})
    yield "10,000 tools", chat(tools=[CALL] * 10_000)


def schema(value: Any) -> bytes:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small bodies that ask for much work: regular expressions, grammars, schemas, texts for the tokenizer."""
    for name, pattern in (
        ("nested stars", "((a*)*)*b"),
        ("alternation", "(a|a)*" * 50 + "b"),
        ("counted", "(((a{1000}){1000}){1000})"),
        ("counted classes", r"(\w{0,500}\W{0,500}){0,500}"),
        ("lookbehind", ".*" * 200 + "x"),
        ("long", "a?" * 20_000 + "a" * 20_000),
        ("Unicode classes", r"\p{L}{1,2000}" * 20),
        ("unclosed", "(" * 50_000),
    ):
        yield f"regex: {name}", chat(structured_outputs={"regex": pattern})
        yield f"schema pattern: {name}", schema({"type": "string", "pattern": pattern})
    wide = "\n".join(f"a{i}: a{i + 1} a{i + 1} | a{i + 1}" for i in range(40))
    for name, grammar in (
        ("left recursion", 'start: start start | "a"'),
        ("empty loop", 'start: a\na: a | ""'),
        ("doubling", f'start: a0\n{wide}\na40: "a"'),
        ("undefined", "start: nowhere"),
        ("50,000 rules", "start: a0\n" + "\n".join(f'a{i}: "x" a{i + 1}' for i in range(50_000))),
        ("terminal", "start: A\nA: /((a{500}){500}){500}/"),
        ("unclosed", 'start: "' + "(" * 100_000),
    ):
        yield f"grammar: {name}", chat(structured_outputs={"grammar": grammar})
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(25):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    doubling = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    for name, value in (
        ("refers to itself", {"$ref": "#"}),
        ("refers in a circle", {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ("refers outside", {"$ref": "http://localhost:9/x.json"}),
        ("doubling references", {"$defs": {**doubling, "d40": {"type": "null"}}, "$ref": "#/$defs/d0"}),
        ("deep", deep),
        ("100,000 values", {"enum": [f"v{i}" for i in range(100_000)]}),
        ("5,000 properties", {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(5000)},
                              "required": [f"p{i}" for i in range(5000)]}),
        ("a billion items", {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
        ("a long string", {"type": "string", "minLength": 10**9}),
        ("all of 2,000", {"allOf": [{"type": "object", "properties": {f"p{i}": {"type": "integer"}}} for i in range(2000)]}),
        ("false", {"not": {}}),
        ("never ends", {"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
    ):  # fmt: skip
        yield f"schema: {name}", schema(value)
        yield (
            f"tool: {name}",
            chat(
                tools=[{"type": "function", "function": {"name": "f", "parameters": value}}],
                tool_choice="required",
            ),
        )
    for name, text in (
        ("one word", "a" * 1_000_000),
        ("one digit", "1" * 1_000_000),
        ("spaces", " " * 1_000_000),
        ("newlines and spaces", "\n \n  " * 200_000),
        ("apostrophes", "'s" * 500_000),
        ("combining marks", "e" + "\u0301" * 400_000),
        ("emoji", "👨‍👩‍👧‍👦" * 50_000),
        ("random Unicode", "".join(map(chr, random.Random(1).choices(range(0xE000, 0x10FFFF), k=200_000)))),
        ("special names", "<|eot_id|><|start_header_id|>" * 30_000),
    ):  # fmt: skip
        yield f"tokenizer: {name}", chat(messages=[{"role": "user", "content": text}])
        yield (
            f"count: {name}",
            request(
                "POST",
                "/v1/messages/count_tokens",
                {"model": "cria", "messages": [{"role": "user", "content": text}]},
            ),
        )
    yield "template arguments", chat(chat_template_kwargs={"a": "{{ 1 }}"})
    yield "template in the body", chat(chat_template="{% for i in range(999999999) %}x{% endfor %}")


VALUES = (
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 1e308, -1e308, 5e-324, 0.5,
    "", " ", "\0", "\u202e", "é" * 50, "x" * 5000, "<|eot_id|>", "{{ 7 * 7 }}", "../../etc/passwd", "cria", "auto", "none",
    [], {}, [[]], [None], {"": None}, {"type": "object"}, {"type": "text"}, [{"type": "function"}], ["a"] * 300, {"a": {"b": {"c": []}}},
)  # fmt: skip


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Good bodies with one to three things changed: values, keys, types, or bytes of the text."""
    rng = random.Random(seed)
    for _ in range(count):
        path = rng.choice(list(GOOD))
        body = copy.deepcopy(rng.choice(GOOD[path]))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _change(rng, body)
        text = json.dumps(body).encode()
        if rng.random() < 0.15:
            text = _flip(rng, text)
        yield path, request("POST", path, text)


def _change(rng: random.Random, body: dict[str, Any]) -> None:
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(body)
    if not places:
        return
    node, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0 and isinstance(node, dict):
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[rng.choice((key + "_", key.upper(), "", "model", "stream", "type", "x" * 300))] = node[key]
    elif how == 2 and isinstance(node[key], list):
        node[key] = node[key] * rng.choice((0, 2, 50))
    elif how == 3:
        other, there = rng.choice(places)
        node[key] = copy.deepcopy(other[there])
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))


def _flip(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text))
    return rng.choice((
        text[:at],
        text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :],
        text[:at] + text[at : at + 20] * 3 + text[at + 20 :],
        text + text,
    ))  # fmt: skip
