"""What a person does on the chat page, and conversations to do it with."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from .fake_server import FakeServer

Open = Callable[..., Page]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, answers: int = 1) -> None:
    """Waits until the branch in front has so many answers, the last of them complete."""
    last = page.get_by_role("article", name="Answer").nth(answers - 1)
    expect(last.get_by_role("button", name="Regenerate")).to_be_enabled()


def seed(server: FakeServer, title: str, reply: str, count: int = 1) -> str:
    state = server.state
    id = state.next("conv")
    state.conversations[id] = {
        "id": id,
        "title": title,
        "route": "cria",
        "system": None,
        "settings": {},
        "created": 1.0,
        "updated": float(state.counter),
    }
    parent, messages = None, []
    for i in range(count):
        for role, content in (("user", "Hello"), ("assistant", reply)):
            messages.append(
                {
                    "id": f"{id}-{role}-{i}",
                    "parent": parent,
                    "role": role,
                    "content": content,
                    "generation": None,
                    "created": 1.0,
                }
            )
            parent = messages[-1]["id"]
    state.messages[id] = messages
    return id
