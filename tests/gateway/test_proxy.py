"""An application's requests through a whole server to a provider: bytes, headers, names, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from .serving import serving
from .upstream import TEXT, Upstream

KEY = "sk-upstream-0123456789"


@pytest.fixture
def through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run work(post, upstream, home) with a server whose only provider is a fake OpenAI, known by the environment."""
    monkeypatch.setattr("herd.registry.registry.BUNDLED", tmp_path / "nothing-bundled")
    monkeypatch.setattr("herd.server.engines.has_torch", lambda: False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(work: Callable[..., Awaitable[None]], toml: str = "") -> None:
        async def main() -> None:
            upstream = Upstream()
            await upstream.start()
            monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
            (tmp_path / "herd.toml").write_text(toml.replace("URL", upstream.url.removesuffix("/v1")))
            async with serving(tmp_path) as url, aiohttp.ClientSession(url) as session:
                await work(session, upstream, tmp_path)
            await upstream.stop()

        asyncio.run(main())

    return run


def _chat(model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}


def test_a_key_in_the_environment_is_enough(through: Callable[..., None]) -> None:
    """Without torch, without a file: ready, listed, answered by a bare name, and kept."""

    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        async with session.get("/ready") as reply:
            assert reply.status == 200
        for _ in range(200):
            async with session.get("/v1/models") as reply:
                names = [model["id"] for model in (await reply.json())["data"]]
            if names:
                break
            await asyncio.sleep(0.05)
        assert names == ["openai/ok", "openai/tools"]
        async with session.post("/v1/chat/completions", json=_chat("ok", user="ann")) as reply:
            answer = await reply.json()
            assert reply.status == 200 and answer["choices"][0]["message"]["content"] == "".join(TEXT)
            headers = reply.headers
        assert headers["X-Herd-Target"] == "openai/ok" and headers["X-Herd-Attempts"] == "1"
        assert "X-Herd-Dropped" not in headers
        asked = upstream.seen[-1]
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.body == _chat("ok", user="ann")  # not a word more than the caller's
        async with session.get(f"/api/generations/{headers['X-Herd-Generation']}") as reply:
            kept = await reply.json()
        assert kept["reply"] == "".join(TEXT) and kept["reply_id"] == answer["id"]
        async with session.get("/v1/models/openai/ok") as reply:
            assert (await reply.json())["id"] == "openai/ok"
        async with session.get("/v1/models/nobody-has-this") as reply:
            assert reply.status == 404

    through(work)


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_passes_byte_by_byte(through: Callable[..., None], usage: bool) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        more: dict[str, Any] = {"stream": True} | (
            {"stream_options": {"include_usage": True}} if usage else {}
        )
        async with session.post("/v1/chat/completions", json=_chat("openai/ok", **more)) as reply:
            passed = await reply.read()
        body = {**_chat("ok", **more), "stream_options": {"include_usage": True}}
        async with (
            aiohttp.ClientSession() as direct,
            direct.post(f"{upstream.url}/chat/completions", json=body) as reply,
        ):
            said = await reply.read()
        blocks = said.split(b"\n\n")
        if not usage:  # it was asked for by Herd alone
            blocks = [
                block for block in blocks if b'"choices": []' not in block and b'"choices":[]' not in block
            ]
        assert passed == b"\n\n".join(blocks) and passed.count(b"[DONE]") == 1

    through(work)


def test_a_stream_that_breaks_ends_with_an_error_event(through: Callable[..., None]) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        for path in ("chat/completions", "messages", "responses"):
            body = _chat("openai/reset", stream=True, max_tokens=9)
            if path == "responses":
                body = {"model": "openai/reset", "input": "Hi", "stream": True}
            async with session.post(f"/v1/{path}", json=body) as reply:
                data = (await reply.read()).decode()
                if reply.status == 200:
                    last = json.loads(
                        [line for line in data.split("\n") if line.startswith("data: ")][-1][6:]
                    )
                    assert "[DONE]" not in data and ("error" in last or last["type"] == "response.failed")
                else:
                    assert json.loads(data)["error"]

    through(work)


def test_a_busy_provider_is_told_with_its_retry_after(through: Callable[..., None]) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        async with session.post("/v1/chat/completions", json=_chat("r")) as reply:
            assert reply.status == 429 and int(reply.headers["Retry-After"]) >= 1
            assert reply.headers.get("X-Herd-Generation") is None

    through(work, '[routes.r]\ntargets = ["openai/429 seconds"]\nretries = 0\n')


def test_what_is_dropped_is_said(through: Callable[..., None]) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        async with session.post("/v1/chat/completions", json=_chat("r", seed=7)) as reply:
            assert reply.status == 200, await reply.text()
            assert reply.headers["X-Herd-Dropped"] == "seed" and reply.headers["X-Herd-Target"] == "other/ok"
        assert "seed" not in upstream.seen[-1].body
        async with session.get(f"/api/generations/{reply.headers['X-Herd-Generation']}") as kept:
            assert (await kept.json())["dropped"] == ["seed"]
        async with session.post("/v1/chat/completions", json=_chat("strict", seed=7)) as reply:
            error = (await reply.json())["error"]
            assert (reply.status, error["param"], error["code"]) == (400, "seed", "unsupported_field")

    routes = '[routes.r]\ntargets = ["other/ok"]\ndrop = ["seed"]\n[routes.strict]\ntargets = ["other/ok"]\n'
    through(work, f'[providers.other]\ndialect = "anthropic"\nbase_url = "URL"\nprivate = true\n{routes}')


def test_a_wrong_file_is_shown_and_the_old_one_counts(through: Callable[..., None]) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        new = home / "herd.new"
        new.write_text('[routes.r]\ntargets = ["openai/ok"]\nretires = 2\n')
        os.replace(new, home / "herd.toml")
        for _ in range(300):
            async with session.get("/api/status") as reply:
                status = await reply.text()
            if "retires" in status:
                break
            await asyncio.sleep(0.02)
        assert "line 3" in status and "did you mean 'retries'" in status
        async with session.post("/v1/chat/completions", json=_chat("r")) as reply:
            assert reply.status == 200

    through(work, '[routes.r]\ntargets = ["openai/ok"]\n')


def test_the_sdks_do_not_ask_again_where_a_budget_is_spent(through: Callable[..., None]) -> None:
    async def work(session: aiohttp.ClientSession, upstream: Upstream, home: Path) -> None:
        url = str(session._base_url).rstrip("/")
        limit = {"unit": "tokens", "amount": 1, "period": "month"}
        asked = {"application": "a", "scopes": ["use:*"], "limits": [limit]}
        async with session.post("/api/keys", json=asked) as reply:
            secret = (await reply.json())["secret"]
        spoken = [{"role": "user", "content": "Hi"}]
        chat = AsyncOpenAI(base_url=url + "/v1", api_key=secret).chat.completions
        with pytest.raises(openai.RateLimitError) as one:
            await chat.create(model="ok", messages=spoken)  # type: ignore[call-overload]
        messages = AsyncAnthropic(base_url=url, api_key=secret).messages
        with pytest.raises(anthropic.RateLimitError) as two:
            await messages.create(model="ok", max_tokens=9, messages=spoken)  # type: ignore[call-overload]
        for error in (one.value, two.value):
            assert "retry-after" not in error.response.headers and "1 token" in str(error)
            assert error.response.request.headers["x-stainless-retry-count"] == "0"

    through(work)
