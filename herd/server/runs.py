"""Runs: what takes long, as child processes, one at a time, and never at the cost of those who are served."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.registry.runs import OPEN, Run

log = logging.getLogger("herd.server")

NICENESS = 10  # beyond the server's own
QUIET = 0.5  # seconds without a request before a stopped run goes on, so that it does not stutter
PATIENCE = 5.0  # seconds that a cancelled run has to end by itself
PAUSE = 1.0  # seconds after a run that could not be made
KINDS = ("improve",)


class Scheduler:
    """Starts the oldest queued run when none is running. While it is `yielding`, the child is stopped."""

    def __init__(
        self, home: Path, environment: dict[str, str], when_done: Callable[[], Awaitable[None]]
    ) -> None:
        self.home, self.environment, self.when_done = home, environment, when_done
        self.yielding = False
        self._current: tuple[Run, asyncio.subprocess.Process] | None = None
        self._cancelled: set[str] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self._worker: asyncio.Task[None] | None = None
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for run in Run.list(self.home):  # a server that was killed may have left its run standing still
            if run.state == "running" and run.data.get("scheduled") and run.pid:
                _signal(run.pid, signal.SIGCONT)
        self._worker = asyncio.create_task(self._work())
        self._wake.set()

    async def close(self) -> None:
        """Stop the current run; it is queued again, since runs go on where they were."""
        self._closing = True
        self._wake.set()
        if self._current is not None:
            await self._stop(self._current[1])
        if self._worker is not None:
            await self._worker

    def kill(self) -> None:
        """End the current run at once, to be called when the server ends at once; it is queued again."""
        if self._current is not None:
            run, process = self._current
            _signal(process.pid, signal.SIGKILL)
            Run.load(self.home, run.id).set("queued", pid=None)

    def submit(self, kind: str, args: dict[str, Any]) -> Run:
        run = Run.create(self.home, kind, args)
        run.set("queued", scheduled=True)  # a run begun on the command line is not ours to start
        self._wake.set()
        return run

    async def cancel(self, run_id: str) -> Run:
        """Raises HerdError 404 for an unknown run, 409 for one that is over."""
        run = Run.load(self.home, run_id)
        if run.state not in OPEN:
            raise HerdError(f"run {run.id} is over ({run.state})", status=409, code="run_over")
        if self._current is not None and self._current[0].id == run.id:
            self._cancelled.add(run.id)
            await self._stop(self._current[1])
        else:
            run.set("cancelled")
        return Run.load(self.home, run_id)

    def traffic(self, in_flight: int) -> None:
        """Requests came or went: stop the child at once, let it go on after a quiet while."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if in_flight:
            self._set_yielding(True)
        elif self.yielding:
            self._resume = asyncio.get_running_loop().call_later(QUIET, self._set_yielding, False)

    def view(self, run: Run) -> dict[str, Any]:
        """The run as the API gives it: a stopped child is "waiting"."""
        data = dict(run.data)
        current = self._current is not None and self._current[0].id == run.id
        if current and self.yielding and data["state"] == "running":
            data["state"] = "waiting"
        return data

    @property
    def active(self) -> int:
        return sum(run.state in OPEN for run in Run.list(self.home))

    async def _work(self) -> None:
        while not self._closing:
            runs = reversed(Run.list(self.home))  # the oldest first
            run = next((run for run in runs if run.state == "queued" and run.data.get("scheduled")), None)
            if run:
                try:
                    await self._run(run)
                except Exception as error:  # no process, no log, no folder any more: the next may fare better
                    log.exception("run %s", run.id)
                    with suppress(HerdError, OSError):
                        run.set("failed", error=str(error))
                    await asyncio.sleep(PAUSE)  # where it cannot even be called failed, it is tried again
                try:
                    await self.when_done()
                except Exception:
                    log.exception("after run %s", run.id)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _run(self, run: Run) -> None:
        verb, name = run.data["kind"], str(run.data["args"]["name"])
        command = [sys.executable, "-m", "herd", verb, name, "--run", run.id]
        with open(run.dir / "log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,  # Ctrl-C at the terminal is for the server; it stops the run itself
            )  # fmt: skip
        self._current = (run, process)
        try:
            state = Run.load(self.home, run.id).state
            if state == "cancelled":  # while it was being started
                self._cancelled.add(run.id)
            elif not self._closing:
                nice = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
                with suppress(ProcessLookupError):  # it has ended already
                    os.setpriority(os.PRIO_PROCESS, process.pid, nice)
                if state == "queued":  # it has not said more itself
                    run.set("running", pid=process.pid)
                if self.yielding:
                    _signal(process.pid, signal.SIGSTOP)
                await process.wait()
        finally:
            if process.returncode is None:
                await self._stop(process)
            self._current = None
        run = Run.load(self.home, run.id)  # marks a run that ended without a word as failed
        if run.id in self._cancelled:
            run.set("cancelled")
        elif self._closing and run.state != "done":
            run.set("queued", pid=None)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        _signal(process.pid, signal.SIGTERM)
        _signal(process.pid, signal.SIGCONT)
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            _signal(process.pid, signal.SIGKILL)
            await process.wait()

    def _set_yielding(self, yielding: bool) -> None:
        if yielding != self.yielding:
            self.yielding = yielding
            if self._current is not None:
                _signal(self._current[1].pid, signal.SIGSTOP if yielding else signal.SIGCONT)


def check(kind: str, args: dict[str, Any]) -> None:
    """Raises HerdError if no run can be made of these."""
    if kind not in KINDS:
        raise HerdError(f"no run of kind {kind!r:.60}; known: {', '.join(KINDS)}")
    name = args.get("name")
    if set(args) != {"name"} or not isinstance(name, str) or name.startswith("-"):
        raise HerdError('args must be {"name": a model or target}')


def _signal(group: int, number: int) -> None:
    """To the run and its own children; a run that has just ended is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
