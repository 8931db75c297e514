"""Cached prefixes belong to a key: by how soon a reply begins, nobody learns what others have asked."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from herd.engine.client import EngineClient
from herd.engine.step import BLOCK
from herd.gateway.config import Config
from herd.gateway.gateway import Gateway
from herd.gateway.keys import Principal
from herd.gateway.ledger import Ledger
from herd.gateway.prices import Prices
from herd.model import hf
from herd.model.tokenizer import train_bpe
from herd.protocol import Request, Sampling, Usage
from herd.registry import Registry
from herd.server.engines import Engines
from herd.server.local import LocalEngine
from herd.server.metrics import Metrics
from herd.store import Store

from ..tiny import tiny_config, tiny_llama

PROMPT = "The little llama went up the hill. She saw a tree. " * 5


def test_only_requests_of_one_key_share_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the engine's own count, in its own process."""
    monkeypatch.setattr("herd.registry.registry.BUNDLED", tmp_path / "nothing-bundled")
    tokenizer = train_bpe([PROMPT], 300)
    model = tiny_llama(tiny_config(tokenizer, max_positions=128))
    hf.save(model, tmp_path / "model", tokenizer=tokenizer, dtype=torch.float32)
    registry = Registry(tmp_path / "home")
    registry.add(tmp_path / "model", "tiny", kind="model")

    async def cached_tokens(*keys: str | None) -> list[int]:
        store, engines = Store.open(tmp_path / "herd.db"), Engines(EngineClient(), registry)
        gateway = Gateway(
            Config(), local=LocalEngine(engines), store=store, ledger=Ledger(store, name="test"), observe=Metrics(),
            build=lambda spec: pytest.fail("there is no provider"), price=lambda config: Prices.load(),
        )  # fmt: skip
        request = Request("tiny", "completion", prompt=PROMPT, sampling=Sampling(max_tokens=2))
        found = []
        engines.start()
        try:
            for key in keys:
                reply = gateway.begin(request, principal=Principal(key or ""))
                events = [event async for event in gateway.events(reply)]
                assert isinstance(events[-1], Usage), events[-1]
                found.append(events[-1].cached_tokens)
        finally:
            await engines.close()
            store.close()
        return found

    first, again, other, other_again, nobody, nobody_again = asyncio.run(
        cached_tokens("a", "a", "b", "b", None, None)
    )
    assert first == other == nobody == 0
    whole = len(tokenizer.encode(PROMPT)) // BLOCK * BLOCK  # all but the last token, in blocks
    assert again == other_again == nobody_again == whole > 0


def test_the_salt_is_the_key_however_it_is_sent(
    start: Callable[..., TestClient], engine: Any, chat: Callable[..., Any]
) -> None:
    guarded, secrets = start(api_key="one"), ["one"]
    for _ in range(2):
        made = guarded.post(
            "/api/keys",
            json={"application": "app", "scopes": ["use:*"]},
            headers={"Authorization": "Bearer one"},
        )
        secrets.append(made.json()["secret"])
    for client, key in (*((guarded, secret) for secret in secrets), (start(), "")):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client.post("/v1/chat/completions", json=chat(), headers=headers)
        client.post("/api/session", json={"key": key})  # from now on by cookie
        client.post("/v1/chat/completions", json=chat())
        client.cookies.clear()
    assert engine.salts[0::2] == engine.salts[1::2]
    assert len(set(engine.salts)) == 4 and engine.salts[-1] == ""
    assert not set(secrets) & set(engine.salts)  # the engine need not know the key itself
