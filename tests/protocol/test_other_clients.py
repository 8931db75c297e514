"""What LangChain's and LiteLLM's clients send by default, recorded once (the versions are in the file), is taken whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd.protocol import Request, anthropic, responses, upstream_anthropic, upstream_openai
from herd.protocol import openai as dialect
from herd.protocol.refusals import leave_out
from herd.server.guard import CORS_HEADERS, CORS_PREFIXES

RECORDED = json.loads(Path(__file__).with_name("other_clients.json").read_text(encoding="utf-8"))
REQUESTS: list[dict[str, Any]] = RECORDED["requests"]
NAMES = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "stop_sequences": "stop"}
SAMPLING = {
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "max_tokens",
    "frequency_penalty",
    "presence_penalty",
}
BACK = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}
DECODERS: dict[str, Callable[[Mapping[str, Any]], Request]] = {
    "/v1/chat/completions": dialect.decode_chat,
    "/v1/completions": lambda body: dialect.decode_completion(body)[0],
    "/v1/embeddings": lambda body: dialect.decode_embeddings(body).request,
    "/v1/responses": lambda body: responses.decode_response(body).after(()),
    "/v1/messages": anthropic.decode_message,
    "/v1/messages/count_tokens": anthropic.decode_count,
}


@pytest.mark.parametrize("sent", REQUESTS, ids=lambda sent: sent["what"])
def test_taken_whole(sent: dict[str, Any]) -> None:
    """Nothing that steers the answer is lost on the way to the canonical request."""
    body = sent["body"]
    request = DECODERS[sent["path"]](body)
    assert request.route == "cria" and request.stream is body.get("stream", False)
    asked = {NAMES.get(name, name): value for name, value in body.items() if value is not None}
    for name in SAMPLING & asked.keys():
        wanted, got = asked[name], getattr(request.sampling, name)
        assert got == (
            (wanted,) if isinstance(wanted, str) else tuple(wanted) if name == "stop" else wanted
        ), name
    assert [tool.name for tool in request.tools] == [named(tool)["name"] for tool in body.get("tools", [])]
    for tool, given in zip(request.tools, body.get("tools", []), strict=True):
        schema = named(given).get("parameters") or given.get("input_schema")
        assert tool.parameters == schema and tool.description == named(given).get("description", "")
    assert (request.format.schema if request.format else None) == schema_of(body)
    assert (request.tool_choice, request.tool_name) == choice_of(body.get("tool_choice"))
    said = json.dumps(body, ensure_ascii=False)
    for message in request.messages:
        assert message.content in said


@pytest.mark.parametrize("sent", REQUESTS, ids=lambda sent: sent["what"])
def test_goes_on_to_providers_of_both_dialects(sent: dict[str, Any]) -> None:
    """Each asks what the client asked, or says by name what it cannot be asked."""
    request = replace(DECODERS[sent["path"]](sent["body"]), labels={})
    same = replace(request, store=True, include_usage=request.stream)
    if request.count:
        assert set(upstream_openai.unsupported(request)) == {"model"}
    else:
        assert upstream_openai.unsupported(request, extended=True) == {}
        body = upstream_openai.encode(request, "cria", extended=True)
        again = DECODERS[BACK[request.kind]](body)
        assert again == same
    lost = upstream_anthropic.unsupported(request)
    assert set(lost) <= {"model", "n", "seed", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty",
                         "temperature", "response_format", "text.format", "messages[1].name"}  # fmt: skip
    if "model" not in lost:
        body = upstream_anthropic.encode(leave_out(request, lost), "cria")
        claude = DECODERS["/v1/messages/count_tokens" if request.count else "/v1/messages"](body)
        assert [m.content for m in claude.messages] == [m.content for m in request.messages]
        assert (claude.tools, claude.tool_choice, claude.tool_name) == (
            request.tools,
            request.tool_choice,
            request.tool_name,
        )


def named(tool: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = tool.get("function", tool)
    return inner


def schema_of(body: dict[str, Any]) -> Any:
    """The schema asked for, wherever the dialect puts it."""
    places = (
        body.get("response_format"),
        body.get("text", {}).get("format"),
        body.get("output_config", {}).get("format"),
    )
    for place in places:
        if place and place["type"] == "json_schema":
            return place.get("json_schema", place)["schema"]
    return None


def choice_of(choice: Any) -> tuple[str, str | None]:
    """tool_choice in the dialects' spellings."""
    if isinstance(choice, dict):
        name = choice.get("function", choice).get("name")
        return ("required", name) if choice["type"] in ("function", "tool", "any") else (choice["type"], None)
    return choice or "auto", None


def test_their_headers_may_cross_origins() -> None:
    """A browser asks for each header of its own; those that the clients add are allowed."""
    always = {"accept", "user-agent"}
    for headers in RECORDED["headers"]:
        names = headers.keys() - always
        refused = {name for name in names if name not in CORS_HEADERS and not name.startswith(CORS_PREFIXES)}
        assert not refused
