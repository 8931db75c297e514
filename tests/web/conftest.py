"""One browser for all tests of the pages, a fresh fake server for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .fake_gateway import furnish
from .fake_server import FakeServer
from .tools import DESKTOP, Open

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")  # its loop would be in the way of other tests
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: no browser to open the pages in")
    expect.set_options(timeout=15_000)  # a busy machine is no failure
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def full(server: FakeServer) -> FakeServer:
    """With a day of traffic, two routes and two keys."""
    furnish(server.state.gateway)
    return server


@pytest.fixture
def visit(browser: Browser, server: FakeServer) -> Iterator[Open]:
    """Opens a path; at the end, no page may have said an error unless `errors` allows it."""
    contexts, problems = [], []

    def visit(
        path: str = "/", *, size: dict[str, int] = DESKTOP, theme: str = "light", errors: str = "$^"
    ) -> Page:
        context = browser.new_context(
            viewport=size, color_scheme=theme, reduced_motion="reduce", accept_downloads=True
        )
        context.set_default_timeout(15000)
        contexts.append(context)
        page = context.new_page()
        say = lambda text: None if re.search(errors, text) else problems.append(text)  # noqa: E731
        page.on("console", lambda m: say(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url + path)
        page.locator("nav").first.wait_for()
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")  # keys listen
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems
