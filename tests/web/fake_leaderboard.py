"""The leaderboard's part of the fake server: counts that a test sets, ratings that follow from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import fake_gateway

DAY = 86400.0
SCALE = 400 / np.log(10)
NAMES = ("cria", "tale", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "llama-3.1-8b")
CLOSED = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")


class Board:
    """wins, bad [k, k]; a test reads and changes it directly. Without names there are no votes."""

    def __init__(self) -> None:
        self.version = 1
        self.names: list[str] = []
        self.wins = self.ties = self.bad = np.zeros((0, 0))
        self.extra: dict[str, dict[str, Any]] = {}  # fields of a target's row
        self.more: dict[str, Any] = {}  # fields of the whole answer
        self.judges: list[str] = []
        self.categories: list[dict[str, Any]] = []
        self.history: dict[str, Any] | None = None
        self.asked: list[dict[str, str]] = []
        self.delay = 0.0  # seconds that an answer takes

    def fill(self, names: list[str], wins: np.ndarray, ties: np.ndarray, bad: np.ndarray) -> None:
        self.names, self.wins, self.ties, self.bad = names, wins.astype(float), ties, bad

    def rate(self) -> tuple[np.ndarray, np.ndarray]:
        """Ratings and their standard errors, about 1000."""
        half = self.wins + self.ties / 2
        games = half + half.T
        theta = np.zeros(len(self.names))
        for _ in range(8):
            chance = 1 / (1 + np.exp(theta[None] - theta[:, None]))
            gradient = half.sum(1) - (games * chance).sum(1)
            weights = games * chance * (1 - chance)
            laplacian = np.diag(weights.sum(1)) - weights
            inverse = np.linalg.inv(laplacian + 1 / len(theta))  # whose gauge is a mean of zero
            theta = theta + np.clip(inverse @ gradient, -1, 1)
        return 1000 + SCALE * theta, SCALE * np.sqrt(np.diag(inverse) - 1 / len(theta))


def furnish(board: Board, names: tuple[str, ...] = NAMES, votes: int = 60, seed: int = 5) -> None:
    """Some votes of people and of one judge, and what is known of each target."""
    random, k = np.random.default_rng(seed), len(names)
    strength = np.linspace(0.5, -0.5, k)
    chance = 1 / (1 + np.exp(strength[None] - strength[:, None]))
    wins = np.triu(random.binomial(votes, chance), 1)
    wins = wins + np.triu(votes - wins, 1).T
    both = np.triu(random.binomial(9, 0.5, (k, k)), 1)
    board.fill(list(names), wins, both + both.T, (both + both.T) // 3)
    board.judges = ["gpt"]
    board.categories = [{"name": "code", "votes": 120}, {"name": "language/German", "votes": 31}]
    for i, name in enumerate(names):
        shut = name in CLOSED
        board.extra[name] = {
            "open": not shut, "licence": "proprietary" if shut else "Apache-2.0", "card": None if shut else f"/models#{name}",
            "new": i == k - 1, "flip": {"votes": 3 + 4 * i, "below": names[i + 1]} if i < k - 1 else None,
            "cost": {"median": 0.0004 * (k - i) ** 2, "low": 0.0003 * (k - i) ** 2, "high": 0.0006 * (k - i) ** 2} if shut else {"median": 0, "low": 0, "high": 0},
            "first_token_ms": {"median": 90.0 + 60 * i, "low": 70.0 + 60 * i, "high": 140.0 + 60 * i},
            "total_ms": {"median": 900.0 - 70 * i, "low": 700.0 - 70 * i, "high": 1500.0 - 70 * i},
        }  # fmt: skip
    board.history = past(board)


def past(board: Board, days: int = 30) -> dict[str, Any]:
    ratings, errors = board.rate()
    now, series = time.time(), []
    for i, name in enumerate(board.names):
        drift = [float(ratings[i] - 3 * (days - day) * np.cos(i)) for day in range(days)]
        wide = [float(1.96 * errors[i] * np.sqrt(days / (day + 1))) for day in range(days)]
        series.append({"name": name, "open": board.extra.get(name, {}).get("open"), "rating": drift,
                       "low": [x - w for x, w in zip(drift, wide, strict=True)], "high": [x + w for x, w in zip(drift, wide, strict=True)]})  # fmt: skip

    def best(open: bool) -> dict[str, Any]:
        mine = [one for one in series if one["open"] is open]
        if not mine:
            return {key: [None] * days for key in ("name", "rating", "low", "high")}
        which = [max(mine, key=lambda one, day=day: one["rating"][day]) for day in range(days)]  # type: ignore[misc]
        return {"name": [one["name"] for one in which], **{key: [one[key][day] for day, one in enumerate(which)] for key in ("rating", "low", "high")}}  # fmt: skip

    times = [now - DAY * (days - day) for day in range(days)]
    return {"times": times, "series": series, "best_open": best(True), "best_closed": best(False)}


def leaderboard(state: Any, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    board: Board = state.board
    asked = {name: values[0] for name, values in query.items()}
    board.asked.append(asked)
    time.sleep(board.delay)
    known = {one["name"] for one in board.categories}
    if asked.get("category") and asked["category"] not in known:
        raise fake_gateway.Refused(
            400, f"There is no category {asked['category']!r}.", "category", "no_category"
        )
    k = len(board.names)
    half = board.wins + board.ties / 2
    games = half + half.T
    rating, error = board.rate() if k else (np.zeros(0), np.zeros(0))
    low, high = rating - 1.96 * error, rating + 1.96 * error
    rows: list[dict[str, Any]] = [
        {
            "name": name, "rating": rating[i], "low": low[i], "high": high[i],
            "best": 1 + int((low > high[i]).sum()), "worst": k - int((high < low[i]).sum()), "votes": int(games[i].sum() + board.bad[i].sum()),
            "wins": int(board.wins[i].sum()), "losses": int(board.wins[:, i].sum()), "ties": int(board.ties[i].sum()), "both_bad": int(board.bad[i].sum()),
            "open": None, "licence": None, "card": None, "new": False, "component": 0, "separated": None, "flip": None,
            "cost": None, "first_token_ms": None, "total_ms": None, **board.extra.get(name, {}),
        }
        for i, name in enumerate(board.names)
    ]  # fmt: skip
    if asked.get("open") == "1":
        rows = [row for row in rows if row["open"]]
    rows.sort(key=lambda row: (-(row["rating"] or 0), row["name"]))
    order = [board.names.index(row["name"]) for row in rows]
    n = np.where(games > 0, games, 1)
    share = half / n
    spread = 1.96 * np.sqrt(np.maximum(share * (1 - share), 0.01) / n)

    def grid(values: np.ndarray) -> list[list[float | None]]:
        return [[float(values[i, j]) if games[i, j] else None for j in order] for i in order]

    people = int((games.sum() + board.bad.sum()) / 2)
    style = [("length", 0.31, 0.22, 0.4), ("headers", 0.04, -0.05, 0.13), ("lists", 0.12, 0.03, 0.21),
             ("bold", -0.02, -0.11, 0.07), ("left", 0.06, 0.01, 0.11)]  # fmt: skip
    return {
        "version": board.version, "at": time.time(), "raters": ["people", *(f"judge:{name}" for name in board.judges)] if k else [],
        "categories": board.categories,
        "totals": {"votes": people, "people": people, "judges": 40 if board.judges else 0, "both_bad": int(board.bad.sum() / 2),
                   "void": {"leak": 10, "limit": 2} if k else {}, "flagged_voters": 1 if k else 0, "flagged_votes": 25 if k else 0, "voters": 31 if k else 0},
        "rows": rows,
        "pairs": {"names": [board.names[i] for i in order], "fraction": grid(share), "low": grid(np.maximum(share - spread, 0)),
                  "high": grid(np.minimum(share + spread, 1)), "counts": games[np.ix_(order, order)].tolist()},
        "style": {"coefficients": [dict(zip(("name", "estimate", "low", "high"), one, strict=True)) for one in style], "left_out": 7} if asked.get("style") == "1" else None,
        "problems": [], "progress": f"about 40 more votes decide {board.names[0]} against {board.names[1]}" if k > 1 else "", **board.more,
    }  # fmt: skip


def compare(state: Any, *, query: dict[str, list[str]], **_: Any) -> dict[str, Any]:
    board: Board = state.board
    a, b = query["a"][0], query["b"][0]
    for name, value in (("a", a), ("b", b)):
        if value not in board.names:
            raise fake_gateway.Refused(404, f"There is no target {value!r} with votes.", name)
    i, j = board.names.index(a), board.names.index(b)
    rating, error = board.rate()
    wins = board.wins + board.ties / 2
    n = int(wins[i, j] + wins[j, i])
    share = wins[i, j] / n if n else 0.5
    wide = 1.6 / np.sqrt(max(n, 1))
    low, high = share - 0.5 - wide, share - 0.5 + wide
    decision = "A" if low > 0 else "B" if high < 0 else "NOT ENOUGH DATA"
    better, worse = (a, b) if decision == "A" else (b, a)
    sentence = f"{better} beats {worse}: 95 %, valid at any time." if decision != "NOT ENOUGH DATA" else f"Not decided between {a} and {b}; about 80 more votes to decide."  # fmt: skip
    apart = 1.96 * float(np.hypot(error[i], error[j]))
    gap = float(rating[i] - rating[j])
    return {"a": a, "b": b, "decision": decision, "sentence": sentence, "estimate": share - 0.5, "low": low, "high": high, "votes": n,
            "needed": 80 if decision == "NOT ENOUGH DATA" else None, "difference": {"estimate": gap, "low": gap - apart, "high": gap + apart},
            "flip": 5 if decision != "NOT ENOUGH DATA" else None}  # fmt: skip


def history(state: Any, **_: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {key: [] for key in ("name", "rating", "low", "high")}
    return state.board.history or {"times": [], "series": [], "best_open": nothing, "best_closed": nothing}


def live(state: Any, **_: Any) -> Iterator[dict[str, int]]:
    """The version, again when it changed, and once in a while so that whoever hung up is noticed."""
    said, at = None, 0.0
    while True:
        if state.board.version != said or time.monotonic() - at > 2:
            said, at = state.board.version, time.monotonic()
            yield {"version": said}
        time.sleep(0.02)


ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "leaderboard"): leaderboard,
    ("GET", "leaderboard/compare"): compare,
    ("GET", "leaderboard/history"): history,
}
STREAMS: dict[tuple[str, str], Callable[..., Any]] = {("GET", "leaderboard/live"): live}
