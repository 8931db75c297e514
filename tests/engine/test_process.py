"""The engine as a child process: streaming, cancelling, loading, dying and coming back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from herd.engine import frames
from herd.engine.client import DEATHS, MISSED, EngineClient
from herd.engine.eager import Eager
from herd.engine.engine import Engine
from herd.engine.worker import Worker
from herd.errors import HerdError
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer
from herd.protocol import Delta, Event, Failed, Request, Sampling, Usage

from .processes import CHAT, reply, text, until, with_client

LONG = Request(
    "t", "completion", prompt="She saw", sampling=Sampling(temperature=1.5, seed=1, max_tokens=900)
)
# No reader that stands still can miss its end: it is more than the socket holds.
ENDLESS = replace(LONG, n=128, stream=True)


def test_streams_cancels_dies_and_comes_back(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        first, second = await asyncio.gather(reply(client, CHAT), reply(client, CHAT))
        assert isinstance(first[-1], Usage) and text(first) == text(second) != ""
        assert client.status()["models"]["t"]["context"] == 1024

        stream = client.generate("t", ENDLESS)
        await anext(stream)
        await stream.aclose()  # nobody listens any more
        await until(lambda: client.status()["state"] == "idle")
        assert sum(m["generation_tokens"] for m in client.status()["metrics"].values()) < 10_000

        process = client._process
        assert process
        dying = client.generate("t", ENDLESS)
        await anext(dying)
        process.kill()
        failed = [event async for event in dying][-1]
        assert isinstance(failed, Failed) and failed.status == 503
        assert text(await reply(client, CHAT)) == text(first)  # started and loaded again
        assert client._process is not process and process.returncode is not None

    with_client(work)


def test_what_nobody_reads_along_comes_in_pieces_of_the_same_text(model_dir: Path) -> None:
    sampling = replace(LONG.sampling, logprobs=1, max_tokens=300)
    whole = replace(LONG, n=2, sampling=sampling)

    def said(events: list[Event], index: int) -> tuple[str, list[int], list[int]]:
        parts = [e for e in events if isinstance(e, Delta) and e.index == index]
        scored = [one.id for e in parts for one in e.logprobs]
        return "".join(e.text for e in parts), [t for e in parts for t in e.tokens], scored

    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        pieces, stream = await reply(client, whole), await reply(client, replace(whole, stream=True))
        for index in (0, 1):
            assert said(pieces, index) == said(stream, index)
            text, tokens, scored = said(pieces, index)
            assert text and len(tokens) > 100 and tokens == scored
        assert [type(e) for e in pieces if not isinstance(e, Delta)] == [
            type(e) for e in stream if not isinstance(e, Delta)
        ]
        assert len(pieces) < len(stream) / 4

    with_client(work)


@pytest.mark.slow
def test_another_model_is_loaded_while_one_streams_and_unloaded_when_it_is_done(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        await client.load("t", model_dir)  # there already
        stream = client.generate("t", LONG)
        await anext(stream)
        await client.load("u", model_dir)
        unload = asyncio.create_task(client.unload("t"))
        rest = [event async for event in stream]
        assert isinstance(rest[-1], Usage)
        await unload
        assert list(client.status()["models"]) == ["u"]
        (gone,) = await reply(client, CHAT)
        assert isinstance(gone, Failed) and gone.status == 503

    with_client(work)


@pytest.mark.slow
def test_a_model_that_is_unloaded_while_it_loads_goes(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        loading = asyncio.create_task(client.load("t", model_dir))
        await asyncio.sleep(0)
        await client.unload("t")
        with pytest.raises(HerdError, match="unloaded"):
            await loading
        await client.load("u", model_dir, weights="fp32")  # after it, by the same thread
        await until(lambda: ["fp32" in engine for engine in client.status()["metrics"]] == [True])

    with_client(work)


def test_what_cannot_be_loaded_says_why(model_dir: Path, tmp_path: Path) -> None:
    async def work(client: EngineClient) -> None:
        for directory, word in ((tmp_path / "none", "config.json"), (broken, "safetensors")):
            with pytest.raises(HerdError, match=word):
                await client.load("t", directory)
        await client.load("t", model_dir)
        assert isinstance((await reply(client, CHAT))[-1], Usage)

    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"\0" * (broken / "model.safetensors").stat().st_size)
    with_client(work)


def test_too_much_is_refused(model_dir: Path) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        spaces = await reply(client, Request("t", "completion", prompt=" " * 10_000_000))
        assert isinstance(spaces[-1], Failed) and spaces[-1].code == "context_length_exceeded"
        huge = await reply(client, Request("t", "completion", prompt=" " * (frames.MAX_FRAME + 1)))
        assert isinstance(huge[-1], Failed) and huge[-1].status == 413
        replies = await asyncio.gather(*(reply(client, CHAT) for _ in range(5)))
        ends = [e[-1] for e in replies]
        assert [e.status if isinstance(e, Failed) else 200 for e in ends] == [200, 200, 429, 429, 429]
        for _ in range(2):
            client.admission.admit("")
        with pytest.raises(HerdError, match="queue is full"):
            client.admission.admit("")  # both places are spoken for
        await asyncio.sleep(0)
        client.admission.admit("")  # by nobody who came

    with_client(work, max_queue=2)


def test_the_process_ends_with_its_parent_and_not_by_signals() -> None:
    program = (
        "import asyncio, os\n"
        "from herd.engine.client import EngineClient\n"
        "async def main():\n"
        "    client = EngineClient()\n"
        "    await client.start()\n"
        "    print(client._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
        time.sleep(0.3)
        os.kill(child, 0)
        parent.kill()
    end = time.monotonic() + 60
    while time.monotonic() < end and Path(f"/proc/{child}").exists() and not _zombie(child):
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists() or _zombie(child)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_client_needs_no_torch() -> None:
    code = "import sys, herd.engine.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_a_model_that_ends_every_process_is_given_up(model_dir: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.mkdir()
    os.mkfifo(endless / "config.json")  # its reader waits until the process is killed

    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        loading = asyncio.create_task(client.load("endless", endless))
        seen: list[object] = []
        while not loading.done():
            process = client._process
            if client._up.is_set() and process and process not in seen and client._models["t"].ready.done():
                seen.append(process)
                process.kill()
            await asyncio.sleep(0.01)
        assert len(seen) == DEATHS
        for again in (loading, client.load("endless", endless)):
            with pytest.raises(HerdError, match="ended the engine process") as refused:
                await again
            assert refused.value.status == 503
        failed = (await reply(client, CHAT, "endless"))[-1]
        assert isinstance(failed, Failed) and "ended the engine process" in failed.message
        assert isinstance((await reply(client, CHAT))[-1], Usage)  # the others go on

    with_client(work)


@pytest.mark.slow
def test_a_process_that_hangs_is_replaced(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.engine.client.PING", 0.5)

    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        assert client._process
        os.kill(client._process.pid, signal.SIGSTOP)
        failed = (await reply(client, CHAT))[-1]
        assert isinstance(failed, Failed) and failed.status == 503
        monkeypatch.undo()
        assert isinstance((await reply(client, CHAT))[-1], Usage)

    with_client(work)


def test_a_process_that_is_busy_or_idle_answers(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.engine.client.PING", 0.02)
    monkeypatch.setattr("herd.engine.client.MISSED", 10_000)
    pongs = 0

    async def work(client: EngineClient) -> None:
        handle = client._handle

        def noted(message: dict[str, Any]) -> None:
            nonlocal pongs
            pongs += message["op"] == "pong"
            handle(message)

        monkeypatch.setattr(client, "_handle", noted)
        await client.load("t", model_dir)
        most = pongs + 10
        await until(lambda: pongs > most)
        most = pongs + 10
        async with asyncio.timeout(60):
            while pongs <= most:
                assert isinstance((await reply(client, CHAT))[-1], Usage)

    with_client(work)


def test_a_process_that_misses_questions_in_a_row_is_killed_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("herd.engine.client.PING", 0)
    heard = [*[False] * (MISSED - 1), True] * 3
    asked: list[str] = []

    class Process:
        def kill(self) -> None:
            asked.append("killed")

    async def work() -> None:
        client = EngineClient()
        client._up.set()
        client._process = Process()  # type: ignore[assignment]

        def send(message: dict[str, Any]) -> None:
            if len(asked) < len(heard) and heard[len(asked)]:
                client._handle({"op": "pong"})
            asked.append(message["op"])

        monkeypatch.setattr(client, "_send", send)
        await asyncio.wait_for(client._watch(), 60)

    asyncio.run(work())
    assert asked == [*["ping"] * (len(heard) + MISSED), "killed"]


@pytest.mark.slow
def test_a_process_that_cannot_be_started_is_tried_again(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(client: EngineClient) -> None:
        await client.load("t", model_dir)
        spawn, failures = client._spawn, iter([OSError("too many open files")] * 2)

        async def fails() -> asyncio.StreamReader:
            for failure in failures:
                raise failure
            return await spawn()

        monkeypatch.setattr(client, "_spawn", fails)
        assert client._process
        client._process.kill()
        await until(lambda: not client._models["t"].ready.done())
        assert isinstance((await reply(client, CHAT))[-1], Usage)
        assert next(failures, None) is None

    with_client(work)


@pytest.fixture
def worker() -> Iterator[tuple[Worker, Callable[[], list[dict[str, Any]]]]]:
    """A worker without its threads, and what it has sent."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def sent() -> list[dict[str, Any]]:
        lines = b""
        with suppress(BlockingIOError):
            while part := ours.recv(1 << 20):
                lines += part
        return [frames.unpack(line) for line in lines.splitlines()]

    with ours, theirs:
        yield Worker(theirs), sent


def test_events_too_long_for_one_message(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, sent = worker
    monkeypatch.setattr(frames, "MAX_FRAME", 500)
    said = [("a", Delta(i, "x" * 100, (i,))) for i in range(12)]
    here.streamed |= {"a", "b"}
    here._emit([*said, ("b", Delta(0, "y" * 600, (1,))), ("a", Usage(1, 12))])
    got = [event for message in sent() for event in frames.read_events(message)]
    assert [event for id, event in got if id == "a"] == [*(event for _, event in said), Usage(1, 12)]
    (failed,) = (event for id, event in got if id == "b")
    assert isinstance(failed, Failed) and failed.code == "reply_too_large"


def test_a_model_asked_for_again_before_it_has_gone_has_gone_and_come(
    worker: Any, tokenizer: Tokenizer, model: Llama
) -> None:
    here, sent = worker
    engine = Engine(Eager(model), tokenizer, None)
    here._loaded("k", "engine", engine, None)
    here.requests["1"] = "k"
    here.on_unload({"key": "k"})
    here._loaded("k", "engine", engine, None)
    assert [message["op"] for message in sent()] == ["loaded", "unloaded", "loaded"] and not here.leaving
