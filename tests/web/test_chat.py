"""The chat page in Chromium, over a fake server that speaks the contract."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from .fake_server import STORY, FakeServer
from .tools import Open, answered, say, seed, until


def test_a_chat_streams_and_is_kept(server: FakeServer, visit: Open) -> None:
    rest = server.state.held_at[10] = threading.Event()
    page = visit()
    expect(page.get_by_text("it does not know facts")).to_be_visible()
    say(page, "Tell me a story")
    answer = page.get_by_role("article", name="Answer")
    expect(answer).to_contain_text("Once upon")
    assert len(answer.inner_text()) < len(STORY)  # words are seen before the end
    rest.set()
    answered(page)
    expect(answer).to_contain_text("tokens/s")
    expect(answer.locator("strong").first).to_have_text("red ball")
    (id,) = server.state.conversations
    assert page.url == f"{server.url}/c/{id}"
    until(page, lambda: len(server.state.messages[id]) == 2 and server.state.generations)
    user, reply = server.state.messages[id]
    assert (user["role"], user["content"], user["parent"]) == ("user", "Tell me a story", None)
    assert (reply["parent"], reply["content"], reply["generation"] in server.state.generations) == (
        user["id"],
        STORY * 2,
        True,
    )
    page.reload()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("Once upon")
    page.get_by_role("button", name="Details").click()
    expect(page.locator("dl.details")).to_contain_text("12 read")


def test_escape_stops_and_keeps_what_was_written(server: FakeServer, visit: Open) -> None:
    rest = server.state.held_at[10] = threading.Event()
    page = visit()
    say(page, "Hello")
    expect(page.get_by_role("article", name="Answer")).to_contain_text("upon")
    page.keyboard.press("Escape")
    answered(page)
    expect(page.get_by_text("stopped")).to_be_visible()
    rest.set()
    (messages,) = server.state.messages.values()
    until(page, lambda: len(messages) == 2)
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
    until(page, lambda: len(messages) == 3)
    first, second = (m["generation"] for m in messages[1:])
    (vote,) = server.state.votes
    assert (vote["a"], vote["b"], vote["outcome"], vote["source"]) == (first, second, "b", "regenerate")
    assert messages[1]["parent"] == messages[2]["parent"] == messages[0]["id"]
    say(page, "And then?")  # the conversation goes on with the chosen answer
    answered(page, 2)
    assert [m["content"] for m in server.state.requests[-1]["messages"]] == [
        "Hello",
        "A second answer.",
        "And then?",
    ]
    page.reload()
    expect(page.get_by_text("2/2")).to_be_visible()
    expect(page.get_by_text("And then?")).to_be_visible()
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
    with page.expect_response(lambda response: response.request.method == "PATCH"):
        page.get_by_role("button", name="this", exact=True).click()
    expect(page.get_by_text("1/2")).to_be_visible()
    page.reload()  # the chosen branch is still the one in front
    expect(page.get_by_text("1/2")).to_be_visible()


def test_an_edit_is_a_branch(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    page = visit()
    say(page, "First wording")
    answered(page)
    page.get_by_role("article", name="You").hover()
    page.get_by_role("button", name="Edit").click()
    editor = page.get_by_label("Edit your message")
    expect(editor).to_be_focused()  # it takes the focus, and puts the cursor at the end, once it is drawn
    editor.fill("Second wording")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2/2")).to_be_visible()
    answered(page)
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text("Second wording")
    page.get_by_role("article", name="You").hover()
    page.get_by_role("button", name="Previous branch").click()
    expect(page.get_by_role("article", name="You")).to_contain_text("First wording")
    (messages,) = server.state.messages.values()
    assert [m["content"] for m in messages if m["role"] == "user"] == ["First wording", "Second wording"]


def test_search_rename_delete_and_undo(server: FakeServer, visit: Open) -> None:
    seed(server, "The red ball", "I saw a zebra.")
    seed(server, "Grandmother", "She baked a cake.")
    page = visit(still=True)
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
    until(page, lambda: len(server.state.conversations) == 1)


def test_export_and_import_give_the_same_conversation(
    server: FakeServer, visit: Open, tmp_path: Path
) -> None:
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
    expect(page.get_by_text("1 conversation imported.")).to_be_visible()
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
    assert (
        thread.locator(
            "img, script, svg, iframe, style, [onerror], [onload], [onclick], [onmouseover], [style*=none]"
        ).count()
        == 0
    )
    hrefs = thread.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert hrefs and all(href.startswith("https://example.org") for href in hrefs)
    expect(page.get_by_role("heading", name=XSS[0])).to_be_visible()
    assert page.evaluate("window.hit") is None


def test_errors_say_what_was_kept_and_how_to_go_on(server: FakeServer, visit: Open) -> None:
    server.state.delay = 0.001
    server.state.fail = {"POST /v1/chat/completions": 429}
    page = visit(errors="429|500|Failed to load resource")
    say(page, "Hello")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The queue is full. Try again in 7 s. Your message is kept.")
    expect(alert).to_contain_text("req-")
    server.state.broken_after = 4
    alert.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("The answer broke off. What had been written is kept above.")
    expect(page.locator(".pace")).to_contain_text("broke off")
    server.state.broken_after = None
    page.goto(server.url + "/")
    server.state.fail = {"POST /api/conversations": 500}
    say(page, "Keep me")
    expect(alert).to_contain_text("Nothing was sent; your text is in the box.")
    expect(page.get_by_label("Your message")).to_have_value("Keep me")


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
    page.get_by_role("combobox", name="Route").select_option("tale")
    say(page, "Hello")
    answered(page)
    sent = server.state.requests[-1]
    assert (sent["model"], sent["temperature"], sent["seed"], sent["top_k"]) == ("tale", 0.5, 7, 40)
    assert "top_p" not in sent and sent["stream_options"] == {"include_usage": True}
    assert sent["messages"] == [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Hello"},
    ]


SCROLL = """async ([step, frames]) => {
  const box = document.querySelector("[role=log]");
  const times = [];
  for (let i = 0, last = performance.now(); i < frames; i++) {
    box.scrollTop += step;
    const now = await new Promise((done) => requestAnimationFrame(() => done(performance.now())));
    times.push(now - last);
    last = now;
  }
  return times.sort((a, b) => a - b)[frames >> 1];
}"""
SIZE = "document.querySelectorAll('*').length"
FIRST_SEEN = """() => {
  const edge = document.querySelector("[role=log]").getBoundingClientRect().top;
  const seen = [...document.querySelectorAll("[role=log] article")].find((m) => m.getBoundingClientRect().bottom > edge);
  return [seen.innerText, seen.getBoundingClientRect().top];
}"""
TALLER = "height => document.querySelector('[role=log]').scrollHeight > height"
AT_END = "b => b.scrollHeight - b.scrollTop - b.clientHeight < 80"


def ten_thousand_messages() -> dict[str, Any]:
    """An exported conversation whose messages are of many heights."""
    messages: list[dict[str, Any]] = []
    for i in range(10_000):
        role, text = (
            ("user", f"Question {i}?") if i % 2 == 0 else ("assistant", f"Answer {i}. " + STORY * (1 + i % 7))
        )
        more = "\n\n```python\nprint(1)\n```\n\n- a\n- b" if i % 10 == 1 else ""
        parent = messages[-1]["id"] if messages else None
        messages.append({"id": f"m{i}", "parent": parent, "role": role, "content": text + more, "generation": None, "created": 1.0})  # fmt: skip
    return {
        "conversations": [
            {"id": "long", "title": "Long", "route": "cria", "settings": {}, "messages": messages}
        ]
    }


@pytest.mark.slow
def test_ten_thousand_messages_scroll(visit: Open, tmp_path: Path) -> None:
    """As many frames as the machine gives to a page at rest, nearly; drawing all messages breaks both bounds."""
    (tmp_path / "long.json").write_text(json.dumps(ten_thousand_messages()))
    page = visit()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(tmp_path / "long.json")
    page.get_by_role("link", name="Long").click()
    expect(page.get_by_text("Answer 9999.")).to_be_visible()
    box = page.get_by_role("log")
    assert box.evaluate(AT_END)
    for step in (-60, -400, 120, -2500):  # pixels a frame
        rest, median = (page.evaluate(SCROLL, [s, 60]) for s in (0, step))
        assert step == -2500 or median < 2 * rest + 25, (step, median, rest)  # milliseconds; 2,500 is a leap
        assert page.evaluate(SIZE) < 2500
        before = page.evaluate(FIRST_SEEN)
        page.wait_for_timeout(300)
        assert page.evaluate(FIRST_SEEN) == before  # nothing jumps when guessed heights become real
    box.evaluate("b => { b.scrollTop = 0; }")
    expect(page.get_by_text("Question 0?")).to_be_visible()
    page.get_by_role("button", name="Jump to the end").click()
    expect(page.get_by_text("Answer 9999.")).to_be_visible()
    page.wait_for_timeout(100)
    assert box.evaluate(AT_END)


def test_an_edit_is_not_lost_by_scrolling_away(server: FakeServer, visit: Open) -> None:
    page = visit(f"/c/{seed(server, 'Long', 'An answer. ' * 60, count=100)}")
    last = page.get_by_role("article", name="You").last
    last.hover()
    last.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("Half a thought")
    page.get_by_role("log").evaluate("b => { b.scrollTop = 0; }")
    expect(page.get_by_label("Edit your message")).to_have_count(0)
    page.get_by_role("button", name="Jump to the end").click()
    expect(page.get_by_label("Edit your message")).to_have_value("Half a thought")


def test_the_end_is_followed_only_by_who_is_there(server: FakeServer, visit: Open) -> None:
    server.state.delay, server.state.reply = 0.001, "A line of it.\n\n" * 150
    second, third = threading.Event(), threading.Event()
    server.state.held_at = {200: second, 400: third}
    page = visit()
    say(page, "Hello")
    box = page.get_by_role("log")
    page.wait_for_function(TALLER, arg=1500)
    assert box.evaluate(AT_END)
    box.evaluate("b => { b.scrollTop = 40; }")
    jump = page.get_by_role("button", name="Jump to the end")
    expect(jump).to_be_visible()
    grown = box.evaluate("b => b.scrollHeight")
    second.set()
    page.wait_for_function(TALLER, arg=grown + 100)
    assert box.evaluate("b => b.scrollTop") == 40
    jump.click()
    expect(jump).to_have_count(0)
    grown = box.evaluate("b => b.scrollHeight")
    third.set()
    page.wait_for_function(TALLER, arg=grown + 100)
    assert box.evaluate(AT_END)
    page.keyboard.press("Escape")
    answered(page)


def test_the_composer_grows_to_ten_lines(visit: Open) -> None:
    page = visit()
    box = page.get_by_label("Your message")
    heights = []
    for lines in (1, 2, 10, 30):
        box.fill("\n".join(["word"] * lines))
        heights.append(box.bounding_box()["height"])
    line = heights[1] - heights[0]
    assert line > 15 and heights[2] == heights[3] == heights[0] + 9 * line


def test_copying_an_answer_and_its_code(server: FakeServer, visit: Open) -> None:
    text = "Look:\n\n```python\nprint(1)\nprint(2)\n```"
    page = visit(f"/c/{seed(server, 'Code', text)}", still=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "print(1)\nprint(2)"
    page.keyboard.press("Control+Shift+c")
    page.wait_for_function("async (text) => await navigator.clipboard.readText() === text", arg=text)


def test_much_is_imported_in_pieces(server: FakeServer, visit: Open, tmp_path: Path) -> None:
    """The server reads a few megabytes at once; what Herd exported may be more."""
    long = [{"id": f"c{i}", "title": f"Number {i}", "messages": [
        {"id": f"c{i}-m", "parent": None, "role": "user", "content": "word " * 200_000}]} for i in range(5)]  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps({"conversations": long}))
    sizes: list[int] = []
    page = visit()
    page.on("request", lambda r: sizes.append(len(r.post_data or "")) if r.url.endswith("/import") else None)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(tmp_path / "all.json")
    expect(page.get_by_text("5 conversations imported.")).to_be_visible()
    assert len(server.state.conversations) == 5 and max(sizes) < 4_000_000 < sum(sizes)
