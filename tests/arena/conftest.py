"""Votes in a store, and the board over them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd.arena.board import Board
from herd.store import Store

SCALE = 400 / math.log(10)
Vote = dict[str, Any]


def vote(n: int, a: str = "x", b: str = "y", outcome: str = "a", **changes: Any) -> Vote:
    row = {
        "id": f"v{n}",
        "a_target": a,
        "b_target": b,
        "outcome": outcome,
        "source": "import",
        "created": float(n),
    }
    return {**row, **changes}


def votes(wins: int, losses: int, ties: int = 0, **changes: Any) -> list[Vote]:
    said = ["a"] * wins + ["b"] * losses + ["tie"] * ties
    return [vote(n, outcome=one, **changes) for n, one in enumerate(said)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "herd.db")
    yield store
    store.close()


def board_of(store: Store, rows: list[Vote], **options: Any) -> Board:
    store.add_votes(rows)
    board = Board(store, **options)
    board.refresh()
    return board


def ratings(board: Board, **options: Any) -> dict[str, float]:
    return {row["name"]: row["rating"] for row in board.leaderboard(**options)["rows"]}
