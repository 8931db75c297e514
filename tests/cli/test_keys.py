"""`herd keys`, without a server and beside one: the same words, and a secret that is said once."""

import json
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    monkeypatch.setenv("HERD_PORT", "9")  # nobody listens there
    for name in ("HERD_API_KEY", "HERD_DATABASE_URL", "HERD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def herd(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> Any:
    """What a command prints as JSON, or its error."""
    got = run([*args, *(["--json"] if status == 0 else [])])
    out, err = capsys.readouterr()
    assert got == status, err
    return json.loads(out) if status == 0 else err


def test_a_key_is_made_listed_and_revoked(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    made = herd(
        capsys, "keys", "create", "shop", "--scope", "use:cria", "--scope", "vote", "--limit", "2.5dollars/month",
        "--limit", "60 requests/minute", "--days", "30", "--keep", "metadata", "--use", "train",
    )  # fmt: skip
    assert made["secret"].startswith("hk-")
    listed = herd(capsys, "keys")
    assert [key["id"] for key in listed] == [made["id"]] and made["secret"] not in json.dumps(listed)
    (key,) = listed
    assert (key["application"], key["keep"], key["use"]) == ("shop", "metadata", ["train"])
    assert sorted(key["scopes"]) == ["use:cria", "vote"]
    limits = {(limit["unit"], limit["period"]): limit["amount"] for limit in key["limits"]}
    assert limits == {("dollars", "month"): 25 * 10**11, ("requests", "minute"): 60}
    assert {one["unit"]: one["spent"] for one in key["spend"]} == {"dollars": 0, "requests": 0}
    assert herd(capsys, "keys", "show", made["id"])["created"] == key["created"]
    assert herd(capsys, "keys", "revoke", made["id"])["revoked"]
    assert herd(capsys, "keys", "list")[0]["revoked"]
    assert run(["keys"]) == 0 and "revoked" in capsys.readouterr().out
    for file in home.rglob("*"):
        assert not file.is_file() or made["secret"].encode() not in file.read_bytes()


def test_the_secret_alone_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "create", "shop", "--scope", "read"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("hk-") and len(out.split()) == 1 and "key_" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("create", "shop", "--scope", "use"), "scopes"),
        (("create", "shop", "--scope", "read", "--limit", "many"), "5dollars/month"),
        (("create", "shop", "--scope", "read", "--limit", "5 apples/day"), "unit"),
        (("create", " ", "--scope", "read"), "application"),
        (("show", "../x"), "herd keys"),
        (("revoke", "key_none"), "no key"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], said: str) -> None:
    error = herd(capsys, "keys", *args, status=1)
    assert said in error and error.count("\n") == 1
