"""`herd arena import | export | judge | agreement | freeze`, without a server and beside one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run
from herd.cli.client import ask
from herd.store import Store

from .conftest import Herd, serving


def record(n: int, **changes: Any) -> dict[str, Any]:
    talks = {
        f"conversation_{side}": [
            {"role": "user", "content": f"Question {n}"},
            {"role": "assistant", "content": text},
        ]
        for side, text in (("a", "good"), ("b", "bad, and longer"))
    }
    return {"question_id": f"q{n}", "model_a": "x", "model_b": "y", "winner": "model_a", "judge": f"user {n}",
            "language": "English", "tstamp": 1.7e9 + n, **talks, **changes}  # fmt: skip


def written(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return str(path)


def test_in_and_out(herd: Herd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "votes.jsonl", *map(record, range(5)), record(5, anony=False))
    report = herd("arena", "import", file)
    assert (report["votes"], report["left_out"]) == (5, {"not anonymous": 1})
    assert herd("arena", "import", file)["known"] == 5
    out = tmp_path / "out.parquet"
    assert run(["arena", "export", "--format", "parquet", "-o", str(out)]) == 0
    assert herd("arena", "import", str(out))["known"] == 5
    capsys.readouterr()
    assert run(["arena", "export", "--format", "counts"]) == 0
    assert json.loads(capsys.readouterr().out) == {"x": {"y": [5, 0, 0, 0]}}


def test_a_wrong_file_is_refused_whole(herd: Herd, tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text("left,right,winner\nx,y,left\nx,y,no\n")
    assert "line 3, column winner: must be model_a" in herd("arena", "import", str(file), status=1)
    (tmp_path / "none.csv").touch()
    assert "none.csv: it is empty" in herd("arena", "import", str(tmp_path / "none.csv"), status=1)
    assert "say its form with --format" in herd("arena", "import", written(tmp_path / "votes.txt"), status=1)
    assert herd("arena", "leaderboard")["totals"]["votes"] == 0


def test_pairs_without_what_is_frozen(herd: Herd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    herd("arena", "import", written(tmp_path / "v.jsonl", *map(record, range(3))), "--use", "train")
    prompts = [
        {"prompt": " QUESTION 1 "},
        "question 7",
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Question 2"}]},
    ]
    assert herd("arena", "freeze", written(tmp_path / "f.jsonl", *prompts)) == {"frozen": 3, "known": 0}  # type: ignore[arg-type]
    assert run(["arena", "export", "--format", "preferences", "--out", str(tmp_path / "pairs.jsonl")]) == 0
    assert "left out: 2 frozen" in capsys.readouterr().err
    (pair,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert pair["prompt"][0]["content"] == "Question 0" and pair["chosen"][0]["content"] == "good"
    assert "line 2: neither a text nor" in herd(
        "arena", "freeze", written(tmp_path / "g.jsonl", {"prompt": "x"}, {"x": 1}), status=1
    )


class Judge(BaseHTTPRequestHandler):
    """A server of OpenAI's dialect without structured output, whose model prefers what says "good"."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012  (a class for each test)
    broken = 0

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if body["model"] == "nobody":
            self.reply(404, {"error": {"message": "no model nobody", "code": "model_not_found"}})
            return
        if "response_format" in body:
            self.reply(400, {"error": {"message": "response_format is not supported", "code": "unsupported"}})
            return
        data = json.loads(body["messages"][-1]["content"])
        said = "[[A]]" if data["reply_A"] == "good" else "[[B]]"
        if data["conversation"][0]["content"] == "Question 2" and type(self).broken:
            said = "I would rather not."
        message = {"role": "assistant", "content": said}
        self.reply(200, {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
                         "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                         "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}})  # fmt: skip

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def judge() -> Iterator[tuple[type[Judge], int]]:
    handler = type("Bound", (Judge,), {"asked": [], "broken": 1})
    with serving(handler) as port:
        yield handler, port


@pytest.mark.parametrize("home", ["served"], indirect=True)
def test_a_judge_goes_on_where_it_stopped(
    herd: Herd, home: Path, judge: tuple[type[Judge], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, port = judge
    (home / "herd.toml").write_text(
        f'[providers.fake]\ndialect = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"\nprivate = true\n'
        '[targets.referee]\nprovider = "fake"\nmodel = "m"\n'
    )
    ask("POST", "/api/reload")
    herd(
        "arena",
        "import",
        written(tmp_path / "v.jsonl", *(record(n, winner="tie" if n > 3 else "model_a") for n in range(6))),
    )
    assert herd("arena", "judge", "--route", "referee", "--limit", "2")["outcomes"] == {"a": 2}
    assert run(["arena", "judge", "--route", "referee"]) == 1
    said = capsys.readouterr()
    assert (
        "referee: 3 judged (3 a)" in said.out
        and "1 failed: referee gave no verdict, but 'I would rather not.'" in said.err
    )
    asked = len(handler.asked)
    handler.broken = 0
    assert herd("arena", "judge", "--route", "referee") == {
        "judge": "referee",
        "judged": 1,
        "outcomes": {"a": 1},
        "failed": 0,
    }
    assert len(handler.asked) - asked == 4  # both orders, each first with structured output
    assert herd("arena", "judge", "--route", "referee")["judged"] == 0

    (found,) = herd("arena", "agreement", "--judge", "referee")["judges"]
    assert (found["votes"], found["agreement"]["n"]) == (6, 6) and found["agreement"][
        "share"
    ] == pytest.approx(4 / 6)
    assert found["agreement"]["share_decided"] == 1.0 and found["bias"]["follows_place"] == 0
    assert run(["arena", "agreement"]) == 0
    assert re.search(r"agrees +67%", capsys.readouterr().out)
    people = herd("arena", "leaderboard")["totals"]
    assert (people["people"], people["judges"]) == (6, 6)
    booked = ask("GET", "/api/traffic?by=target")["data"]
    assert {row["group"] for row in booked} == {"referee"}
    assert "no model nobody" in herd(
        "arena", "judge", "--route", "fake/nobody", status=1
    )  # at once: all would fail


@pytest.mark.parametrize("home", ["alone"], indirect=True)
def test_a_judge_needs_a_server(herd: Herd) -> None:
    assert "no server answers at http://127.0.0.1:9; `herd up`" in herd(
        "arena", "judge", "--route", "x", status=1
    )
    assert herd("arena", "agreement") == {"judges": []}


@pytest.mark.parametrize("home", ["alone"], indirect=True)
def test_ctrl_c_in_the_middle_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """The latest moment: all is written, and not yet committed."""
    file = tmp_path / "v.csv"
    file.write_text("left,right,winner\n" + "x,y,tie\n" * 3000)
    script = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from herd.store import votes
from herd.cli import run
made = votes._add_all
def slow(connection, file):
    made(connection, file)
    print("written", flush=True)
    import time
    time.sleep(240)
votes._add_all = slow
sys.exit(run(["arena", "import", sys.argv[1]]))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout and child.stdout.readline() == b"written\n"
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and b"interrupted" in err and b"Traceback" not in err
    store = Store.open(home / "herd.db")
    assert store.votes_after(0, 9) == []
    store.close()
