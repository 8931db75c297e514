"""The board: what it counts, that it follows the store, and that nothing it says is NaN."""

import json
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from herd.arena.board import QUICK, Board, Kept
from herd.errors import HerdError
from herd.evidence.ratings import rate
from herd.evidence.votes import Counts
from herd.store import Store

from .conftest import SCALE, Vote, board_of, ratings, vote, votes


def apart(board: Board) -> float:
    found = ratings(board)
    return found["x"] - found["y"]


def test_two_targets_stand_as_the_odds_say(store: Store) -> None:
    """Of two, the maximum of the likelihood is the logarithm of the odds, a tie being half."""
    board = board_of(store, votes(30, 10, 6))
    assert apart(board) == pytest.approx(SCALE * math.log(33 / 13), abs=0.02)
    x, y = board.leaderboard()["rows"]
    assert (x["name"], x["votes"], x["wins"], x["losses"], x["ties"]) == ("x", 46, 30, 10, 6)
    assert (y["wins"], y["losses"]) == (10, 30) and x["low"] < x["rating"] < x["high"]


def test_m_votes_on_one_prompt_count_as_the_root_of_m(store: Store) -> None:
    rows = [vote(n, prompt="p") for n in range(9)] + [
        vote(n, outcome="b", prompt=f"p{n}") for n in range(10, 13)
    ]
    board = board_of(store, rows)
    assert apart(board) == pytest.approx(0, abs=0.02)  # √9 against 3
    more = [vote(20, "y", "z", prompt="p"), vote(21, "z", "y", prompt="p"), vote(22, "z", "x", outcome="tie")]
    assert board_of(store, more).chosen().votes.weight[-3:] == pytest.approx(
        [1 / math.sqrt(2), 1 / math.sqrt(2), 1]
    )  # another pair


def test_what_does_not_count_is_told(store: Store) -> None:
    rows = votes(8, 4) + [vote(50 + n, void="leak") for n in range(5)]
    rows += [
        vote(60, "x", "x"),
        vote(61, outcome="both_bad"),
        vote(62, rater="gpt", source="judge", outcome="b"),
    ]
    board = board_of(store, rows)
    page = board.leaderboard()
    assert apart(board) == pytest.approx(SCALE * math.log(2), abs=0.02)
    assert page["totals"] == {
        "votes": 20, "people": 19, "judges": 1, "both_bad": 1, "void": {"leak": 5, "same target": 1},
        "flagged_voters": 0, "flagged_votes": 0, "voters": 19,
    }  # fmt: skip
    assert page["raters"] == ["people", "judge:gpt"]
    judged = board.leaderboard(raters="judge:gpt")["rows"]
    assert [(row["name"], row["votes"], row["separated"]) for row in judged if row["votes"]] != []
    with pytest.raises(HerdError, match="no rater 'judge:nobody'"):
        board.leaderboard(raters="judge:nobody")
    with pytest.raises(HerdError, match="no votes in the category"):
        board.leaderboard(category="maths")


def test_a_flagged_voter_weighs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [vote(n, outcome="ab"[n % 2], voter=f"w{n % 10}") for n in range(40)]
    rows += [vote(100 + n, outcome="b", voter="bad") for n in range(30)]
    monkeypatch.setattr("herd.arena.board.suspects", lambda found: {int(hash("bad")): None})
    board = board_of(store, rows)
    page = board.leaderboard()
    assert apart(board) == pytest.approx(0, abs=0.02)
    assert (page["totals"]["flagged_voters"], page["totals"]["flagged_votes"]) == (1, 30)
    assert page["rows"][0]["votes"] == 40
    bad = store.add_vote(**vote(500, outcome="b", voter="bad"))
    assert board.after(bad)["left"]["change"] == 0


def test_a_flagged_voter_takes_nothing_from_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where nobody has looked at the leaderboard yet, nor by votes on the prompts of others."""
    rows = [vote(n, outcome="ab"[n % 2], voter=f"w{n}", prompt=f"p{n}") for n in range(10)]
    rows += [vote(100 + n, outcome="b", voter="bad", prompt="p1") for n in range(30)]
    monkeypatch.setattr("herd.arena.board.suspects", lambda found: {int(hash("bad")): None})
    assert board_of(store, rows).compare("x", "y")["votes"] == 10
    board = board_of(store, [])
    assert board.history()["series"][0]["rating"][-1] == pytest.approx(1000)
    assert board.chosen().votes.weight[:10].tolist() == [1.0] * 10


def test_too_many_targets_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with ids where names belong must not make tables of millions by millions."""
    monkeypatch.setattr("herd.arena.columns.MOST_TARGETS", 3)
    rows = [*votes(2, 1), vote(10, "x", "z"), vote(11, "v", "w"), vote(12, "x", "u")]
    page = board_of(store, rows).leaderboard()
    assert page["totals"]["void"] == {"too many targets": 2} and len(page["rows"]) == 3


def test_it_follows_the_store(store: Store) -> None:
    """In steps, over the columns' growth, it knows what a board knows that reads all at once."""
    rng = np.random.default_rng(5)
    board, n = Board(store), 0
    for step in (1, 0, 700, 2, 900, 1500):
        for_tags = [None, ["code"], ["code", "tag/ü"]]
        rows = []
        for n in range(n, n + step):  # noqa: B020
            a, b = rng.choice(5, 2, replace=False)
            rows.append(vote(n, f"t{a}", f"t{b}", "a b tie both_bad".split()[rng.integers(4)], voter=f"w{n % 7}",
                             conversation=f"c{n // 3}", prompt=f"p{n % 900}", tags=for_tags[n % 3],
                             style=[n % 9, 0, 1, 2, n % 5, 3, 1, 1] if n % 2 else None))  # fmt: skip
        n += 1
        version = board.version
        store.add_votes(rows)
        assert (board.refresh() > version) == bool(rows)
        assert board.refresh() == board.version
    fresh = Board(store)
    fresh.refresh()
    told, whole = board.chosen().votes, fresh.chosen().votes
    for side in ("a", "b"):
        names = [np.array(votes.names)[getattr(votes, side)] for votes in (told, whole)]
        assert (names[0] == names[1]).all()
    for name in ("outcome", "weight", "conversation", "voter"):
        assert (getattr(told, name) == getattr(whole, name)).all()
    time.sleep(QUICK)
    pages = [b.leaderboard(category="code") for b in (board, fresh)]
    assert pages[0]["rows"] == pages[1]["rows"] and pages[0]["categories"] == pages[1]["categories"]
    kept = len(board.chosen().votes)
    assert {c["name"]: c["votes"] for c in pages[0]["categories"]} == {"code": pytest.approx(kept * 2 / 3, abs=1), "tag/ü": pytest.approx(kept / 3, abs=1)}  # fmt: skip
    styled = board.leaderboard(style=True)["style"]
    assert {c["name"] for c in styled["coefficients"]} >= {"left", "length"} and 0 < styled["left_out"] < kept


SCENES: dict[str, list[Vote]] = {
    "no votes": [],
    "one vote": votes(1, 0),
    "both bad only": [vote(n, outcome="both_bad") for n in range(3)],
    "itself only": [vote(1, "x", "x")],
    "won all": votes(9, 0) + [vote(20, "y", "z"), vote(21, "z", "y")],
    "two islands": votes(3, 2) + [vote(30 + n, "p", "q", "ab"[n % 2]) for n in range(6)],
    "ties only": votes(0, 0, 7),
    "void only": votes(3, 3, void="limit"),
    "odd columns": [
        vote(1, style=[1, 2], tags=["a"]),
        vote(2, outcome="b", style=[1e308] * 8),
        vote(3, style=[-1] * 8),
    ],
}


@pytest.mark.parametrize("scene", SCENES)
def test_json_never_has_nan(store: Store, scene: str) -> None:
    board = board_of(
        store, SCENES[scene], targets=lambda: ["x", "fresh"], about=lambda name: {"open": name < "y"}
    )
    for page in (
        board.leaderboard(), board.leaderboard(style=True), board.leaderboard(open=True),
        board.history(), board.compare("x", "fresh"), board.compare("fresh", "x"),
    ):  # fmt: skip
        json.dumps(page, allow_nan=False)
    rows = {row["name"]: row for row in board.leaderboard()["rows"]}
    assert (
        rows["fresh"]["rating"] is None and rows["fresh"]["separated"] == "no votes" and rows["fresh"]["new"]
    )
    if scene == "won all":
        assert (
            rows["x"]["rating"] is None
            and rows["x"]["separated"] == "won all"
            and rows["x"]["low"] is not None
        )
    if scene == "two islands":
        assert (
            rows["p"]["component"] != rows["x"]["component"]
            and "connect" in board.leaderboard()["problems"][0]
        )
    with pytest.raises(HerdError, match="no target 'nobody'"):
        board.compare("x", "nobody")


def test_comparing_two(store: Store) -> None:
    found = board_of(store, votes(90, 20)).compare("y", "x")
    assert found["decision"] == "B" and found["votes"] == 110 and found["needed"] is None
    assert found["difference"]["estimate"] == pytest.approx(-SCALE * math.log(4.5), abs=0.02)
    assert found["flip"] == 71  # without 71 of the 90 the other leads


def test_pairs(store: Store) -> None:
    pairs = board_of(
        store, [*votes(6, 2, 2), vote(50, outcome="both_bad"), vote(51, "y", "z")]
    ).leaderboard()["pairs"]
    x, y, z = (pairs["names"].index(name) for name in "xyz")
    assert pairs["fraction"][x][y] == 0.7 and pairs["fraction"][y][x] == pytest.approx(0.3)
    assert pairs["counts"][x][y] == 11 and pairs["fraction"][x][z] is None and pairs["counts"][x][z] == 0
    assert (pairs["low"][x][y], pairs["high"][x][y]) == (
        pytest.approx(0.3968, abs=1e-3),
        pytest.approx(0.8922, abs=1e-3),
    )  # Wilson


def test_history_ends_where_the_leaderboard_stands(store: Store) -> None:
    """At first the closed model leads, in the end an open one."""
    names = {"x": True, "y": False, "z": None}
    early = [vote(n, "y", "x", "aaab"[n % 4]) for n in range(40)] + [
        vote(n, "z", "x", "ab"[n % 2]) for n in range(40, 48)
    ]
    board = board_of(
        store,
        early + [vote(n, "y", "x", "b") for n in range(100, 200)],
        about=lambda name: {"open": names[name]},
    )
    told, now = board.history(), ratings(board)
    assert len(told["times"]) == 60 and told["times"][0] == 0.0 and told["times"][-1] == 199.0
    for one in told["series"]:
        assert (
            one["rating"][-1] == pytest.approx(now[one["name"]], abs=0.02)
            and one["open"] is names[one["name"]]
        )
    open_, closed = told["best_open"], told["best_closed"]
    assert set(open_["name"]) == {"x", None} and closed["name"][-1] == "y"
    assert closed["rating"][20] > open_["rating"][20] and closed["rating"][-1] < open_["rating"][-1]
    third = [v for v in early if v["created"] <= told["times"][12] and v["a_target"] == "y"]
    wins = sum(v["outcome"] == "a" for v in third)
    at = {one["name"]: one["rating"][12] for one in told["series"]}
    assert at["y"] - at["x"] == pytest.approx(SCALE * math.log(wins / (len(third) - wins)), abs=0.02)


def two_groups() -> list[Vote]:
    """x and y, and p and q, whom no vote connects with them; y has beaten and lost to x, as q to p."""
    apart = [vote(n, "p", "q", "ab"[n % 3 == 0]) for n in range(50, 62)]
    return [vote(n, "x", "y", "ab"[n % 4 == 0]) for n in range(40)] + apart


def test_only_those_are_set_against_each_other_whom_votes_connect(store: Store) -> None:
    names = {"x": True, "y": None, "p": True, "q": False}
    board = board_of(store, two_groups(), about=lambda name: {"open": names[name]})
    told = board.history()
    assert (
        told["best_open"]["name"][-1] == "p" and told["best_closed"]["name"][-1] == "q"
    )  # x is rated higher
    assert set(told["best_open"]["name"][:40]) <= {"x", None}  # until there was somebody to compare with
    progress = board.leaderboard()["progress"]
    assert re.search("(x against y|p against q)$", progress), progress


def test_what_targets_cost_and_take(store: Store) -> None:
    board = board_of(store, votes(2, 2))
    for n in range(9):
        row = {"id": f"g{n}", "route": "r", "target": "x", "request": {}, "reply": "", "created": time.time()}
        store.add_generation({**row, "cost": n * 10**9, "total_ms": 100.0 + n})
    x, y = sorted(board.leaderboard()["rows"], key=lambda row: row["name"])
    assert x["cost"] == {"median": 0.004, "low": 0.001, "high": 0.007}
    assert x["total_ms"]["median"] == 104 and x["first_token_ms"] is None and y["cost"] is None


def test_gateways_on_one_database_see_all_votes(postgresql: Any) -> None:
    """Rows are numbered in the order of their commits: who follows the numbers misses none."""
    url = postgresql.new()
    stores = [Store.open(url) for _ in range(2)]
    boards = [Board(store) for store in stores]

    def cast(store: Store, name: str) -> None:
        for n in range(60):
            store.add_vote(**vote(n, id=f"{name}{n}", outcome="ab"[n % 2]))

    threads = [
        threading.Thread(target=cast, args=(store, f"{i}{j}-"))
        for i, store in enumerate(stores)
        for j in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for board in boards:
            board.refresh()
    for board in boards:
        board.refresh()
        assert board.totals()["votes"] == 360
        assert board.leaderboard()["rows"][0]["votes"] == 360
    for store in stores:
        store.close()


def test_what_is_slow_is_not_made_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, kept = 0.0, Kept(2)
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(result: str) -> Callable[[], str]:
        def make() -> str:
            nonlocal now
            now += 1.0
            return result

        return make

    assert kept.get("a", 1, slow("one")) == kept.get("a", 1, slow("never")) == "one"
    now += 9
    assert kept.get("a", 2, slow("two")) == "one"
    now += 1
    assert kept.get("a", 2, slow("two")) == "two"
    quick = iter(range(9))
    assert [kept.get("b", version, lambda: next(quick)) for version in (1, 1, 2, 2)] == [0, 0, 1, 1]
    assert kept.get("b", 3, lambda: next(quick), least=5) == 1
    kept.get("c", 1, lambda: 0)
    assert (
        kept.get("a", 2, slow("three")) == "three"
    )  # of the three names the one that was quiet the longest is gone


def test_counts_are_those_of_the_rows(store: Store) -> None:
    rows = [
        vote(n, *("xy", "yz", "xz")[n % 3], outcome=("a", "b", "tie", "both_bad")[n % 4]) for n in range(24)
    ]
    board = board_of(store, rows)
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    for row in rows:
        i, j = "xyz".index(row["a_target"]), "xyz".index(row["b_target"])
        wins[i, j] += row["outcome"] == "a"
        wins[j, i] += row["outcome"] == "b"
        ties[i, j] += row["outcome"] == "tie"
    order = ["xyz".index(name) for name in board.standing.counts.names]
    at = np.ix_(order, order)
    assert (board.standing.counts.wins == wins[at]).all() and (
        board.standing.counts.ties == (ties + ties.T)[at]
    ).all()
    plain = rate(Counts(("x", "y", "z"), wins, ties + ties.T, np.zeros((3, 3))))
    assert {name: pytest.approx(r, abs=0.02) for name, r in ratings(board).items()} == dict(
        zip("xyz", plain.rating, strict=True)
    )
