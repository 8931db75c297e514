"""Runs: children that wait their turn, stop for those who are served, and can be cancelled."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.registry.runs import Run
from herd.server.runs import NICENESS, Scheduler, check

# What stands in for `python -m herd`: a module that counts in its log until told to end, and ends once nobody holds it.
CHILD = """
import json, os, sys, time
verb, name, flag, run = sys.argv[1:]
directory = os.path.join(os.environ["HERD_HOME"], "runs", run)
print(verb, name, os.nice(0), flush=True)
if name == "bad":
    sys.exit("it broke")
for i in range(int(name.removeprefix("count"))):
    print(i, flush=True)
    time.sleep(0.02)
while os.path.exists(directory + "/hold") or json.load(open(directory + "/run.json"))["state"] == "queued":
    time.sleep(0.01)
data = json.load(open(directory + "/run.json")) | {"state": "done"}
json.dump(data, open(directory + "/new.json", "w"))
os.replace(directory + "/new.json", directory + "/run.json")
"""


@pytest.fixture
def scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], "asynccontextmanager[Scheduler]"]:
    package = tmp_path / "child" / "herd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(CHILD)
    home = tmp_path / "home"

    @asynccontextmanager
    async def running() -> AsyncIterator[Scheduler]:
        async def done() -> None:
            finished.append(1)

        finished: list[int] = []
        made = Scheduler(home, {"HERD_HOME": str(home), "PYTHONPATH": str(package.parent)}, done)
        made.finished = finished  # type: ignore[attr-defined]
        made.start()
        try:
            yield made
        finally:
            await made.close()

    monkeypatch.chdir(package.parent)  # `-m` looks here first
    return running  # type: ignore[return-value]


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def lines(run: Run) -> int:
    return len(run.log().splitlines())


def go(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_one_at_a_time_niced_in_order(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            first, second = (
                runs.submit("improve", {"name": "count5"}),
                runs.submit("improve", {"name": "count2"}),
            )
            (first.dir / "hold").touch()
            await until(lambda: Run.load(runs.home, first.id).state == "running")
            assert Run.load(runs.home, second.id).state == "queued" and runs.active == 2
            (first.dir / "hold").unlink()
            await until(lambda: Run.load(runs.home, second.id).state == "done")
            assert Run.load(runs.home, first.id).state == "done" and runs.active == 0
            nice = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
            assert first.log().splitlines()[0] == f"improve count5 {min(nice, 19)}"
            await until(lambda: len(runs.finished) == 2)  # type: ignore[attr-defined]

    go(test)


def test_it_stands_still_while_requests_are_in_flight(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            run = runs.submit("improve", {"name": "count1000"})
            await until(lambda: lines(run) > 3)
            runs.traffic(1)
            await asyncio.sleep(0.1)
            still = lines(run)
            assert runs.view(Run.load(runs.home, run.id))["state"] == "waiting"
            await asyncio.sleep(0.3)
            assert lines(run) == still
            runs.traffic(0)
            await until(lambda: lines(run) > still + 3)
            assert runs.view(Run.load(runs.home, run.id))["state"] == "running"

    go(test)


def test_cancel_running_stopped_and_queued(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            first, second = (
                runs.submit("improve", {"name": "count1000"}),
                runs.submit("improve", {"name": "count1"}),
            )
            await until(lambda: lines(first) > 1)
            runs.traffic(1)  # a stopped child is cancelled too
            assert (await runs.cancel(second.id)).state == "cancelled"
            await runs.cancel(first.id)
            await until(lambda: Run.load(runs.home, first.id).state == "cancelled")
            with pytest.raises(HerdError, match="over"):
                await runs.cancel(first.id)
            with pytest.raises(HerdError):
                await runs.cancel("none")

    go(test)


def test_failure_is_said_and_the_next_one_runs(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            bad, good = runs.submit("improve", {"name": "bad"}), runs.submit("improve", {"name": "count1"})
            await until(lambda: Run.load(runs.home, good.id).state == "done")
            assert Run.load(runs.home, bad.id).state == "failed" and "it broke" in bad.log()

    go(test)


def test_a_server_that_stops_leaves_the_run_for_the_next(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            run = runs.submit("improve", {"name": "count30"})
            (run.dir / "hold").touch()
            await until(lambda: lines(run) > 1)
        assert Run.load(runs.home, run.id).state == "queued"
        (run.dir / "hold").unlink()
        async with scheduler() as runs:
            await until(lambda: Run.load(runs.home, run.id).state == "done")

    go(test)


@pytest.mark.parametrize("how", ["cancel", "close", "end"])
def test_a_run_that_is_ended_while_it_starts(
    scheduler: Callable[[], Scheduler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real, begun = asyncio.create_subprocess_exec, asyncio.Event()

    async def late(*args: str, **options: Any) -> asyncio.subprocess.Process:
        process = await real(*args, **options)
        begun.set()
        if how == "end":
            Run.load(tmp_path / "home", args[-1]).set("running", pid=process.pid)  # as a child itself may
            await process.wait()
        await asyncio.sleep(0.1)
        return process

    async def test() -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", late)
        async with asyncio.timeout(60), scheduler() as runs:
            run = runs.submit("improve", {"name": "count1" if how == "end" else "count3000"})
            await begun.wait()
            if how == "cancel":
                assert (await runs.cancel(run.id)).state == "cancelled"
            if how != "close":
                await until(lambda: runs.finished)  # type: ignore[attr-defined]
        assert (
            Run.load(runs.home, run.id).state
            == {"cancel": "cancelled", "close": "queued", "end": "done"}[how]
        )

    go(test)


def test_what_goes_wrong_around_a_run_ends_no_other(scheduler: Callable[[], Scheduler]) -> None:
    async def test() -> None:
        async with scheduler() as runs:
            runs.when_done = broken
            gone = runs.submit("improve", {"name": "count10"})
            await until(lambda: lines(gone) > 1)
            shutil.rmtree(gone.dir)
            run = runs.submit("improve", {"name": "count1"})
            await until(lambda: Run.load(runs.home, run.id).state == "done")
            after = runs.submit("improve", {"name": "count1"})
            await until(lambda: Run.load(runs.home, after.id).state == "done")

    async def broken() -> None:
        raise ValueError("of whoever is told")

    go(test)


def test_what_no_run_can_be_made_of() -> None:
    check("improve", {"name": "cria"})
    for kind, args in (("rm", {"name": "x"}), ("improve", {}), ("improve", {"name": "-x"}), ("improve", {"name": 1}),
                       ("improve", {"name": "x", "more": 1})):  # fmt: skip
        with pytest.raises(HerdError):
            check(kind, args)
