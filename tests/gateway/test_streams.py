"""Two hundred streams over real sockets, while keys are revoked, providers fail and the configuration changes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .serving import serving
from .upstream import Upstream

STREAMS = 200
WORDS = tuple(f" word{i}" for i in range(30))
TEXT = "".join(WORDS)
FAULTS = ("reset", "cut", "no_end", "malformed", "500", "429", "closed", "half_character", "bad_chunk")
CONFIG = """
[providers.a]
dialect = "openai"
base_url = {a}
private = true
key = "env:UPSTREAM_KEY"
[providers.b]
dialect = "anthropic"
base_url = "{b}"
private = true
key = "env:UPSTREAM_KEY"
[routes.assistant]
targets = [{{ target = "a/ok", weight = {weight} }}, "b/ok"]
fallbacks = ["b/ok", "a/ok"]
timeout = {{ first_token = 20, total = 120 }}
"""


async def stream(session: aiohttp.ClientSession, url: str, secret: str, anthropic: bool) -> str:
    """How it ended: "whole", "error event", the status of an error, or "cut", which is the one thing that must not be."""
    body: dict[str, Any] = {
        "model": "assistant", "messages": [{"role": "user", "content": f"Say it, {secret[-4:]}"}], "stream": True,
        "max_tokens": 500,
    }  # fmt: skip
    path, headers = ("messages" if anthropic else "chat/completions"), {"Authorization": f"Bearer {secret}"}
    try:
        async with session.post(f"{url}/v1/{path}", json=body, headers=headers) as reply:
            data = (await reply.read()).decode()
            if reply.status != 200:
                assert json.loads(data)["error"]["message"]
                return str(reply.status)
            assert reply.headers["X-Herd-Generation"] and reply.headers["X-Herd-Target"] in ("a/ok", "b/ok")
    except aiohttp.ClientError:
        return "cut"
    events = [json.loads(line[6:]) for line in data.split("\n") if line.startswith("data: {")]
    said = body_of(events, anthropic)
    if "error" in events[-1]:
        assert "[DONE]" not in data and "message_stop" not in data and TEXT.startswith(said)
        return "error event"
    ended = data.endswith("data: [DONE]\n\n") if not anthropic else events[-1]["type"] == "message_stop"
    return "whole" if ended and said == TEXT else "cut"


def body_of(events: list[dict[str, Any]], anthropic: bool) -> str:
    if anthropic:
        return "".join(
            event["delta"].get("text", "") for event in events if event.get("type") == "content_block_delta"
        )
    choices = [choice for event in events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.slow
def test_every_stream_ends_truthfully(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.registry.registry.BUNDLED", tmp_path / "nothing-bundled")
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-0123456789")
    ends = asyncio.run(_storm(tmp_path))
    assert ends["cut"] == 0 and sum(ends.values()) == STREAMS
    assert ends["whole"] >= STREAMS // 4 and ends["error event"] >= STREAMS // 20, ends
    assert ends.keys() <= {"whole", "error event", "401", "429", "502", "503", "504"}, ends
    with sqlite3.connect(tmp_path / "home" / "herd.db") as database:
        states = dict(database.execute("select state, count(*) from attempts group by state").fetchall())
        assert states.keys() <= {"done", "failed", "refused", "cancelled"}, states
        assert states["done"] == ends["whole"]
        for unit, booked in (("tokens", "prompt_tokens + completion_tokens"), ("requests", "number = 0")):
            spent = database.execute(
                "select owner, spent, reserved from quotas where unit = ? order by owner", (unit,)
            ).fetchall()
            sums = database.execute(
                f"select 'key:' || key, sum({booked}), 0 from attempts where key != 'root' group by key order by 1"
            ).fetchall()
            assert spent == sums and len(spent) == 4, unit
        kept = Counter(finish for (finish,) in database.execute("select finish from generations"))
        assert kept["stop"] == ends["whole"]


async def _storm(tmp_path: Path) -> Counter[str]:
    home = tmp_path / "home"
    home.mkdir()
    first, second, other = (Upstream(WORDS, 0.1) for _ in range(3))
    for upstream in (first, second, other):
        await upstream.start()

    def configure(weight: int, *of_a: Upstream) -> None:
        urls = json.dumps([upstream.url for upstream in of_a])
        new = home / "herd.new"
        new.write_text(CONFIG.format(a=urls, b=other.url.removesuffix("/v1"), weight=weight))
        os.replace(new, home / "herd.toml")

    configure(3, first, second)
    admin = {"Authorization": "Bearer root-key"}
    unlimited = aiohttp.TCPConnector(limit=0)
    async with (
        serving(home, api_key="root-key") as url,
        aiohttp.ClientSession(connector=unlimited) as session,
    ):
        keys = []
        limits = [{"unit": unit, "amount": 10**9, "period": "day"} for unit in ("tokens", "requests")]
        for n in range(4):
            body = {"application": f"app{n}", "scopes": ["use:*"], "limits": limits}
            async with session.post(f"{url}/api/keys", json=body, headers=admin) as made:
                keys.append(await made.json())
        for upstream in (first, second, other):
            upstream.script.extend(["ok", "ok", *FAULTS] * 3)
        tasks = [
            asyncio.create_task(
                stream(session, url, keys[n % 4]["secret"], n % 2 == 1 if n % 8 < 4 else n % 2 == 0)
            )
            for n in range(STREAMS)
        ]
        while len(first.seen) + len(second.seen) + len(other.seen) < STREAMS // 2:
            await asyncio.sleep(0.02)
        async with session.post(f"{url}/api/keys/{keys[0]['id']}/revoke", headers=admin) as revoked:
            assert revoked.status == 200
        configure(1, second)
        await second.stop()
        await asyncio.sleep(1.2)
        configure(2, first)
        ends = Counter(await asyncio.gather(*tasks))
        async with session.get(f"{url}/api/status", headers=admin) as status:
            assert status.status == 200
    for upstream in (first, other):
        await upstream.stop()
    return ends
