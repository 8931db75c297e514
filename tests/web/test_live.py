"""The whole of it, with nothing faked: `herd up` on the bundled model, and a person in Chromium."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, expect

from .tools import answered, say


@pytest.fixture
def url(tmp_path: Path, start_herd: Any) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env["HERD_HOME"] = str(tmp_path / "home")
    found: str = start_herd([sys.executable, "-m", "herd", "up"], env, tmp_path)
    return found


@pytest.mark.slow
def test_a_battle_by_keyboard_moves_the_leaderboard(browser: Browser, url: str) -> None:
    """cria against tale: one tie, after which both are rated alike, and one decided vote."""
    page, board = browser.new_page(), browser.new_page()
    board.goto(f"{url}/leaderboard")
    expect(board.get_by_text("no votes yet", exact=False).first).to_be_visible()
    page.set_default_timeout(60_000)
    page.goto(f"{url}/arena")
    ratings = []
    for votes, key in enumerate(("ArrowUp", "ArrowLeft"), 1):
        expect(page.get_by_label("Your message")).to_be_focused()
        page.keyboard.type(f"Tell me story {votes} about a dog.")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Your vote")).to_be_focused(timeout=60_000)
        page.keyboard.press(key)
        expect(page.get_by_role("button", name="New round")).to_be_visible()
        expect(board.get_by_text(f"{votes} vote{'s' * (votes > 1)} of people")).to_be_visible()
        dots = board.get_by_role("button", name=re.compile("^(cria|tale), "))
        expect(dots).to_have_count(2)
        said = " ".join(dot.get_attribute("aria-label") or "" for dot in dots.all())
        ratings.append(re.findall(r"rating ([\d,]*\d)", said))
        page.keyboard.press("n")
    assert ratings[0] == ["1,000", "1,000"] and ratings[1][0] != ratings[1][1], ratings
    page.close()
    board.close()


@pytest.mark.slow
def test_cria_answers_and_a_vote_is_kept(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    say(page, "Tell me a story about a dog.")
    first = page.get_by_role("article", name="Answer")
    expect(first).to_contain_text("tokens/s", timeout=60_000)
    answered(page)
    page.get_by_role("button", name="Regenerate").click()
    pair = page.get_by_role("region", name="Two answers to compare")
    pair.get_by_role("button", name="this", exact=True).click()
    expect(page.get_by_text("Kept as a vote: the better of two")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Kept as a vote: the better of two")).to_be_visible()
    with urlopen(f"{url}/api/votes") as response:
        (vote,) = json.load(response)["data"]
    assert (vote["outcome"], vote["source"]) == ("a", "regenerate")
    with urlopen(f"{url}/api/generations/{vote['a']}") as response:
        kept = json.load(response)
    assert "Tell me a story about a dog." in json.dumps(kept)
    page.close()
