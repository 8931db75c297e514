"""Tool calls: in each family's words, always valid, never shown as text, whatever the tokens are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.calls import CallText
from herd.engine.eager import Eager
from herd.engine.engine import Engine
from herd.engine.grammar import Grammars
from herd.engine.tools import MAX_TOOLS, Calls, style_of
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.llama import Llama
from herd.model.tokenizer import CHAT_SPECIAL, Tokenizer, train_bpe
from herd.protocol.types import Called, Delta, Finished, Format, Message, Request, Sampling, Tool, ToolCall

from ..tiny import tiny_config
from .conftest import Reply, make_model, run

WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 9},
            "unit": {"enum": ["c", "it's"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "dry": {"type": "boolean"},
            "at": {"type": "array", "items": {"$ref": "#/$defs/hour"}, "maxItems": 2},
        },
        "required": ["city", "days"],
        "$defs": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
    },
)
NOTHING = Tool("do-nothing")
SEARCH = Tool("search", parameters={"type": "object", "properties": {"query": {"type": "string"}}})
TOOLS = (WEATHER, NOTHING)
BY_NAME = {tool.name: tool for tool in (WEATHER, NOTHING, SEARCH)}

# Small templates of each family's kind: what matters here are the variables, markers and filters that they use.
LLAMA = (
    "{{ bos_token }}{% if tools is not none %}{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('single tool calls only') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|eot_id|>'
    "{% else %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
HERMES = (
    "{% if tools %}<|start_header_id|>system<|end_header_id|>\n\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|eot_id|>{% endif %}"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    '\n<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% if tools is not none %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS] ["
    "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}"
    '{% elif m.role == \'tool\' %}[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)
PYTHONIC = LLAMA.replace(
    "{{ bos_token }}", "{{ bos_token }}Calls look like [func_name(param=value)]. ", 1
).replace("single tool calls", "one")
FAMILIES = {
    "llama": LLAMA,
    "hermes": HERMES,
    "mistral": MISTRAL,
    "pythonic": PYTHONIC,
    "none": LLAMA3_TEMPLATE,
}
STYLES = {**{name: name for name in FAMILIES}, "none": "llama"}

# How each family writes a text and two calls, one if it cannot make more.
ARGUMENTS = '{"city": "Köln }]", "days": 3, "at": [1, 23]}'
WRITTEN = {
    "llama": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "none": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}; {{"name": "do-nothing", "parameters": {{}}}}',
    "hermes": f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "do-nothing", "arguments": {}}\n</tool_call>',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}, {{"name": "do-nothing", "arguments": {{}}}}]',
    "pythonic": '[get_weather(city="Köln }]", days=3, at=[1, 23]), do-nothing()]',
}


def make_words() -> Tokenizer:
    """A tokenizer with a token for a marker, as some models have."""
    return train_bpe(
        list(WRITTEN.values()) * 3, 400, special=[*CHAT_SPECIAL, "<tool_call>", "<|python_tag|>"]
    )


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return make_words()


@pytest.fixture(scope="module")
def grammars(words: Tokenizer) -> Grammars:
    return Grammars(words, words.stop_ids)


def make_tiny(words: Tokenizer) -> Llama:
    return make_model(tiny_config(words, dim=64, head_dim=16, ffn_dim=160, max_positions=2048))


@pytest.fixture(scope="module")
def tiny(words: Tokenizer) -> Llama:
    return make_tiny(words)


@pytest.fixture(scope="module")
def talk(tiny: Llama, words: Tokenizer) -> Callable[..., list[Reply]]:
    def talk(template: str, *requests: Request) -> list[Reply]:
        return run(Engine(Eager(tiny), words, ChatTemplate(template), slots=8), *requests)

    return talk


def chat(*messages: Message, **options: Any) -> Request:
    sampling = {"temperature": 1.0, "max_tokens": 300, **options.pop("sampling", {})}
    messages = messages or (Message("user", "Is it dry in Köln?"),)
    return Request(
        "", "chat", messages=messages, sampling=Sampling(**sampling), **{"tools": TOOLS, **options}
    )


def calls_of(template: str, **options: Any) -> Calls:
    calls = Calls.of(chat(**options), template)
    assert calls
    return calls


class Given:
    """A decoder whose tokens are given pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token: int) -> str:
        return self.pieces[token]

    def finish(self) -> str:
        return ""


def read(calls: Calls, pieces: list[str]) -> tuple[str, list[tuple[str, Any]], CallText]:
    reader = calls.reader(Given(pieces))
    text = "".join(reader.push(i) for i in range(len(pieces))) + reader.finish()
    return text, [(call.name, json.loads(call.arguments)) for call in reader.calls], reader


def split(text: str, cuts: set[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in zip(places, places[1:], strict=False)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_tells_the_style(family: str) -> None:
    assert style_of(FAMILIES[family]).name == STYLES[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_as_its_family_writes_it_is_accepted_and_read(
    family: str, words: Tokenizer, grammars: Grammars
) -> None:
    calls = calls_of(FAMILIES[family])
    matcher = grammars.compile(calls.source(None)).matcher()
    ids: list[int] = []
    for piece in WRITTEN[family].split("<tool_call>"):
        ids += ([words.special["<tool_call>"]] if ids else []) + words.encode(piece)
    for token in ids:
        assert matcher.mask(make_zeros(words))[token] == 0, words.decode(ids)
        matcher.accept(token)
    assert matcher.accepting
    text, found, reader = read(calls, [words.decode(ids)])
    assert text == ("Let me see." if family == "hermes" else "") and not reader.cut
    expected = [("get_weather", json.loads(ARGUMENTS)), ("do-nothing", {})]
    assert found == expected[: 1 if family == "llama" else 2]


@pytest.mark.parametrize("end, cut", [("", True), ("]", False), ("]\n", False)])
def test_a_name_without_its_bracket_is_a_call_that_is_cut(end: str, cut: bool) -> None:
    _, found, reader = read(calls_of(FAMILIES["pythonic"]), ["[do-nothing()", end or ", get_wea"])
    assert [name for name, _ in found] == ["do-nothing"] and reader.cut == cut


def make_zeros(words: Tokenizer) -> Any:
    import torch

    return torch.zeros(words.vocab_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_as_an_earlier_message_has_them_are_read_again(family: str, grammars: Grammars) -> None:
    calls = calls_of(FAMILIES[family])
    said = [("get_weather", json.loads(ARGUMENTS)), ("do-nothing", {})][: 2 if calls.parallel else 1]
    written = calls.style.write(said)
    assert read(calls, [written])[:2] == ("", said)
    matcher = grammars.compile(calls.source(None)).matcher()
    for token in grammars._tokenizer.encode(written):
        assert matcher.mask(make_zeros(grammars._tokenizer))[token] == 0, written
        matcher.accept(token)
    assert matcher.accepting


TEXTS = [
    "Hello.",
    "a < b",
    '{"x": [1, 2]}',
    '{"nam',
    "[1, 2]",
    "[TOOL",
    "<tool",
    "  \n",
    'say "{"',
    "[f(x)]",
    "",
]


@settings(deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.sets(st.integers(0, 400)), st.sampled_from(["", *TEXTS]))
def test_how_text_falls_into_tokens_makes_no_difference(family: str, cuts: set[int], text: str) -> None:
    calls = calls_of(FAMILIES[family])
    assert read(calls, split(text, cuts))[:2] == (text, [])
    written = WRITTEN[family]
    shown, found, _ = read(calls, split(written, cuts))
    assert (shown, found) == read(calls, [written])[:2] and found
    # Cut short, it gives the calls that were whole, and shows nothing that begins one.
    for end in cuts:
        part = written[: end % len(written)]
        shown_part, found_part, _ = read(calls, split(part, cuts))
        assert found_part == found[: len(found_part)]
        if family == "hermes":
            assert "Let me see.\n<tool_call>".startswith(shown_part) or shown_part == "Let me see."


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=12), st.sets(st.integers(0, 200)), st.sampled_from(sorted(FAMILIES)))
def test_arguments_come_back_as_they_are(value: str, cuts: set[int], family: str) -> None:
    calls = calls_of(FAMILIES[family], tools=(SEARCH,))
    arguments = {"query": value}
    if family == "pythonic":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        written = f"[search(query='{quoted}')]"
    else:
        written = calls.style.marker + json.dumps(
            {"name": "search", calls.style.key: arguments}, ensure_ascii=False
        )
    assert read(calls, split(written, cuts))[1] == [("search", arguments)]


def called(reply: Reply) -> list[ToolCall]:
    return [event.call for event in reply.events if isinstance(event, Called)]


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_calls_are_valid_by_grammar_alone(family: str, talk: Callable[..., list[Reply]]) -> None:
    requests = [
        chat(tool_choice="required", parallel_tool_calls=False, sampling={"seed": i}) for i in range(20)
    ]
    replies = talk(FAMILIES[family], *requests)
    for reply in replies:
        assert reply.text == ""
        if reply.finish == "length":  # honest: it was cut
            assert not called(reply)
            continue
        assert reply.finish == "tool_calls" and len(called(reply)) == 1
        for call in called(reply):
            jsonschema_rs.validate(
                dict(BY_NAME[call.name].parameters) or {"maxProperties": 0}, json.loads(call.arguments)
            )
            assert call.id.startswith("call_") and len(call.id) == 29
    assert sum(reply.finish == "tool_calls" for reply in replies) >= 18
    assert len({call.id for reply in replies for call in called(reply)}) >= 18


def test_a_named_tool_is_the_one_that_is_called(talk: Callable[..., list[Reply]]) -> None:
    for name in BY_NAME:
        request = chat(tools=tuple(BY_NAME.values()), tool_choice="required", tool_name=name, n=2)
        (reply,) = talk(HERMES, request)
        calls = Counter(event.index for event in reply.events if isinstance(event, Called))
        assert all(call.name == name for call in called(reply))
        assert set(calls.values()) == {1}  # just what was asked for


def test_a_cut_call_is_not_given_out(talk: Callable[..., list[Reply]]) -> None:
    for most in range(1, 25, 4):
        request = chat(
            tool_choice="required", tool_name="get_weather", sampling={"max_tokens": most, "seed": 1}
        )
        (reply,) = talk(HERMES, request)
        assert reply.finish == "length" and not called(reply) and reply.text == ""
        assert reply.usage and reply.usage.completion_tokens == most


def test_text_comes_before_the_calls_and_without_markers(words: Tokenizer, tiny: Llama) -> None:
    """The model is made to write what the family writes."""
    for family, written in WRITTEN.items():
        script = iter([*words.encode(written), *sorted(words.stop_ids)])
        write = lambda *_, script=script: [next(script)]  # noqa: E731
        engine = Engine(Eager(tiny), words, ChatTemplate(FAMILIES[family]), draw=write)
        (reply,) = run(engine, chat(sampling={"logprobs": 1}))
        assert reply.finish == "tool_calls", family
        assert reply.text == ("Let me see." if family == "hermes" else "")
        kinds = [type(event) for event in reply.events if isinstance(event, (Delta, Called, Finished))]
        assert kinds == sorted(kinds, key=[Delta, Called, Finished].index)
        assert [call.name for call in called(reply)][0] == "get_weather"
        if family == "hermes":
            assert words.decode(reply.tokens).startswith("Let me see.") and len(reply.logprobs) == len(
                reply.tokens
            )


def test_stop_strings_are_of_the_text_alone(words: Tokenizer, tiny: Llama) -> None:
    for stop, finish, count in (("Köln", "tool_calls", 2), ("see", "stop", 0)):
        script = iter([*words.encode(WRITTEN["hermes"]), *sorted(words.stop_ids)])
        write = lambda *_, script=script: [next(script)]  # noqa: E731
        engine = Engine(Eager(tiny), words, ChatTemplate(HERMES), draw=write)
        (reply,) = run(engine, chat(sampling={"stop": (stop,)}))
        assert (reply.finish, len(called(reply))) == (finish, count)
        (end,) = [e for e in reply.events if isinstance(e, Finished)]
        assert end.stop == (stop if finish == "stop" else None)


def test_without_a_choice_there_are_no_calls(talk: Callable[..., list[Reply]]) -> None:
    (reply,) = talk(HERMES, chat(tool_choice="none", sampling={"max_tokens": 20}))
    assert not called(reply) and Calls.of(chat(tool_choice="none"), HERMES) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_format_holds_for_the_text_where_tools_may_be_called(
    family: str, words: Tokenizer, grammars: Grammars
) -> None:
    schema = {
        "type": "object",
        "properties": {"dry": {"$ref": "#/$defs/b"}},
        "required": ["dry"],
        "$defs": {"b": {"type": "boolean"}},
    }
    format = Format("json_schema", schema)
    calls = calls_of(FAMILIES[family], format=format)
    source = calls.source(grammars.of(format))
    for text, good in (
        (' {"dry": true}'[1:], True),
        ('{"dry": 3}', False),
        ("Yes.", False),
        (WRITTEN[family], family != "hermes"),
    ):
        if good and family in ("none", "llama") and "name" in text:
            text = text.split("; ")[0]
        matcher = grammars.compile(source).matcher()
        fits = True
        for token in words.encode(text):
            fits = fits and bool(matcher.mask(make_zeros(words))[token] == 0)
            if fits:
                matcher.accept(token)
        assert (fits and matcher.accepting) == good, text


@pytest.mark.parametrize(
    "options, told",
    [
        ({"tools": (Tool("a b"),)}, "the name 'a b' must be"),
        ({"tools": (Tool("a"), Tool("a"))}, "the name 'a' is there twice"),
        ({"tools": tuple(Tool(f"t{i}") for i in range(MAX_TOOLS + 1))}, "at most 128"),
        ({"tool_choice": "required", "tool_name": "other"}, "no tool is called 'other'"),
        ({"tools": (Tool("a" * 129),)}, "must be 1 to 128 letters"),
        ({"tools": (Tool("a", "", {"type": "array"}),)}, "must be of type 'object'"),
        ({"tools": (Tool("a", "", {"type": ["array"]}),)}, "must be of type 'object'"),
        (
            {"tools": (Tool("a", "", {"properties": {"x": {"not": {}}}}),)},
            "tools: a: parameters: #/properties/x/not",
        ),
    ],
)
def test_wrong_tools_are_refused(
    options: dict[str, Any], told: str, talk: Callable[..., list[Reply]]
) -> None:
    (reply,) = talk(HERMES, chat(**options))
    assert reply.failed and reply.failed.status == 400 and told in reply.failed.message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["2d-plot", "-", "a" * 128])
def test_a_name_is_what_the_protocol_takes(name: str, family: str, talk: Callable[..., list[Reply]]) -> None:
    tool = Tool(name, "", {"type": ["object"], "properties": {}})
    (reply,) = talk(FAMILIES[family], chat(tools=(tool,), tool_choice="required", tool_name=name))
    if family == "pythonic" and name[0] != "a":
        assert reply.failed.status == 400 and "begin with a letter" in reply.failed.message
    else:
        assert [call.name for call in called(reply)] == [name]
