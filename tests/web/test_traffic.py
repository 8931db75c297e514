"""Traffic and Conversations in Chromium: what a person reads, asks, zooms into and says of an answer."""

from __future__ import annotations

import re
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from .fake_server import FakeServer
from .tools import ASK, DESKTOP, PHONE, SHIFTS, Open, accessible

FINDING: dict[str, Any] = {
    "id": "x1", "target": "openai/gpt-4o-mini", "kind": "answers", "said": "answers differ: 0.61 like those before",
    "before": {"agreement": 0.97}, "after": {"agreement": 0.61}, "created": time.time() - 90_000, "seen": None,
}  # fmt: skip


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
    page = visit("/traffic", still=True)
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


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_traffic_is_live_and_keeps_its_place(full: FakeServer, visit: Open, size: dict[str, int]) -> None:
    held = full.state.held["GET /api/traffic"] = threading.Event()
    page = visit("/traffic", size=size)
    page.evaluate("new Promise(done => setTimeout(done, 300))")  # what is shown meanwhile is painted
    held.set()
    expect(chart(page, "How many")).to_have_accessible_name(re.compile("140 requests"))
    lines = page.get_by_role("group", name="Lines").get_by_role("button")
    before = lines.all_inner_texts()
    assert len(before) == 3
    full.state.gateway.keep("One more", "Yes", ago=1, target=before[-1])  # now it is busier than another
    page.evaluate(ASK)
    expect(chart(page, "How many")).to_have_accessible_name(re.compile("141 requests"))
    assert lines.all_inner_texts() == before
    assert page.evaluate(SHIFTS) < 0.001


def test_dragging_zooms_and_reset_takes_it_back(full: FakeServer, visit: Open) -> None:
    page = visit("/traffic", still=True)
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
    within = sum(
        float(given["since"]) <= row["created"] < float(given["until"]) for row in full.state.gateway.rows
    )
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
    page = visit("/traffic?only=openai/gpt-4o-mini", still=True)
    plot = page.locator(".u-over").first
    expect(plot).to_be_visible()
    plot.click(position={"x": 120, "y": 60})
    expect(page.get_by_role("heading", name="Conversations")).to_be_visible()
    given = asked_of(page)
    assert given["target"] == "openai/gpt-4o-mini"
    assert float(given["until"]) - float(given["since"]) == 1800
    expected = [
        r
        for r in full.state.gateway.rows
        if r["target"] == given["target"] and float(given["since"]) <= r["created"] < float(given["until"])
    ]
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
    expect(note).to_contain_text("openai/gpt-4o-mini: answers differ: 0.61")
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
    expected = {
        r["conversation"]
        for r in full.state.gateway.rows
        if "haiku" in r["request"]["messages"][0]["content"] and r["target"] == "cria"
    }
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
    expect(
        page.get_by_role("button", name="Keep", exact=True)
    ).to_be_focused()  # Enter held down deletes nothing
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("is deleted; its numbers stay in Traffic")).to_be_visible()
    assert "c-0" not in {row["conversation"] for row in full.state.gateway.rows}
    expect(page.locator(".hit").first).to_contain_text("Summarise")


def test_the_palette_finds_the_pages(full: FakeServer, visit: Open) -> None:
    page = visit()
    for title in ("Traffic", "Conversations", "Routes", "Keys"):
        page.keyboard.press("Control+k")
        page.keyboard.type(title)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=title, exact=True, level=1)).to_be_visible()
        expect(page).to_have_title(f"{title} · Herd")


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(full: FakeServer, visit: Open, size: dict[str, int]) -> None:
    full.state.gateway.findings = [dict(FINDING)]
    page = visit("/traffic", size=size, errors="40[04]|500")

    page.get_by_role("button", name="What changed").click()
    page.get_by_role("button", name="Other times").click()
    page.get_by_role("button", name="Step by step").click()
    accessible(page, "traffic")
    for path, there in (
        ("/conversations", "How do I reset"), ("/conversations#c%3Ac-0", "Clear and short."), ("/routes#assistant", "try cria on a tenth"),
        ("/routes#summaries", "Read-only."), ("/keys#new", "help desk"),
    ):  # fmt: skip
        page.goto("about:blank")
        page.goto(full.url + path)
        expect(page.get_by_text(there).last).to_be_visible()
        accessible(page, path)
    page.get_by_role("article", name="Key of help desk").get_by_role("button", name="Revoke").click()
    accessible(page, "revoking")
    page.goto(full.url + "/routes#assistant")
    page.get_by_label("Retries").fill("many")
    expect(page.locator("#route-retries-hint")).to_contain_text("must be")
    accessible(page, "a wrong field")
