"""The leaderboard in Chromium: what a person reads, chooses, switches and watches move."""

from __future__ import annotations

import re
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from . import fake_leaderboard
from .fake_leaderboard import Board
from .fake_server import FakeServer
from .payloads import PAYLOADS, RUNNING, UNSAFE
from .tools import ASK, DESKTOP, PHONE, Open, accessible

MOVES = """() => {
  window.moves = [];
  const animate = Element.prototype.animate;
  Element.prototype.animate = function (frames, how) { window.moves.push(how.duration); return animate.call(this, frames, how); };
}"""


@pytest.fixture
def board(server: FakeServer) -> Board:
    fake_leaderboard.furnish(server.state.board)
    return server.state.board


def answer(server: FakeServer, **query: str) -> dict[str, Any]:
    found = fake_leaderboard.leaderboard(server.state, query={name: [value] for name, value in query.items()})
    server.state.board.asked.pop()
    return found


def dots(page: Page) -> Locator:
    return page.get_by_role("region", name="Ratings").get_by_role("listitem").get_by_role("button")


def named(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=f"{name}, ranks")


def numbers(page: Page) -> Locator:
    return page.get_by_role("region", name="The leaderboard in numbers").get_by_role("row")


def asked_of(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def test_dots_and_numbers_say_the_same(server: FakeServer, board: Board, visit: Open) -> None:
    page = visit("/leaderboard")
    rows = answer(server)["rows"]
    expect(dots(page)).to_have_count(len(rows))
    for i, row in enumerate(rows):
        span = f"{round(row['low']):,} to {round(row['high']):,}"
        ranks = [str(row["best"]), str(row["worst"])] if row["best"] != row["worst"] else [str(row["best"])]
        said = f"{row['name']}, ranks {' to '.join(ranks)}, rating {round(row['rating']):,}, 95 % interval {span}"
        expect(dots(page).nth(i)).to_have_accessible_name(said)
        line = numbers(page).nth(i + 1)
        expect(line.get_by_role("rowheader")).to_contain_text(row["name"])
        cells = [cell.strip() for cell in line.get_by_role("cell").all_inner_texts()]
        counts = [str(row[key]) for key in ("votes", "wins", "losses", "ties", "both_bad")]
        assert cells[:8] == ["–".join(ranks), f"{round(row['rating']):,}", span, *counts]
        if row["flip"]:
            assert cells[8] == f"{row['flip']['votes']}, below {row['flip']['below']}"
        assert row["licence"] in cells
    left = [dot.bounding_box() for dot in page.locator(".line .point").all()]
    places = [box["x"] for box in left if box]
    assert places == sorted(places, reverse=True)  # the best is furthest to the right
    expect(page.get_by_role("link", name="card of cria")).to_have_attribute("href", "/models#cria")
    standing = page.get_by_role("region", name="How it stands")
    for part in ("12 void (leak 10, limit 2)", "1 voter flagged, whose 25 votes do not count", "40 votes of judges, not in here",
                 "about 40 more votes decide cria against tale"):  # fmt: skip
        expect(standing).to_contain_text(part)


def test_two_dots_answer_which_is_better(server: FakeServer, board: Board, visit: Open) -> None:
    page = visit("/leaderboard")
    panel = page.get_by_role("region", name="Compare two targets")
    named(page, "cria").click()
    expect(panel).to_contain_text("Choose one more.")
    named(page, "llama-3.1-8b").focus()
    page.keyboard.press("Space")
    found = fake_leaderboard.compare(server.state, query={"a": ["cria"], "b": ["llama-3.1-8b"]})
    expect(panel).to_contain_text(found["sentence"])
    expect(panel).to_contain_text(f"+{found['difference']['estimate']:.0f}")
    share, low, high = (round(100 * min(max(0.5 + found[key], 0), 1)) for key in ("estimate", "low", "high"))
    expect(
        panel.get_by_role(
            "img", name=f"Share of the votes for cria: {share} % ({low} % to {high} %)", exact=True
        )
    ).to_be_visible()
    assert asked_of(page) == {"a": "cria", "b": "llama-3.1-8b"}
    page.reload()
    expect(panel).to_contain_text(found["sentence"])
    expect(named(page, "cria")).to_have_attribute("aria-pressed", "true")
    panel.get_by_label("Second target").select_option("tale")
    expect(panel).to_contain_text("Not decided between cria and tale; about 80 more votes to decide.")
    i, j = board.names.index("cria"), board.names.index("tale")
    board.wins[i, j] += 300
    board.version += 1  # the sentence follows the votes
    expect(panel).to_contain_text("cria beats tale: 95 %, valid at any time.")
    panel.get_by_role("button", name="Clear").click()
    expect(panel).to_contain_text("Choose two targets")
    assert asked_of(page) == {}


def test_switches_live_in_the_address(server: FakeServer, board: Board, visit: Open) -> None:
    page = visit("/leaderboard")
    page.get_by_label("Category").select_option("code")
    page.get_by_label("Style control").check()
    style = page.locator("section").filter(has=page.get_by_role("heading", name="What style is worth"))
    expect(style).to_contain_text("longer+0.31 (+0.22 to +0.40)")
    expect(style).to_contain_text("at the left+0.06 (+0.01 to +0.11)")
    expect(style).to_contain_text("7 votes without text are left out")
    page.get_by_label("Open only").check()
    expect(dots(page)).to_have_count(3)
    page.get_by_label("Whose votes").select_option("judge:gpt")
    expect(page.get_by_role("region", name="How it stands")).to_contain_text("Only votes of judge gpt")
    given = {"category": "code", "style": "1", "open": "1", "raters": "judge:gpt"}
    assert board.asked[-1] == given == asked_of(page)
    page.reload()
    expect(dots(page)).to_have_count(3)
    assert board.asked[-1] == given
    page.go_back()
    expect(page.get_by_role("region", name="How it stands")).to_contain_text("votes of people")
    expect(page.get_by_label("Open only")).to_be_checked()


def test_it_moves_with_each_vote_and_nothing_else_does(server: FakeServer, board: Board, visit: Open) -> None:
    page = visit("/leaderboard?a=cria&b=tale")
    expect(page.get_by_text("live, as of")).to_be_visible()
    expect(page.locator(".map-of canvas")).to_have_count(2)
    expect(page.get_by_role("application", name=re.compile("^Rating over time"))).to_be_visible()
    page.evaluate(MOVES)
    named(page, "tale").focus()
    marks = [page.get_by_role("region", name="Compare two targets"), page.get_by_role("heading", name="In numbers"),
             page.get_by_role("heading", name="What it costs")]  # fmt: skip
    before = [mark.bounding_box() for mark in marks]
    for _ in range(2):
        board.wins[board.names.index("llama-3.1-8b")] += 60
        board.version += 1
    expect(dots(page).first).to_have_accessible_name(re.compile("^llama-3.1-8b"))
    assert page.evaluate("window.moves") == []  # this person asked for less motion
    assert [mark.bounding_box() for mark in marks] == before
    expect(named(page, "tale")).to_be_focused()
    page.emulate_media(reduced_motion="no-preference")
    board.wins[board.names.index("tale")] += 200
    board.version += 1
    expect(dots(page).first).to_have_accessible_name(re.compile("^tale"))
    assert set(page.evaluate("window.moves")) == {120}
    asked, began = len(board.asked), time.monotonic()
    board.delay = 0.3
    for _ in range(40):  # a storm of votes is read once a second
        board.version += 1
        page.wait_for_timeout(15)
    board.more = {"progress": "the storm is over"}
    board.version += 1
    expect(page.get_by_role("region", name="How it stands")).to_contain_text("the storm is over")
    assert len(board.asked) - asked <= 2 + time.monotonic() - began


def test_what_the_votes_cannot_say_is_said(board: Board, visit: Open) -> None:
    alone = "no vote connects llama-3.1-8b with the others"
    board.more = {"problems": [alone]}
    unknown = {"rating": None, "low": None, "high": None, "best": None, "worst": None}
    board.extra["cria"] |= {"rating": None, "low": 1120.0, "high": None, "separated": "won all", "flip": None}
    board.extra["llama-3.1-8b"] |= {"component": 1}
    board.extra["tale"] |= {**unknown, "component": None, "votes": 0, "separated": "no votes", "cost": None}
    page = visit("/leaderboard?a=cria&b=tale")
    expect(page.get_by_role("region", name="How it stands")).to_contain_text(alone)
    expect(named(page, "cria")).to_have_accessible_name(
        re.compile("rating won all, 95 % interval above 1,120")
    )
    ladder = page.get_by_role("region", name="Ratings")
    expect(ladder).to_contain_text("Not comparable with those above: no vote connects them")
    expect(dots(page).last).to_have_accessible_name(re.compile("^tale, ranks –, rating no votes"))
    expect(page.get_by_text("Not measured: ")).to_have_count(1)
    text = page.locator("main").inner_text()
    assert not re.search(r"NaN|Infinity|undefined|null|\[object", text)


def test_one_vote_and_many_groups_have_their_places(board: Board, visit: Open) -> None:
    unknown = {"rating": None, "low": None, "high": None, "best": None, "worst": None, "flip": None}
    names = tuple(f"model-{i}" for i in range(60))
    fake_leaderboard.furnish(board, names, 8)
    for name in names[50:]:
        board.extra[name] |= {"component": 1}
    for i, name in enumerate(names[-3:-1]):
        board.extra[name] |= {**unknown, "component": 2 + i, "separated": "no votes"}
    board.extra[names[-1]] |= {**unknown, "high": 300.0, "separated": "lost all"}
    page = visit("/leaderboard")
    ladder = page.get_by_role("region", name="Ratings")
    expect(ladder).to_contain_text("Not comparable with those above: no vote connects them")
    expect(ladder.get_by_text("No vote rates these yet")).to_have_count(1)
    for name in names[50:]:  # no group is hidden behind the first
        expect(named(page, name)).to_have_count(1)
    assert dots(page).count() == 50
    bound = named(page, names[-1]).locator(".reach").bounding_box()
    assert bound and bound["width"] > 2  # as far as 300, though all ratings are far above
    for name in names:
        board.extra[name] |= {**unknown, "component": 0, "separated": "won all"}
    board.version += 1
    expect(page.locator(".axis")).to_contain_text("900")
    expect(page.locator(".axis")).to_contain_text("1,100")


def test_maps_times_and_costs_are_read_with_the_keyboard(
    server: FakeServer, board: Board, visit: Open
) -> None:
    page = visit("/leaderboard")
    pairs = answer(server)["pairs"]
    first = page.get_by_role("application", name=re.compile("^Won, of the votes"))
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    wins, n = round(100 * pairs["fraction"][0][2]), round(pairs["counts"][0][2])
    expect(page.locator(".readout")).to_contain_text(
        re.compile(f"^{pairs['names'][0]} won {wins} % .* of {n} votes against {pairs['names'][2]}$")
    )
    page.get_by_role("button", name="Pair by pair").click()
    listed = page.get_by_role("region", name="Pair by pair").get_by_role("row")
    expect(listed).to_have_count(1 + 10)
    top = [float(text) for text in listed.locator("td:last-child").all_inner_texts()]
    assert top == sorted(top, reverse=True)

    plot = page.get_by_role("application", name=re.compile("^Rating over time.*Best open.*Best closed"))
    plot.focus()
    page.keyboard.press("ArrowRight")
    past: Any = board.history
    expect(page.locator(".over-time figcaption")).to_contain_text(
        f"{past['best_open']['name'][0]} {past['best_open']['rating'][0]:,.0f}"
    )
    page.get_by_role("button", name="Time by time").click()
    expect(page.get_by_role("region", name="Time by time").get_by_role("row")).to_have_count(31)

    page.get_by_role("button", name="Whole reply").click()
    rows = [row for row in answer(server)["rows"] if row["total_ms"]]
    unbeaten = {
        row["name"] for row in rows
        if not any(o["rating"] >= row["rating"] and o["total_ms"]["median"] <= row["total_ms"]["median"] and o is not row for o in rows)
    }  # fmt: skip
    said = page.get_by_role("img", name=re.compile("^Rating against whole reply")).get_attribute("aria-label")
    assert said and {name for name in board.names if f"{name} (" in said} == unbeaten
    assert unbeaten < set(board.names)


def test_empty_loading_error_and_stale(server: FakeServer, visit: Open) -> None:
    board = server.state.board
    gate = server.state.held["GET /api/leaderboard"] = threading.Event()
    page = visit("/leaderboard", errors="Failed to load resource")
    expect(page.get_by_role("status", name="Reading the leaderboard")).to_be_visible()
    gate.set()
    expect(page.get_by_role("heading", name="No votes yet")).to_be_visible()
    page.get_by_role("link", name="Cast the first vote").click()
    expect(page).to_have_url(re.compile("/arena$"))
    page.go_back()
    fake_leaderboard.furnish(board)
    board.version += 1  # the first votes come
    expect(dots(page)).to_have_count(5)
    board.more = {"rows": []}
    page.get_by_label("Category").select_option("code")
    expect(page.get_by_text("There are none in code, of 654 votes in all.")).to_be_visible()
    board.more = {}
    server.state.fail["GET /api/leaderboard"] = 503
    page.get_by_role("button", name="Show all votes of people").click()
    alert = page.get_by_role("alert").filter(has_text="The fake server was told to fail.")
    expect(alert).to_contain_text("What is shown was read before.")
    expect(alert).to_contain_text("Request req-")
    alert.get_by_role("button", name="Try again").click()
    expect(dots(page)).to_have_count(5)
    expect(page.locator(".over-time canvas")).to_be_visible()
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.locator(".banner")).to_contain_text("The server does not answer. What is shown is from")
    expect(page.locator(".live")).to_have_text(re.compile("^as of"))
    expect(dots(page)).to_have_count(5)  # and what was read stays
    page.context.set_offline(False)
    board.more = {"progress": "heard again"}
    board.version += 1
    page.evaluate(ASK)
    expect(page.get_by_role("region", name="How it stands")).to_contain_text("heard again")


@pytest.mark.slow
def test_no_payload_runs(server: FakeServer, board: Board, visit: Open) -> None:
    names, k = tuple(PAYLOADS), len(PAYLOADS)
    fake_leaderboard.furnish(board, names, 4)
    for i, name in enumerate(names):
        board.extra[name] |= {"licence": PAYLOADS[-i], "card": f"javascript:{name}" if i % 2 else name}
    board.categories = [{"name": name, "votes": 3} for name in names]
    board.judges = list(names)
    board.more = {"problems": list(names), "progress": names[0], "gauge": names[1]}
    page = visit("/leaderboard", errors=".*")
    page.get_by_role("button", name=f"All {k} targets").first.click()
    page.get_by_role("button", name=f"All {k} targets").click()
    expect(dots(page)).to_have_count(k)
    page.get_by_label("First target").select_option(names[0])
    page.get_by_label("Second target").select_option(names[k // 2])
    expect(page.locator(".told")).to_contain_text("Not decided between")
    page.get_by_role("button", name="Pair by pair").click()
    page.get_by_role("application", name=re.compile("^Won")).focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("application", name=re.compile("^Rating over time"))).to_be_visible()
    page.wait_for_timeout(200)
    assert page.evaluate(RUNNING)
    assert page.evaluate(UNSAFE) == []
    hrefs = page.evaluate("[...document.querySelectorAll('.numbers a')].map((a) => a.getAttribute('href'))")
    assert all(re.match(r"https?://|/(?![/\\])", href) for href in hrefs)


def test_many_targets_are_folded(board: Board, visit: Open) -> None:
    names = tuple(f"vendor-{i % 9}/model-{i}" for i in range(130))
    fake_leaderboard.furnish(board, names, 40)
    board.extra = {}
    page = visit(f"/leaderboard?a={names[0]}&b={names[-1]}", size=PHONE)
    expect(named(page, names[-1])).to_have_attribute("aria-pressed", "true")
    assert 40 <= dots(page).count() <= 42
    page.get_by_role("button", name="All 130 targets").first.click()
    expect(dots(page)).to_have_count(130)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(
    server: FakeServer, board: Board, visit: Open, size: dict[str, int]
) -> None:
    board.more = {"problems": ["tale has 2 votes"]}
    page = visit("/leaderboard?a=cria&b=tale&style=1", size=size)
    expect(page.locator(".told")).to_contain_text("Not decided")
    expect(page.locator(".over-time canvas")).to_be_visible()
    page.get_by_role("button", name="Pair by pair").click()
    page.get_by_role("button", name="Time by time").click()
    accessible(page, "leaderboard")
    board.fill([], *(np.zeros((0, 0)) for _ in range(3)))
    board.version += 1
    expect(page.get_by_role("heading", name="No votes yet")).to_be_visible()
    accessible(page, "no votes")
