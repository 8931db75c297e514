"""The shell, Models and Runs in Chromium; every page by keyboard, with axe, and against the policy."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from .fake_server import WEB, FakeServer, verdict
from .tools import DESKTOP, PHONE, Open, answered, say, seed

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


ASK = "document.dispatchEvent(new Event('visibilitychange'))"  # the page asks for the status at once


def test_a_server_that_is_gone_is_said(server: FakeServer, visit: Open) -> None:
    page = visit(errors="Failed to load resource")
    expect(page.locator(".engine")).to_contain_text("idle")
    server.state.engine = {"state": "busy", "running": 2, "waiting": 3}
    page.evaluate(ASK)
    expect(page.locator(".engine")).to_contain_text("2 in flight, 3 queued")
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer. What is shown is from")
    say(page, "Hello")
    expect(page.get_by_label("Your message")).to_have_value("Hello")
    page.context.set_offline(False)
    page.evaluate(ASK)
    expect(page.locator(".engine")).to_contain_text("2 in flight")


def test_keyboard_only(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    seed(server, "The red ball", "I saw a zebra.")
    page = visit()
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog", name="Keyboard map")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Escape")
    page.keyboard.type("Hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("you")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Your message")).to_have_value("Hello\nyou")
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_text("it does not know facts")).to_be_visible()
    page.keyboard.press("Control+k")
    page.keyboard.type("zebra")
    expect(page.get_by_role("dialog").get_by_role("option")).to_have_text(re.compile("The red ball"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("I saw a zebra.")).to_be_visible()
    page.keyboard.press("Control+k")
    page.keyboard.type("models")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Lineage")).to_be_visible()


def test_a_server_with_a_key_asks_for_it(server: FakeServer, visit: Open) -> None:
    server.state.fail = {"GET /api/status": 401}
    page = visit(errors="401")
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    expect(page.get_by_text("it does not know facts")).to_be_visible()
    expect(page.get_by_role("heading", name="This Herd asks for a key")).to_have_count(0)
    assert server.state.keys == ["secret"]


def test_the_theme_is_remembered(visit: Open) -> None:
    page = visit()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    dark = page.evaluate(paper)
    page.reload()
    assert page.evaluate(paper) == dark != light


def test_models_show_card_numbers_lineage_and_memory(visit: Open) -> None:
    page = visit("/models")
    card = page.get_by_role("article", name="cria@1")
    expect(card).to_contain_text("11.9 M")
    expect(card).to_contain_text("served as cria")
    card.get_by_label("Conversations at once").fill("100")
    card.get_by_label("Tokens in each").focus()
    expect(card).to_contain_text("863 MB")  # 23.9 MB + 100 · 2048 · 4096 B
    card.get_by_text("Card", exact=True).click()
    expect(card.get_by_role("cell", name="gzip")).to_be_visible()
    expect(
        page.get_by_role("button", name=re.compile("cria@2 adapter .*, from cria@1, 14 votes"))
    ).to_be_visible()


def test_a_run_improves_says_why_and_is_undone(server: FakeServer, visit: Open) -> None:
    page = visit("/runs")
    page.get_by_role("button", name="Improve cria", exact=True).click()
    run = page.get_by_role("article", name="Run run-")
    expect(run).to_contain_text("running")
    expect(run.get_by_role("img", name="loss over step")).to_be_visible()
    expect(run.locator("[aria-current=step]")).to_have_text("train")
    assert server.state.runs[0]["args"] == {"name": "cria"}
    verdict(server.state)
    expect(run).to_contain_text("Switch: cria@2 replaces cria@1")
    expect(run).to_contain_text("55 % → 81 %")
    run.get_by_role("button", name="Undo: serve cria@1 again").click()
    expect(run).to_contain_text("Now cria is cria@1.")
    assert server.state.serving == "cria@1"


def test_a_run_can_be_cancelled(server: FakeServer, visit: Open) -> None:
    page = visit("/runs")
    page.get_by_role("button", name="Improve cria", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("article", name="Run run-")).to_contain_text("cancelled")


@pytest.mark.parametrize(
    ("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"]
)
def test_axe_finds_nothing_serious(server: FakeServer, visit: Open, size: dict[str, int], theme: str) -> None:
    server.state.delay = 0.001
    start = {"kind": "improve", "args": {"name": "cria"}, "id": "run-0", "created": 1.0}
    server.state.runs.append({**start, "state": "running", "stages": ["collect"], "stage": "collect"})
    verdict(server.state)
    code = seed(
        server, "Code", "# Title\n\n- a\n- b\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    page = visit(size=size, theme=theme)

    def check(what: str) -> None:
        page.wait_for_timeout(100)
        page.evaluate(AXE.read_text())  # through the debugger, which CSP lets pass
        found = page.evaluate("axe.run().then(r => r.violations)")
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, (what, serious)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what

    check("empty")
    say(page, "Hello")
    answered(page)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="neither")).to_be_enabled()
    check("compare")
    page.keyboard.press("Control+,")
    check("settings")
    page.keyboard.press("Control+,")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog").get_by_role("option").first).to_be_visible()
    check("palette")
    for path in (f"/c/{code}", "/models", "/runs"):
        page.goto(server.url + path)
        expect(page.get_by_text(re.compile("Title|Memory|served as|replaces")).first).to_be_visible()
        check(path)


SSE = """async (cuts) => {
  const { events } = await import("/web/lib/sse.js");
  const bytes = new TextEncoder().encode('data: {"a":"é😀"}\\r\\n\\r\\n: note\\n\\ndata: one\\ndata: two\\r\\r' + 'data: [DONE]\\n\\n');
  const seen = [];
  for (const size of cuts) {
    const body = new ReadableStream({ start(c) { for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size)); c.close(); } });
    const all = [];
    for await (const data of events(body)) all.push(data);
    seen.push(all);
  }
  return seen;
}"""


def test_streams_are_read_over_any_chunk_border(visit: Open) -> None:
    seen = visit().evaluate(SSE, [1, 2, 3, 5, 7, 1000])
    assert seen == [['{"a":"é😀"}', "one\ntwo", "[DONE]"]] * 6


def test_a_damaged_tree_ends(visit: Open) -> None:
    found: Any = visit().evaluate("""async () => {
      const { pathTo, newestLeaf } = await import("/web/lib/tree.js");
      const circle = [{ id: "a", parent: "b" }, { id: "b", parent: "a" }];
      const tree = [{ id: "1", parent: null }, { id: "2", parent: "1" }, { id: "3", parent: "1" }, { id: "4", parent: "2" }];
      return [pathTo(circle, "a").length, pathTo(tree, "4").map((m) => m.id), newestLeaf(tree), newestLeaf(tree, "2"), newestLeaf(circle, "a")];
    }""")
    assert found[:4] == [2, ["1", "2", "4"], "3", "4"]


def test_vendored_files_are_what_their_list_says() -> None:
    listed = dict(
        re.findall(r"`(\w+/\w+\.\w+)` `([0-9a-f]{64})`", (WEB / "vendor" / "VENDOR.md").read_text())
    )
    files = {str(f.relative_to(WEB / "vendor")): f for f in (WEB / "vendor").glob("*/*.*")}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == listed


def test_pages_keep_to_the_policy() -> None:
    """No inline script or style, no other host, one place for raw colours."""
    page = (WEB / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    own = [f for f in WEB.rglob("*") if f.suffix in (".js", ".css", ".html") and "vendor" not in f.parts]
    for file in own:
        text = file.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org)", text), file
        assert file.suffix != ".js" or len(text.splitlines()) <= 250, file
