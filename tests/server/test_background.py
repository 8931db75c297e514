"""Responses in the background outlive their server: made again, or called failed with the reason; never left hanging."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import herd
from herd.registry.registry import Registry
from herd.server.app import create_app
from herd.server.engines import Engines
from herd.server.settings import Settings

from ..behind import upstream
from .conftest import FakeEngine, StartClient

TEXT = "Once upon a time."
ROUTES = """
[routes.guarded]
targets = ["cria"]
redact = ["email"]
[routes.forgetful]
targets = ["cria"]
keep = "metadata"
"""


def begin(client: TestClient, said: str = "Hi", **fields: Any) -> str:
    reply = client.post(
        "/v1/responses", json={"model": "cria", "input": said, "background": True, **fields}
    ).json()
    assert reply["status"] == "queued", reply
    return str(reply["id"])


class Crash:
    """The same home as a kill at this moment would leave it, and a server on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.count = tmp_path, 0

    @contextlib.contextmanager
    def __call__(self, home: Path, engine: FakeEngine, **settings: Any) -> Iterator[TestClient]:
        self.count += 1
        self.home = self.tmp_path / f"after-{self.count}"
        shutil.copytree(home, self.home, ignore=shutil.ignore_patterns("herd.db*", "lock"))
        with (
            contextlib.closing(sqlite3.connect(home / "herd.db")) as there,
            contextlib.closing(sqlite3.connect(self.home / "herd.db")) as here,
        ):
            there.backup(here)
        app = create_app(Settings(home=self.home, **settings), Engines(engine, Registry(self.home)))
        with TestClient(app, base_url="http://localhost:8000") as client:
            yield client


@pytest.fixture
def crash(tmp_path: Path) -> Crash:
    return Crash(tmp_path)


@pytest.fixture
def slow(home: Path, engine: FakeEngine) -> FakeEngine:
    """An engine that will not end its replies before the test does."""
    (home / "herd.toml").write_text(ROUTES)
    engine.words, engine.delay = ("word ",) * 10_000, 0.02
    return engine


def ended(client: TestClient, id: str, wait_for: Callable[..., None]) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        reply = client.get(f"/v1/responses/{id}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    wait_for(lambda: look()["status"] not in ("queued", "in_progress"))
    return look()


def tables(home: Path) -> str:
    with contextlib.closing(sqlite3.connect(home / "herd.db")) as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        return str([database.execute(f'select * from "{name}"').fetchall() for name in names])


def test_what_was_made_here_is_made_again(
    start: StartClient, home: Path, slow: FakeEngine, crash: Crash, wait_for: Any
) -> None:
    client, words, slow.words = start(), slow.words, ("One.",)
    first = client.post("/v1/responses", json={"model": "tale", "input": "One", "instructions": "Rhyme."})
    slow.words = words
    asked = {"previous_response_id": first.json()["id"], "temperature": 0.25, "metadata": {"a": "b"}}
    id = begin(client, "Two", model="tale", **asked)
    wait_for(lambda: f"{id}.0" in tables(home))
    before = client.get(f"/v1/responses/{id}").json()
    engine = FakeEngine()
    with crash(home, engine) as again:
        after = ended(again, id, wait_for)
        assert after["status"] == "completed" and after["output"][0]["content"][0]["text"] == TEXT
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"status", "completed_at", "output", "usage"}
        assert engine.requests == [slow.requests[-1]]
        items = again.get(f"/v1/responses/{id}/input_items").json()["data"]
        assert [item["content"][0]["text"] for item in items] == ["Two"]
        attempts = again.get(f"/api/generations/{id}").json()["attempts"]
        assert [one["number"] for one in attempts] == [0, 1] and attempts[1]["state"] == "done"
        wait_for(lambda: again.get(f"/api/generations/{id}").json()["attempts"][0]["state"] == "lost")
    with crash(crash.home, FakeEngine()) as later:  # it has ended: nothing is made a third time
        assert later.get(f"/v1/responses/{id}").json() == after
    assert len(engine.requests) == 1


def test_a_reply_that_may_bring_the_server_down_is_made_again_once(
    start: StartClient, home: Path, slow: FakeEngine, crash: Crash, wait_for: Any
) -> None:
    id = begin(start())
    wait_for(lambda: slow.running)
    second = FakeEngine()
    second.words, second.delay = slow.words, slow.delay
    with contextlib.ExitStack() as stack:
        stack.enter_context(crash(home, second))
        wait_for(lambda: second.running)
        third = FakeEngine()
        response = ended(stack.enter_context(crash(crash.home, third)), id, wait_for)
    assert response["status"] == "failed" and response["error"]["code"] == "server_error"
    assert "cut short twice" in response["error"]["message"] and not third.requests


def test_what_is_not_kept_as_it_was_said_is_not_made_again(
    start: StartClient, home: Path, slow: FakeEngine, crash: Crash, wait_for: Any
) -> None:
    client = start()
    secret, plain = begin(client, "Write to ann@example.org", model="guarded"), begin(client, model="guarded")
    hidden = begin(client, "nothing of mine", model="forgetful")
    wait_for(lambda: slow.running == 3)
    with crash(home, FakeEngine()) as again:
        assert "ann@example" not in tables(crash.home) and "of mine" not in tables(crash.home)
        assert ended(again, plain, wait_for)["status"] == "completed"
        failed = ended(again, secret, wait_for)
        assert failed["status"] == "failed" and "not kept as it was said" in failed["error"]["message"]
        assert again.get(f"/v1/responses/{hidden}").status_code == 404
        assert again.get(f"/api/generations/{secret}").json()["finish"] == "error"


def test_deleted_conversations_and_revoked_keys_are_not_served(
    start: StartClient, home: Path, slow: FakeEngine, crash: Crash, wait_for: Any
) -> None:
    client = start(api_key="root")
    root = {"Authorization": "Bearer root"}
    key = client.post("/api/keys", json={"application": "a", "scopes": ["use:*"]}, headers=root).json()
    other = client.post("/api/keys", json={"application": "b", "scopes": ["use:*"]}, headers=root).json()
    client.headers["Authorization"] = f"Bearer {key['secret']}"
    revoked = begin(client)
    client.headers["Authorization"] = f"Bearer {other['secret']}"
    body = {"model": "cria", "input": "my deepest secret", "background": True}
    gone = client.post("/v1/responses", json=body, headers={"X-Herd-Conversation": "talk"}).json()["id"]
    wait_for(lambda: slow.running == 2)
    assert client.delete("/api/conversations/talk", headers=root).status_code == 204
    with contextlib.closing(sqlite3.connect(home / "herd.db")) as database:
        database.execute("update keys set revoked = 1.0 where id = ?", (key["id"],))
        database.commit()
    engine = FakeEngine()
    with crash(home, engine, api_key="root") as again:
        again.headers.update(root)
        wait_for(lambda: again.get(f"/api/generations/{revoked}").status_code == 200)
        assert "not in force" in again.get(f"/api/generations/{revoked}").json()["error"]
        assert again.get(f"/v1/responses/{gone}").status_code == 404
    assert not engine.requests and "deepest" not in tables(crash.home)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(herd.__file__).parent / "bundled" / "models" / "cria").is_dir(),
    reason="cria is not bundled yet",
)
def test_kill_minus_nine(tmp_path: Path, wait_for: Any) -> None:
    """One reply of this machine's, which is made again; one of a provider's, which is not asked twice."""
    home = tmp_path / "home"
    home.mkdir()
    with upstream() as provider:
        (home / "herd.toml").write_text(
            f'[providers.far]\ndialect = "openai"\nbase_url = "{provider.url}"\nprivate = true\n'
        )
        with serving(home) as (process, client):
            bodies = {"cria": {"seed": 7}, "far/stall": {}}
            ids = {
                model: begin(client, "A story, please.", model=model, max_output_tokens=400)
                for model in bodies
            }
            wait_for(lambda: status(client, ids["cria"]) == "in_progress" and provider.seen, 60)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with serving(home) as (process, client):
            wait_for(lambda: not {status(client, id) for id in ids.values()} & {"queued", "in_progress"}, 60)
            made, failed = (client.get(f"/v1/responses/{id}").json() for id in ids.values())
    assert made["status"] in ("completed", "incomplete") and made["output"][0]["content"][0]["text"]
    assert failed["status"] == "failed" and failed["error"]["code"] == "server_error"
    assert "paid" in failed["error"]["message"]
    assert [one.method for one in provider.seen].count("POST") == 1


def status(client: Any, id: str) -> str:
    return str(client.get(f"/v1/responses/{id}").json()["status"])


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    with open(home / "log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "herd", "serve", "--home", str(home), "--port", "0"],
            env=clean, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            while not (line := (home / "log").read_text().partition("\n")[0]).startswith("listening"):
                assert process.poll() is None, line
                time.sleep(0.05)
            with httpx.Client(base_url=line.split()[-1], timeout=30) as client:
                yield process, client
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
