"""What LangChain, the Vercel AI SDK and Open WebUI send by default is answered by every kind of provider, in their form.

The requests are in tests/clients and tests/protocol, with the versions that sent them. Replies are read by the types of the
openai and anthropic packages, which the gateway does not use.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from fastapi.testclient import TestClient
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from herd.protocol import Called, Delta, Embedded, Event, Finished, Request, Started, ToolCall, Usage
from herd.registry.registry import Registry
from herd.server.app import create_app
from herd.server.engines import Engines
from herd.server.settings import Settings

from ..behind import upstream
from .conftest import FakeEngine, write_model

TESTS = Path(__file__).parents[1]
FILES = [*sorted((TESTS / "clients").glob("*.json")), TESTS / "protocol" / "other_clients.json"]
SENT: list[dict[str, Any]] = [
    {**sent, "from": f"{file.stem}: {sent['what']}", "headers": found["headers"][sent.get("headers", 0)]}
    for file in FILES
    for found in [json.loads(file.read_text(encoding="utf-8"))]
    for sent in found["requests"]
    if "previous_response_id" not in sent["body"]
]
WORDS = ('{"city": ', '"Oslo"}')  # which is good where a schema was asked for, too
TEXT = "".join(WORDS)
BACKENDS = ("local", "openai", "anthropic")
# What a kind of provider cannot do, and by which name it says so. Nothing of it is sent by default.
WHOLLY = {
    "/v1/embeddings",
    "/v1/completions",
    "/v1/messages/count_tokens",
}  # of which nothing can be left out
CANNOT = {
    "local": {"image": ".content["},
    "openai": {"/v1/messages/count_tokens": "model"},
    "anthropic": {
        **{name: name for name in ("seed", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty")},
        "name": "messages[1].name", "json_object": "response_format", "/v1/embeddings": "model", "/v1/completions": "model",
    },
}  # fmt: skip


def asks(sent: dict[str, Any]) -> set[str]:
    """What of CANNOT a request asks for."""
    body, said = sent["body"], json.dumps(sent["body"])
    found = {name for name, value in body.items() if value not in (None, 0, False, {})} | {sent["path"]}
    found |= {"json_object"} if '"json_object"' in said else set()
    found |= {"name"} if any("name" in message for message in body.get("messages", [])) else set()
    return found | ({"image"} if '"image' in said or '"input_image' in said else set())


def script(request: Request) -> list[Event]:
    """As the fake upstream answers: by the words, and on a route that calls tools by a call of the first one."""
    if request.kind == "embedding":
        return [Started(3), Embedded(0, (0.6, 0.8)), Usage(3, 0)]
    if request.count:
        return [Usage(3, 0)]
    says: list[Event] = [Delta(i, word, (1,)) for i in range(request.n) for word in WORDS]
    if "-tools" in request.route:
        says.append(Called(0, ToolCall("call_1", request.tools[0].name, '{"city": "Oslo"}')))
    ends: list[Event] = [
        Finished(i, "tool_calls" if isinstance(says[-1], Called) else "stop") for i in range(request.n)
    ]
    return [Started(3), *says, *ends, Usage(3, len(WORDS) * request.n)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Routes named as BACKENDS, and one each that calls tools and one that may drop what it cannot do."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("clients")
    patch.setattr("herd.registry.registry.BUNDLED", folder / "nothing-bundled")
    home = folder / "home"
    Registry(home).add(write_model(folder / "source"), "cria", kind="model", licence="Apache-2.0")
    engine = FakeEngine()
    engine.script = script
    with upstream(words=WORDS) as behind:
        lines = []
        for name in BACKENDS:
            if name != "local":
                lines += [
                    f"[providers.{name}-far]",
                    f'dialect = "{name}"',
                    f'base_url = "{behind.url}"',
                    "private = true",
                ]
            for mode in ("ok", "tools"):
                target = "cria" if name == "local" else f"{name}-far/{mode}"
                for drop in ("", "-drops"):
                    lines += [f"[routes.{name}-{mode}{drop}]", f'targets = ["{target}"]', "retries = 0"]
                    lines += ['drop = ["*"]'] if drop else []
        (home / "herd.toml").write_text("\n".join(lines))
        app = create_app(Settings(home=home, config=home / "herd.toml"), Engines(engine, Registry(home)))
        with TestClient(app, base_url="http://localhost:8000") as client:
            yield client
    patch.undo()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent["from"])
def test_a_request_is_answered_in_its_dialect(served: TestClient, sent: dict[str, Any], backend: str) -> None:
    called = bool(sent["body"].get("tools")) and not sent["path"].endswith("count_tokens")
    route = f"{backend}-{'tools' if called else 'ok'}"
    cannot = asks(sent) & CANNOT[backend].keys()

    def ask(route: str) -> Any:
        return served.post(sent["path"], json={**sent["body"], "model": route}, headers=sent["headers"])

    reply = ask(route)
    if cannot:
        assert reply.status_code == 400, reply.text
        problem = reply.json()["error"]["message"]
        assert any(CANNOT[backend][name] in problem for name in cannot), problem
        if cannot & WHOLLY:
            assert ask(f"{route}-drops").status_code == 400
            return
        reply = ask(f"{route}-drops")
        assert reply.headers["x-herd-dropped"]
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-herd-target"] == (
        "cria" if backend == "local" else f"{backend}-far/{'tools' if called else 'ok'}"
    )
    read = READERS[sent["path"]]
    assert read(reply, sent["body"].get("stream", False)) == ("tools" if called else said(sent))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_ai_sdk_refers_to_what_it_was_told(served: TestClient, backend: str) -> None:
    """The second step of its Responses client with tools: the text that came before the call is named, not repeated."""
    ask = {"role": "user", "content": [{"type": "input_text", "text": "Weather in Oslo?"}]}
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    body = {"model": f"{backend}-tools", "input": [ask], "tools": [tool], "tool_choice": "auto"}
    first = served.post("/v1/responses", json=body).json()
    told, call = first["output"]
    assert told["type"] == "message" and call["type"] == "function_call"
    steps = [
        {"type": "item_reference", "id": told["id"]},
        {"type": "function_call", **{name: call[name] for name in ("call_id", "name", "arguments")}},
        {"type": "function_call_output", "call_id": call["call_id"], "output": '{"sky":"sun"}'},
    ]
    second = served.post("/v1/responses", json={**body, "model": f"{backend}-ok", "input": [ask, *steps]})
    assert second.status_code == 200 and response(second, False) == TEXT
    kept = served.get(f"/api/generations/{second.json()['id']}").json()["request"]["messages"]
    assert [message["content"] for message in kept] == ["Weather in Oslo?", TEXT, '{"sky":"sun"}']
    by_id = {"type": "item_reference", "id": call["id"]}
    again = served.post("/v1/responses", json={**body, "input": [ask, steps[0], by_id, steps[2]]})
    assert again.status_code == 200, again.text
    for wrong in ("msg_" + "0" * 32, "x", "msg_" + "1" * 10_000):
        refused = served.post(
            "/v1/responses", json={**body, "input": [ask, {"type": "item_reference", "id": wrong}]}
        )
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "input[1].id"


def said(sent: dict[str, Any]) -> str:
    return {"/v1/embeddings": "vectors", "/v1/messages/count_tokens": "tokens"}.get(sent["path"], TEXT)


def events(text: str) -> list[Any]:
    """The data of a stream, by the rules of server-sent events."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        data = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if data and data != ["[DONE]"]:
            found.append(json.loads("\n".join(data)))
    return found


def chat(reply: Any, stream: bool) -> str:
    if not stream:
        whole = ChatCompletion.model_validate(reply.json(), strict=True)
        message = whole.choices[0].message
        assert (
            whole.usage
            and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        )
        return _called(whole.choices[0].finish_reason, message.tool_calls) or message.content or ""
    assert reply.headers["content-type"].startswith("text/event-stream") and reply.text.endswith(
        "data: [DONE]\n\n"
    )
    chunks = [ChatCompletionChunk.model_validate(event, strict=True) for event in events(reply.text)]
    first = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == 0]
    parts = [call for choice in first for call in choice.delta.tool_calls or ()]
    if parts:
        assert parts[0].id and parts[0].function and parts[0].function.name == "weather"
        arguments = "".join(part.function.arguments or "" for part in parts if part.function)
        assert json.loads(arguments) == {"city": "Oslo"} and first[-1].finish_reason == "tool_calls"
        return "tools"
    assert first[-1].finish_reason == "stop"
    return "".join(choice.delta.content or "" for choice in first)


def _called(finish: str, made: Any) -> str:
    if not made:
        assert finish == "stop"
        return ""
    assert finish == "tool_calls" and json.loads(made[0].function.arguments) == {"city": "Oslo"}
    return "tools"


def completion(reply: Any, stream: bool) -> str:
    if stream:  # whose reason to stop is null at first, which the type does not know
        read = [Completion.construct(**event) for event in events(reply.text)]
        assert read[-1].choices == [] or read[-1].choices[0].finish_reason == "stop"
    else:
        read = [Completion.model_validate(reply.json(), strict=True)]
    return "".join(c.text for one in read for c in one.choices if c.index == 0)


def embeddings(reply: Any, stream: bool) -> str:
    found = reply.json()
    for one in found["data"]:
        if isinstance(one["embedding"], str):  # as the client asked, which unpacks it
            packed = base64.b64decode(one["embedding"], validate=True)
            one["embedding"] = list(struct.unpack(f"<{len(packed) // 4}f", packed))
    whole = CreateEmbeddingResponse.model_validate(found, strict=True)
    assert [one.index for one in whole.data] == list(range(len(whole.data)))
    assert all(one.embedding == pytest.approx([0.6, 0.8]) for one in whole.data)
    return "vectors"


def response(reply: Any, stream: bool) -> str:
    if stream:
        adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
        found = [adapter.validate_python(event) for event in events(reply.text)]
        assert found[0].type == "response.created" and found[-1].type == "response.completed"
        assert [event.sequence_number for event in found] == list(range(len(found)))
        whole = found[-1].response
    else:
        whole = Response.model_validate(reply.json())
    assert whole.status == "completed"
    if made := [item for item in whole.output if item.type == "function_call"]:
        assert json.loads(made[0].arguments) == {"city": "Oslo"}
        return "tools"
    return str(whole.output_text)


def message(reply: Any, stream: bool) -> str:
    if not stream:
        whole = Message.model_validate(reply.json(), strict=True)
        uses = [block.input for block in whole.content if block.type == "tool_use"]
        assert whole.stop_reason == ("tool_use" if uses else "end_turn")
        text = "".join(block.text for block in whole.content if block.type == "text")
        assert not [
            block for block in reply.json()["content"] if None in block.values()
        ]  # the AI SDK takes no null
    else:
        adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
        found = [adapter.validate_python(event) for event in events(reply.text) if event["type"] != "ping"]
        assert found[0].type == "message_start" and found[-1].type == "message_stop"
        deltas = [event.delta for event in found if event.type == "content_block_delta"]
        parts = [delta.partial_json for delta in deltas if delta.type == "input_json_delta"]
        uses = [json.loads("".join(parts))] if parts else []
        text = "".join(delta.text for delta in deltas if delta.type == "text_delta")
    assert uses in ([], [{"city": "Oslo"}])
    return "tools" if uses else text


def count(reply: Any, stream: bool) -> str:
    assert MessageTokensCount.model_validate(reply.json()).input_tokens > 0
    return "tokens"


READERS = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/embeddings": embeddings,
    "/v1/responses": response,
    "/v1/messages": message,
    "/v1/messages/count_tokens": count,
}
