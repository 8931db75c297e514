import json
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from herd.cli import doctor, run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("HERD_HOME", str(folder))
    monkeypatch.delenv("HERD_DATABASE_URL", raising=False)
    return folder


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    run(["doctor", "--json"])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}


def test_a_port_in_use_is_found_with_its_remedy(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HERD_PORT", str(taken.getsockname()[1]))
        check = findings(capsys)["port"]
    assert check["state"] == "bad" and "HERD_PORT" in check["fix"]


def test_sqlite_versions_that_can_corrupt_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, state in (
        ((3, 6, 23), "good"),
        ((3, 7, 0), "note"),
        ((3, 51, 2), "note"),
        ((3, 51, 3), "good"),
    ):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        assert doctor.sqlite().state == state, version


def test_a_home_that_cannot_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "file" / "home"))
    assert run(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "BAD  home" in said and "HERD_HOME" in said


def test_backup_copies_what_a_writer_has_committed(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    writer = sqlite3.connect(home / "herd.db")
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (x)")
    writer.execute("INSERT INTO t VALUES (42)")
    writer.commit()  # in the WAL, not yet in herd.db itself
    run(["doctor", "--backup", str(tmp_path / "copy.db")])
    assert sqlite3.connect(tmp_path / "copy.db").execute("SELECT x FROM t").fetchall() == [(42,)]
    writer.close()


def test_backup_never_overwrites(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    sqlite3.connect(home / "herd.db").close()
    (tmp_path / "copy.db").write_text("precious")
    (home / "herd.db").touch()
    assert run(["doctor", "--backup", str(tmp_path / "copy.db")]) == 1
    assert "exists" in capsys.readouterr().err and (tmp_path / "copy.db").read_text() == "precious"


def test_without_torch_the_gateway_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor.torch_build()
    assert check.state == "note" and "gateway" in check.found and "openherd[local]" in check.fix
