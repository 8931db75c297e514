"""The whole of it, with nothing faked: `herd up` on the bundled model, and a person in Chromium."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, expect

from .tools import answered, say


@pytest.mark.slow
def test_cria_answers_and_a_vote_is_kept(browser: Browser, tmp_path: Path, start_herd: Any) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env["HERD_HOME"] = str(tmp_path / "home")
    url = start_herd([sys.executable, "-m", "herd", "up"], env, tmp_path)
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    say(page, "Tell me a story about a dog.")
    answered(page)
    first = page.get_by_role("article", name="Answer")
    expect(first).to_contain_text("tokens/s")
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
