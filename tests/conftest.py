"""Fixtures and rules for all rooms."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

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
