"""Routes and Keys in Chromium: changed, checked while typed, saved by two at once, brought back, revoked."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .fake_server import FakeServer
from .tools import Open


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
    full.state.remote = ("helper", "openai/gpt-4o")
    page = visit("/keys", errors="400")
    page.get_by_role("button", name="New key").click()
    expect(field(page, "Application")).to_be_focused()
    expect(page.get_by_label("use helper")).to_be_visible()
    expect(page.get_by_label("use openai/gpt-4o")).to_have_count(
        0
    )  # one of the hundred that the provider lists
    page.keyboard.type("chat widget")
    page.get_by_label("use every route").uncheck()
    page.get_by_label("use cria").check()
    field(page, "Valid for").fill("30")
    page.get_by_role("button", name="Add a limit").click()
    field(page, "Amount of limit 1").fill("ten")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("alert")).to_contain_text("Give a number above 0.")
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
