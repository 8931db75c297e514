"""`herd arena leaderboard` and `compare`, as they are typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run
from herd.store import Store

from ..web import fake_leaderboard
from ..web.fake_leaderboard import Board
from ..web.fake_server import FakeServer
from .conftest import Herd


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    server = FakeServer()
    monkeypatch.setenv("HERD_PORT", str(server.server_address[1]))
    for name in ("HERD_HOST", "HERD_API_KEY", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def board(server: FakeServer) -> Board:
    fake_leaderboard.furnish(server.state.board)
    return server.state.board


def rows_of(server: FakeServer) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = fake_leaderboard.leaderboard(server.state, query={})["rows"]
    return rows


def test_the_table_says_what_the_board_says(
    server: FakeServer,
    board: Board,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert run(["arena", "leaderboard"]) == 0
    out, err = capsys.readouterr()
    rows, lines = rows_of(server), out.splitlines()
    assert len(lines) == 1 + len(rows)
    for row, line in zip(rows, lines[1:], strict=True):
        ranks = f"{row['best']}–{row['worst']}"
        span = f"{row['low']:.0f} to {row['high']:.0f}"
        assert re.split(r" {2,}", line.strip()) == [ranks, row["name"], f"{row['rating']:.0f}", span, f"{row['votes']}"]  # fmt: skip
    assert "about 40 more votes decide cria against tale" in err
    assert "--category: code, language/German" in err and "--judge: gpt" in err


def test_a_wide_terminal_has_a_plot(
    server: FakeServer,
    board: Board,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board.extra["cria"] |= {"rating": None, "high": None, "low": 1060.0, "separated": "won all"}
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["arena", "leaderboard"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    plots = {line.split()[1]: line for line in lines}
    rows = {row["name"]: row for row in rows_of(server)}
    at = {name: line.index("●") for name, line in plots.items() if "●" in line}
    assert set(at) == set(rows) - {"cria"}  # who won all has no dot, but where it begins
    assert re.search(r"won all +above 1060 .*─{4}$", plots["cria"])
    order = sorted(at, key=lambda name: at[name])
    assert [rows[name]["rating"] for name in order] == sorted(rows[name]["rating"] for name in at)
    starts = {name: min(plots[name].index(mark) for mark in "─●" if mark in plots[name]) for name in at}
    assert min(starts, key=starts.__getitem__) == min(at, key=lambda name: rows[name]["low"])
    assert len(plots["cria"]) == max(map(len, plots.values()))  # its interval has no upper end


def test_options_are_asked_and_json_is_whole(
    server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["arena", "leaderboard", "--category", "code", "--style", "--judge", "gpt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert board.asked[-1] == {"raters": "judge:gpt", "style": "1", "category": "code"}
    assert [row["name"] for row in found["rows"]] == [row["name"] for row in rows_of(server)]
    assert found["style"]["left_out"] == 7
    assert run(["arena", "leaderboard", "--style"]) == 0
    assert "length: +0.31 (+0.22 to +0.40)" in capsys.readouterr().err


def test_two_are_compared(server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["arena", "compare", "cria", "llama-3.1-8b"]) == 0
    out = capsys.readouterr().out
    found = fake_leaderboard.compare(server.state, query={"a": ["cria"], "b": ["llama-3.1-8b"]})
    apart = found["difference"]
    assert out.startswith(found["sentence"])
    assert f"{apart['estimate']:+.0f} ({apart['low']:+.0f} to {apart['high']:+.0f})" in out
    assert re.search(r"votes that would flip it +5\n", out)
    assert run(["arena", "compare", "cria", "tale", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["needed"] == 80


def test_what_fails_names_the_next_command(
    server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["arena", "compare", "cria", "nobody"]) != 0
    assert "`herd arena leaderboard` lists the targets" in capsys.readouterr().err
    assert run(["arena", "leaderboard", "--category", "nothing"]) != 0
    err = capsys.readouterr().err
    assert "'nothing'" in err and "`herd arena leaderboard` alone says" in err


def test_without_votes_it_says_how_they_come(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["arena", "leaderboard"]) == 0
    assert "no votes yet; `herd up`" in capsys.readouterr().out


def test_a_terminal_obeys_no_name(
    server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    board.names[0] = "\x1b]0;owned\x07\x1b[31mred\n[bold]x"
    board.more = {"problems": ["\x1b[2J"], "progress": "\x9b1m"}
    assert run(["arena", "leaderboard"]) == 0
    out, err = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", re.sub("\x1b\\[[0-9;]*m", "", out + err))
    assert "\x1b[31m" not in out and "\x1b]" not in out
    assert "[31mred�[bold]x" in out


def test_the_real_board_answers_with_and_without_a_server(home: Path, herd: Herd) -> None:
    store = Store.open(home / "herd.db")
    try:
        votes = [
            {"id": f"v{i}", "a_target": "left", "b_target": "right", "outcome": "b" if i % 4 else "a", "source": "arena", "voter": f"p{i}"}
            for i in range(40)
        ]  # fmt: skip
        assert store.add_votes(votes) == 40
    finally:
        store.close()
    rows = {row["name"]: row for row in herd("arena", "leaderboard")["rows"]}
    assert (rows["right"]["wins"], rows["right"]["losses"]) == (30, 10)
    assert rows["right"]["rating"] > rows["left"]["rating"]
    found = herd("arena", "compare", "left", "right")
    assert (found["votes"], found["estimate"]) == (40, -0.25)
    assert "`herd arena leaderboard` lists the targets" in herd(
        "arena", "compare", "left", "nobody", status=1
    )


def test_groups_that_no_votes_connect_stand_apart(
    server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(server)
    last = rows[0]["name"]  # of the highest rating, in the smaller group
    board.extra[last] |= {"component": 1}
    assert run(["arena", "leaderboard"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[0] == "group"
    assert [line.split()[0] for line in lines[1:]] == ["1"] * (len(rows) - 1) + ["2"] and last in lines[-1]
    assert "not counted: 12 void (leak, limit), 25 of 1 flagged voters" in err


def test_votes_that_both_are_bad_are_votes(
    server: FakeServer, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in rows_of(server):
        board.extra[row["name"]] |= {"votes": 0, "both_bad": 1}
    assert run(["arena", "leaderboard", "--category", "code"]) == 0
    assert "no votes yet" not in capsys.readouterr().out
