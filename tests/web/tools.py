"""What a person does on the chat page, and conversations to do it with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Page, expect

from .fake_server import FakeServer

Open = Callable[..., Page]
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
ASK = "document.dispatchEvent(new Event('visibilitychange'))"  # the page asks for the status at once
SHIFTS = """() => new Promise((done) => {
  new PerformanceObserver((list) => done(list.getEntries())).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done([]), 300);
}).then((all) => all.reduce((sum, shift) => sum + shift.value, 0))"""
STILL = """{
  const soon = setTimeout;
  window.setTimeout = (work, wait = 0) => (wait < 2000 ? soon(work, wait) : 0);
  window.setInterval = () => 0;
}"""
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, answers: int = 1) -> None:
    """Waits until the branch in front has so many answers, the last of them complete."""
    last = page.get_by_role("article", name="Answer").nth(answers - 1)
    expect(last.get_by_role("button", name="Regenerate")).to_be_enabled()


def until(page: Page, condition: Callable[[], object]) -> None:
    """Waits for what the server hears from the page."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        page.wait_for_timeout(20)


def seed(server: FakeServer, title: str, reply: str, count: int = 1) -> str:
    state = server.state
    id = state.next("conv")
    state.conversations[id] = {
        "id": id,
        "title": title,
        "route": "cria",
        "system": None,
        "settings": {},
        "created": 1.0,
        "updated": float(state.counter),
    }
    parent, messages = None, []
    for i in range(count):
        for role, content in (("user", "Hello"), ("assistant", reply)):
            messages.append(
                {
                    "id": f"{id}-{role}-{i}",
                    "parent": parent,
                    "role": role,
                    "content": content,
                    "generation": None,
                    "created": 1.0,
                }
            )
            parent = messages[-1]["id"]
    state.messages[id] = messages
    return id


def accessible(page: Page, what: str, themes: Sequence[str] = ("light", "dark")) -> None:
    """axe finds nothing serious on the page as it is now, in both themes, and nothing sticks out at its side."""
    page.wait_for_timeout(50)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())  # through the debugger, which CSP lets pass
    for theme in themes:
        page.emulate_media(color_scheme=theme)
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")
        found = page.evaluate(
            "axe.run({ resultTypes: ['violations'], preload: false }).then(r => r.violations)"
        )
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, (what, theme, serious)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what
