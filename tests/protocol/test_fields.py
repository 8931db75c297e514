"""Every field that the `openai` and `anthropic` packages can send is in the tables: honoured, recorded or refused."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import anthropic.types as claude
import pytest
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_params
from openai.types import chat, completion_create_params, embedding_create_params, shared_params
from openai.types import responses as reply
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from typing_extensions import get_type_hints, is_typeddict

from herd.protocol import ProtocolError, anthropic, responses
from herd.protocol import openai as dialect
from herd.protocol.fields import Field, known, notes, unsupported
from herd.protocol.refusals import unsupported_fields

USER = {"role": "user", "content": "hi"}


def dicts(hint: Any) -> Iterator[type]:
    """The TypedDicts that a value of the type may be, or hold as items."""
    if is_typeddict(hint):
        yield hint
    elif get_origin(hint) is not Literal:
        for inner in get_args(hint):
            yield from dicts(inner)


def kinds(*hints: Any) -> dict[str, set[str]]:
    """The fields of each variant, by what its `type` may be."""
    found: dict[str, set[str]] = {}
    for variant in (variant for hint in hints for variant in dicts(hint)):
        own = get_type_hints(variant)
        options = [own["type"]] if get_origin(own["type"]) is Literal else get_args(own["type"])
        for name in (n for option in options for n in get_args(option) if isinstance(n, str)):
            found[name] = found.get(name, set()) | set(own)
    return found


def fields(*hints: Any) -> set[str]:
    return {name for hint in hints for variant in dicts(hint) for name in get_type_hints(variant)}


CHAT = get_type_hints(chat_params.CompletionCreateParamsStreaming)
RESPONSE = get_type_hints(response_create_params.ResponseCreateParamsStreaming)
MESSAGES = get_type_hints(message_create_params.MessageCreateParamsStreaming)


@pytest.mark.parametrize(
    ("hints", "table"),
    [
        ([chat_params.CompletionCreateParams], dialect.FIELDS["chat"]),
        ([completion_create_params.CompletionCreateParams], dialect.FIELDS["completion"]),
        ([embedding_create_params.EmbeddingCreateParams], dialect.FIELDS["embedding"]),
        ([CHAT["messages"]], dialect.PARTS["message"]),
        ([chat.ChatCompletionContentPartTextParam], dialect.PARTS["text part"]),
        ([chat.ChatCompletionMessageFunctionToolCallParam], dialect.PARTS["tool call"]),
        ([get_type_hints(chat.ChatCompletionMessageFunctionToolCallParam)["function"]],
         dialect.PARTS["called function"]),
        ([chat.ChatCompletionFunctionToolParam], dialect.PARTS["tool"]),
        ([shared_params.FunctionDefinition], dialect.PARTS["function"]),
        ([chat.ChatCompletionNamedToolChoiceParam, chat.ChatCompletionAllowedToolChoiceParam],
         dialect.PARTS["tool choice"]),
        ([chat.ChatCompletionAllowedToolsParam], dialect.PARTS["allowed tools"]),
        ([CHAT["response_format"]], dialect.PARTS["response format"]),
        ([get_type_hints(shared_params.ResponseFormatJSONSchema)["json_schema"]], dialect.PARTS["JSON schema"]),
        ([CHAT["stream_options"]], dialect.PARTS["stream options"]),
        ([response_create_params.ResponseCreateParams], responses.FIELDS["response"]),
        ([reply.EasyInputMessageParam], responses.PARTS["message"]),
        ([reply.ResponseInputTextParam, reply.ResponseOutputTextParam], responses.PARTS["text part"]),
        ([reply.FunctionToolParam], responses.PARTS["tool"]),
        ([reply.ToolChoiceFunctionParam], responses.PARTS["tool choice"]),
        ([reply.ToolChoiceAllowedParam], responses.PARTS["allowed tools"]),
        ([RESPONSE["text"]], responses.PARTS["text"]),
        ([RESPONSE["reasoning"]], responses.PARTS["reasoning"]),
        ([RESPONSE["stream_options"]], responses.PARTS["stream options"]),
        ([message_create_params.MessageCreateParams, beta_params.MessageCreateParams],
         anthropic.FIELDS["message"]),
        ([message_count_tokens_params.MessageCountTokensParams, beta_count_params.MessageCountTokensParams],
         anthropic.FIELDS["count"]),
        ([MESSAGES["messages"]], anthropic.PARTS["message"]),
        ([MESSAGES["system"]], anthropic.PARTS["text block"]),
        ([claude.ToolParam, beta.BetaToolParam], anthropic.PARTS["tool"]),
        ([MESSAGES["tool_choice"]], anthropic.PARTS["tool choice"]),
        ([MESSAGES["output_config"], beta.BetaOutputConfigParam], anthropic.PARTS["output config"]),
        ([claude.JSONOutputFormatParam], anthropic.PARTS["output format"]),
    ],
)  # fmt: skip
def test_every_field_of_the_packages_is_in_the_tables(hints: list[Any], table: Mapping[str, Field]) -> None:
    named = fields(*hints) - {"betas"}  # a header
    assert named and named <= table.keys()


def test_the_walk_finds_what_is_there() -> None:
    assert {"role", "tool_call_id", "function_call"} <= fields(CHAT["messages"])
    assert set(kinds(chat.ChatCompletionContentPartParam)) == {"text", "image_url", "input_audio", "file"}
    assert kinds(MESSAGES["tool_choice"])["tool"] == {"type", "name", "disable_parallel_tool_use"}
    assert len(kinds(claude.ContentBlockParam)) > 10


def refused(decode: Any, **body: Any) -> ProtocolError:
    """What the dialect refuses, or else the local engine."""
    with pytest.raises(ProtocolError) as caught:
        request = decode({"model": "cria", "messages": [USER], **body})
        for path, why in unsupported_fields(getattr(request, "request", request)).items():
            raise unsupported(path, why)
    assert caught.value.code in ("unsupported_field", "unknown_field")
    return caught.value


def test_openai_variants_are_read_or_refused_by_name() -> None:
    parts = kinds(chat.ChatCompletionContentPartParam)
    assert parts["image_url"] <= dialect.PARTS["image part"].keys()
    for kind in parts.keys() - {"text"}:
        said = [{"role": "user", "content": [{"type": kind, kind: {"url": "https://a.example/b"}}]}]
        assert repr(kind) in str(refused(dialect.decode_chat, messages=said))
    for kind in kinds(get_type_hints(chat.ChatCompletionAssistantMessageParam)["content"]).keys() - {"text"}:
        said = [{"role": "assistant", "content": [{"type": kind, kind: "x"}]}]
        assert repr(kind) in str(refused(dialect.decode_chat, messages=said))
    for kind in kinds(chat.ChatCompletionToolUnionParam).keys() - {"function"}:
        assert refused(dialect.decode_chat, tools=[{"type": kind}]).param == "tools[0].type"
    for kind in kinds(chat.ChatCompletionToolChoiceOptionParam).keys() - {"function", "allowed_tools"}:
        assert refused(dialect.decode_chat, tool_choice={"type": kind}).param == "tool_choice.type"
    formats = kinds(CHAT["response_format"])
    assert set(formats) == set(dialect.PARTS["response format"]["type"].accepts)  # type: ignore[arg-type]


def test_responses_items_and_tools_are_read_or_refused_by_name() -> None:
    def decode(body: Any) -> Any:
        body.pop("messages")
        return responses.decode_response({"input": "hi", **body})

    read = {
        "message": "message",
        "function_call": "function_call",
        "function_call_output": "function_call_output",
        "reasoning": "reasoning item",
    }
    items = kinds(reply.ResponseInputItemParam)
    assert read.keys() < items.keys()
    for kind, names in items.items():
        if kind in read:
            assert names <= responses.PARTS[read[kind]].keys()
        else:
            assert repr(kind) in str(refused(decode, input=[{"type": kind}]))
    contents = kinds(reply.ResponseInputContentParam)
    assert contents["input_image"] <= responses.PARTS["image part"].keys()
    for kind in contents.keys() - {"input_text"}:
        where = {"image_url": "https://a.example/b"} if kind == "input_image" else {}
        said = [{"role": "user", "content": [{"type": kind, **where}]}]
        assert repr(kind) in str(refused(decode, input=said))
    for kind in kinds(reply.ToolParam).keys() - {"function"}:
        assert repr(kind) in str(refused(decode, tools=[{"type": kind}]))
    for kind in kinds(RESPONSE["tool_choice"]).keys() - {"function", "allowed_tools"}:
        with pytest.raises(ProtocolError, match="tool_choice must be"):
            decode({"model": "cria", "messages": [], "tool_choice": {"type": kind}})
    for kind, names in kinds(get_type_hints(reply.ResponseTextConfigParam)["format"]).items():
        assert names <= responses.PARTS["JSON schema" if kind == "json_schema" else "format"].keys()


def test_anthropic_blocks_and_tools_are_read_or_refused_by_name() -> None:
    def decode(body: Any) -> Any:
        return anthropic.decode_message({"max_tokens": 1, **body})

    for kind, names in kinds(claude.ContentBlockParam, beta.BetaContentBlockParam).items():
        table = anthropic.PARTS.get(f"{kind} block")
        if table is None:
            for role in ("user", "assistant"):
                error = refused(decode, messages=[{"role": role, "content": [{"type": kind}]}])
                assert repr(kind) in str(error)
        else:
            assert names <= table.keys(), kind
    source = {"type": "url", "url": "https://a.example/b"}
    assert "'image'" in str(
        refused(decode, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    )
    for kind, names in kinds(get_type_hints(claude.ImageBlockParam)["source"]).items():
        if kind in ("base64", "url"):
            assert names <= anthropic.PARTS["image source"].keys()
        else:
            said = [{"role": "user", "content": [{"type": "image", "source": {"type": kind}}]}]
            assert repr(kind) in str(refused(decode, messages=said))
    for kind in kinds(get_type_hints(claude.ToolResultBlockParam)["content"]).keys() - {"text"}:
        result = {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": kind, **({"source": source} if kind == "image" else {})}],
        }
        use = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
        said = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        assert repr(kind) in str(refused(decode, messages=said))
    tools = kinds(claude.ToolUnionParam, beta.BetaToolUnionParam)
    assert tools["custom"] <= anthropic.PARTS["tool"].keys() and len(tools) > 10
    for kind in tools.keys() - {"custom"}:
        assert repr(kind) in str(refused(decode, tools=[{"type": kind, "name": "x"}]))
    for kind in kinds(MESSAGES["thinking"]).keys() - {"disabled"}:
        assert refused(decode, thinking={"type": kind, "budget_tokens": 1024}).param == "thinking"
    assert set(kinds(MESSAGES["tool_choice"])) == {"auto", "any", "tool", "none"}


TABLES = [
    pytest.param(table, id=f"{module.__name__}: {name}")
    for module in (dialect, responses, anthropic)
    for name, table in {**module.FIELDS, **module.PARTS}.items()
]


@pytest.mark.parametrize("table", TABLES)
def test_recorded_fields_are_kept_and_refused_ones_are_not_taken(table: Mapping[str, Field]) -> None:
    for name, field in table.items():
        if field == Field("honoured"):
            continue
        if isinstance(field.accepts, tuple):
            for value in field.accepts:
                kept = notes()
                assert known({name: value}, table, "here", kept) == {name: value}
                assert kept == ({f"here.{name}": value} if field.treatment == "recorded" else {}, {})
            for wrong in ({"no": 1}, 7, "no", True):
                with pytest.raises(ProtocolError) as caught:
                    known({name: wrong}, table, "here")
                assert caught.value.param == f"here.{name}"
                if field.treatment == "honoured":
                    with pytest.raises(ProtocolError, match="here"):
                        known({name: wrong}, table, "here", notes())
                else:  # the codec hands on what a provider may take
                    kept = notes()
                    assert known({name: wrong}, table, "here", kept) == {name: wrong}
                    assert kept == ({}, {f"here.{name}": wrong})
        else:
            kept = notes()
            value = field.accepts()
            known({name: value}, table, notes=kept)
            assert field.treatment == "recorded" and kept == ({name: value}, {})
            with pytest.raises(ProtocolError, match=name):
                known({name: 7}, table, notes=kept)
        assert known({name: None}, table) == {}
