"""Request bodies of the OpenAI dialect: each field is honoured, recorded or refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol import Message, ProtocolError, Request
from herd.protocol.fields import unsupported
from herd.protocol.openai import FIELDS, PARTS, decode_chat, decode_completion, decode_embeddings
from herd.protocol.refusals import unsupported_fields

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> Request:
    return decode_chat({"model": "cria", "messages": [USER], **fields})


def completion(**fields: Any) -> Request:
    (request,) = decode_completion({"model": "cria", "prompt": "Once", **fields})
    return request


def embedding(**fields: Any) -> Any:
    return decode_embeddings({"model": "cria", "input": "Once", **fields})


def refused(call: Any, **fields: Any) -> ProtocolError:
    """What the dialect refuses, or else the local engine."""
    with pytest.raises(ProtocolError) as caught:
        for path, why in unsupported_fields(call(**fields)).items():
            raise unsupported(path, why)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert caught.value.status == 400
    return caught.value


def test_every_honoured_field_reaches_the_request() -> None:
    request = chat(
        max_completion_tokens=7, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, n=3, seed=-1, stop=["a", "b"],
        stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=5, store=False,
        frequency_penalty=0.5, presence_penalty=-2, logit_bias={"5": 100, "0": -1.5},
    )  # fmt: skip
    s = request.sampling
    assert (request.route, request.kind, request.messages) == ("cria", "chat", (Message("user", "hi"),))
    assert (s.max_tokens, s.temperature, s.top_p, s.top_k, s.min_p) == (7, 0.5, 0.9, 40, 0.05)
    assert (s.seed, s.stop, s.logprobs) == (-1, ("a", "b"), 5)
    assert (s.frequency_penalty, s.presence_penalty, s.logit_bias) == (0.5, -2, {"5": 100, "0": -1.5})
    assert (request.n, request.stream, request.include_usage, request.store) == (3, True, True, False)
    assert request.explicit == {
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logprobs",
        "frequency_penalty", "presence_penalty", "logit_bias",
    }  # fmt: skip


def test_a_field_that_is_not_sent_is_not_explicit() -> None:
    assert chat().explicit == completion().explicit == frozenset()
    assert chat(logit_bias={}).explicit == frozenset()
    assert chat(temperature=None, seed=None).explicit == frozenset()
    assert chat(temperature=1).explicit == {"temperature"}


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0},
        {"frequency_penalty": 0.0, "presence_penalty": 0},
        {"n": 1, "stream": False, "logprobs": False, "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"tool_choice": "none", "tools": [], "functions": [], "function_call": "none"},
        {"logit_bias": {}, "verbosity": "medium", "reasoning_effort": "none"},
        {"stream_options": {"include_usage": False, "include_obfuscation": False}},
        {"stop": []},
        dict.fromkeys(FIELDS["chat"].keys() - {"model", "messages"}),
    ],
)
def test_a_field_at_its_default_is_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).messages == chat().messages


def test_completion_defaults_are_accepted() -> None:
    fields = {"best_of": 1, "echo": False, "suffix": "", "logit_bias": {}, "frequency_penalty": 0, "n": 1}
    assert completion(**fields).sampling == completion().sampling
    assert completion(**dict.fromkeys(FIELDS["completion"].keys() - {"model", "prompt"})) == completion()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("prediction", {"type": "content", "content": "x"}),
        ("moderation", {}),
        ("service_tier", "priority"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(chat, **{name: value})
    assert error.param == name and name in str(error)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 2.1, True, "1", [], float("nan"), float("inf"), -float("inf"), 10**400]),
        ("top_p", [-0.1, 1.1, False, "1", float("nan")]),
        ("min_p", [-0.1, 1.1, True, float("nan")]),
        ("top_k", [-2, 1.5, True, 2**31]),
        ("n", [0, 9, 1.0, True, "2"]),
        ("seed", [2**63, -(2**63) - 1, 0.5, True, "7", 10**400]),
        ("max_tokens", [0, -1, True, 1.0, "9", 2**31]),
        ("max_completion_tokens", [0, True, "9"]),
        ("frequency_penalty", [-2.1, 2.1, False, "0", float("nan"), 10**400]),
        ("presence_penalty", [-2.1, 2.1, True, {}]),
        (
            "logit_bias",
            [
                {"5": 101},
                {"5": True},
                {"x": 1},
                {"05": 1},
                {"-1": 1},
                {"٣": 1},
                {"5": None},
                {"5": "1"},
                {"5": float("nan")},
                {"9" * 20: 1},
                [],
                "",
                0,
                {str(i): 1 for i in range(5000)},
            ],
        ),
        ("stop", ["", [""], [1], {}, ["x"] * 65, "x" * 1001, True]),
        ("stream", [0, 1, "true", {}]),
        (
            "stream_options",
            [[], True, {"include_usage": 1}, {"include_usage": True}, {"include_obfuscation": True}],
        ),
        ("logprobs", [1, "true"]),
        ("top_logprobs", [3]),
        ("store", [1, "no"]),
        ("user", [1, {}]),
        (
            "metadata",
            [
                "x",
                [],
                {"k": 1},
                {"k": None},
                {"k": "v" * 513},
                {"k" * 65: "v"},
                {str(i): "v" for i in range(17)},
            ],
        ),
        ("parallel_tool_calls", [1, "no"]),
        ("messages", [[], "hi", {}, [1], [[]], None]),
        ("model", ["", 1, None, ["cria"]]),
    ],
)
def test_wrong_types_and_ranges_name_the_field(name: str, values: list[Any]) -> None:
    for value in values:
        error = refused(chat, **{name: value})
        assert error.param is not None and error.param.startswith(name), value


def test_top_p_may_be_nothing() -> None:
    assert chat(top_p=0).sampling.top_p == 0 and "top_p" in chat(top_p=0).explicit


def test_a_choice_of_nothing_is_named() -> None:
    assert refused(chat, structured_outputs={"choice": [""]}).param == "structured_outputs.choice"
    assert chat(structured_outputs={"choice": ["", "a"]}).format.text == "|a"


def test_logprobs_of_chat() -> None:
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).sampling.logprobs == 20
    for value in (-1, 21, True, 1.0):
        assert refused(chat, logprobs=True, top_logprobs=value).param == "top_logprobs"


def test_logprobs_and_echo_of_completions() -> None:
    assert completion(logprobs=0).sampling.logprobs == 0
    assert completion(echo=True).echo
    for value in (-1, 6, True, "1"):
        assert refused(completion, logprobs=value).param == "logprobs"
    assert completion(echo=True, prompt=[1, 2]).echo
    scored = completion(echo=True, logprobs=1, max_tokens=0)
    assert scored.echo and (scored.sampling.logprobs, scored.sampling.max_tokens) == (1, 0)


def test_two_limits_must_agree() -> None:
    assert chat(max_tokens=5, max_completion_tokens=5).sampling.max_tokens == 5
    assert chat(max_tokens=5).sampling.max_tokens == 5
    assert refused(chat, max_tokens=5, max_completion_tokens=6).param == "max_tokens"


def test_an_unknown_field_names_the_nearest() -> None:
    error = refused(chat, temprature=1)
    assert error.param == "temprature" and "'temperature'" in str(error)
    assert "'" + "x" * 100 + "'" in str(refused(chat, **{"x" * 10_000: 1}))
    assert "did you mean" not in str(refused(completion, zzz=1))
    assert "'include_usage'" in str(refused(chat, stream=True, stream_options={"include_uzage": True}))


def test_recorded_fields_are_labels() -> None:
    labels = {"user": "u1", "metadata": {"app": "x"}, "service_tier": "auto", "prompt_cache_key": "k"}
    assert chat(**labels).labels == labels
    assert completion(user="u1").labels == {"user": "u1"}


def test_messages() -> None:
    request = decode_chat(
        {
            "model": "cria",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}],
                },
                {"role": "assistant", "content": "", "refusal": None, "tool_calls": None, "annotations": []},
                {"role": "user", "content": "ünï 🦙", "name": "ada"},
            ],
        }
    )
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", "one two"),
        Message("assistant", ""),
        Message("user", "ünï 🦙", "ada"),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "4", "tool_call_id": "c"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "4"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "4", "tool_call_id": "c"}, "messages[0].tool_call_id"),
        ({"role": "function", "content": "4", "name": "f"}, "messages[0].role"),
        ({"role": "robot", "content": "4"}, "messages[0].role"),
        ({"role": ["user"], "content": "4"}, "messages[0].role"),
        ({"content": "4"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]},
            "messages[0].content[0]",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]},
            "messages[0].content[0]",
        ),
        ({"role": "user", "content": ["text"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "name": 5}, "messages[0].name"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content"),
        (
            {"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": "{}"}},
            "messages[0].function_call",
        ),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages[0].refusal"),
        ({"role": "user", "content": "x", "contnt": "y"}, "contnt"),
        ({"role": "user", "content": "\ud800"}, "messages"),
        ({"role": "user", "content": [{"type": "text", "text": "\udfff"}]}, "messages"),
    ],
)
def test_messages_that_are_refused(message: Any, param: str) -> None:
    assert refused(chat, messages=[message]).param == param


def test_prompts() -> None:
    assert completion(prompt=["one"]).prompt == completion(prompt="one").prompt == "one"
    assert completion(prompt=[1, 2]).prompt == completion(prompt=[[1, 2]]).prompt == (1, 2)
    for several in (["a", "b", "a"], [[1], [2, 3]], ["a", [1]]):
        requests = decode_completion({"model": "cria", "prompt": several, "n": 2})
        assert [r.prompt for r in requests] == [tuple(p) if isinstance(p, list) else p for p in several]
        assert {r.n for r in requests} == {2}
    wrong: list[Any] = [
        None,
        [],
        [[]],
        ["a"] * 257,
        ["a", None],
        [[1], []],
        [1, "a"],
        [True],
        [-1],
        [2**31],
        [1.0],
        {},
        5,
        "\ud83d",
    ]
    for prompt in wrong:
        assert refused(completion, prompt=prompt).param == "prompt"


def test_half_a_character_is_refused_wherever_text_is_kept() -> None:
    for name, value in (
        ("model", "\ud800"),
        ("stop", "\ud800"),
        ("user", "\ud800"),
        ("metadata", {"k": "\ud800"}),
    ):
        assert refused(chat, **{name: value}).param == name


names = sorted({name for table in (*FIELDS.values(), *PARTS.values()) for name in table})
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["text", "function", "assistant", "tool", "json_schema", "allowed_tools", "auto", "f", ""]
    )
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(names) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(names) | st.text(max_size=5), values, max_size=3))
def test_any_body_is_taken_or_refused_in_one_line(body: dict[str, Any]) -> None:
    for decode in (chat, completion, embedding):
        try:
            request = decode(**body)
            request = request.request if decode is embedding else request
        except ProtocolError as error:
            assert "\n" not in str(error) and error.param is not None and error.status == 400
        else:
            assert Request.from_json(json.loads(json.dumps(request.to_json()).encode())) == request


def test_embeddings() -> None:
    assert embedding().request == Request("cria", "embedding", prompt="Once")
    asked = embedding(input=["a", "b"], encoding_format="base64", dimensions=64, user="u")
    assert (asked.request.prompt, asked.request.more) == ("a", ("b",))
    assert asked.request.labels == {"user": "u"}
    assert (asked.base64, asked.dimensions) == (True, 64)
    ids = embedding(input=[[1, 2], [3]]).request
    assert (ids.prompt, ids.more) == ((1, 2), ((3,),))
    assert len(embedding(input=["a"] * 2048).request.more) == 2047
    for name, values in {
        "input": ["", [], None, ["a", ""], [1.5], [[]], {}, 7, ["a"] * 2049],
        "encoding_format": ["int8", 1, {}],
        "dimensions": [0, -1, "64", True],
        "user": [1],
    }.items():
        for value in values:
            assert refused(embedding, **{name: value}).param == name
