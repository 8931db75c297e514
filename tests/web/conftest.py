"""One browser and one fake server for all tests of the pages; each finds both as if they were new."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .fake_gateway import furnish
from .fake_server import FakeServer
from .tools import DESKTOP, STILL, Open

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="package")  # its loop would be in the way of other tests
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: no browser to open the pages in")
    expect.set_options(timeout=30_000)  # a busy machine is no failure
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def serving() -> Iterator[FakeServer]:
    """One address for all tests, so that the browser has read the pages' files once."""
    server = FakeServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(serving: FakeServer) -> FakeServer:
    serving.forget()
    return serving


@pytest.fixture
def full(server: FakeServer) -> FakeServer:
    """With a day of traffic, two routes and two keys."""
    furnish(server.state.gateway)
    return server


@pytest.fixture(scope="package")
def contexts(browser: Browser) -> dict[Hashable, list[BrowserContext]]:
    """Those that no test uses now, by window and theme; each has the pages' files in its cache."""
    return defaultdict(list)


@pytest.fixture
def visit(
    browser: Browser, server: FakeServer, contexts: dict[Hashable, list[BrowserContext]]
) -> Iterator[Open]:
    """Opens a path as somebody who was never here; at the end, no page may have said an error unless `errors` allows it.
    `still`: what a page does by itself after two seconds or more is not done, so that a test may take any time."""
    used, problems = [], []

    def visit(
        path: str = "/",
        *,
        size: dict[str, int] = DESKTOP,
        theme: str = "light",
        errors: str = "$^",
        still: bool = False,
    ) -> Page:
        kind = (*size.values(), theme)
        context = contexts[kind].pop() if contexts[kind] else browser.new_context(
            viewport=size, color_scheme=theme, reduced_motion="reduce", accept_downloads=True
        )  # fmt: skip
        context.set_default_timeout(30_000)
        used.append((kind, context))
        page = context.new_page()
        if still:
            page.add_init_script(STILL)
        session = context.new_cdp_session(page)
        session.send("Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "all"})
        session.detach()
        say = lambda text: None if re.search(errors, text) else problems.append(text)  # noqa: E731
        page.on("console", lambda m: say(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url + path)
        page.locator("nav").first.wait_for()
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")  # keys listen
        return page

    yield visit
    for kind, context in used:
        for page in context.pages:
            page.close()
        context.set_offline(False)
        context.clear_cookies()
        context.clear_permissions()
        contexts[kind].append(context)
    assert not problems
