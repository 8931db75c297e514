"""Runs, lineage records, and the small things: files, names, the lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from herd.errors import HerdError
from herd.nearest import nearest
from herd.registry import lineage
from herd.registry.files import append_line, atomic_write
from herd.registry.home import home as herd_home
from herd.registry.home import lock
from herd.registry.runs import Run


def test_a_run_is_what_its_directory_says(home: Path) -> None:
    run = Run.create(home, "improve", {"name": "cria"})
    assert (run.state, run.data["args"], run.pid) == ("queued", {"name": "cria"}, None)
    run.set("running", pid=os.getpid())
    run.log_metric({"step": 1, "loss": 2.5})
    run.log_metric({"step": 2, "loss": 2.25})
    (run.dir / "log").write_text("x" * 50_000 + "end")
    other = Run.load(home, run.id)
    assert (other.state, other.pid) == ("running", os.getpid())
    assert [row["loss"] for row in other.metrics()] == [2.5, 2.25] and other.metrics(last=1)[0]["step"] == 2
    assert other.log(5) == "xxend"
    other.set("done", result={"decision": "SWITCH"})
    assert Run.load(home, run.id).data["result"] == {"decision": "SWITCH"}


def test_what_another_process_wrote_is_kept(home: Path) -> None:
    server = Run.create(home, "improve", {})
    Run.load(home, server.id).set("running", note="from the child")
    server.set("cancelled")
    data = Run.load(home, server.id).data
    assert (data["state"], data["note"]) == ("cancelled", "from the child")


def test_a_run_whose_process_died_has_failed(home: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run, zombie, reused = (Run.create(home, "improve", {}) for _ in range(3))
    run.set("running", pid=dead.pid)
    assert Run.load(home, run.id).state == "failed" and "log" in Run.load(home, run.id).data["error"]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    zombie.set("running", pid=child.pid)
    assert Run.load(home, zombie.id).state == "running"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert Run.load(home, zombie.id).state == "failed"
    child.communicate()
    reused.set("running", pid=os.getpid())
    data = json.loads((reused.dir / "run.json").read_text())
    (reused.dir / "run.json").write_text(json.dumps({**data, "pid_start": "1"}))
    assert Run.load(home, reused.id).state == "failed"


def test_runs_are_listed_newest_first_without_damaged_ones(home: Path) -> None:
    ids = [Run.create(home, "improve", {}).id for _ in range(3)]
    (home / "runs" / ids[1] / "run.json").write_text("{")
    assert [run.id for run in Run.list(home)] == [ids[2], ids[0]]
    for wrong in (ids[1], "", "..", "../runs", ".", "nothing", "\0"):
        with pytest.raises(HerdError) as caught:
            Run.load(home, wrong)
        assert caught.value.status == 404


def test_lineage_records_and_a_changed_byte(home: Path) -> None:
    first = lineage.record(
        home, command="train", inputs=[{"name": "shards", "digest": "d1"}], outputs=[{"name": "cria@1", "digest": "d2"}],
        parents=[], config={"steps": 10}, seed=0, device="cpu", metrics={"loss": 2.5},
    )  # fmt: skip
    second = lineage.record(home, command="improve", inputs=[], outputs=[], parents=["d2"])
    assert lineage.records(home) == [first, second] and lineage.verify(home) == []
    assert first["code"]["version"] and len(first["id"]) == 64
    [path] = [p for p in (home / "lineage").iterdir() if first["id"].startswith(p.stem)]
    path.write_text(path.read_text().replace("2.5", "2.4"))
    (home / "lineage" / "x.json").write_text("[" * 100_000)
    (home / "lineage" / "y.json").write_text("[]")
    assert len(lineage.verify(home)) == 3


def test_atomic_write_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    atomic_write(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            atomic_write(path, b"new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["state.json"]
    atomic_write(path, b"new")
    assert path.read_text() == "new"


def test_a_line_after_a_torn_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    append_line(path, "zwö")
    with open(path, "a") as file:
        file.write("to")
    append_line(path, "three")
    assert path.read_text(encoding="utf-8") == "one\nzwö\nto\nthree\n"


def test_the_home_has_one_holder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(home))
    assert herd_home() == home
    with lock(home), pytest.raises(HerdError, match="another Herd server"), lock(home):
        pass
    with lock(home):
        pass


def test_nearest() -> None:
    assert nearest("temprature", ["top_p", "temperature"]) == "temperature"
    assert nearest("zzz", ["top_p", "temperature"]) is None and nearest("x", []) is None
