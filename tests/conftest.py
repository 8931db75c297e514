"""Fixtures and rules for all rooms."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from .postgresql import PostgreSQL

StartHerd = Callable[[list[str], dict[str, str], Path], str]
try:
    import torch
except ImportError:  # the rooms without models are tested without it as well
    pass
else:
    torch.set_num_threads(1)  # tiny models: on a busy machine two threads wait for each other

STRICT = bool(os.environ.get("CI") or os.environ.get("HERD_NO_SKIP"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (its README says what is in it), which a user's machine does not have."""
    folder = os.environ.get("HERD_SHARED_DATA")
    if not folder:
        pytest.skip("HERD_SHARED_DATA is not set: no real data")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"HERD_SHARED_DATA={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL server; skipped where none is installed."""
    from .postgresql import PostgreSQL

    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to open a store: the test runs on both kinds."""
    if request.param == "sqlite":
        return str(tmp_path / "herd.db")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new()


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI nothing is skipped but for want of a GPU, so that a check cannot disappear unseen."""
    if not STRICT or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if "GPU" not in reason:
        report.outcome = "failed"
        report.longrepr = f"{reason}\nskipped, which counts as a failure here (CI or HERD_NO_SKIP is set)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture
def start_herd(tmp_path: Path) -> Iterator[StartHerd]:
    """Start a server command in a process of its own; returns its URL once it can answer; stops it at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(command: list[str], env: dict[str, str], cwd: Path) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            env["HERD_PORT"] = str(free.getsockname()[1])
        log = open(tmp_path / "server.log", "w+")
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=log, text=True)
        running.append(process)
        url = f"http://127.0.0.1:{env['HERD_PORT']}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urlopen(f"{url}/ready", timeout=5).close()
                return url
            except OSError:
                time.sleep(0.25)
        said = (tmp_path / "server.log").read_text()[-4000:]
        pytest.fail(f"{' '.join(command)} did not get ready:\n{said}")

    yield start
    for process in running:
        process.terminate()
        assert process.wait(60) == 0, (tmp_path / "server.log").read_text()
