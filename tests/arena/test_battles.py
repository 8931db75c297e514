"""Who is drawn for a battle."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from herd.arena.battles import Battles
from herd.errors import HerdError
from herd.evidence.pairing import pair_weights
from herd.evidence.votes import Counts, Votes
from herd.gateway.provider import Target
from herd.gateway.route import ArenaSpec

TARGETS = {
    "cria": Target("cria", "local", "cria@1", "d1"),
    "tale": Target("tale", "local", "cria@1", "d2"),
    "twin": Target("twin", "local", "cria@1", "d2"),
    "openai/gpt-4o": Target("openai/gpt-4o", "openai", "gpt-4o", "d3"),
    "helper": Target("helper", "vllm", "<b>", "d4"),
}


def battles(
    counts: Counts | None = None, problem: str | None = None, health: tuple[Any, ...] = (), **spec: Any
) -> Battles:
    def target(name: str) -> Target:
        if name not in TARGETS:
            raise HerdError("broken", status=503)
        return TARGETS[name]

    config = SimpleNamespace(arena=ArenaSpec(**spec), targets={"helper": None, "broken": None})
    local = SimpleNamespace(names=lambda: {"cria": 0, "tale": 0, "twin": 0})
    now = SimpleNamespace(config=config, local=local, target=target, routes={})
    gateway: Any = SimpleNamespace(now=now, health=lambda: health)
    store: Any = None
    none = Votes.of([], [], [], []).counts()
    return Battles(gateway, store, problem=lambda: problem, counts=lambda: counts or none)


def resting(*states: str) -> tuple[dict[str, str], ...]:
    return tuple({"provider": "vllm", "url": str(i), "state": state} for i, state in enumerate(states))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["cria", "tale", "helper"]),  # twin is tale by another name
        ({"problem": "no torch"}, ["helper"]),
        ({"health": resting("open", "open")}, ["cria", "tale"]),
        ({"health": resting("open", "half-open")}, ["cria", "tale", "helper"]),
        ({"targets": ("openai/gpt-4o", "twin", "gone")}, ["openai/gpt-4o", "twin"]),
    ],
)
def test_who_can_answer(given: dict[str, Any], expected: list[str]) -> None:
    assert list(battles(**given)._able()) == expected


def test_pairs_are_drawn_by_what_they_teach_and_sides_by_chance() -> None:
    # 400 votes between old and known targets, in an order of names that is not the arena's.
    votes = Votes.of(("other", "tale", "cria"), [1] * 400 + [0], [2] * 400 + [1], [0, 1] * 200 + [0])
    names, n = ["cria", "tale", "new"], 3000
    here = battles(votes.counts())
    drawn = Counter(here._draw(names) for _ in range(n))
    games = np.zeros((3, 3))
    games[0, 1] = 200  # cria beat tale half the time
    expected = pair_weights(Counts(tuple(names), games + games.T, np.zeros((3, 3)), np.zeros((3, 3))))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        left, right = drawn[names[i], names[j]], drawn[names[j], names[i]]
        share = (left + right) / n
        assert abs(share - expected[i, j]) < 5 * np.sqrt(0.25 / n)
        if left + right > 100:
            assert abs(left / (left + right) - 0.5) < 5 * np.sqrt(0.25 / (left + right))
    assert drawn["cria", "tale"] + drawn["tale", "cria"] < 0.05 * n  # of these nearly all is known


@pytest.mark.parametrize("names", [[], ["cria"]])
def test_one_alone_cannot_battle(names: list[str]) -> None:
    with pytest.raises(HerdError, match="two targets") as caught:
        battles(problem="install torch")._draw(names)
    assert caught.value.status == 503 and "install torch" in str(caught.value)
