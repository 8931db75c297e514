"""Grammars made to cost much: refused or bounded in time and memory, and others notice nothing."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch

from herd.engine.grammar import Grammars
from herd.errors import HerdError
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.protocol.types import Format

from .test_grammar import TEXT, write


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_bpe([TEXT], 380)


@pytest.fixture(scope="module")
def grammars(words: Tokenizer) -> Grammars:
    return Grammars(words, words.stop_ids)


def nested(n: int) -> str:
    return json.dumps(
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{
                    f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}}
                    for i in range(n)
                },
                f"d{n}": {},
            },
        }
    )


BOMBS = {
    "a regex of repetitions": Format("regex", text="((a{1,1000}b){1,1000}c){1,100000}"),
    "a deep regex": Format("regex", text="(" * 50_000 + "a" + ")" * 50_000),
    "an exponential regex": Format("regex", text="(a|b)*a" + "(a|b)" * 2000),
    "classes": Format("regex", text=r"(\w|\p{L}|\p{N}){1,100000}"),
    "a long regex": Format("regex", text="a" * 200_000),
    "a regex that may skip": Format("regex", text="a?" * 5400 + "a" * 5400),
    "a pattern that may skip": Format("json_schema", {"pattern": "a?" * 20_000 + "a" * 20_000}),
    "a terminal of repetitions": Format("lark", text="start: A\nA: /((a{500}){500}){500}/"),
    "a terminal that may skip": Format("lark", text=f"start: A\nA: /{'a?' * 20_000 + 'a' * 20_000}/"),
    "a huge enum": Format("json_schema", {"enum": [f"{i:05}" for i in range(30_000)]}),
    "many properties": Format("json_schema", {"properties": {f"p{i}": {} for i in range(15_000)}}),
    "a chain of references": Format("json_schema", json.loads(nested(4000))),
    "a product": Format(
        "json_schema",
        {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(10)]} for i in range(9)]},
    ),
    "a product of multiples": Format(
        "json_schema", {"allOf": [{"type": "integer", "multipleOf": n} for n in (991, 997, 983, 977)]}
    ),
    "deep rules": Format("lark", text="start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "doubling rules": Format(
        "lark", text="start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(60)) + 'a60: "x"\n'
    ),
    "doubling terminals": Format(
        "lark", text="start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(60)) + 'A60: "x"\n'
    ),
    "an ambiguous grammar": Format("lark", text='start: s\ns: s s | s s s | "a" | ""\n'),
    "nothing": Format("lark", text="start: start | start\n"),
    "deep GBNF": Format("lark", text="root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_or_bounded(grammars: Grammars, words: Tokenizer, bomb: str) -> None:
    grammars.compile(grammars.of(Format("regex", text="a")))  # the child runs when the clock does
    began, working = time.monotonic(), time.process_time()
    before = memory()
    slowest = 0.0
    try:
        matcher = grammars.compile(grammars.of(BOMBS[bomb])).matcher()
    except HerdError as refused:
        assert refused.status == 400 and len(str(refused)) < 500 and "process" not in str(refused)
    else:
        rng = random.Random(1)
        for _ in range(60):
            step = time.process_time()
            allowed = matcher.mask(torch.zeros(words.vocab_size)).isfinite().nonzero().flatten().tolist()
            if matcher.broken or matcher.stopped:
                break
            matcher.accept(rng.choice(allowed))
            slowest = max(slowest, time.process_time() - step)
    assert time.process_time() - working < 3 and slowest < 0.5 and memory() - before < 300
    assert time.monotonic() - began < 30  # the child's work, on a busy machine
    assert write(grammars, Format("regex", text="ab"), 0) == "ab"  # others notice nothing


def memory() -> int:
    """Resident MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20
