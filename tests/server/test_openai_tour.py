"""The openai package's helpers against a server whose engine follows a script: tools, structured output, batches."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from herd.protocol import (
    Called,
    Delta,
    Embedded,
    Event,
    Failed,
    Finished,
    Request,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)

Chat = Callable[..., dict[str, Any]]
USER: Any = [{"role": "user", "content": "Weather in Lima?"}]
CALLS = [ToolCall("call_1", "weather", '{"city": "Lima"}'), ToolCall("call_2", "weather", '{"city": "Rome"}')]


class Weather(BaseModel):
    city: str


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "Now.", "parameters": Weather.model_json_schema()},
}


@pytest.fixture
def client_of_openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def calls(request: Request) -> list[Event]:
    """Two calls, and a text once they are answered."""
    if request.messages[-1].role == "tool":
        told = " and ".join(m.content for m in request.messages if m.role == "tool")
        return [Started(9), Delta(0, told, (1,)), Finished(0, "stop"), Usage(9, 1)]
    return [Started(5), *(Called(0, call) for call in CALLS), Finished(0, "tool_calls"), Usage(5, 7)]


def says(text: str) -> Callable[[Request], list[Event]]:
    return lambda request: [Started(5), Delta(0, text, (1,)), Finished(0, "stop"), Usage(5, 1)]


def test_a_conversation_with_tools(client_of_openai: openai.OpenAI, engine: Any) -> None:
    engine.script = calls
    create = client_of_openai.chat.completions.create
    first = create(model="cria", messages=USER, tools=[TOOL])
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls is not None
    assert [c.to_dict() for c in choice.message.tool_calls] == [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in CALLS
    ]
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": f"sun {i}"} for i, call in enumerate(CALLS)
    ]
    second = create(model="cria", messages=[*USER, choice.message, *answers], tools=[TOOL])
    assert second.choices[0].message.content == "sun 0 and sun 1"
    assert engine.requests[1].messages[1].tool_calls == tuple(CALLS)
    assert engine.requests[0].tools[0].name == "weather"


def test_tool_calls_are_streamed_whole(client_of_openai: openai.OpenAI, engine: Any) -> None:
    engine.script = calls
    chunks = list(
        client_of_openai.chat.completions.create(model="cria", messages=USER, tools=[TOOL], stream=True)
    )
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(d.index, d.id, d.type) for d in deltas] == [(0, "call_1", "function"), (1, "call_2", "function")]
    assert [d.function and d.function.arguments for d in deltas] == [call.arguments for call in CALLS]
    assert [c.choices[0].finish_reason for c in chunks][-1] == "tool_calls"
    with client_of_openai.chat.completions.stream(
        model="cria", messages=USER, tools=[openai.pydantic_function_tool(Weather, name="weather")]
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert [call.function.parsed_arguments for call in message.tool_calls] == [
        Weather(city="Lima"),
        Weather(city="Rome"),
    ]


def test_parse_with_pydantic(client_of_openai: openai.OpenAI, engine: Any) -> None:
    engine.script = says('{"city": "Lima"}')
    parsed = client_of_openai.chat.completions.parse(model="cria", messages=USER, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Lima")
    assert engine.requests[0].format.kind == "json_schema"
    assert engine.requests[0].format.schema["properties"]["city"]["type"] == "string"
    with client_of_openai.chat.completions.stream(
        model="cria", messages=USER, response_format=Weather
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Weather(city="Lima")


def test_the_fingerprint_says_what_answers(client_of_openai: openai.OpenAI) -> None:
    create = client_of_openai.chat.completions.create
    one = create(model="cria", messages=USER, service_tier="auto")
    assert one.system_fingerprint and one.service_tier == "default"
    assert {c.system_fingerprint for c in create(model="cria", messages=USER, stream=True)} == {
        one.system_fingerprint
    }
    other = create(model="tale", messages=USER)
    assert other.system_fingerprint != one.system_fingerprint and other.service_tier is None


def numbered(request: Request) -> list[Event]:
    texts = [f"{request.prompt}{i}" for i in range(request.n)]
    finished = [Finished(i, "stop") for i in range(request.n)]
    return [
        Started(2, 1),
        *(Delta(i, text, (1,)) for i, text in enumerate(texts)),
        *finished,
        Usage(2, request.n, 1),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_in_one_request(client_of_openai: openai.OpenAI, engine: Any, stream: bool) -> None:
    engine.script, engine.delay = numbered, 0.002
    prompts = [f"p{i}-" for i in range(40)]
    asked: dict[str, Any] = {"model": "cria", "prompt": prompts, "n": 2}
    texts: dict[int, str] = {}
    if stream:
        options: Any = {"include_usage": True}
        for chunk in client_of_openai.completions.create(**asked, stream=True, stream_options=options):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
            usage = chunk.usage
    else:
        whole = client_of_openai.completions.create(**asked)
        texts, usage = {choice.index: choice.text for choice in whole.choices}, whole.usage
    assert texts == {i * 2 + j: f"p{i}-{j}" for i in range(40) for j in range(2)}
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (80, 80)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_of_one_prompt_is_one_of_all(client: TestClient, engine: Any, stream: bool) -> None:
    def script(request: Request) -> list[Event]:
        return [Failed("the prompt is too long", "x", 400)] if request.prompt == "b" else numbered(request)

    engine.script = script
    body = {"model": "cria", "prompt": ["a", "b", "c"], "stream": stream}
    answer = client.post("/v1/completions", json=body)
    assert "the prompt is too long" in answer.text and "[DONE]" not in answer.text
    assert answer.status_code == (200 if stream else 400)


def test_a_scored_prompt(client_of_openai: openai.OpenAI, engine: Any) -> None:
    def script(request: Request) -> list[Event]:
        scores = (
            TokenLogprob("On", 1, b"On", -9999.0),
            TokenLogprob("ce", 2, b"ce", -0.5, (TokenLogprob("to", 3, b"to", -0.4),)),
        )
        return [Started(2), Delta(0, "Once", (1, 2), scores), Finished(0, "length"), Usage(2, 0)]

    engine.script = script
    reply = client_of_openai.completions.create(
        model="cria", prompt="Once", echo=True, logprobs=1, max_tokens=0
    )
    scores = reply.choices[0].logprobs
    assert reply.choices[0].text == "Once" and scores is not None
    assert (scores.tokens, scores.text_offset) == (["On", "ce"], [0, 2])
    assert scores.token_logprobs == [None, -0.5]
    assert scores.top_logprobs == [None, {"ce": -0.5, "to": -0.4}]


def vector(request: Request) -> list[Event]:
    size = len(request.prompt)
    return [Started(size), Embedded(0, (size / 7, -0.25, 0.125)), Usage(size, 0)]


def test_embeddings(client_of_openai: openai.OpenAI, client: TestClient, engine: Any) -> None:
    engine.script = vector
    texts = ["a" * (i + 1) for i in range(50)]
    reply = client_of_openai.embeddings.create(model="cria", input=texts)  # asks for base64
    assert [item.index for item in reply.data] == list(range(50))
    for i, item in enumerate(reply.data):
        assert item.embedding == pytest.approx([(i + 1) / 7, -0.25, 0.125], abs=1e-6)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(range(51))
    plain = client_of_openai.embeddings.create(
        model="cria", input=[[1, 2, 3]], encoding_format="float", dimensions=3
    )
    assert plain.data[0].embedding == [3 / 7, -0.25, 0.125]
    body = {"model": "cria", "input": "abc", "encoding_format": "base64"}
    packed = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(packed)) == pytest.approx([3 / 7, -0.25, 0.125])
    with pytest.raises(openai.BadRequestError, match="dimensions must be 3"):
        client_of_openai.embeddings.create(model="cria", input="x", dimensions=2)
    assert engine.requests[0].kind == "embedding"


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        (Failed("x", "context_length_exceeded", 400), openai.BadRequestError),
        (Failed("x", "queue_full", 429), openai.RateLimitError),
        (Failed("x", "engine_gone", 503), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_packages_own(
    client_of_openai: openai.OpenAI,
    engine: Any,
    failed: Failed,
    error: type[openai.APIStatusError],
    stream: bool,
) -> None:
    engine.fail = failed
    with pytest.raises(error) as caught:
        client_of_openai.chat.completions.create(model="cria", messages=USER, stream=stream)
    assert caught.value.code == failed.code and caught.value.request_id
    assert ("retry-after" in caught.value.response.headers) == (failed.status == 429)
    with pytest.raises(error):
        client_of_openai.embeddings.create(model="cria", input="x")


def test_a_refused_field_is_named(client_of_openai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client_of_openai.chat.completions.create(model="cria", messages=USER, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort" and caught.value.code == "unsupported_field"
    with pytest.raises(openai.BadRequestError) as caught:
        client_of_openai.chat.completions.create(model="cria", messages=USER, extra_body={"temprature": 1})
    assert "'temperature'" in caught.value.message


@pytest.mark.slow
def test_a_retry_waits_as_long_as_it_is_told(url: str, engine: Any) -> None:
    patient = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=1)
    replies = [[Failed("full", "queue_full", 429)], says("Hi")(Request("cria", "chat"))]
    engine.script = lambda request: replies.pop(0)
    reply = patient.chat.completions.create(model="cria", messages=USER)
    assert reply.choices[0].message.content == "Hi" and not replies


def test_what_the_stream_shows_is_what_is_kept(client: TestClient, engine: Any, chat: Chat) -> None:
    engine.script = calls
    answer = client.post("/v1/chat/completions", json=chat(tools=[TOOL], stream=True)).text
    id = json.loads(answer.split("\n\n")[0].removeprefix("data: "))["id"]
    record = client.get(f"/api/generations/{id}").json()
    assert [call["name"] for call in record["calls"]] == ["weather", "weather"]
