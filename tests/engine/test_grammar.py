"""What a grammar lets a reply be: always valid, always honest about what it cannot do, and never a burden to others."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.engine.eager import Eager
from herd.engine.engine import Engine
from herd.engine.grammar import Grammars, Matcher, Source
from herd.engine.schema import clean
from herd.errors import HerdError
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.protocol.types import Format, Message, Request, Sampling

from ..tiny import tiny_config
from .conftest import Reply, make_model, run

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
    st.none()
    | st.booleans()
    | numbers
    | st.sampled_from(["", "a", "Grüße", 'say "hi"', "🦙", "\\n\n", "</x>"]),
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
        st.just({"type": "number", "multipleOf": 0.25, "maximum": 3}),
        st.fixed_dictionaries(
            {"type": st.just("string")},
            optional={"minLength": st.integers(0, 3), "maxLength": st.integers(3, 9), "title": st.just("t")},
        ),
        st.fixed_dictionaries(
            {
                "type": st.just("string"),
                "pattern": st.sampled_from(
                    ["^[a-z]{2,5}$", "^é+$", r"\d{2}", "^a|b$", r"^\w+$", r"^[(?=\]]+$"]
                ),
            }
        ),
        st.fixed_dictionaries(
            {
                "type": st.just("string"),
                "format": st.sampled_from(["date", "uuid", "ipv4", "time", "date-time", "email"]),
            }
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
            {
                "type": st.just("array"),
                "prefixItems": st.lists(schemas, min_size=1, max_size=3),
                "items": st.just(False),
            }
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
                "properties": {
                    "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                    "v": {"type": "boolean"},
                },
                "required": ["v"],
            },
        },
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(0, 2**32))
def test_what_is_written_is_valid(grammars: Grammars, schema: dict[str, Any], seed: int) -> None:
    try:
        text = write(grammars, Format("json_schema", schema), seed)
    except HerdError as refusal:
        assert refusal.status == 400 and refusal.code in ("unsupported_schema", "invalid_grammar")
        return
    if text is not None:
        value = json.loads(text, parse_float=double)
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)


def double(text: str) -> float:
    """A number past a double's range as the largest: the validator takes infinity for null."""
    return max(min(float(text), sys.float_info.max), -sys.float_info.max)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "ü", None]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}


@pytest.mark.parametrize(
    "schema, told",
    [
        ({"not": {}}, "#/not the keyword 'not'"),
        ({"type": "array", "items": {"uniqueItems": True}}, "#/items/uniqueItems the keyword 'uniqueItems'"),
        ({"properties": {"a/b": {"minLenght": 3}}}, "#/properties/a~1b/minLenght the keyword 'minLenght'"),
        ({"type": "string", "nullable": True}, "'nullable'"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"anyOf": [{}, {"contains": {}}]}, "#/anyOf/1/contains"),
        ({"$ref": "https://example.org/s"}, "#/$ref must point into this document"),
        ({"$ref": "#/$defs/none"}, "'#/$defs/none' is not a schema of this document"),
        ({"$defs": {"a": {"default": {"type": "null"}}}, "$ref": "#/$defs/a/default"}, "is not a schema"),
        ({"type": "string", "format": "byte"}, "#/format 'byte' is not supported"),
        ({"properties": {"a": {"pattern": r"^\w+(?=\.)"}}}, "#/properties/a/pattern has '(?='"),
        ({"pattern": r"(a|b)\1"}, r"#/pattern has '\\1'"),
        ({"pattern": r"\bno\b"}, r"#/pattern has '\\b'"),
        ({"$ref": "#"}, "#/$ref leads back to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "leads back to itself"),
        ({"type": "text"}, "#/type must be of array"),
        ({"const": 2**60}, "#/const has a number above 2^53"),
        ({"minimum": "3"}, "#/minimum must be a number"),
        (
            {"type": "integer", "multipleOf": 99991},
            "#/multipleOf must be above 0, and at most 1000",
        ),
        ({"maxLength": -1}, "#/maxLength must be a whole number"),
        ({"required": "a"}, "#/required must be a list of names"),
        ({"enum": []}, "#/enum must be a list of values"),
        ({"properties": []}, "#/properties must be an object of schemas"),
        ({"items": 3}, "#/items must be an object or a boolean"),
        ({"x-guidance": {"lenient": True}}, "'x-guidance'"),
        ({"type": "string", "pattern": "(?=a)b"}, "#/pattern has '(?='"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum (3) is greater than maximum (2)"),
        ({"enum": ["x" * 300_000]}, "bytes; at most"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(grammars: Grammars, schema: Any, told: str) -> None:
    with pytest.raises(HerdError) as refused:
        grammars.compile(grammars.of(Format("json_schema", schema)))
    assert told in str(refused.value) and refused.value.status == 400 and len(str(refused.value)) < 500


def test_annotations_are_no_features() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "$id": "x",
        "title": "t",
        "type": "string",
    }
    assert clean({**schema, "description": "d", "default": 1, "examples": [], "x-order": 1}, "s") == {
        "type": "string"
    }
    assert clean({"uniqueItems": False, "type": "number", "format": "double"}, "s") == {"type": "number"}


def test_a_schema_moves_with_its_references() -> None:
    schema = {"$defs": {"a": {"type": "null"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}]}
    assert clean(schema, "s", "#/x")["anyOf"] == [{"$ref": "#/x/$defs/a"}, {"$ref": "#/x"}]


def test_only_named_properties_unless_others_are_spoken_of(grammars: Grammars) -> None:
    assert clean(PERSON, "s")["additionalProperties"] is False
    for schema in (
        {**PERSON, "additionalProperties": {"type": "null"}},
        {**PERSON, "allOf": [{"properties": {"other": {}}}]},
        {**PERSON, "required": ["name", "other"]},
    ):
        assert clean(schema, "s").get("additionalProperties") is not False


@pytest.mark.parametrize("text", ["[0-9]{3}-[a-z]{2}", "^(ja|nein)$", "(?i)llama", r"a/b\$", "ü🦙{2,3}"])
def test_a_regular_expression_matches_the_whole_reply(grammars: Grammars, text: str) -> None:
    for seed in range(5):
        written = write(grammars, Format("regex", text=text), seed)
        assert written is not None and re.fullmatch(text, written)


def test_grammars_in_lark_and_in_gbnf(grammars: Grammars) -> None:
    lark = 'start: "sum " NUMBER ("+" NUMBER){1,2}\nNUMBER: /[0-9]{1,3}/\n'
    gbnf = 'root ::= "sum " number ("+" number){1,2}\nnumber ::= [0-9]{1,3}\n'
    for seed in range(5):
        for text in (lark, gbnf):
            assert re.fullmatch(
                r"sum \d{1,3}(\+\d{1,3}){1,2}", write(grammars, Format("lark", text=text), seed) or ""
            )


def test_white_space_is_bounded(grammars: Grammars, words: Tokenizer) -> None:
    matcher = grammars.compile(grammars.of(Format("json_schema", PERSON))).matcher()
    space = words.encode(" ")[0]
    taken = 0
    while matcher.mask(torch.zeros(words.vocab_size))[space].isfinite():
        matcher.accept(space)
        taken += 1
    assert taken == 0
    for token in words.encode("{"):
        matcher.accept(token)
    while matcher.mask(torch.zeros(words.vocab_size))[space].isfinite():
        matcher.accept(space)
        taken += 1
    assert taken == 1


@pytest.mark.parametrize("vocabulary", [380, 400])
def test_tokens_past_the_vocabulary_are_refused(grammars: Grammars, vocabulary: int) -> None:
    matcher = grammars.compile(grammars.of(Format("regex", text="a+"))).matcher()
    masked = matcher.mask(torch.zeros(vocabulary))
    assert masked.isfinite().any() and not masked[grammars._tokenizer.vocab_size :].isfinite().any()


def test_a_matcher_moves_only_in_accept_and_by_itself(grammars: Grammars, words: Tokenizer) -> None:
    grammar = grammars.compile(grammars.of(Format("regex", text="ab|cd")))
    one, two = grammar.matcher(), grammar.matcher()
    zeros = torch.zeros(words.vocab_size)
    before = one.mask(zeros)
    assert torch.equal(one.mask(zeros), before) and zeros.isfinite().all()
    one.accept(words.encode("a")[0])
    assert not torch.equal(one.mask(zeros), before) and torch.equal(two.mask(zeros), before)
    one.accept(words.encode("b")[0])
    assert one.stopped and one.accepting and not two.stopped


def test_json_as_people_lay_it_out_is_accepted(grammars: Grammars, words: Tokenizer) -> None:
    person = {"name": "Grüße 🦙", "age": 36, "tags": ["a", None]}
    for text in (
        json.dumps(person, ensure_ascii=False),
        json.dumps(person, ensure_ascii=False, indent=4),
        json.dumps(person, ensure_ascii=False, separators=(",", ":")),
    ):
        matcher = grammars.compile(grammars.of(Format("json_schema", PERSON))).matcher()
        for token in words.encode(text):
            assert matcher.mask(torch.zeros(words.vocab_size))[token].isfinite(), text
            matcher.accept(token)
        assert matcher.accepting and matcher.stopped


@pytest.fixture(scope="module")
def engine(words: Tokenizer) -> Engine:
    model = make_model(tiny_config(words, dim=64, head_dim=16, ffn_dim=160, max_positions=1024))
    return Engine(Eager(model), words, ChatTemplate(LLAMA3_TEMPLATE), slots=8)


def asked(format: Format, **options: Any) -> Request:
    sampling = Sampling(**{"temperature": 0, "max_tokens": 200, **options})
    return Request("", "chat", messages=(Message("user", "hi"),), format=format, n=1, sampling=sampling)


def test_replies_of_a_random_model_are_valid(engine: Engine) -> None:
    schema = {
        **PERSON,
        "properties": {**PERSON["properties"], "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    }
    requests = [
        asked(Format("json_schema", schema), temperature=t, seed=i) for i in range(8) for t in (0, 1.0)
    ]
    replies = run(engine, *requests)
    for reply in replies:
        assert reply.finish in ("stop", "length")
        if reply.finish == "stop":
            jsonschema_rs.validate(schema, json.loads(reply.text))
        else:
            assert reply.usage and reply.usage.completion_tokens == 200
    assert sum(reply.finish == "stop" for reply in replies) > 8


def test_choices_follow_the_grammar_each_by_itself(engine: Engine) -> None:
    request = replace(asked(Format("regex", text="[a-z]{3}[0-9]{2}"), temperature=1.0, seed=3), n=4)
    events = run(engine, request)[0].events
    texts = [Reply([*events], i).text for i in range(4)]
    assert all(re.fullmatch("[a-z]{3}[0-9]{2}", text) for text in texts) and len(set(texts)) == 4


def test_a_grammar_that_gets_too_complex_fails_its_reply_alone(engine: Engine) -> None:
    ambiguous = Format("lark", text='start: s\ns: s s | s s s | "a"\n')
    failed, other = run(engine, asked(ambiguous), asked(Format("regex", text="b{30}")))
    assert failed.failed and failed.failed.status == 400 and "grammar" in failed.failed.message
    assert other.text == "b" * 30 and other.finish == "stop"


def test_a_refused_format_names_itself(engine: Engine) -> None:
    for format, told in (
        (Format("regex", text="a\\b"), "lookarounds"),
        (Format("regex", text="\ud800"), "surrogate"),
        (Format("lark", text="\ud800"), "surrogate"),
        (Format("regex", text="^$"), "empty"),
        (Format("lark", text='start[temperature=2]: "a"'), "'temperature' is not supported"),
        (Format("json_schema"), "must be an object"),
    ):
        (reply,) = run(engine, asked(format))
        assert reply.failed and reply.failed.status == 400 and told in reply.failed.message


def test_a_refusal_is_remembered(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("start: (", "grammar")
    for _ in range(2):
        with pytest.raises(HerdError, match="cannot be compiled"):
            grammars.compile(source)
        monkeypatch.setattr(grammars._checker, "check", lambda *_: pytest.fail("compiled again"))


def test_the_child_needs_no_torch() -> None:
    code = (
        "import sys, herd.engine.checker; sys.exit(bool({'torch', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
