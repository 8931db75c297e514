"""The arena in Chromium: battles by keyboard, what a vote reveals, the picture, the embed, and texts that would run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from .fake_arena import turn
from .fake_server import FakeServer
from .payloads import PAYLOADS, RUNNING, UNSAFE
from .tools import ASK, DESKTOP, PHONE, SHIFTS, Open, accessible, say

QUESTION = "Which is better?"


def votes(page: Page) -> Locator:
    return page.get_by_role("group", name=QUESTION).get_by_role("button")


def answered(page: Page) -> None:
    expect(votes(page).first).to_be_enabled()


def ask(page: Page, text: str = "Tell me about the ball") -> None:
    say(page, text)
    answered(page)


def side(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=f"{name} answer").last


def test_a_battle_by_keyboard(server: FakeServer, visit: Open) -> None:
    here = server.state.arena
    page = visit("/arena")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("Tell me about the ball")
    page.keyboard.press("ArrowLeft")  # moves in the text, and is no vote
    page.keyboard.press("Enter")
    answered(page)
    assert here.asked == [{"kind": "arena"}]
    expect(page).to_have_url(server.url + "/arena#battle-1")
    for name in here.names.values():  # nobody is named before the vote
        assert name not in page.locator(".column").inner_text()
    expect(page.get_by_label("Your vote")).to_be_focused()
    page.get_by_label("Your message").focus()
    page.keyboard.type("And then")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")  # an unsent text would be lost
    expect(page.get_by_text("Your next message is not sent.")).to_be_visible()
    page.get_by_label("Your message").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Turn 2")).to_be_visible()
    answered(page)
    page.get_by_role("log").focus()
    page.keyboard.press("ArrowDown")  # scrolls
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Say why").press("Enter")
    expect(page.get_by_label("accuracy")).to_be_focused()
    page.keyboard.press("Space")
    page.get_by_label("Comment").focus()
    page.keyboard.type("Short and right")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not here.votes
    page.keyboard.press("ArrowLeft")
    expect(side(page, "Left")).to_contain_text("cria")
    assert here.votes == [{"battle": "battle-1", "outcome": "left", "reasons": ["accuracy"], "comment": "Short and right"}]  # fmt: skip
    expect(side(page, "Left")).to_contain_text("your choice")
    expect(side(page, "Left").get_by_role("img", name="up 4.2")).to_have_text("▲ 4.2")
    expect(side(page, "Left")).to_contain_text("1,017")
    expect(side(page, "Left")).to_contain_text("95 % 968 to 1,049 · open, Apache-2.0 · free · 840 ms")
    expect(side(page, "Right").get_by_role("img", name="down 4.2")).to_be_visible()
    expect(side(page, "Right")).to_contain_text("1,049 · closed · $0.00042")
    expect(page.get_by_text("cria over openai/gpt-4o-mini")).to_be_visible()
    expect(page.get_by_text("you cast 1 votes; about 40 more decide")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page).to_have_url(server.url + "/arena")
    for key, outcome in (("ArrowUp", "tie"), ("ArrowDown", "both_bad"), ("ArrowRight", "right")):
        page.keyboard.type("Hello")
        page.keyboard.press("Enter")
        answered(page)
        page.keyboard.press(key)
        expect(page.get_by_label("After your vote")).to_be_focused()
        assert here.votes[-1]["outcome"] == outcome
        page.keyboard.press("Enter")
        expect(page.get_by_label("Your message")).to_be_focused()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_cards_are_equal_and_nothing_jumps(server: FakeServer, visit: Open, size: dict[str, int]) -> None:
    server.state.arena.delay = 0.03  # the text comes in many frames
    page = visit("/arena", size=size)
    say(page, "Tell me about the ball")
    expect(side(page, "Left")).to_contain_text("A little")
    boxes = lambda: [side(page, name).bounding_box() for name in ("Left", "Right")]  # noqa: E731
    before: Any = boxes()
    there = page.evaluate("performance.now()")  # what was asked for, cards and votes, has its place
    answered(page)
    assert (
        page.evaluate(SHIFTS.replace("all.reduce", f"all.filter((s) => s.startTime > {there}).reduce"))
        < 0.001
    )
    after: Any = boxes()
    assert after[0]["y"] == after[1]["y"]  # a long answer pushes nothing
    assert after[0]["width"] == after[1]["width"] > 300
    assert after[0]["height"] == after[1]["height"]
    if size is DESKTOP:
        assert before == after  # the cards had their place before the text came
        assert after[0]["height"] > 300
    else:  # one card fills the screen; the other shows its edge, and the arrow keys bring it
        assert [(box["x"], box["y"]) for box in before] == [(box["x"], box["y"]) for box in after]
        assert after[1]["x"] < size["width"]
        page.get_by_role("group", name="Both answers").focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        expect(side(page, "Right").get_by_text("Right", exact=True)).to_be_in_viewport(ratio=1)
        assert not server.state.arena.votes
        page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    expect(side(page, "Left")).to_contain_text("cria")
    if size is DESKTOP:
        assert boxes() == after  # the reveal is in place
    else:
        assert [box["height"] for box in boxes()] == [box["height"] for box in after]


def test_a_battle_survives_a_reload_in_the_middle(server: FakeServer, visit: Open) -> None:
    here = server.state.arena
    battle = here.make("arena", [turn("Hello", "A ball", "")])
    battle["turns"][0]["left"]["finish"] = battle["turns"][0]["right"]["finish"] = None
    page = visit("/arena#battle-1")
    expect(side(page, "Left")).to_have_attribute("aria-busy", "true")
    expect(votes(page).first).to_be_disabled()
    battle["turns"][0] = turn("Hello", "A ball, and a dog", "Nothing else")
    answered(page)
    expect(side(page, "Left")).to_contain_text("A ball, and a dog")
    expect(page.get_by_label("Your vote")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(side(page, "Right")).to_contain_text("openai/gpt-4o-mini")
    page.reload()
    expect(side(page, "Right")).to_contain_text("your choice")
    page.get_by_role("link", name="Arena").click()
    expect(page.get_by_role("heading", name="Which of two is better?")).to_be_visible()
    page.go_back()
    expect(side(page, "Right")).to_contain_text("your choice")


def test_a_chosen_pair_and_stored_pairs(server: FakeServer, visit: Open) -> None:
    here = server.state.arena
    server.state.remote = ["openai/gpt-4o"]  # which answers here, and is not of the arena
    page = visit("/arena", errors="404")
    page.get_by_role("button", name="Chosen pair").click()
    expect(page.get_by_label("Target at the left").locator("option")).to_have_text(["cria", "tale"])
    page.get_by_label("Target at the left").select_option("tale")
    expect(page.get_by_text("Choose two different targets")).to_be_visible()
    page.get_by_label("Target at the right").select_option("cria")
    ask(page)
    assert here.asked == [{"kind": "pair", "targets": ["tale", "cria"]}]
    page.reload()
    answered(page)
    expect(side(page, "Left")).to_contain_text("tale")
    page.get_by_role("button", name="Regenerate").click()
    answered(page)
    assert len(here.battles["battle-1"]["turns"]) == 1
    page.get_by_role("button", name="Left is better").click()
    page.get_by_role("button", name="New round").click()
    expect(page.get_by_label("Target at the left")).to_have_value("tale")
    page.get_by_role("button", name="Stored pairs").click()
    expect(page.get_by_role("heading", name="No stored pair waits for you")).to_be_visible()
    here.stored = [turn("Where is Paris?", "In France", "In Texas"), turn("Who?", "I", "You")]
    page.get_by_role("button", name="Begin a blind battle").click()
    page.get_by_role("button", name="Stored pairs").click()
    expect(page.get_by_text("In Texas")).to_be_visible()
    expect(page.get_by_label("Your message")).to_have_count(0)
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(0)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("After your vote")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text("Who?")).to_be_visible()


def test_what_fails_is_said_with_what_was_kept(server: FakeServer, visit: Open) -> None:
    here = server.state.arena
    server.state.fail = {"POST /api/battles": 429}
    page = visit("/arena", errors="Failed to load resource|ERR_INCOMPLETE")
    say(page, "Hello")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(
        "The queue is full. Try again in 7 s. Nothing was sent; your text is in the box."
    )
    expect(page.get_by_label("Your message")).to_have_value("Hello")
    here.broken_after = 4
    page.get_by_role("button", name="Send").click()
    expect(alert).to_contain_text("The answers broke off. What had been written is kept above.")
    expect(side(page, "Left")).to_contain_text("A little")
    here.broken_after, here.failing = None, "right"
    page.get_by_role("button", name="Regenerate").click()
    expect(side(page, "Right")).to_contain_text("this side could not answer")
    expect(page.get_by_text("An answer is not whole")).to_be_visible()
    expect(votes(page).first).to_be_disabled()
    here.failing = None
    page.get_by_role("button", name="Regenerate").click()
    answered(page)
    server.state.fail = {"POST /api/battles/battle-1/vote": 500}
    page.keyboard.press("ArrowLeft")
    expect(alert).to_contain_text("Both answers are kept; the vote is not.")
    here.leak = "I am ChatGPT"
    alert.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("This vote does not count:")).to_contain_text("does not count")
    expect(page.locator("q")).to_have_text("I am ChatGPT")
    expect(side(page, "Left").locator(".change")).to_have_count(0)
    page.keyboard.press("n")
    ask(page)
    here.state = "expired"
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("This battle has expired")).to_be_visible()
    page.goto(server.url + "/arena?#nothing")
    expect(page.get_by_role("heading", name="This battle is not here")).to_be_visible()
    page.context.set_offline(True)
    page.evaluate(ASK)
    expect(page.get_by_text("What is shown is from")).to_be_visible()


def test_a_vote_from_another_tab_stands_and_is_said(server: FakeServer, visit: Open) -> None:
    server.state.arena.make("arena", [turn("Where is Paris?", "In France", "In Texas")])
    page = visit("/arena#battle-1", errors="409")
    answered(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Left is better").click()
    expect(side(other, "Left")).to_contain_text("your choice")
    page.get_by_role("button", name="Right is better").click()
    expect(page.get_by_text("This battle had its vote already")).to_be_visible()
    expect(side(page, "Left")).to_contain_text("your choice")


def test_sentences_are_read_out_and_not_words(server: FakeServer, visit: Open) -> None:
    here = server.state.arena
    here.delay = 0.02
    page = visit("/arena")
    page.evaluate("""() => {
      window.said = [];
      new MutationObserver(() => window.said.push(document.querySelector(".column > .hidden[aria-live]")?.textContent))
        .observe(document.querySelector("#app"), { subtree: true, childList: true, characterData: true });
    }""")
    ask(page)
    page.wait_for_function("window.said.some((text) => text?.includes('very much.'))")
    said = [text.strip() for text in dict.fromkeys(page.evaluate("window.said")) if text]
    assert 2 <= len(said) <= 8
    assert said[0].startswith("Left: A little dog found a **red ball**.")
    assert all(text.endswith(".") for text in said)
    assert "".join(said).count("The dog liked it very much.") == 1


def test_the_picture_is_saved(server: FakeServer, visit: Open) -> None:
    server.state.arena.make("arena", [turn("Hello", "word " * 2000, "x" * 3000)])
    page = visit("/arena#battle-1")
    answered(page)
    expect(page.get_by_label("Your vote")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Share as a picture").click()
    picture = page.get_by_role("img", name="Prompt, both answers and the vote: Neither was good")
    expect(picture).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as PNG").click()
    assert download.value.suggested_filename == "herd-battle.png"
    data = download.value.path().read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width == 2400 and 1400 < height < 3000
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_label("After your vote")).to_be_focused()


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(server: FakeServer, visit: Open, size: dict[str, int]) -> None:
    here = server.state.arena
    code = "\n\n```python\nprint('a line of code that is longer than its card is wide' * 2)\n```\n"
    here.replies["left"] += code + "More words. " * 300
    page = visit("/arena", size=size, errors="Failed to load resource")
    accessible(page, "empty")
    ask(page)
    page.get_by_role("button", name="Say why").click()
    accessible(page, "ready")
    here.leak = "I am ChatGPT"
    page.get_by_role("button", name="Right is better").click()
    page.get_by_role("button", name="Share as a picture").click()
    accessible(page, "voted, with its picture")
    page.goto(server.url + "/arena?mode=pair")
    here.failing = "left"
    say(page, "Hello")
    expect(side(page, "Left")).to_contain_text("this side could not answer")
    accessible(page, "a side failed")


APPLICATION = """<!doctype html><html lang="en" style="color-scheme: {scheme}"><title>An application</title><main><h1>An application</h1>
<div data-herd-battle="battle-1" data-user="42"></div><div id="asked"></div></main>
<script src="{herd}/embed.js" data-key="hk-publishable"></script></html>"""


class Application(BaseHTTPRequestHandler):
    """The page of an application, of another origin than Herd's."""

    server: ThreadingHTTPServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        for policy in self.server.policies:  # type: ignore[attr-defined]
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(self.server.text.encode())  # type: ignore[attr-defined]


@pytest.fixture
def application(browser: Browser, server: FakeServer) -> Iterator[Callable[..., Page]]:
    """Opens its page, with a strict policy of its own or with none."""
    there = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=there.serve_forever, args=(0.05,), daemon=True).start()
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(30_000)

    def open(scheme: str = "light", strict: bool = True) -> Page:
        policy = f"default-src 'none'; script-src {server.url}; connect-src {server.url}; style-src-attr 'unsafe-inline'"
        there.policies = [policy] if strict else []  # type: ignore[attr-defined]
        there.text = APPLICATION.format(herd=server.url, scheme=scheme)  # type: ignore[attr-defined]
        page.goto(f"http://127.0.0.1:{there.server_address[1]}/")
        return page

    yield open
    page.close()
    there.shutdown()
    there.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_application_asks_on_its_own_page(
    server: FakeServer, application: Callable[..., Page], scheme: str
) -> None:
    here = server.state.arena
    here.make("embed", [turn("Where is Paris?", "In France", "In Texas")])
    server.state.fail = {"GET /api/battles/battle-1": 500}
    page = application(scheme)
    sent: list[Any] = []
    page.on(
        "request", lambda r: sent.append((r.method, r.headers.get("authorization"), "cookie" in r.headers))
    )
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("article", name="Left reply")).to_contain_text("In France")
    expect(page.get_by_role("article", name="Right reply")).to_contain_text("In Texas")
    accessible(page, "the embed", [scheme])
    page.evaluate("addEventListener('herd-vote', (event) => { window.told = event.detail; })")
    server.state.fail = {"POST /api/battles/battle-1/vote": 429}
    page.get_by_role("button", name="Tie").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("status")).to_have_text("The queue is full. Your vote is not kept.")
    page.get_by_role("button", name="Tie").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("status")).to_have_text("Thank you. Your vote is kept.")
    assert here.votes == [{"battle": "battle-1", "outcome": "right", "user": "42"}]
    assert page.evaluate("window.told") == {"battle": "battle-1", "outcome": "right"}
    assert ("POST", "Bearer hk-publishable", False) in sent
    assert page.evaluate("Herd.ask(document.querySelector('#asked'), { battle: 'battle-1' })") is None
    expect(page.get_by_text("This question has its vote.")).to_be_visible()


@pytest.mark.slow
def test_no_text_runs_in_the_arena(server: FakeServer, visit: Open) -> None:
    """Every payload as prompt, answer, name, leak, comment, progress and error, in cards, reveal and picture."""
    here = server.state.arena
    battle = here.make("arena", [turn(text, text, f"said: {text} and so on") for text in PAYLOADS])
    here.names = battle["names"] = {"left": PAYLOADS[20], "right": PAYLOADS[35]}
    here.leak, here.progress = PAYLOADS[20], "{} " + PAYLOADS[35].replace("{", "").replace("}", "")
    page = visit("/arena#battle-1")
    answered(page)
    page.get_by_role("button", name="Left is better").click()
    expect(side(page, "Left")).to_contain_text("onerror")
    page.get_by_role("button", name="Share as a picture").click()
    assert page.locator(".said").all_text_contents() == PAYLOADS  # shown, and not obeyed
    assert page.evaluate(UNSAFE) == []
    drawn = page.evaluate(
        """async (payloads) => {
      const { battle } = await import("/web/arena/battle.js"), { draw } = await import("/web/arena/picture.js");
      const canvas = document.body.appendChild(document.createElement("canvas")), given = battle.get();
      battle.set({ picture: false });
      for (const text of payloads) {
        const told = { ...given.reveal.left, name: text };
        const turns = [{ prompt: text, left: { text, finish: "stop" }, right: { text, finish: null, failed: text } }];
        battle.set({ turns, comment: text, reveal: { ...given.reveal, left: told, right: told, leak: text, void: text, progress: text }, error: { error: { message: text }, kept: text } });
        if (text.length % 4 === 0) draw(canvas, battle.get()); // a picture runs nothing: some are enough
        await new Promise((done) => setTimeout(done));
      }
      return payloads.length;
    }""",
        PAYLOADS,
    )
    assert drawn == len(PAYLOADS) == 200
    page.wait_for_timeout(200)
    assert page.evaluate(RUNNING)
    assert page.evaluate(UNSAFE) == []


def test_no_text_runs_in_an_application(server: FakeServer, application: Callable[..., Page]) -> None:
    server.state.arena.make("embed", [turn(text, text, f"said: {text}") for text in PAYLOADS])
    page = application(strict=False)
    expect(page.get_by_role("article", name="Right reply")).to_have_count(len(PAYLOADS))
    headers = {"Access-Control-Allow-Origin": "*"}
    for text in PAYLOADS[:60:6]:  # words of an error
        answer = json.dumps({"error": {"message": text}})
        page.route("**/vote", lambda route, _, answer=answer: route.fulfill(status=400, body=answer, headers=headers))  # fmt: skip
        page.get_by_role("button", name="Tie").click()
        expect(page.get_by_role("status")).to_contain_text("Your vote is not kept.")
        page.unroute("**/vote")
    page.wait_for_timeout(200)
    assert page.evaluate(RUNNING)
    assert page.evaluate(UNSAFE) == []
