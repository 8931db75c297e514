"""Traffic, Conversations, Routes and Keys in Chromium: what a person reads, asks, changes and cannot break."""

from __future__ import annotations

import re
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from .fake_gateway import furnish
from .fake_server import FakeServer
from .test_pages import ASK, AXE, SHIFTS
from .tools import DESKTOP, PHONE, Open

FINDING: dict[str, Any] = {
    "id": "x1", "target": "openai/gpt-4o-mini", "kind": "answers", "said": "gpt-4o-mini answers differently since Tuesday",
    "before": {"agreement": 0.97}, "after": {"agreement": 0.61}, "created": time.time() - 90_000, "seen": None,
}  # fmt: skip


@pytest.fixture
def full(server: FakeServer) -> FakeServer:
    furnish(server.state.gateway)
    return server


def asked_of(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def chart(page: Page, name: str) -> Any:
    return page.get_by_role("application", name=re.compile(f"^{name}"))


def test_traffic_says_the_same_in_charts_and_numbers(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic")
    rows = full.state.gateway.rows
    wrong = sum(row["finish"] == "error" for row in rows)
    expect(chart(page, "How many")).to_have_accessible_name(re.compile(f"How many: {len(rows)} requests"))
    expect(chart(page, "How often wrong")).to_have_accessible_name(re.compile(f"{wrong} of {len(rows)}"))
    table = page.get_by_role("region", name="Traffic by target, in numbers")
    for target in {row["target"] for row in rows}:
        mine = sum(row["target"] == target for row in rows)
        line = table.get_by_role("row").filter(has=page.get_by_role("link", name=target, exact=True))
        expect(line.get_by_role("cell").first).to_have_text(str(mine))
    expect(table.get_by_role("row", name=re.compile("^Together"))).to_contain_text(str(len(rows)))
    page.get_by_role("button", name="Key", exact=True).click()
    expect(page.get_by_role("region", name="Traffic by key, in numbers")).to_contain_text("nightly reports")
    assert asked_of(page)["by"] == "key"
    page.get_by_role("button", name="Step by step").click()
    steps = page.get_by_role("region", name="Step by step").get_by_role("row")
    assert steps.count() > 20


def test_one_line_alone_has_all_its_percentiles(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic")
    mine = sum(row["target"] == "cria" for row in full.state.gateway.rows)
    page.get_by_role("group", name="Lines").get_by_role("button", name="cria").click()
    expect(chart(page, "How many")).to_have_accessible_name(re.compile(f"{mine} requests"))
    whole = chart(page, "How fast: the whole answer")
    whole.focus()
    page.keyboard.press("ArrowRight")
    figure = page.locator("figure", has=whole)
    for _ in range(8):  # to a step in which cria answered
        page.keyboard.press("ArrowRight")
        if figure.get_by_text("p95").count():
            break
    for share in ("p50", "p95", "p99"):
        expect(figure.locator(".answer")).to_contain_text(share)
    page.reload()
    expect(chart(page, "How many")).to_have_accessible_name(re.compile(f"{mine} requests"))


def test_traffic_is_live_and_keeps_its_place(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic")
    expect(chart(page, "How many")).to_have_accessible_name(re.compile("140 requests"))
    full.state.gateway.keep("One more", "Yes", ago=1)
    page.evaluate(ASK)
    expect(chart(page, "How many")).to_have_accessible_name(re.compile("141 requests"))
    assert page.evaluate(SHIFTS) < 0.01


def test_dragging_zooms_and_reset_takes_it_back(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic")
    plot = page.locator(".u-over").first
    expect(plot).to_be_visible()
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="Reset the zoom")).to_be_visible()
    given = asked_of(page)
    assert 5.5 * 3600 < float(given["until"]) - float(given["since"]) < 6.6 * 3600  # a quarter of a day
    within = sum(float(given["since"]) <= row["created"] < float(given["until"]) for row in full.state.gateway.rows)
    expect(chart(page, "How many")).to_have_accessible_name(re.compile(f"{within} requests"))
    page.get_by_role("button", name="Reset the zoom").click()
    expect(chart(page, "How many")).to_have_accessible_name(re.compile("140 requests"))
    page.go_back()
    expect(page.get_by_role("button", name="Reset the zoom")).to_be_visible()


def test_other_times_are_chosen_by_hand(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic")
    page.get_by_role("button", name="Other times").click()
    first, last = page.get_by_label("From"), page.get_by_label("to", exact=True)
    last.fill(first.input_value())
    page.get_by_role("button", name="Show", exact=True).click()
    assert "since" not in asked_of(page)  # the end must be later
    first.fill("2026-01-01T10:00")
    last.fill("2026-01-01T12:00")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("heading", name="No traffic in this time")).to_be_visible()
    assert float(asked_of(page)["until"]) - float(asked_of(page)["since"]) == 7200


def test_a_point_opens_the_conversations_behind_it(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic?only=openai/gpt-4o-mini")
    plot = page.locator(".u-over").first
    expect(plot).to_be_visible()
    plot.click(position={"x": 120, "y": 60})
    expect(page.get_by_role("heading", name="Conversations")).to_be_visible()
    given = asked_of(page)
    assert given["target"] == "openai/gpt-4o-mini"
    assert float(given["until"]) - float(given["since"]) == 1800
    expected = [r for r in full.state.gateway.rows if r["target"] == given["target"] and float(given["since"]) <= r["created"] < float(given["until"])]
    expect(page.locator(".hit")).to_have_count(len({row["conversation"] for row in expected}))
    page.go_back()
    chart(page, "How often wrong").focus()  # and from the keyboard, those that went wrong
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.get_by_label("End")).to_have_value("error")


def test_what_the_probes_noticed_is_said_and_seen(full: FakeServer, visit: Open) -> None:
    full.state.gateway.findings = [dict(FINDING)]
    page = visit("/traffic")
    note = page.get_by_role("region", name="What changed")
    expect(note).to_contain_text("gpt-4o-mini answers differently since Tuesday")
    note.get_by_role("button", name="What changed").click()
    expect(note).to_contain_text("agreement 0.97")
    expect(note).to_contain_text("agreement 0.61")
    note.get_by_role("button", name=re.compile("^Seen")).click()
    note.get_by_role("button", name="Close").click()
    expect(note).to_contain_text("Nothing new from the probes.")
    assert full.state.gateway.findings[0]["seen"]


def test_search_lives_in_the_address(full: FakeServer, visit: Open) -> None:
    page = visit("/conversations")
    page.get_by_role("searchbox").fill("haiku about")
    page.get_by_label("Target", exact=True).select_option("cria")
    expected = {r["conversation"] for r in full.state.gateway.rows if "haiku" in r["request"]["messages"][0]["content"] and r["target"] == "cria"}
    expect(page.locator(".hit")).to_have_count(len(expected))
    assert asked_of(page) == {"query": "haiku about", "target": "cria"}
    page.reload()
    expect(page.locator(".hit")).to_have_count(len(expected))
    expect(page.get_by_role("searchbox")).to_have_value("haiku about")
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON Lines").click()
    assert len(download.value.path().read_text().splitlines()) == len(expected)
    page.get_by_role("searchbox").fill("nobody wrote this")
    expect(page.get_by_text("No conversation fits this search.")).to_be_visible()
    page.get_by_role("button", name="Search all").click()
    expect(page.get_by_role("button", name="Older")).to_be_visible()
    before = page.locator(".hit").count()
    page.get_by_role("button", name="Older").click()
    expect(page.locator(".hit")).not_to_have_count(before)


def test_a_conversation_says_what_its_answers_took(full: FakeServer, visit: Open) -> None:
    page = visit("/conversations")
    page.locator(".hit a").first.click()
    turn = page.get_by_role("article").last
    expect(turn.get_by_text("Settings", exact=True)).to_be_visible()
    tries = turn.get_by_role("list", name="Attempts").get_by_role("listitem")
    expect(tries).to_have_count(2)
    expect(tries.first).to_contain_text("429 rate_limit_exceeded too many requests")
    expect(turn.locator("dl.details")).to_contain_text("seed")  # the field that was left out
    expect(turn.locator("dl.details")).to_contain_text("40 read, 120 written")
    expect(turn).to_contain_text("Clear and short.")
    page.reload()
    expect(turn.get_by_text("Settings", exact=True)).to_be_visible()


def test_feedback_is_given_and_shown(full: FakeServer, visit: Open) -> None:
    page = visit("/conversations#c%3Ac-0")
    place = page.get_by_role("region", name="Feedback")
    place.get_by_role("button", name="Thumbs down").click()
    expect(place.get_by_role("button", name="Thumbs down")).to_have_attribute("aria-pressed", "true")
    place.get_by_label("Score").select_option("0.25")
    expect(place).to_contain_text("Scored 25 %")
    place.get_by_role("button", name="Correct it").click()
    box = place.get_by_label("What it should have said")
    expect(box).to_be_focused()
    expect(box).to_have_value(full.state.gateway.rows[0]["reply"])
    box.fill("Press Forgot.")
    place.get_by_role("button", name="Keep", exact=True).click()
    expect(place.get_by_role("listitem").last).to_contain_text("Press Forgot.")
    given = [(f["kind"], f["value"], f["text"]) for f in full.state.gateway.feedback[1:]]
    assert given == [("thumbs", -1, None), ("score", 0.25, None), ("correction", None, "Press Forgot.")]
    assert len({f["id"] for f in full.state.gateway.feedback}) == 4


def test_deleting_a_conversation_asks_once(full: FakeServer, visit: Open) -> None:
    page = visit("/conversations#c%3Ac-0")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("button", name="Keep", exact=True)).to_be_focused()  # Enter held down deletes nothing
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("is deleted; its numbers stay in Traffic")).to_be_visible()
    assert "c-0" not in {row["conversation"] for row in full.state.gateway.rows}
    expect(page.locator(".hit").first).to_contain_text("Summarise")


def field(page: Page, label: str) -> Any:
    return page.get_by_label(label, exact=True)


def test_a_route_is_checked_while_it_is_typed_and_saved(full: FakeServer, visit: Open) -> None:
    page = visit("/routes", errors="400")
    card = page.get_by_role("article", name="Route assistant")
    expect(card).to_contain_text("90 %")
    card.get_by_role("button").first.click()
    save = card.get_by_role("button", name="Save", exact=True)
    expect(save).to_be_disabled()
    field(page, "Weight of target 2").fill("three")
    expect(card.get_by_role("alert")).to_contain_text("must be a number from 0 to 1e+06, not 'three'")
    expect(save).to_be_disabled()
    field(page, "Weight of target 2").fill("3")
    field(page, "Retries").fill("11")
    expect(card.locator("#route-retries-hint")).to_have_text("must be a number from 0 to 10, not 11")
    field(page, "Retries").fill("3")
    card.get_by_role("button", name="Move 2 up").click()
    field(page, "Copy to").fill("cria")
    field(page, "Share").fill("0.05")
    card.get_by_role("button", name="Add a target").click()
    field(page, "Target 3").fill("criaa")
    expect(card.get_by_role("alert")).to_contain_text("did you mean 'cria'?")
    card.get_by_role("button", name="Take away 3").click()
    expect(card.get_by_role("status")).to_contain_text("weight of cria: 1 → 3")
    expect(card.get_by_role("status")).to_contain_text("retries: 2 → 3")
    field(page, "Note").fill("more of cria")
    save.click()
    expect(page.get_by_text("assistant is saved as version 3.")).to_be_visible()
    (saved,) = full.state.gateway.saved
    assert (saved["expect"], saved["note"]) == (2, "more of cria")
    assert saved["definition"] == {
        "targets": [{"target": "openai/gpt-4o-mini", "weight": 9}, {"target": "cria", "weight": 3}],
        "fallbacks": ["cria", "anthropic/claude-haiku-4-5"], "retries": 3, "timeout": {"first_token": 20, "total": 120},
        "shadow": {"target": "cria", "share": 0.05}, "redact": ["email"], "use": ["evaluate", "train"],
    }  # fmt: skip


def test_history_says_what_changed_and_brings_back(full: FakeServer, visit: Open) -> None:
    page = visit("/routes#assistant")
    history = page.get_by_role("region", name="History of assistant").get_by_role("listitem")
    expect(history.first).to_contain_text("cria joins with weight 1")
    expect(history.first).to_contain_text("first token within: 60 s → 20 s")
    expect(history.last).to_contain_text("made")
    history.last.get_by_role("button", name="Restore").click()
    expect(history).to_have_count(3)
    expect(history.first).to_contain_text("cria leaves")
    assert full.state.gateway.versions["assistant"][0]["definition"] == {"targets": ["openai/gpt-4o-mini"]}


def test_a_new_route_is_made_from_the_keyboard_and_removed(full: FakeServer, visit: Open) -> None:
    page = visit("/routes", errors="400")
    page.get_by_role("button", name="New route").focus()
    page.keyboard.press("Enter")
    expect(field(page, "Name")).to_be_focused()
    page.keyboard.type("drafts")
    field(page, "Target 1").focus()
    page.keyboard.type("cria")
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_enabled()
    page.keyboard.press("Enter")
    card = page.get_by_role("article", name="Route drafts")
    expect(card).to_contain_text("version 1")
    assert full.state.gateway.saved[0] == {"name": "drafts", "definition": {"targets": ["cria"]}, "expect": 0}
    card.get_by_role("button", name="Remove the route").click()
    card.get_by_role("button", name="Remove", exact=True).click()
    expect(card).to_have_count(0)
    page.goto(full.url + "/routes#drafts")
    expect(page.get_by_role("heading", name="drafts is removed")).to_be_visible()
    page.get_by_role("button", name="Restore version 1").click()
    expect(card).to_contain_text("version 3")


def test_unsaved_changes_outlive_the_page_and_are_asked_about(full: FakeServer, visit: Open) -> None:
    page = visit("/routes#assistant")
    field(page, "Retries").fill("4")
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_role("heading", name="help desk")).to_be_visible()
    page.get_by_role("link", name="Routes").click()
    card = page.get_by_role("article", name="Route assistant")
    expect(card).to_contain_text("unsaved changes")
    card.get_by_role("button").first.click()
    expect(field(page, "Retries")).to_have_value("4")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]
    card.wait_for()
    page.reload()
    assert len(asked) == 1  # nothing is unsaved now


@pytest.mark.parametrize("choice", ["Take theirs", "Save mine over it"])
def test_somebody_else_saved_first(full: FakeServer, visit: Open, choice: str) -> None:
    page = visit("/routes#assistant", errors="409")
    field(page, "Retries").fill("4")
    here = full.state.gateway
    theirs = {**here.versions["assistant"][0]["definition"], "retries": 0}
    here.route("assistant", theirs, "no retries", "grace")
    page.get_by_role("button", name="Save", exact=True).click()
    conflict = page.locator(".conflict")
    expect(conflict).to_contain_text("grace saved version 3 first. It says: retries: 2 → 0")
    expect(field(page, "Retries")).to_have_value("4")
    conflict.get_by_role("button", name=choice).click()
    if choice == "Take theirs":
        expect(field(page, "Retries")).to_have_value("0")
        assert not here.saved
    else:
        expect(page.get_by_text("assistant is saved as version 4.")).to_be_visible()
        assert here.versions["assistant"][0]["definition"]["retries"] == 4


def test_a_route_of_the_file_says_why_it_cannot_be_changed(full: FakeServer, visit: Open) -> None:
    page = visit("/routes#summaries")
    card = page.get_by_role("article", name="Route summaries")
    expect(card).to_contain_text("Read-only. It is written in herd.toml")
    expect(card).to_contain_text("numbers only")
    expect(card.get_by_role("textbox")).to_have_count(0)
    page.goto(full.url + "/routes#cria")
    expect(page.get_by_role("article", name="Route cria")).to_contain_text("under its own name")


def test_a_key_is_made_and_its_secret_shown_once(full: FakeServer, visit: Open) -> None:
    page = visit("/keys", errors="400")
    page.get_by_role("button", name="New key").click()
    expect(field(page, "Application")).to_be_focused()
    page.keyboard.type("chat widget")
    page.get_by_label("use every route").uncheck()
    page.get_by_label("use cria").check()
    field(page, "Valid for").fill("30")
    page.get_by_role("button", name="Add a limit").click()
    field(page, "Amount of limit 1").fill("ten")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("alert")).to_contain_text("limits.0.amount must be a number")
    field(page, "Amount of limit 1").fill("10")
    field(page, "Period of limit 1").select_option("day")
    page.get_by_role("button", name="Make the key").click()
    panel = page.get_by_role("region", name="The new key")
    expect(panel).to_contain_text("hk-secret-words-of-the-new-key")
    expect(panel.get_by_role("button", name="Copy")).to_be_focused()
    row = full.state.gateway.keys[0]
    assert (row["application"], row["scopes"]) == ("chat widget", ["use:cria"])
    assert row["limits"] == [{"amount": 10**13, "unit": "dollars", "period": "day"}]
    assert 29 < (row["expires"] - time.time()) / 86400 < 31
    kept = "JSON.stringify([localStorage, sessionStorage, history.state, location.href])"
    assert "hk-secret" not in page.evaluate(kept)
    panel.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("article", name="Key of chat widget")).to_contain_text("$0 of $10.00 this day")
    assert "hk-secret" not in page.content()
    page.reload()
    page.get_by_role("article", name="Key of chat widget").wait_for()
    assert "hk-secret" not in page.content()


def test_keys_say_what_they_spent_and_are_revoked_in_place(full: FakeServer, visit: Open) -> None:
    page = visit("/keys")
    card = page.get_by_role("article", name="Key of help desk")
    expect(card.get_by_role("img", name="$31.40 of $50.00 this month, $2.10 reserved")).to_be_visible()
    expect(card).to_contain_text("$16.50 left")
    expect(card).to_contain_text("used up")
    spent = sum(row["cost"] for row in full.state.gateway.rows if row["key"] == "key-1") / 1e12
    expect(card).to_contain_text(f"${float(f'{spent:.2g}'):g} in 24 hours")
    card.get_by_role("button", name="Revoke").click()
    card.get_by_role("button", name="Keep").click()
    assert not full.state.gateway.keys[-1]["revoked"]
    card.get_by_role("button", name="Revoke").click()
    card.get_by_role("button", name="Revoke").click()
    expect(card).to_contain_text("revoked")
    expect(card.get_by_role("button")).to_have_count(0)
    assert full.state.gateway.keys[-1]["revoked"]


def test_the_palette_finds_the_pages(full: FakeServer, visit: Open) -> None:
    page = visit()
    for title in ("Traffic", "Conversations", "Routes", "Keys"):
        page.keyboard.press("Control+k")
        page.keyboard.type(title)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=title, exact=True, level=1)).to_be_visible()
        expect(page).to_have_title(f"{title} · Herd")


VIEWS = {  # path → what holds its data, what is there when it has come
    "/traffic": ("GET /api/traffic", "In numbers"),
    "/conversations": ("GET /api/generations", "How do I reset my password?"),
    "/routes": ("GET /api/routes", "assistant"),
    "/keys": ("GET /api/keys", "help desk"),
}


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_loads_without_a_jump_and_outlives_its_server(full: FakeServer, visit: Open, path: str) -> None:
    request, there = VIEWS[path]
    gate = full.state.held[request] = full.state.held["GET /api/status"] = threading.Event()
    page = visit(path, errors="Failed to load resource")
    expect(page.locator(".bone").first).to_be_visible()
    page.wait_for_timeout(200)
    gate.set()
    expect(page.get_by_text(there).first).to_be_visible()
    expect(page.locator(".bone")).to_have_count(0)
    assert page.evaluate(SHIFTS) < 0.01
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.get_by_role("alert")).to_contain_text("What is shown is from")
    expect(page.get_by_text(there).first).to_be_visible()


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_says_what_failed_and_reads_again(full: FakeServer, visit: Open, path: str) -> None:
    request, there = VIEWS[path]
    full.state.fail = {request: 500}
    page = visit(path, errors="500")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The fake server was told to fail.")
    expect(alert).to_contain_text(re.compile(r"Request req-\d+"))
    alert.get_by_role("button", name="Try again").click()
    expect(page.get_by_text(there).first).to_be_visible()
    expect(alert).to_have_count(0)


def test_empty_views_say_what_will_be_there(server: FakeServer, visit: Open) -> None:
    page = visit("/traffic?range=30d", errors="404")
    expect(page.get_by_role("heading", name="No traffic yet")).to_be_visible()
    expect(page.get_by_text(f'base_url = "{server.url}/v1"')).to_be_visible()
    for path, words in (
        ("/conversations", "No conversation is kept yet."), ("/conversations#c%3Agone", "This conversation is not here"),
        ("/routes", "No route is made yet."), ("/routes#gone", "There is no route gone."), ("/keys", "No keys yet"),
    ):  # fmt: skip
        page.goto(server.url + path)
        page.reload()
        expect(page.get_by_text(words)).to_be_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(full: FakeServer, visit: Open, size: dict[str, int], theme: str) -> None:
    full.state.gateway.findings = [dict(FINDING)]
    page = visit("/traffic", size=size, theme=theme, errors="40[04]|500")

    def check(what: str) -> None:
        page.wait_for_timeout(100)
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run().then(r => r.violations)")
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, (what, serious)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what

    page.get_by_role("button", name="What changed").click()
    page.get_by_role("button", name="Other times").click()
    page.get_by_role("button", name="Step by step").click()
    check("traffic")
    for path, there in (
        ("/conversations", "How do I reset"), ("/conversations#c%3Ac-0", "Clear and short."), ("/routes#assistant", "try cria on a tenth"),
        ("/routes#summaries", "Read-only."), ("/keys#new", "help desk"),
    ):  # fmt: skip
        page.goto("about:blank")
        page.goto(full.url + path)
        expect(page.get_by_text(there).last).to_be_visible()
        check(path)
    page.get_by_role("article", name="Key of help desk").get_by_role("button", name="Revoke").click()
    check("revoking")
    page.goto(full.url + "/routes#assistant")
    field(page, "Retries").fill("many")
    expect(page.locator("#route-retries-hint")).to_contain_text("must be")
    check("a wrong field")
