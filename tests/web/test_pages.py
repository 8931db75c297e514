"""The shell, Models and Runs in Chromium; every page by keyboard, with axe, and against the policy."""

from __future__ import annotations

import hashlib
import re
import threading
from typing import Any

import pytest
from playwright.sync_api import expect

from . import fake_arena, fake_gateway
from .fake_server import WEB, FakeServer, verdict
from .tools import ASK, DESKTOP, PHONE, SHIFTS, Open, accessible, answered, say, seed


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


VIEWS = {  # path → what holds its data, what is there when it has come
    "/": ("GET /api/conversations", "The red ball"),
    "/c/conv-1": ("GET /api/conversations/conv-1", "I saw a zebra."),
    "/models": ("GET /api/models", "served as cria"),
    "/runs": ("GET /api/runs", "Switch: cria@2 replaces cria@1"),
    "/traffic": ("GET /api/traffic", "In numbers"),
    "/conversations": ("GET /api/generations", "How do I reset my password?"),
    "/routes": ("GET /api/routes", "assistant"),
    "/keys": ("GET /api/keys", "help desk"),
    "/arena#battle-1": ("GET /api/battles/battle-1", "It was round."),
}


def furnish(server: FakeServer) -> None:
    """One conversation, one battle, one finished run, and a day of traffic."""
    fake_gateway.furnish(server.state.gateway)
    server.state.arena.make(
        "arena", [fake_arena.turn("What was the ball like?", "It was round.", "It was red.")]
    )
    assert seed(server, "The red ball", "I saw a zebra.") == "conv-1"
    start = {"kind": "improve", "args": {"name": "cria"}, "id": "run-0", "created": 1.0, "stage": "collect"}
    server.state.runs.append({**start, "state": "running", "stages": ["collect", "promote"]})
    verdict(server.state)


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_loads_without_a_jump_and_outlives_its_server(
    server: FakeServer, visit: Open, path: str
) -> None:
    furnish(server)
    request, there = VIEWS[path]
    gate = server.state.held[request] = server.state.held["GET /api/status"] = threading.Event()
    page = visit(path, errors="Failed to load resource")
    expect(page.locator(".bone").first).to_be_visible()  # loading: the shape of what comes
    page.wait_for_timeout(200)
    gate.set()
    expect(page.get_by_text(there).first).to_be_visible()
    expect(page.locator(".bone")).to_have_count(0)
    assert page.evaluate(SHIFTS) < 0.01
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.get_by_role("alert")).to_contain_text("What is shown is from")  # stale, and still readable
    expect(page.get_by_text(there).first).to_be_visible()


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_says_what_failed_and_reads_again(server: FakeServer, visit: Open, path: str) -> None:
    furnish(server)
    request, there = VIEWS[path]
    server.state.fail = {request: 500}
    page = visit(path, errors="500", still=True)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The fake server was told to fail.")
    expect(alert).to_contain_text(re.compile(r"Request req-\d+"))
    alert.get_by_role("button", name="Try again").click()
    expect(page.get_by_text(there).first).to_be_visible()
    expect(alert).to_have_count(0)


def test_empty_views_say_what_will_be_there(server: FakeServer, visit: Open) -> None:
    server.state.models = []
    page = visit("/", errors="404")
    expect(page.get_by_text("Your conversations will be here.")).to_be_visible()
    expect(page.get_by_role("button", name="Hello, how are you?")).to_be_visible()
    page.goto(server.url + "/models")
    expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    page.goto(server.url + "/runs")
    expect(page.get_by_text("No run yet.")).to_be_visible()
    page.goto(server.url + "/c/nothing")
    expect(page.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    page.goto(server.url + "/traffic?range=30d")
    expect(page.get_by_role("heading", name="No traffic yet")).to_be_visible()
    expect(page.get_by_text(f'base_url = "{server.url}/v1"')).to_be_visible()
    for path, words in (
        ("/conversations", "No conversation is kept yet."),
        ("/conversations?", "Choose a conversation to read it"),
        ("/conversations?#c%3Agone", "This conversation is not here"),
        ("/routes", "No route is made yet."),
        ("/routes?#gone", "There is no route gone."),
        ("/keys", "No keys yet"),
    ):
        page.goto(server.url + path)
        expect(page.get_by_text(words)).to_be_visible()


def test_the_rail_is_narrow_and_names_its_icons(visit: Open) -> None:
    page = visit()
    rail, models = page.get_by_role("navigation", name="Pages"), page.get_by_role("link", name="Models")
    box = rail.bounding_box()
    assert box and box["width"] <= 56 and box["height"] > 800
    name = models.locator("span")
    opacity = "span => getComputedStyle(span).opacity"
    assert name.evaluate(opacity) == "0"
    models.hover()
    expect(name).to_have_css("opacity", "1")
    page.mouse.move(700, 400)
    page.keyboard.press("Shift+Tab")
    for _ in range(20):  # from the keyboard, too
        if name.evaluate(opacity) == "1":
            break
        page.keyboard.press("Shift+Tab")
    assert name.evaluate(opacity) == "1"
    phone = visit(size=PHONE)
    box = phone.get_by_role("navigation", name="Pages").bounding_box()
    assert box and box["width"] == PHONE["width"] and box["y"] + box["height"] == PHONE["height"]
    titles = "Chat Arena Leaderboard Traffic Conversations Routes Keys Models Runs"
    for title in titles.split():
        expect(phone.get_by_role("link", name=title).locator("span")).to_be_visible()


def test_the_top_says_route_target_and_engine(server: FakeServer, visit: Open) -> None:
    page = visit("/models")
    top = page.locator("header.top")
    expect(top).to_contain_text("cria")
    expect(top).to_contain_text("cria@1")
    for engine, words in (
        ({"state": "starting"}, "loading the model"),
        ({"state": "busy", "running": 1, "waiting": 0}, "1 in flight"),
        ({"state": "gone"}, "engine is restarting"),
        ({"state": "absent"}, "gateway only"),
    ):
        server.state.engine = engine
        page.evaluate(ASK)
        expect(top.get_by_role("status")).to_have_text(words)
    server.state.engine = {"state": "busy", "running": 1, "waiting": 0}
    server.state.runs_active = 1
    page.evaluate(ASK)
    expect(top.get_by_role("status")).to_have_text("1 in flight, a run waits")


def test_a_model_and_a_run_have_addresses(server: FakeServer, visit: Open) -> None:
    furnish(server)
    server.state.runs.insert(0, {**server.state.runs[0], "id": "run-1", "state": "cancelled", "result": None})
    page = visit("/models")
    page.get_by_role("link", name="cria@2").click()
    expect(page).to_have_url(server.url + "/models#cria@2")
    page.reload()
    card = page.get_by_role("article", name="cria@2")
    expect(card.get_by_role("cell", name="gzip")).to_be_in_viewport()
    page.goto(server.url + "/runs")
    expect(page.get_by_role("article", name="Run run-1").locator(".detail")).to_be_visible()
    page.get_by_role("article", name="Run run-0").get_by_role("button").first.click()
    expect(page).to_have_url(server.url + "/runs#run-0")
    page.reload()
    expect(page.get_by_text("Switch: cria@2 replaces cria@1")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("article", name="Run run-1").locator(".detail")).to_be_visible()


def test_comparing_and_voting_from_the_keyboard(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    say(page, "Hello")
    answered(page)
    page.get_by_role("button", name="Regenerate").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="that", exact=True)).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="this", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Kept as a vote: the better of two")).to_be_visible()
    assert [v["outcome"] for v in server.state.votes] == ["b"]
    expect(page.get_by_label("Your message")).to_be_focused()


def test_motion_is_short_and_none_where_reduced(visit: Open) -> None:
    page = visit()  # every test's browser asks for reduced motion
    moves = "getComputedStyle(document.querySelector('.rail span')).transitionDuration.split(',')[0]"
    assert page.evaluate(moves) == "0s"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moves) == "0.12s"


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(server: FakeServer, visit: Open, size: dict[str, int]) -> None:
    server.state.delay = 0.001
    furnish(server)
    code = seed(
        server, "Code", "# Title\n\n- a\n- b\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    page = visit(size=size, errors="500|Failed to load resource")

    accessible(page, "empty")
    if size is PHONE:
        page.get_by_role("button", name="Conversations").click()
        accessible(page, "list")
        page.get_by_role("button", name="Close").click()
    say(page, "Hello")
    answered(page)
    page.get_by_role("button", name="Details").click()
    expect(page.locator("dl.details")).to_be_visible()
    accessible(page, "reply")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="neither")).to_be_enabled()
    accessible(page, "compare")
    page.keyboard.press("Control+,")
    accessible(page, "settings")
    page.keyboard.press("Control+,")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog").get_by_role("option").first).to_be_visible()
    accessible(page, "palette")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    accessible(page, "keyboard map")
    for path in (f"/c/{code}", "/models#cria@1", "/runs"):
        page.goto(server.url + path)
        expect(page.get_by_text(re.compile("Title|gzip|replaces")).first).to_be_visible()
        accessible(page, path)
    server.state.fail = {"GET /api/models": 500}
    page.goto(server.url + "/models")
    expect(page.get_by_role("alert")).to_be_visible()
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.get_by_text("What is shown is from")).to_be_visible()
    accessible(page, "error and server gone")


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
