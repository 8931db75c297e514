"""What one vote changes, as it is told after it."""

import threading

import numpy as np
import pytest

from herd.arena.board import Board, Kept
from herd.evidence.ratings import rate
from herd.store import Store

from .conftest import board_of, ratings, vote, votes


@pytest.mark.parametrize("seen", [False, True])
def test_the_change_that_one_vote_makes(store: Store, seen: bool) -> None:
    """The same as of two boards, one without the vote and one with it, whether this one has seen it or not."""
    rows = [
        vote(n, *("xy", "yz", "zx")[n % 3], outcome="aabtb"[n % 5].replace("t", "tie")) for n in range(40)
    ]
    board = board_of(store, rows)
    before = ratings(board)
    kept = store.add_vote(**vote(99, "z", "y", "a"))
    if seen:
        board.kept = Kept(1000)  # what is slow to make is made anew
        board.refresh()
    change = board.after(kept)
    fresh = Board(store)
    fresh.refresh()
    after = ratings(fresh)
    for side, name in (("left", "z"), ("right", "y")):
        told = change[side]
        assert told["before"] == pytest.approx(before[name], abs=0.02)
        assert told["rating"] == pytest.approx(after[name], abs=0.02)
        assert told["change"] == pytest.approx(after[name] - before[name], abs=0.03)
        assert told["low"] < told["rating"] < told["high"]
    assert change["left"]["change"] > 0 > change["right"]["change"]


def test_a_vote_that_does_not_count_changes_nothing(store: Store) -> None:
    board = board_of(store, votes(5, 4))
    for n, odd in enumerate(({"void": "leak"}, {"rater": "gpt"}, {"b_target": "x"})):
        sides = board.after(store.add_vote(**{**vote(200 + n), **odd}))
        assert sides["left"]["change"] == sides["right"]["change"] == 0
    first = board.after(store.add_vote(**vote(300, "new", "other")))
    assert (
        first["left"]["rating"] is None and first["right"]["change"] is None
    )  # one won all, and nobody else is there


def test_a_vote_after_which_the_mean_is_of_others_has_no_change(store: Store) -> None:
    """z has lost all; its first win gives it a rating, and moves everybody's by the new mean."""
    board = board_of(store, [*votes(12, 8), *(vote(n, "x", "z") for n in range(30, 34))])
    won = {**vote(50, "z", "x"), "void": None, "rater": None, "voter": None, "prompt": None}
    told = board.after(won)
    assert told["left"]["before"] is None and told["left"]["rating"] is not None
    assert told["left"]["change"] is None and told["right"]["change"] is None
    usual = {**won, "a_target": "x", "b_target": "y"}
    assert board.after(usual)["left"]["change"] > 0 > board.after(usual)["right"]["change"]  # type: ignore[operator]


def test_votes_are_revealed_while_others_come(store: Store) -> None:
    """From several threads, on one prompt, and whether the board has taken a vote in already or takes it in just then."""
    board, told, done = Board(store), [], threading.Event()

    def cast(name: str) -> None:
        for n in range(40):
            kept = store.add_vote(**vote(n, id=f"{name}{n}", outcome="ab"[n % 2], prompt="p"))
            told.append(board.after(kept)["left"])

    def follow() -> None:
        while not done.is_set():
            board.refresh()

    threads = [threading.Thread(target=cast, args=(name,)) for name in "abc"]
    follower = threading.Thread(target=follow)
    for thread in (*threads, follower):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    follower.join()
    assert len(told) == 120 and board.refresh() and board.totals()["people"] == 120
    assert all(abs(side["change"]) < 400 for side in told if side["change"] is not None)


@pytest.mark.parametrize("outcome", ["a", "b", "tie"])
def test_a_vote_among_many_moves_ratings_as_a_fit_does(store: Store, outcome: str) -> None:
    """By Newton's first step alone, and so to a tenth of a point."""
    draw = np.random.default_rng(4)
    rows = []
    for n in range(1500):
        i, j = draw.choice(6, 2, replace=False)
        rows.append(vote(n, f"t{i}", f"t{j}", "a" if draw.random() < 0.5 + (j - i) * 0.06 else "b"))
    board = board_of(store, rows)
    before = rate(board.chosen().votes.counts())
    new = {**vote(9999, "t1", "t4", outcome), "void": None, "rater": None, "voter": None, "prompt": None}
    told = board.after(new)["left"]
    after, at = rate(board_of(store, [new]).chosen().votes.counts()), before.names.index("t1")
    moved = float(after.rating[at] - before.rating[at])
    assert told["change"] == pytest.approx(moved, abs=0.02) and abs(moved) > 0.2
    assert told["rating"] == pytest.approx(after.rating[at], abs=0.02)
