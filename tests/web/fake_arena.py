"""The arena's part of the fake server: battles, their turns word by word, votes and what they reveal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

from . import fake_gateway

SIDES = ("left", "right")
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "authorization, content-type",
}  # as for a key


class Arena:
    """Everything about battles; a test reads and changes it directly."""

    def __init__(self) -> None:
        self.battles: dict[str, dict[str, Any]] = {}
        self.names = {"left": "cria", "right": "openai/gpt-4o-mini"}
        self.replies = {
            "left": "A little dog found a **red ball**. He ran and ran. Then it rained, and he went home. "
            * 2,
            "right": "# The ball\n\n- It was red.\n- It was round.\n\nThe dog liked it very much.",
        }
        self.stored: list[dict[str, Any]] = []  # turns of stored pairs that wait
        self.delay = 0.002
        self.broken_after: int | None = None  # events, then the connection breaks
        self.failing: str | None = None  # the side that fails
        self.leak: str | None = None  # words that void the next vote
        self.state = "open"  # or "expired": what every battle is from now on
        self.votes: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []  # bodies of POST /api/battles
        self.revealed: dict[str, Any] = {}  # over what a reveal says of each side
        self.progress = "you cast {} votes; about 40 more decide cria against openai/gpt-4o-mini."

    def make(
        self, kind: str = "arena", turns: list[dict[str, Any]] | None = None, **names: str
    ) -> dict[str, Any]:
        id = f"battle-{len(self.battles) + 1}"
        now = time.time()
        self.battles[id] = {"id": id, "kind": kind, "state": "open", "turns": turns or [], "created": now, "expires": now + 86400, "reveal": None,
                            "names": {**self.names, **names}}  # fmt: skip
        return self.battles[id]

    def view(self, battle: dict[str, Any]) -> dict[str, Any]:
        state = self.state if battle["state"] == "open" else battle["state"]
        return {**{key: value for key, value in battle.items() if key != "names"}, "state": state}


def side(text: str, finish: str | None = "stop", failed: str | None = None) -> dict[str, Any]:
    return {"text": text, "finish": finish, "failed": failed}


def turn(prompt: str, left: str, right: str) -> dict[str, Any]:
    return {"prompt": prompt, "left": side(left), "right": side(right)}


def begin(state: Any, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    here: Arena = state.arena
    here.asked.append(body)
    names = dict(zip(SIDES, body["targets"], strict=True)) if body["kind"] == "pair" else {}
    return here.view(here.make(body["kind"], **names))


def stored(state: Any, **_: Any) -> dict[str, Any]:
    here: Arena = state.arena
    if not here.stored:
        raise fake_gateway.Refused(404, "no stored pair waits for your vote", code="nothing_stored")
    return here.view(here.make("stored", [here.stored.pop(0)]))


def read(state: Any, id: str, **_: Any) -> dict[str, Any] | None:
    battle = state.arena.battles.get(id)
    return state.arena.view(battle) if battle else None


def reply(here: Arena, battle: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    last = battle["turns"][-1]
    streams = [[(s, word) for word in re.findall(r"\S+\s*|\s+", here.replies[s])] for s in SIDES if s != here.failing]  # fmt: skip
    sent = 0
    for pair in zip_longest(*streams):
        for name, word in filter(None, pair):
            if sent == here.broken_after:
                return
            sent += 1
            last[name]["text"] += word
            yield {"type": "text", "side": name, "text": word}
        time.sleep(here.delay)
    for name in SIDES:
        if name == here.failing:
            last[name]["failed"] = "this side could not answer"
            yield {"type": "failed", "side": name, "message": last[name]["failed"]}
        else:
            last[name]["finish"] = "stop"
            yield {"type": "finish", "side": name, "finish": "stop"}
    yield {"type": "done", "turn": len(battle["turns"]) - 1}
    yield None


def turns(state: Any, id: str, *, body: dict[str, Any], **_: Any) -> Iterator[dict[str, Any] | None]:
    battle = state.arena.battles[id]
    battle["turns"].append({"prompt": body["prompt"], "left": side("", None), "right": side("", None)})
    return reply(state.arena, battle)


def again(state: Any, id: str, **_: Any) -> Iterator[dict[str, Any] | None]:
    battle = state.arena.battles[id]
    battle["turns"][-1].update(left=side("", None), right=side("", None))
    return reply(state.arena, battle)


def vote(state: Any, id: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
    here: Arena = state.arena
    battle = here.battles[id]
    if here.state == "expired":
        raise fake_gateway.Refused(410, "this battle has expired: begin a new one", code="expired")
    if battle["state"] == "voted" and battle["reveal"]["outcome"] != body["outcome"]:
        raise fake_gateway.Refused(409, "this battle has its vote", code="voted")
    here.votes.append({"battle": id, **body})
    leak, void = here.leak, "leak" if here.leak else None
    change = {"left": 4.2, "right": -4.2} if body["outcome"] == "left" else {"left": -3.1, "right": 3.1}
    told = {
        s: {"name": battle["names"][s], "rating": 1012.4 + change[s], "before": 1012.4, "change": None if void else change[s], "low": 968.0, "high": 1049.0,
            "votes": 31, "open": s == "left", "licence": "Apache-2.0" if s == "left" else None, "cost": 0 if s == "left" else 0.00042, "total_ms": 840.0, **here.revealed}
        for s in SIDES
    }  # fmt: skip
    battle["state"] = "voted"
    battle["reveal"] = {**told, "outcome": body["outcome"], "void": void, "leak": leak,
                        "progress": here.progress.format(len(here.votes))}  # fmt: skip
    return {
        "battle": here.view(battle),
        "vote": f"vote-{len(here.votes)}",
        "counted": not void,
        "void": void,
    }


ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "leaderboard"): lambda state, **_: {
        "progress": "about 40 more votes decide cria against openai/gpt-4o-mini."
    },  # what the arena reads of it
    ("POST", "battles"): begin,
    ("POST", "battles/stored"): stored,
    ("GET", "battles/([^/]+)"): read,
    ("POST", "battles/([^/]+)/vote"): vote,
}
STREAMS: dict[tuple[str, str], Callable[..., Any]] = {
    ("POST", "battles/([^/]+)/turns"): turns,
    ("POST", "battles/([^/]+)/regenerate"): again,
}
