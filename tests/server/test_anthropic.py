"""The Anthropic dialect, by Anthropic's own client and byte by byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic.lib.tools import beta_tool
from fastapi.testclient import TestClient
from pydantic import BaseModel

from herd.protocol import Called, Delta, Event, Failed, Finished, Request, Started, ToolCall, Usage

TEXT = "Once upon a time."
USER: Any = [{"role": "user", "content": "Weather in Lima?"}]
CALL = ToolCall("toolu_1", "weather", '{"city": "Lima"}')
TOOL: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
BODY = {"model": "cria", "max_tokens": 9, "messages": USER}


@pytest.fixture
def claude(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)


def calls(request: Request) -> list[Event]:
    if request.messages[-1].role == "tool":
        text = f"It is {request.messages[-1].content}."
        return [Started(9), Delta(0, text, (1,)), Finished(0, "stop"), Usage(9, 1)]
    return [Started(5), Delta(0, "I look."), Called(0, CALL), Finished(0, "tool_calls"), Usage(5, 7)]


def test_whole(claude: anthropic.Anthropic, engine: Any) -> None:
    reply = claude.messages.create(
        model="cria", max_tokens=9, messages=USER, system="Be brief.", stop_sequences=["END"],
        metadata={"user_id": "u"}, extra_body={"temperature": 0.5, "top_k": 3, "top_p": 0.9},
    )  # fmt: skip
    assert [block.to_dict() for block in reply.content] == [{"type": "text", "text": TEXT}]
    assert (reply.model, reply.role, reply.stop_reason) == ("cria", "assistant", "end_turn")
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 1, 4)
    assert reply.id.startswith("msg_") and reply._request_id
    (request,) = engine.requests
    assert [m.role for m in request.messages] == ["system", "user"]
    s = request.sampling
    assert (s.max_tokens, s.temperature, s.top_k, s.top_p, s.stop) == (9, 0.5, 3, 0.9, ("END",))


def test_many_stop_sequences(claude: anthropic.Anthropic, engine: Any) -> None:
    stops = [f"END{i}" for i in range(64)]
    claude.messages.create(model="cria", max_tokens=9, messages=USER, stop_sequences=stops)
    assert engine.requests[0].sampling.stop == tuple(stops)


def test_streams(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="cria", max_tokens=9, messages=USER) as stream:
        assert list(stream.text_stream) == ["Once ", "upon ", "a ", "time."]
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn" and message.usage.output_tokens == 4
    kinds = [event.type for event in claude.messages.create(**BODY, stream=True)]  # type: ignore[call-overload]
    assert kinds == [
        "message_start", "content_block_start", *["content_block_delta"] * 4, "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


def test_bytes_of_a_stream(client: TestClient) -> None:
    answer = client.post("/v1/messages", json={**BODY, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    for part in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert "[DONE]" not in answer.text and answer.headers["request-id"] == answer.headers["x-request-id"]


def test_tools_and_back(claude: anthropic.Anthropic, engine: Any) -> None:
    engine.script = calls
    create = claude.messages.create
    first = create(model="cria", max_tokens=9, messages=USER, tools=[TOOL], tool_choice={"type": "any"})
    assert first.stop_reason == "tool_use" and [block.type for block in first.content] == ["text", "tool_use"]
    used = first.content[1]
    assert used.type == "tool_use" and used.input == {"city": "Lima"}
    answer: Any = {"type": "tool_result", "tool_use_id": used.id, "content": "gone", "is_error": True}
    turns: Any = [
        *USER,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [answer]},
    ]
    second = create(model="cria", max_tokens=9, messages=turns, tools=[TOOL])
    assert second.content[0].to_dict()["text"] == "It is Error: gone."
    assert engine.requests[0].tool_choice == "required" and engine.requests[1].messages[1].tool_calls == (
        CALL,
    )
    with claude.messages.stream(model="cria", max_tokens=9, messages=USER, tools=[TOOL]) as stream:
        message = stream.get_final_message()
    assert message.to_dict()["content"] == first.to_dict()["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_tool_runner(claude: anthropic.Anthropic, engine: Any, stream: bool) -> None:
    engine.script = calls

    @beta_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    runner: Any = claude.beta.messages.tool_runner(
        model="cria", max_tokens=9, messages=USER, tools=[weather], stream=stream
    )
    assert runner.until_done().content[0].text == "It is sunny in Lima."
    assert engine.requests[0].tools[0].description == "The weather in a city."
    assert len(engine.requests) == 2  # what the package sends first, a thread, is refused as it understands


def test_parse_with_pydantic(claude: anthropic.Anthropic, engine: Any) -> None:
    class City(BaseModel):
        city: str

    engine.script = lambda request: [
        Started(1), Delta(0, '{"city": "Lima"}', (1,)), Finished(0, "stop"), Usage(1, 1)
    ]  # fmt: skip
    reply = claude.messages.parse(model="cria", max_tokens=9, messages=USER, output_format=City)
    assert reply.parsed_output == City(city="Lima")
    assert engine.requests[0].format.schema["properties"]["city"]["type"] == "string"


def test_counting_keeps_nothing(claude: anthropic.Anthropic, client: TestClient, engine: Any) -> None:
    engine.script = lambda request: [Started(31), Usage(31, 0)]
    count = claude.messages.count_tokens(model="cria", messages=USER, system="Be brief.", tools=[TOOL])
    assert count.input_tokens == 31
    (request,) = engine.requests
    assert request.count and len(request.messages) == 2
    assert client.get("/api/generations").json().get("data") in (None, [])
    metrics = claude.get("/metrics", cast_to=str)
    for name in ("num_requests_running", "num_requests_waiting", "request_queue_time_seconds_count"):
        assert f'\nvllm:{name}{{model_name="cria"}} 0.0\n' in metrics, name


@pytest.mark.parametrize(
    ("failed", "error", "kind"),
    [
        (Failed("x", "context_length_exceeded", 400), anthropic.BadRequestError, "invalid_request_error"),
        (Failed("x", "queue_full", 429), anthropic.RateLimitError, "rate_limit_error"),
        (Failed("x", "engine_gone", 503), anthropic.InternalServerError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_packages_own(
    claude: anthropic.Anthropic, engine: Any, failed: Failed, error: Any, kind: str, stream: bool
) -> None:
    engine.fail = failed
    with pytest.raises(error) as caught:
        claude.messages.create(model="cria", max_tokens=9, messages=USER, stream=stream)
    assert caught.value.type == kind and caught.value.request_id
    assert caught.value.body["request_id"] == caught.value.request_id
    assert ("retry-after" in caught.value.response.headers) == (failed.status == 429)
    with pytest.raises(error):
        claude.messages.count_tokens(model="cria", messages=USER)


def test_a_broken_stream_ends_with_an_error_event(claude: anthropic.Anthropic, engine: Any) -> None:
    engine.break_after = 2
    seen = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        for event in claude.messages.create(model="cria", max_tokens=9, messages=USER, stream=True):
            seen.append(event.type)
    assert caught.value.type == "overloaded_error" and "message_stop" not in seen


def test_errors_before_the_route_are_the_dialects(
    start: Callable[..., TestClient], url: str, engine: Any
) -> None:
    client = start(api_key="k" * 20)
    body: Any = {"json": BODY}
    for answer, status, kind in (
        (client.post("/v1/messages", **body), 401, "authentication_error"),
        (client.post("/v1/messages/nowhere", headers={"x-api-key": "k" * 20}), 404, "not_found_error"),
        (client.get("/v1/messages", headers={"x-api-key": "k" * 20}), 405, "invalid_request_error"),
        (
            client.post("/v1/messages", headers={"x-api-key": "k" * 20}, json={**BODY, "model": "crai"}),
            404,
            "not_found_error",
        ),
        (
            client.post(
                "/v1/messages",
                content=b" " * (5 << 20),
                headers={"x-api-key": "k" * 20, "content-type": "application/json"},
            ),
            413,
            "request_too_large",
        ),
        (client.post("/v1/messages", **body, headers={"host": "evil.example"}), 421, "invalid_request_error"),
    ):
        told = answer.json()
        assert (answer.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
        assert told["request_id"] == answer.headers["request-id"] and told["error"]["message"]
    assert set(client.post("/v1/messages_", **body).json()) == {"error"}  # another path, another dialect
    for headers in ({"x-api-key": "k" * 20}, {"authorization": "Bearer " + "k" * 20}):
        headers["anthropic-version"] = "2023-06-01"
        assert client.post("/v1/messages", **body, headers=headers).status_code == 200
    assert client.post("/v1/messages", **body, headers={"x-api-key": "wrong"}).status_code == 401


@pytest.fixture
def names(home: Path) -> list[str]:
    """Of all models there are: those of the home, and 30 routes."""
    routes = [f"route-{i:02}" for i in range(30)]
    text = "".join(f'[routes.{name}]\ntargets = ["cria@1"]\n' for name in routes)
    (home / "herd.toml").write_text(text)
    return ["cria", *routes, "tale"]


@pytest.mark.parametrize("limit", [1, 7, 8, 31, 32, 1000])
def test_models_come_in_pages(names: list[str], claude: anthropic.Anthropic, limit: int) -> None:
    assert [model.id for model in claude.models.list(limit=limit)] == names  # every page is fetched
    before = claude.models.list(limit=limit, before_id=names[-1])
    assert [model.id for model in before.data] == names[:-1][-limit:]
    assert sorted(model.id for model in before) == names[:-1]
    page = claude.models.list(limit=limit, after_id=names[3])
    assert [model.id for model in page.data] == names[4 : 4 + limit]
    assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
    assert page.has_more == (len(names) > 4 + limit)


def test_the_pages_at_the_ends(names: list[str], claude: anthropic.Anthropic, url: str) -> None:
    page = claude.models.list()
    assert [model.id for model in page.data] == names[:20] and page.has_more
    for empty in (
        claude.models.list(after_id=names[-1]),
        claude.models.list(before_id=names[0]),
        claude.models.list(lifecycle=["deprecated", "retired"]),
    ):
        assert (empty.data, empty.has_more, empty.first_id, empty.last_id) == ([], False, None, None)
    assert [model.id for model in claude.models.list(lifecycle=["active", "retired"])] == names
    assert claude.models.retrieve("tale").id == "tale"
    whole = openai.OpenAI(base_url=f"{url}/v1", api_key="any").models
    for query in ({}, {"limit": "1"}, {"limit": "some", "after_id": "nobody"}):  # OpenAI's has no pages
        assert [model.id for model in whole.list(extra_query=query)] == names


@pytest.mark.parametrize(
    ("query", "name"),
    [
        *[
            ({"limit": limit}, "limit")
            for limit in ("0", "1001", "-1", "1.5", "ten", "", "9" * 5000, "\u0663")
        ],
        ({"after_id": "nobody"}, "after_id"),
        ({"before_id": ""}, "before_id"),
        ({"after_id": "cria", "before_id": "tale"}, "before_id"),
        ({"lifecycle[]": "dormant"}, "lifecycle"),
    ],
)
def test_a_page_that_cannot_be_is_refused_by_name(
    claude: anthropic.Anthropic, query: dict[str, str], name: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=name) as caught:
        claude.models.list(extra_query=query)
    assert caught.value.type == "invalid_request_error" and caught.value.request_id
    with pytest.raises(anthropic.NotFoundError, match="'cria'") as missing:
        claude.models.retrieve("crai")
    assert missing.value.type == "not_found_error"


def test_a_key_pages_through_its_own_models_only(names: list[str], start: Callable[..., TestClient]) -> None:
    client = start(api_key="k" * 20)
    scopes = ["use:tale", "use:route-05"]
    made = client.post(
        "/api/keys",
        json={"application": "x", "scopes": scopes},
        headers={"Authorization": "Bearer " + "k" * 20},
    ).json()
    own = anthropic.Anthropic(base_url="http://localhost:8000", api_key=made["secret"], http_client=client)  # type: ignore[arg-type]
    assert [model.id for model in own.models.list(limit=1)] == ["route-05", "tale"]
    with pytest.raises(anthropic.BadRequestError, match="after_id"):
        own.models.list(after_id="cria")
    refused = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
    assert "x-api-key" in refused.json()["error"]["message"]


def test_a_refused_field_is_named(claude: anthropic.Anthropic) -> None:
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://x"}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\] is of type 'image'"):
        claude.messages.create(model="cria", max_tokens=9, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(anthropic.BadRequestError, match="thinking is supported only as"):
        claude.messages.create(
            model="cria", max_tokens=9, messages=USER, thinking={"type": "enabled", "budget_tokens": 1024}
        )


@pytest.mark.slow
def test_a_retry_waits_as_long_as_it_is_told(url: str, engine: Any) -> None:
    patient = anthropic.Anthropic(base_url=url, api_key="any", max_retries=1)
    replies: list[list[Event]] = [
        [Failed("full", "queue_full", 429)],
        [Started(1), Delta(0, "Hi", (1,)), Finished(0, "stop"), Usage(1, 1)],
    ]
    engine.script = lambda request: replies.pop(0)
    assert (
        patient.messages.create(model="cria", max_tokens=9, messages=USER).content[0].to_dict()["text"]
        == "Hi"
    )
