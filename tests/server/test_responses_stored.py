"""Responses that are stored: continued, listed, deleted, made in the background, and whose they are."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from herd.protocol import Delta, Event, Failed, Finished, Request, Started, Usage
from herd.protocol.refusals import leave_out
from herd.protocol.responses import decode_response, encode_items

from .test_responses import TEXT, WEATHER


def test_input_items(api: openai.OpenAI) -> None:
    first = api.responses.create(model="cria", input="Zero", instructions="Be brief.")
    said: Any = [{"role": "user", "content": [{"type": "input_text", "text": str(i)}]} for i in range(5)]
    second = api.responses.create(model="cria", input=said, previous_response_id=first.id)
    items: Any = list(api.responses.input_items.list(second.id, limit=2, order="asc"))  # three pages
    assert [item.content[0].text for item in items] == ["0", "1", "2", "3", "4"]
    assert len({item.id for item in items}) == 5
    assert [i.id for i in api.responses.input_items.list(second.id)] == [i.id for i in reversed(items)]
    with pytest.raises(openai.BadRequestError, match="after"):
        api.responses.input_items.list(second.id, after="nowhere")


def test_input_items_come_back_as_they_were_sent(api: openai.OpenAI, engine: Any) -> None:
    def texts(*said: str, kind: str = "input_text") -> list[dict[str, str]]:
        return [{"type": kind, "text": text} for text in said]

    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    sent: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": texts("Be", "", " kind.")},
        {"role": "user", "content": texts("One", "Two")},
        {"role": "assistant", "content": texts("Three", "Four", kind="output_text")},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": texts("Five")},
        {**call, "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_2", "output": "Six"},
        {"role": "developer", "content": texts("Se", "ven")},
    ]
    made = api.responses.create(model="cria", input=sent)
    (before,) = engine.requests
    items: Any = list(api.responses.input_items.list(made.id, order="asc"))

    def plain(item: Any) -> Any:
        if item["type"] == "message":
            return item["role"], [(part["type"], part["text"]) for part in item["content"]]
        if item["type"] == "function_call":
            return item["call_id"]
        parts = item["output"]
        return parts if isinstance(parts, str) else [(part["type"], part["text"]) for part in parts]

    def wanted(item: Any) -> Any:
        item = {"type": "message", **item}
        if isinstance(item.get("content"), str):  # a text alone is a list of one part
            item["content"] = texts(item["content"])
        return plain(item)

    assert [plain(item.to_dict()) for item in items] == [wanted(item) for item in sent]
    again = api.responses.create(model="cria", input=[{"type": "item_reference", "id": i.id} for i in items])
    assert engine.requests[1].messages == before.messages
    repeated: Any = api.responses.input_items.list(again.id, order="asc")
    assert [plain(item.to_dict()) for item in repeated] == [wanted(item) for item in sent]


@pytest.mark.parametrize(
    "said", ["me@x.io", "some.one@example.org"]
)  # as long as what stands for it, and longer
def test_redacted_input_items_hold_no_more_than_what_is_kept(
    start: Callable[..., TestClient], home: Path, said: str
) -> None:
    (home / "herd.toml").write_text('[routes.cria]\ntargets = ["cria@1"]\nredact = ["email"]\n')
    client = start(config=home / "herd.toml")
    parts = [{"type": "input_text", "text": text} for text in ("I am ", said)]
    body = {"model": "cria", "input": [{"role": "user", "content": parts}]}
    id = client.post("/v1/responses", json=body).json()["id"]
    (item,) = client.get(f"/v1/responses/{id}/input_items").json()["data"]
    assert "".join(part["text"] for part in item["content"]) == "I am [email]"


def test_pictures_of_the_input_stand_where_they_were_sent() -> None:
    def shown(*drop: str) -> Any:
        asked = decode_response({"model": "m", "input": [{"role": "user", "content": content}]})
        request = leave_out(asked.request, drop)
        messages = [message.to_json() for message in request.messages]
        row = {"id": "resp_1", "request": {"messages": messages}, "response": asked.kept(request, 0)}
        (item,) = encode_items(row)
        return item["content"]

    texts = [{"type": "input_text", "text": text} for text in ("What", " is ", "this?")]
    image = {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "low"}
    content = [texts[0], image, texts[1], texts[2]]
    assert shown() == content
    assert shown("input[0].content[1]") == [{"type": "input_text", "text": "What is this?"}]
    content = [image]
    assert shown() == content


def test_a_response_is_continued_without_input(client: TestClient, engine: Any) -> None:
    first = client.post("/v1/responses", json={"model": "cria", "input": "Zero"}).json()["id"]
    for more in ({}, {"input": []}, {"input": None}):
        body = {"model": "cria", "previous_response_id": first, **more}
        reply = client.post("/v1/responses", json=body)
        assert reply.status_code == 200, reply.text
        assert [m.content for m in engine.requests[-1].messages] == ["Zero", TEXT]
        items = client.get(f"/v1/responses/{reply.json()['id']}/input_items").json()
        assert items["data"] == [] and not items["has_more"]


def test_tokens_of_an_input_are_counted(api: openai.OpenAI, client: TestClient, engine: Any) -> None:
    def script(request: Request) -> list[Event]:
        """A token a character that the model is shown."""
        tools = request.tools if request.tool_choice != "none" else ()
        n = sum(len(m.content) for m in request.messages) + sum(len(tool.name) for tool in tools)
        counted: list[Event] = [Started(n), Usage(n, 0)]
        return (
            counted if request.count else [Started(n), Delta(0, TEXT, (1,)), Finished(0, "stop"), Usage(n, 1)]
        )

    engine.script = script
    first = api.responses.create(model="cria", input="Zero", instructions="Forgotten.")
    items: Any = api.responses.input_items.list(first.id).data
    bodies: list[Any] = [
        {"input": "Hello"},
        {"input": [{"role": "developer", "content": "Be"}, {"role": "user", "content": "Hello"}]},
        {"input": "Hello", "instructions": "Be brief.", "tools": [WEATHER], "parallel_tool_calls": False},
        {"input": "Hello", "tools": [WEATHER], "tool_choice": "none", "reasoning": {"effort": "none"}},
        {"input": "Hello", "text": {"format": {"type": "json_object"}}},
        {"input": "Hello", "previous_response_id": first.id, "instructions": "Be brief."},
        {"previous_response_id": first.id},
        {"input": [{"type": "item_reference", "id": items[0].id}]},
    ]
    counts = []
    for fields in bodies:
        counted = api.responses.input_tokens.count(model="cria", **fields)
        usage = api.responses.create(model="cria", **fields).usage
        assert counted.object == "response.input_tokens" and usage is not None
        assert (
            counted.input_tokens == usage.input_tokens == engine.script(engine.requests[-2])[0].prompt_tokens
        )
        counts.append(counted.input_tokens)
    assert counts == [5, 7, 21, 5, 5, 4 + len(TEXT) + 14, 4 + len(TEXT), 4]
    kept = client.get("/api/generations").json()["data"]
    assert len(kept) == 1 + len(bodies)  # what is only counted is not kept


def test_what_cannot_be_counted_is_refused_by_name(api: openai.OpenAI, engine: Any) -> None:
    count: Any = api.responses.input_tokens.count
    for field, value in (
        ("truncation", "auto"),
        ("conversation", "conv_1"),
        ("personality", "friendly"),
        ("reasoning", {"effort": "low"}),
        ("previous_response_id", "resp_none"),
        ("input", 5),
    ):
        with pytest.raises(openai.BadRequestError, match=field) as caught:
            count(model="cria", **{"input": "Hi", field: value})
        assert str(caught.value.param).startswith(field)
    with pytest.raises(openai.BadRequestError, match="model"):
        count(input="Hi")
    assert count(model="cria", input="Hi", truncation="disabled").input_tokens == 3
    engine.crowded = True  # nothing waits for a place
    assert count(model="cria", input="Hi").input_tokens == 3


def test_nothing_is_compacted(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no /v1/responses/compact"):
        api.responses.compact(model="cria", input="Hi")


def test_delete_and_unknown_ids(api: openai.OpenAI, home: Path) -> None:
    response = api.responses.create(model="cria", input="my deepest secret", instructions="hush")
    api.responses.delete(response.id)
    for call in (
        api.responses.retrieve,
        api.responses.delete,
        api.responses.cancel,
        api.responses.input_items.list,
    ):
        for id in (response.id, "resp_none"):
            with pytest.raises(openai.NotFoundError, match=id):
                call(id)  # type: ignore[operator]
    with pytest.raises(openai.BadRequestError, match=response.id) as caught:
        api.responses.create(model="cria", input="x", previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    with sqlite3.connect(f"file:{home / 'herd.db'}?mode=ro", uri=True) as database:
        assert "secret" not in str(database.execute("select * from generations").fetchall())


def test_store_false_keeps_no_text(api: openai.OpenAI, home: Path) -> None:
    response = api.responses.create(
        model="cria", input="my deepest secret", instructions="a secret, too", tools=[WEATHER], store=False
    )
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(response.id)
    with sqlite3.connect(f"file:{home / 'herd.db'}?mode=ro", uri=True) as database:
        (row,) = database.execute("select * from generations").fetchall()
    assert not any(word in str(row) for word in ("secret", "Once", "weather", "place"))


def test_in_the_background(api: openai.OpenAI, engine: Any, wait_for: Callable[..., None]) -> None:
    engine.words, engine.delay = ("word ",) * 1000, 0.02  # 20 s, unless it is hurried
    begun = api.responses.create(model="cria", input="Hi", background=True)
    assert begun.status == "queued" and begun.background and begun.output == []
    wait_for(lambda: api.responses.retrieve(begun.id).status == "in_progress")
    with pytest.raises(openai.BadRequestError, match="not ended"):
        api.responses.create(model="cria", input="x", previous_response_id=begun.id)
    assert [i.type for i in api.responses.input_items.list(begun.id)] == ["message"]
    engine.delay = 0
    wait_for(lambda: api.responses.retrieve(begun.id).status == "completed")
    assert api.responses.retrieve(begun.id).output_text == "word " * 1000
    assert api.responses.cancel(begun.id).status == "completed"  # too late
    there = api.responses.create(model="cria", input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        api.responses.cancel(there.id)
    engine.fail = Failed("the queue is full", "queue_full", 429)
    refused = api.responses.create(model="cria", input="Hi", background=True)
    wait_for(lambda: api.responses.retrieve(refused.id).status == "failed")
    error = api.responses.retrieve(refused.id).error
    assert error is not None and "queue is full" in error.message


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        (Failed("the schema cannot be compiled: bad pattern", "invalid_grammar", 400), "invalid_prompt"),
        (
            Failed("the prompt has 9 tokens; the context is 8", "context_length_exceeded", 400),
            "invalid_prompt",
        ),
        (Failed("the queue is full", "queue_full", 429), "rate_limit_exceeded"),
        (Failed("the engine is gone", "engine_gone", 503), "server_error"),
    ],
)
def test_whose_fault_a_failure_in_the_background_is(
    api: openai.OpenAI, engine: Any, wait_for: Callable[..., None], failed: Failed, code: str
) -> None:
    """Fetched or streamed, it says what a caller who waits is told."""
    engine.fail = failed
    asked: Any = {"model": "cria", "input": "Hi"}
    with pytest.raises(openai.APIStatusError) as caught:
        api.responses.create(**asked)
    begun = api.responses.create(background=True, **asked)
    wait_for(lambda: api.responses.retrieve(begun.id).status == "failed")
    error = api.responses.retrieve(begun.id).error
    *_, last = api.responses.create(background=True, stream=True, **asked)
    assert error is not None and last.type == "response.failed" and error == last.response.error
    assert (error.code, error.message) == (code, failed.message)
    assert failed.message in caught.value.message


def test_cancel_and_delete_in_the_background(
    api: openai.OpenAI, engine: Any, wait_for: Callable[..., None]
) -> None:
    engine.words, engine.delay = ("word ",) * 10_000, 0.02
    begun = api.responses.create(model="cria", input="Hi", background=True)
    wait_for(lambda: engine.said)
    cancelled = api.responses.cancel(begun.id)
    assert cancelled.status == "cancelled" and cancelled.output_text.startswith("word ")
    assert engine.running == 0 and engine.said < 1000
    assert api.responses.retrieve(begun.id) == cancelled
    begun = api.responses.create(model="cria", input="Hi", background=True)
    wait_for(lambda: engine.running)
    api.responses.delete(begun.id)
    assert engine.running == 0
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(begun.id)


def test_another_key_knows_nothing_of_it(start: Callable[..., TestClient]) -> None:
    server = start(api_key="root")

    def by(secret: str) -> TestClient:
        client = TestClient(server.app, base_url=str(server.base_url))  # which shares the running server
        client.headers["Authorization"] = f"Bearer {secret}"
        return client

    def made(name: str) -> TestClient:
        key = by("root").post("/api/keys", json={"application": name, "scopes": ["use:*"]}).json()
        return by(key["secret"])

    one, other = made("one"), made("two")
    id = one.post("/v1/responses", json={"model": "cria", "input": "Hi"}).json()["id"]
    assert other.get(f"/v1/responses/{id}").status_code == 404
    assert other.get(f"/v1/responses/{id}/input_items").status_code == 404
    assert other.post(f"/v1/responses/{id}/cancel").status_code == 404
    assert other.delete(f"/v1/responses/{id}").status_code == 404
    again = other.post("/v1/responses", json={"model": "cria", "input": "x", "previous_response_id": id})
    assert again.status_code == 400 and id in again.json()["error"]["message"]
    assert by("root").get(f"/v1/responses/{id}").status_code == 404
    assert one.get(f"/v1/responses/{id}").json()["id"] == id


def test_the_background_is_streamed(api: openai.OpenAI, engine: Any, wait_for: Callable[..., None]) -> None:
    engine.words, engine.delay = tuple(f"{i} " for i in range(10)), 0.02
    with api.responses.create(model="cria", input="Hi", background=True, stream=True) as stream:
        first = [event for event, _ in zip(stream, range(6), strict=False)]
    assert [event.type for event in first[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    id = first[0].response.id  # type: ignore[union-attr]
    for _ in range(2):  # while it is made, though its reader has left, and when it has ended
        rest = list(api.responses.retrieve(id, stream=True, starting_after=first[-1].sequence_number))
        assert [event.sequence_number for event in (*first, *rest)] == list(range(len(first) + len(rest)))
        last = rest[-1]
        assert last.type == "response.completed" and last.response.output_text == "".join(engine.words)
        deltas = [e.delta for e in (*first, *rest) if e.type == "response.output_text.delta"]
        assert "".join(deltas) == "".join(engine.words)
        wait_for(lambda: api.responses.retrieve(id).status == "completed")
    assert last.response == api.responses.retrieve(id)
    with api.responses.stream(model="cria", input="Hi", background=True) as helped:
        assert helped.get_final_response().output_text == "".join(engine.words)
    with api.responses.stream(response_id=id) as helped:
        assert helped.get_final_response().output_text == last.response.output_text
    api.responses.delete(id)
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(id, stream=True)


def test_a_stream_of_the_background_ends_with_it(api: openai.OpenAI, engine: Any) -> None:
    engine.words, engine.delay = ("word ",) * 10_000, 0.02
    with api.responses.create(model="cria", input="Hi", background=True, stream=True) as stream:
        first = next(iter(stream))
        api.responses.cancel(first.response.id)  # type: ignore[union-attr]
        *_, last = stream
    assert last.type == "response.incomplete" and last.response.status == "cancelled"
    engine.fail = Failed("the queue is full", "queue_full", 429)
    *_, last = api.responses.create(model="cria", input="Hi", background=True, stream=True)
    assert last.type == "response.failed" and "queue is full" in last.response.error.message  # type: ignore[union-attr]


def test_what_is_not_streamed_from_the_background(api: openai.OpenAI, monkeypatch: Any) -> None:
    plain = api.responses.create(model="cria", input="Hi")
    with pytest.raises(openai.BadRequestError, match="not begun in the background") as caught:
        api.responses.retrieve(plain.id, stream=True)
    assert caught.value.param == "stream"
    with pytest.raises(openai.BadRequestError, match="starting_after needs"):
        api.responses.retrieve(plain.id, extra_query={"starting_after": 1})
    monkeypatch.setattr("herd.gateway.background.MAX_TOLD", 1)
    asked: Any = {"model": "cria", "input": "Hi", "background": True, "stream": True}
    old, new = ([*api.responses.create(**asked)][-1].response.id for _ in range(2))
    assert [*api.responses.retrieve(new, stream=True)][-1].type == "response.completed"
    with pytest.raises(openai.BadRequestError, match="ended long ago"):
        api.responses.retrieve(old, stream=True)
