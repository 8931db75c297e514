"""`herd logs` and `herd import logs`, without a server and beside one."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run

from .conftest import Herd


def line(i: int, **fields: Any) -> dict[str, Any]:
    """A request with its reply, as many log them."""
    said = {"role": "assistant", "content": f"reply {i}"}
    response = {"id": f"r{i}", "created": 1_700_000_000 + i, "model": "gpt-4o", "usage": {
        "prompt_tokens": 3, "completion_tokens": 2}, "choices": [{"index": 0, "finish_reason": "stop", "message": said}]}  # fmt: skip
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"question {i}"}]}
    return {"request": asked, "response": response, **fields}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line(i)) + "\n" for i in range(300)))
    return path


def test_the_newest_are_last_and_without_text(herd: Herd, file: Path) -> None:
    (report,) = herd("import", "logs", str(file), "--route", "shop")
    assert (report["kept"], report["bad"], report["lines"]) == (300, 0, 300)
    found = herd("logs", "-n", "250")
    assert [row["created"] for row in found] == [1_700_000_050.0 + i for i in range(250)]
    assert "question" not in json.dumps(found) and "reply 2" not in json.dumps(found)
    (row,) = herd("logs", "--search", "question 77", "--text")
    assert row["reply"] == "reply 77" and row["route"] == "shop"
    assert herd("logs", "--route", "other") == []
    assert len(herd("logs", "--since", "2023-11-14", "--until", "2023-11-15", "-n", "1000")) == 300
    assert herd("logs", "--since", "2h") == []


def test_for_people_a_line_has_no_control_characters(
    herd: Herd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.jsonl"
    path.write_text(
        json.dumps(line(1, request={"messages": [{"role": "user", "content": "\x1b]0;owned\x07\nhi"}]}))
    )
    herd("import", "logs", str(path))
    assert run(["logs", "--text"]) == 0
    out = capsys.readouterr().out
    assert "owned" in out and "reply 1" in out and "\x1b" not in out and "\x07" not in out
    assert run(["logs"]) == 0 and "owned" not in capsys.readouterr().out


def test_a_target_that_nobody_knows_is_not_named(
    herd: Herd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tuned.jsonl"
    path.write_text(
        json.dumps(
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
        )
    )
    herd("import", "logs", str(path))
    assert run(["logs"]) == 0 and "None" not in capsys.readouterr().out


def test_the_same_again_adds_nothing_and_bad_lines_are_named(
    herd: Herd, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    herd("import", "logs", str(file))
    packed = tmp_path / "again.gz"
    broken = [b"{", b"\xff", json.dumps(line(0, x="y" * 3_000_000)).encode(), json.dumps(line(300)).encode()]
    packed.write_bytes(gzip.compress(file.read_bytes() + b"\n".join(broken)))
    assert run(["import", "logs", str(packed), "--json"]) == 1
    out, err = capsys.readouterr()
    (report,) = json.loads(out)
    assert (report["lines"], report["kept"], report["known"], report["bad"]) == (304, 1, 300, 3)
    assert [problem["line"] for problem in report["problems"]] == [301, 302, 303]
    assert "line 302: not UTF-8" in err and "line 303: longer than 2 MiB" in err


def test_what_is_exported_comes_back(herd: Herd, file: Path, tmp_path: Path) -> None:
    herd("import", "logs", str(file))
    out = tmp_path / "out.jsonl"
    assert run(["logs", "export", "--out", str(out), "--search", "question 1"]) == 0
    rows = [json.loads(text) for text in out.read_text().splitlines()]
    assert len(rows) == 111 and {row["reply"] for row in rows} >= {"reply 1", "reply 199"}
    (report,) = herd("import", "logs", str(out))
    assert (report["kept"], report["known"]) == (0, 111)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("logs", "--since", "soon"), "2026-05-31"), (("logs", "--route", "x" * 201), "route"),
        (("logs", "--route", "x", "export"), "export --route"), (("import", "logs", __file__, "--format", "csv"), "format"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(herd: Herd, args: tuple[str, ...], said: str) -> None:
    error = herd(*args, status=1)
    assert said in error and error.count("\n") == 1


def test_following_shows_what_comes_once(
    herd: Herd, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(i: int, created: float) -> None:
        path = tmp_path / f"{i}.jsonl"
        made = line(i)
        made["response"]["created"] = created
        path.write_text(json.dumps(made))
        assert run(["import", "logs", str(path)]) == 0

    bring(9, time.time() - 90)  # older than the one that is asked for, and never shown
    bring(0, time.time() - 60)
    turns = iter(range(1, 4))

    def next_turn(_: float) -> None:
        if (i := next(turns, None)) is None:
            raise KeyboardInterrupt
        if i < 3:
            bring(i, time.time() - 30 * i)  # one that began before what was shown, and ended after it

    capsys.readouterr()
    monkeypatch.setattr("herd.cli.logs.time.sleep", next_turn)
    assert run(["logs", "-n", "1", "--follow", "--json", "--text"]) == 130
    shown = [json.loads(text) for text in capsys.readouterr().out.splitlines() if text.startswith("{")]
    assert [row["reply"] for row in shown] == ["reply 0", "reply 1", "reply 2"]
