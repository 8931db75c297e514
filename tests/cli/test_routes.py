"""`herd routes`, without a server and beside one."""

import json
from pathlib import Path

import pytest

from herd.cli import run

from .conftest import Herd

TARGETS = 'providers.other.dialect = "openai"\nproviders.other.base_url = "https://llm.example/v1"\n'


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    from herd.registry import Registry

    from ..server.conftest import write_model

    for name in ("cria", "tale"):
        Registry(home).add(write_model(tmp_path / name), name, kind="model")
    return tmp_path


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_route_is_set_listed_restored_and_removed(herd: Herd, folder: Path) -> None:
    one = write(folder / "one.toml", 'targets = ["cria"]\nretries = 2\n')
    two = write(folder / "two.json", json.dumps({"targets": ["tale"]}))
    assert herd("routes", "set", "shop", one, "--note", "to begin with") == {"name": "shop", "version": 1}
    assert herd("routes", "set", "shop", two, "--expect", "1")["version"] == 2
    assert "version 2" in herd("routes", "set", "shop", one, "--expect", "1", status=1)
    listed = {route["name"]: route for route in herd("routes")}
    assert listed["shop"]["definition"] == {"targets": ["tale"]} and listed["cria"]["source"] == "own"
    assert herd("routes", "restore", "shop", "1")["version"] == 3
    shown = herd("routes", "show", "shop")
    assert shown["definition"] == {"targets": ["cria"], "retries": 2}
    assert [row["note"] for row in shown["versions"]] == ["version 1 again", None, "to begin with"]
    assert herd("routes", "remove", "shop")["removed"]
    assert "shop" not in {route["name"] for route in herd("routes", "list")}


def test_for_people_it_is_a_table(herd: Herd, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    herd(
        "routes", "set", "shop", write(folder / "one.toml", 'targets = [{target="cria", weight=9}, "tale"]\n')
    )
    assert run(["routes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("shop" in line and "cria (9), tale" in line for line in lines)
    assert run(["routes", "show", "shop"]) == 0 and '"weight": 9' in capsys.readouterr().out


def test_what_is_wrong_is_said(herd: Herd, folder: Path) -> None:
    assert "nobody" in herd(
        "routes", "set", "shop", write(folder / "a.toml", 'targets = ["nobody"]'), status=1
    )
    assert "a.toml" in herd("routes", "set", "shop", write(folder / "a.toml", "targets = ["), status=1)
    assert "not an object" in herd("routes", "set", "shop", write(folder / "a.json", "[]"), status=1)
    for args in (("show", "none"), ("remove", "none"), ("restore", "none", "1")):
        assert "none" in herd("routes", *args, status=1)


def test_a_whole_file_is_checked(herd: Herd, folder: Path) -> None:
    good = write(folder / "herd.toml", TARGETS + '[routes.shop]\ntargets = ["cria", "other/big"]\n')
    found = herd("routes", "check", good)
    assert found["ok"] and found["routes"] == ["shop"] and "other" in found["providers"]
    bad = write(folder / "herd.toml", TARGETS + '[routes.shop]\ntargets = ["crja"]\n')
    error = herd("routes", "check", bad, status=1)
    assert "line 4" in error and "cria" in error
