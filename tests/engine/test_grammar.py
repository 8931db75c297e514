"""What a grammar lets a reply be: always valid, always honest about what it cannot do, and never a burden to others."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.engine.grammar import Grammars, Matcher, Source
from herd.engine.schema import clean
from herd.errors import HerdError
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.protocol.types import Format

TEXT = 'The little llama: {"name": "Grüße 🦙", "tags": [1, 2.5, true, false, null]}, 2024-05-06 日本語. ' * 4


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_bpe([TEXT], 380)


@pytest.fixture(scope="module")
def grammars(words: Tokenizer) -> Grammars:
    return Grammars(words, words.stop_ids)


def write(grammars: Grammars, format: Format, seed: int, most: int = 300) -> str | None:
    """A random sentence of the format; None if it did not end within so many tokens."""
    matcher = grammars.compile(grammars.of(format)).matcher()
    return sentence(grammars._tokenizer, matcher, seed, most)


def sentence(tokenizer: Tokenizer, matcher: Matcher, seed: int, most: int) -> str | None:
    rng = random.Random(seed)
    ids: list[int] = []
    while not matcher.stopped and len(ids) < most:
        allowed = matcher.mask(torch.zeros(tokenizer.vocab_size)).isfinite().nonzero().flatten().tolist()
        assert not matcher.broken
        assert bool(tokenizer.stop_ids & set(allowed)) == matcher.accepting
        closing = [i for i in allowed if tokenizer.token_bytes(i) in (b'"', b"}", b"]", b",")]
        token = rng.choice(closing if closing and rng.random() < 0.3 + len(ids) / most else allowed)
        if token in tokenizer.stop_ids:
            return tokenizer.decode(ids)
        matcher.accept(token)
        ids.append(token)
    return tokenizer.decode(ids) if matcher.stopped else None


numbers = st.integers(-1000, 1000) | st.sampled_from([-2.5, 0.125, 3.75, 1e6])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(["", "a", "Grüße", 'say "hi"', "🦙", "\\n\n", "</x>"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abü"), inner, max_size=2),
    max_leaves=3,
)
names = st.sampled_from(["a", "b", "näme", 'q"', "x/y~z", "long name"])


def fields(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=kinds)


def leaves() -> st.SearchStrategy[Any]:
    low, high = st.integers(-50, 5), st.integers(6, 500)
    return st.one_of(
        st.fixed_dictionaries({"const": values}),
        st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=4)}),
        st.fixed_dictionaries({"type": st.sampled_from(["null", "boolean"])}),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["integer", "number"])},
            optional={"minimum": low, "maximum": high, "exclusiveMaximum": high, "exclusiveMinimum": low},
        ),
        st.fixed_dictionaries({"type": st.just("integer"), "multipleOf": st.integers(2, 9), "minimum": low}),
        st.fixed_dictionaries(
            {"type": st.just("string")},
            optional={"minLength": st.integers(0, 3), "maxLength": st.integers(3, 9), "title": st.just("t")},
        ),
        st.fixed_dictionaries(
            {"type": st.just("string"), "pattern": st.sampled_from(["^[a-z]{2,5}$", "^é+$", r"\d{2}", "^a|b$", r"^\w+$"])}
        ),
        st.fixed_dictionaries(
            {"type": st.just("string"), "format": st.sampled_from(["date", "uuid", "ipv4", "time", "date-time", "email"])}
        ),
        st.just({"type": ["string", "null"], "maxLength": 4}),
        st.just({"type": "integer", "format": "int32"}),
        st.just({"$ref": "#/$defs/leaf"}),
        st.just({"$ref": "#/$defs/tree"}),
    )


def inner(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(names, schemas, max_size=3)

    def required(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        known = sorted(schema["properties"])
        some = st.lists(st.sampled_from(known), unique=True) if known else st.just([])
        return some.map(lambda r: {**schema, "required": r} if r else schema)

    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": named},
            optional={"additionalProperties": st.booleans() | schemas, "description": st.text(max_size=5)},
        ).flatmap(required),
        st.fixed_dictionaries(
            {"type": st.just("object"), "additionalProperties": schemas},
            optional={"minProperties": st.integers(0, 1), "maxProperties": st.integers(1, 3)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("object"), "patternProperties": st.fixed_dictionaries({"^x[0-9]$": schemas})},
            optional={"additionalProperties": st.just(False)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": schemas},
            optional={"minItems": st.integers(0, 2), "maxItems": st.integers(2, 4)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "prefixItems": st.lists(schemas, min_size=1, max_size=3), "items": st.just(False)}
        ),
        st.fixed_dictionaries({"anyOf": st.lists(schemas, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(schemas, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(schemas, min_size=1, max_size=2)}),
        st.tuples(schemas, fields(anyOf=st.lists(schemas, min_size=1, max_size=2))).map(
            lambda pair: {**pair[0], **pair[1]} if isinstance(pair[0], dict) else pair[0]
        ),
    )


documents = st.recursive(leaves(), inner, max_leaves=6).map(
    lambda schema: {
        **schema,
        "$defs": {
            "leaf": {"enum": [1, "zwei", None]},
            "tree": {
                "type": "object",
                "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}, "v": {"type": "boolean"}},
                "required": ["v"],
            },
        },
    }
)


@settings(max_examples=int(__import__("os").environ.get("NEX","150")), deadline=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(0, 2**32))
def test_what_is_written_is_valid(grammars: Grammars, schema: dict[str, Any], seed: int) -> None:
    try:
        text = write(grammars, Format("json_schema", schema), seed)
    except HerdError as refusal:
        assert refusal.status == 400 and refusal.code in ("unsupported_schema", "invalid_grammar")
        return
    if text is not None:
        value = json.loads(text)
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
