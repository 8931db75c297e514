"""Who has to wait for whose template, grammar and tools: nobody but their own model or caller."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from herd.engine.client import EngineClient
from herd.protocol import Event, Failed, Request, Started
from herd.protocol.types import Format, Tool

from .processes import CHAT, reply, text, with_client


async def first(client: EngineClient, request: Request, order: list[str], salt: str) -> Event:
    """The request's first event; its caller's name goes to `order` when it comes."""
    async with aclosing(client.generate("t", request, salt=salt)) as events:
        event = await anext(events)
        order.append(salt)
        return event


def test_a_slow_template_keeps_only_its_own_model_waiting(model_dir: Path, tmp_path: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        await client.load("slow", slow)
        expected = text(await reply(client, CHAT))
        order: list[str] = []

        async def noted(key: str) -> list[Event]:
            events = await reply(client, CHAT, key)
            order.append(key)
            return events

        *refused, other = await asyncio.gather(*map(noted, ("slow", "slow", "slow", "t")))
        assert text(other) == expected
        assert order[-1] == "slow"  # they are rendered one after the other, a second each
        for events in refused:
            (failed,) = events
            assert isinstance(failed, Failed) and failed.status == 400 and "longer than 1 s" in failed.message

    slow = tmp_path / "slow"
    shutil.copytree(model_dir, slow)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (slow / "chat_template.jinja").write_text(loops)
    with_client(work)


@pytest.mark.slow
def test_grammar_bombs_keep_only_new_grammars_of_their_caller_waiting(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        for known in (regex, lark):
            await first(client, known, [], "other")
        order: list[str] = []
        texts = ["a?" * 5400 + "a" * (5400 - i) for i in range(6)]  # much work each, yet allowed
        bombs = [replace(CHAT, format=Format("regex", text=text)) for text in texts]
        asked = [*((bomb, "bomber") for bomb in bombs), *((one, "other") for one in 3 * (CHAT, regex, lark))]
        asked.append((replace(CHAT, format=Format("regex", text="[a-z]+")), "new"))
        events = await asyncio.gather(*(first(client, one, order, salt) for one, salt in asked))
        assert all(isinstance(event, Started) for event in events[len(bombs) :])
        for event in events[: len(bombs)]:
            assert isinstance(event, Started) or (isinstance(event, Failed) and event.status == 400)
        compiled = [i for i, salt in enumerate(order) if salt == "bomber"]
        assert "other" not in order[compiled[1] :]
        assert order.index("new") < compiled[2]  # its caller's turn came before

    regex = replace(CHAT, format=Format("regex", text="[ab]+"))
    lark = replace(CHAT, format=Format("lark", text='start: ("a" | "b")+'))
    with_client(work)


@pytest.mark.slow
def test_large_tools_keep_only_their_caller_waiting(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        await anext(client.generate("t", known))  # compiled
        order: list[str] = []
        bombs = [first(client, large, order, "bomber") for _ in range(8)]
        *failed, started = await asyncio.gather(*bombs, first(client, known, order, "other"))
        assert isinstance(started, Started) and order[-1] == "bomber", order
        for event in failed:
            assert isinstance(event, Failed) and event.status == 400  # longer than the context

    known = replace(CHAT, format=Format("regex", text="[ab]+"))
    fields = {f"p{i}": {"enum": [0]} for i in range(300)}  # much work, and soon sent
    schema = {"type": "object", "properties": fields}
    large = replace(CHAT, tools=tuple(Tool(f"t{i}", parameters=schema) for i in range(128)))
    with_client(work)
