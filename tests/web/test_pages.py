"""The pages in Chromium, over a fake server that speaks the contract."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .fake_server import STORY, WEB, FakeServer, verdict

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: no browser to open the pages in")
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
def visit(browser: Browser, server: FakeServer) -> Iterator[Open]:
    """Opens a path; at the end, no page may have said an error unless `errors` allows it."""
    contexts, problems = [], []

    def visit(path: str = "/", *, size: dict[str, int] = DESKTOP, theme: str = "light", errors: str = "$^") -> Page:
        context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", accept_downloads=True)
        context.set_default_timeout(6000)
        contexts.append(context)
        page = context.new_page()
        say = lambda text: None if re.search(errors, text) else problems.append(text)  # noqa: E731
        page.on("console", lambda m: say(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.get_by_role("button", name="Regenerate").last).to_be_enabled()


def test_a_chat_streams_and_is_kept(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.02
    page = visit()
    expect(page.get_by_text("it does not know facts")).to_be_visible()
    say(page, "Tell me a story")
    answer = page.get_by_role("article", name="Answer")
    expect(answer).to_contain_text("Once upon")
    assert len(answer.inner_text()) < len(STORY)  # words are seen before the end
    answered(page)
    expect(answer).to_contain_text("tokens/s")
    expect(answer.locator("strong").first).to_have_text("red ball")
    (id,) = server.state.conversations
    assert page.url == f"{server.url}/c/{id}"
    user, reply = server.state.messages[id]
    assert (user["role"], user["content"], user["parent"]) == ("user", "Tell me a story", None)
    assert (reply["parent"], reply["content"], reply["generation"] in server.state.generations) == (user["id"], STORY * 2, True)
    page.reload()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("Once upon")
    page.get_by_role("button", name="Details").click()
    expect(page.locator("dl.details")).to_contain_text("12 read")


def test_escape_stops_and_keeps_what_was_written(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.05
    page = visit()
    say(page, "Hello")
    expect(page.get_by_role("article", name="Answer")).to_contain_text("upon")
    page.keyboard.press("Escape")
    answered(page)
    expect(page.get_by_text("stopped")).to_be_visible()
    (messages,) = server.state.messages.values()
    assert 0 < len(messages[1]["content"]) < len(STORY)


def test_regenerate_compare_vote_and_go_on(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    say(page, "Hello")
    answered(page)
    server.state.reply = "A second answer."
    page.get_by_role("button", name="Regenerate").click()
    pair = page.get_by_role("region", name="Two answers to compare")
    expect(pair.get_by_role("article", name="Answer: that")).to_contain_text("A second answer.")
    pair.get_by_role("button", name="that", exact=True).click()
    expect(page.get_by_text("Kept as a vote: the better of two")).to_be_visible()
    (messages,) = server.state.messages.values()
    first, second = (m["generation"] for m in messages[1:])
    (vote,) = server.state.votes
    assert (vote["a"], vote["b"], vote["outcome"], vote["source"]) == (first, second, "b", "regenerate")
    assert messages[1]["parent"] == messages[2]["parent"] == messages[0]["id"]
    say(page, "And then?")  # the conversation goes on with the chosen answer
    answered(page)
    assert [m["content"] for m in server.state.requests[-1]["messages"]] == ["Hello", "A second answer.", "And then?"]
    page.reload()
    expect(page.get_by_text("2/2")).to_be_visible()
    page.get_by_role("button", name="Previous branch").click()
    expect(page.get_by_text("Kept as a vote: the lesser of two")).to_be_visible()
    expect(page.get_by_text("And then?")).to_have_count(0)


def test_equal_is_a_vote_too_and_either_can_be_chosen(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    say(page, "Hello")
    answered(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_role("button", name="equal").click()
    expect(page.get_by_text("Kept as a vote: equal")).to_be_visible()
    assert server.state.votes[0]["outcome"] == "tie"
    page.get_by_role("button", name="this", exact=True).click()
    expect(page.get_by_text("1/2")).to_be_visible()


def test_an_edit_is_a_branch(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    say(page, "First wording")
    answered(page)
    page.get_by_role("article", name="You").hover()
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("Second wording")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2/2")).to_be_visible()
    answered(page)
    page.get_by_role("article", name="You").hover()
    page.get_by_role("button", name="Previous branch").click()
    expect(page.get_by_role("article", name="You")).to_contain_text("First wording")
    (messages,) = server.state.messages.values()
    assert [m["content"] for m in messages if m["role"] == "user"] == ["First wording", "Second wording"]


def test_search_rename_delete_and_undo(server: FakeServer, visit: Open) -> None:
    seed(server, "The red ball", "I saw a zebra.")
    seed(server, "Grandmother", "She baked a cake.")
    page = visit()
    rows = page.get_by_role("complementary", name="Conversations").get_by_role("link")
    expect(rows).to_have_count(2)
    page.get_by_label("Search conversations").fill("zebra")
    expect(rows).to_have_count(1)
    page.get_by_label("Search conversations").fill("")
    expect(rows).to_have_count(2)
    rows.filter(has_text="Grandmother").focus()
    page.get_by_role("button", name="Rename Grandmother").click()
    page.get_by_label("New name").fill("Cake")
    page.keyboard.press("Enter")
    expect(rows.filter(has_text="Cake")).to_have_count(1)
    assert sorted(c["title"] for c in server.state.conversations.values()) == ["Cake", "The red ball"]
    rows.filter(has_text="Cake").focus()
    page.get_by_role("button", name="Delete Cake").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(rows).to_have_count(2)
    rows.filter(has_text="Cake").focus()
    page.get_by_role("button", name="Delete Cake").click()
    page.goto("about:blank")  # leaving the page makes the deletion final
    for _ in range(100):
        if len(server.state.conversations) == 1:
            return
        page.wait_for_timeout(20)
    pytest.fail("the conversation was not deleted")


def seed(server: FakeServer, title: str, reply: str, count: int = 1) -> str:
    state = server.state
    id = state.next("conv")
    state.conversations[id] = {"id": id, "title": title, "route": "cria", "system": None, "settings": {}, "created": 1.0, "updated": float(state.counter)}
    parent, messages = None, []
    for i in range(count):
        for role, content in (("user", "Hello"), ("assistant", reply)):
            messages.append({"id": f"{id}-{role}-{i}", "parent": parent, "role": role, "content": content, "generation": None, "created": 1.0})
            parent = messages[-1]["id"]
    state.messages[id] = messages
    return id


def test_export_and_import_give_the_same_conversation(server: FakeServer, visit: Open, tmp_path: Path) -> None:
    seed(server, "The red ball", "I saw a zebra.", count=2)
    page = visit()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    file = tmp_path / "export.json"
    download.value.save_as(file)
    (exported,) = json.loads(file.read_text())["conversations"]
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(file)
    expect(page.get_by_text("1 imported.")).to_be_visible()
    again = list(server.state.messages.values())[-1]
    assert len(server.state.conversations) == 2 and again == exported["messages"]
    (tmp_path / "wrong.json").write_text("[1")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(tmp_path / "wrong.json")
    expect(page.get_by_text("Nothing was imported")).to_be_visible()


XSS = [
    "<img src=x onerror='window.hit=1'>", "<script>window.hit=1</script>", "[a](javascript:window.hit=1)", "![b](x' onerror='window.hit=1)",
    "<svg/onload=window.hit=1>", "<a href='data:text/html,<script>1</script>'>c</a>", "```html\"onmouseover=hit=1\n<b>\n```", "<style>*{display:none}</style>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>", "[d](https://example.org 'x\" onclick=\"window.hit=1')", "![e](https://example.org/pixel.png)",
]  # fmt: skip


def test_hostile_text_never_runs(server: FakeServer, visit: Open) -> None:
    id = seed(server, XSS[0], "\n\n".join(XSS))
    server.state.messages[id][0]["content"] = XSS[1]
    page = visit(f"/c/{id}")
    thread = page.get_by_role("log")
    expect(thread).to_contain_text("<script>window.hit=1</script>")
    assert thread.locator("img, script, svg, iframe, style, [onerror], [onload], [onclick], [onmouseover], [style*=none]").count() == 0
    hrefs = thread.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert hrefs and all(href.startswith("https://example.org") for href in hrefs)
    expect(page.get_by_role("heading", name=XSS[0])).to_be_visible()
    assert page.evaluate("window.hit") is None


def test_errors_say_what_was_kept_and_how_to_go_on(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    server.state.fail = {"/v1/chat/completions": 429}
    page = visit(errors="429|500|Failed to load resource")
    say(page, "Hello")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The queue is full. Try again in 7 s. Your message is kept.")
    expect(alert).to_contain_text("req-")
    server.state.broken_after = 4
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("The answer broke off. What had been written is kept above.")
    expect(page.get_by_text("broke off", exact=True)).to_be_visible()
    server.state.broken_after = None
    server.state.fail = {"/api/conversations": 500}
    page.goto(server.url + "/")
    server.state.fail = {"/api/conversations": 500}
    say(page, "Keep me")
    expect(alert).to_contain_text("Nothing was sent; your text is in the box.")
    expect(page.get_by_label("Your message")).to_have_value("Keep me")


def test_a_server_that_is_gone_is_said(server: FakeServer, visit: Open) -> None:
    page = visit(errors="Failed to load resource")
    expect(page.locator(".engine")).to_contain_text("idle")
    server.state.engine = {"state": "busy", "running": 2, "waiting": 3}
    expect(page.locator(".engine")).to_contain_text("2 in flight, 3 queued")
    page.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer. What is shown is from")
    say(page, "Hello")
    expect(page.get_by_label("Your message")).to_have_value("Hello")
    page.context.set_offline(False)
    expect(page.locator(".engine")).to_contain_text("2 in flight")


def test_settings_and_route_are_sent(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    page.keyboard.press("Control+,")
    page.get_by_label("System prompt").fill("You are kind.")
    for name, value in (("Temperature", "0.5"), ("Seed", "7"), ("Top-k", "40")):
        page.get_by_label(name).fill(value)
    page.get_by_label("Top-p").fill("3")
    page.get_by_label("Max tokens").focus()
    expect(page.get_by_text("Give a number from 0.01 to 1.")).to_be_visible()
    page.get_by_label("Route", exact=True).select_option("tale")
    say(page, "Hello")
    answered(page)
    sent = server.state.requests[-1]
    assert (sent["model"], sent["temperature"], sent["seed"], sent["top_k"]) == ("tale", 0.5, 7, 40)
    assert "top_p" not in sent and sent["stream_options"] == {"include_usage": True}
    assert sent["messages"] == [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Hello"}]


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
    page.keyboard.type("red b")
    expect(page.get_by_role("option")).to_have_text(re.compile("The red ball"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("I saw a zebra.")).to_be_visible()
    page.keyboard.press("Control+k")
    page.keyboard.type("models")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Lineage")).to_be_visible()


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
    expect(page.get_by_role("button", name="cria@2, adapter, from cria@1, 14 votes")).to_be_visible()


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


@pytest.mark.parametrize(("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"])
def test_axe_finds_nothing_serious(server: FakeServer, visit: Open, size: dict[str, int], theme: str) -> None:
    server.state.delay = 0.001
    start = {"kind": "improve", "args": {"name": "cria"}, "id": "run-0", "created": 1.0}
    server.state.runs.append({**start, "state": "running", "stages": ["collect"], "stage": "collect"})
    verdict(server.state)
    code = seed(server, "Code", "# Title\n\n- a\n- b\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    page = visit(size=size, theme=theme)
    page.context.set_default_timeout(15000)

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
    expect(page.get_by_role("option").first).to_be_visible()
    check("palette")
    for path in (f"/c/{code}", "/models", "/runs"):
        page.goto(server.url + path)
        expect(page.get_by_text(re.compile("Title|Memory|served as|replaces")).first).to_be_visible()
        check(path)


def test_a_long_conversation_opens_at_its_end(server: FakeServer, visit: Open) -> None:
    id = seed(server, "Long", "A **short** answer.\n\nWith two paragraphs.", count=5000)
    server.state.delay = 0.001
    page = visit(f"/c/{id}")
    expect(page.get_by_role("button", name="Show earlier messages (9900)")).to_be_attached()
    box = page.get_by_role("log")
    at_end = "b => b.scrollHeight - b.scrollTop - b.clientHeight < 80"
    assert box.evaluate(at_end)
    box.evaluate("b => { b.scrollTop = 0; }")
    page.get_by_role("button", name="Jump to the end").click()
    page.wait_for_timeout(50)
    assert box.evaluate(at_end)


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
    listed = dict(re.findall(r"`(\w+/\w+\.\w+)` `([0-9a-f]{64})`", (WEB / "vendor" / "VENDOR.md").read_text()))
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
