"""The OpenAI dialect, by OpenAI's own client and byte by byte."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from herd.protocol import Failed

Chat = Callable[..., dict[str, Any]]
TEXT = "Once upon a time."


def events(text: str) -> list[Any]:
    """The data of each server-sent event; [DONE] as a string."""
    assert text.endswith("\n\n")
    found = [line.removeprefix("data: ") for line in text.removesuffix("\n\n").split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


@pytest.fixture
def client_of_openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def test_openai_client_whole(client_of_openai: openai.OpenAI) -> None:
    reply = client_of_openai.chat.completions.create(
        model="cria", messages=[{"role": "user", "content": "Hi"}], n=2
    )
    assert [choice.message.content for choice in reply.choices] == [TEXT, TEXT]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    assert reply.usage is not None and reply.usage.total_tokens == 3 + 8
    done = client_of_openai.completions.create(model="cria", prompt="Once")
    assert done.choices[0].text == TEXT


def test_many_stop_strings(client_of_openai: openai.OpenAI, engine: Any) -> None:
    stops, said = [f"END{i}" for i in range(64)], "Hi"
    client_of_openai.completions.create(model="cria", prompt=said, stop=stops)
    client_of_openai.chat.completions.create(
        model="cria", messages=[{"role": "user", "content": said}], stop=stops
    )
    assert [request.sampling.stop for request in engine.requests] == [tuple(stops)] * 2


def test_openai_client_streams(client_of_openai: openai.OpenAI) -> None:
    stream = client_of_openai.chat.completions.create(
        model="cria",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == TEXT and len([text for text in texts if text]) == 4
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 4
    assert len({chunk.id for chunk in chunks}) == 1
    stream = client_of_openai.completions.create(model="cria", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == TEXT


def test_openai_client_lists_models_and_learns_the_nearest(client_of_openai: openai.OpenAI) -> None:
    assert {model.id for model in client_of_openai.models.list()} >= {"cria", "tale"}
    assert client_of_openai.models.retrieve("tale").id == "tale"
    with pytest.raises(openai.NotFoundError, match="'cria'"):
        client_of_openai.models.retrieve("crai")
    with pytest.raises(openai.NotFoundError, match="'cria'"):
        client_of_openai.chat.completions.create(model="crai", messages=[{"role": "user", "content": "Hi"}])


def test_stream_is_well_formed(client: TestClient, chat: Chat) -> None:
    reply = client.post("/v1/chat/completions", json=chat(stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = events(reply.text)
    assert found[-1] == "[DONE]" and found.count("[DONE]") == 1
    assert not any("usage" in chunk for chunk in found[:-1])
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[:-1]][-1] == "stop"
    asked = events(
        client.post(
            "/v1/chat/completions", json=chat(stream=True, stream_options={"include_usage": True})
        ).text
    )
    assert asked[-2]["usage"]["total_tokens"] == 7 and asked[-2]["choices"] == []


def test_a_target_gives_what_the_caller_left_open(client: TestClient, engine: Any, chat: Chat) -> None:
    client.post("/v1/chat/completions", json=chat(model="tale"))
    client.post("/v1/chat/completions", json=chat(model="tale", temperature=0.0) | {"messages": [
        {"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]})  # fmt: skip
    first, second = engine.requests
    assert (first.messages[0].content, first.sampling.temperature) == ("You tell tales.", 0.5)
    assert ([m.content for m in second.messages], second.sampling.temperature) == (["Mine.", "Hi"], 0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_refused_by_the_engine(client: TestClient, engine: Any, chat: Chat, stream: bool) -> None:
    """What fails before the first token has its own status, streaming or not."""
    engine.fail = Failed("the queue is full", "queue_full", 429)
    reply = client.post("/v1/chat/completions", json=chat(stream=stream))
    assert reply.status_code == 429 and reply.headers["retry-after"]
    assert reply.json()["error"] == {
        "message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "queue_full",
    }  # fmt: skip


SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
OFFERED = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "code", "param"),
    [
        ("chat/completions", FORM, "invalid_grammar", "response_format"),
        ("chat/completions", FORM, "unsupported_schema", "response_format"),
        *[
            (path, {"structured_outputs": kind}, "invalid_grammar", "structured_outputs")
            for path in ("chat/completions", "completions")
            for kind in ({"json": SCHEMA}, {"regex": "("}, {"grammar": "start: ("}, {"choice": ["a"]})
        ],
        ("chat/completions", {"tools": OFFERED}, "unsupported_schema", "tools"),
        ("chat/completions", {"tools": OFFERED}, "invalid_tools", "tools"),
        ("chat/completions", {"tools": OFFERED, **FORM}, "invalid_tools", "tools"),
        ("chat/completions", {"tools": OFFERED, **FORM}, "invalid_grammar", None),  # either may be wrong
        (
            "chat/completions",
            {"tools": OFFERED, **FORM, "tool_choice": "none"},
            "invalid_grammar",
            "response_format",
        ),
        ("chat/completions", {}, "context_length_exceeded", None),
        ("responses", {"text": {"format": {"type": "json_object"}}}, "invalid_grammar", "text.format"),
        ("responses", {"tools": [{"type": "function", "name": "f"}]}, "unsupported_schema", "tools"),
    ],
)
def test_what_the_engine_finds_wrong_is_named(
    client: TestClient, engine: Any, path: str, fields: Any, code: str, param: str | None, stream: bool
) -> None:
    engine.fail = Failed("it does not compile", code, 400)
    said = {"messages": [{"role": "user", "content": "Hi"}]} if path == "chat/completions" else {
        "completions": {"prompt": "Hi"}, "responses": {"input": "Hi"}
    }[path]  # fmt: skip
    reply = client.post(f"/v1/{path}", json={"model": "cria", "stream": stream, **said, **fields})
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "message": "it does not compile", "type": "invalid_request_error", "param": param, "code": code,
    }  # fmt: skip


def test_a_broken_stream_ends_with_an_error_and_is_not_done(
    client: TestClient, engine: Any, chat: Chat
) -> None:
    engine.break_after = 2
    found = events(client.post("/v1/chat/completions", json=chat(stream=True)).text)
    assert "[DONE]" not in found
    assert "error" in found[-1] and found[-1]["error"]["code"] == "engine_gone"
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in found[:-1])
    whole = client.post("/v1/chat/completions", json=chat())
    assert whole.status_code == 503 and "error" in whole.json()


def test_openai_client_sees_a_broken_stream_as_an_error(client_of_openai: openai.OpenAI, engine: Any) -> None:
    engine.break_after = 2
    with pytest.raises(openai.APIError):
        list(client_of_openai.completions.create(model="cria", prompt="Once", stream=True))
