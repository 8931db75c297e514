"""`herd keys`, without a server and beside one: the same words, and a secret that is said once."""

import json
from pathlib import Path

import pytest

from herd.cli import run

from .conftest import Herd


def test_a_key_is_made_listed_and_revoked(herd: Herd, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = herd(
        "keys", "create", "shop", "--scope", "use:cria", "--scope", "vote", "--limit", "2.5dollars/month",
        "--limit", "60 requests/minute", "--days", "30", "--keep", "metadata", "--use", "train",
    )  # fmt: skip
    assert made["secret"].startswith("hk-")
    listed = herd("keys")
    assert [key["id"] for key in listed] == [made["id"]] and made["secret"] not in json.dumps(listed)
    (key,) = listed
    assert (key["application"], key["keep"], key["use"]) == ("shop", "metadata", ["train"])
    assert sorted(key["scopes"]) == ["use:cria", "vote"]
    limits = {(limit["unit"], limit["period"]): limit["amount"] for limit in key["limits"]}
    assert limits == {("dollars", "month"): 25 * 10**11, ("requests", "minute"): 60}
    assert {one["unit"]: one["spent"] for one in key["spend"]} == {"dollars": 0, "requests": 0}
    assert herd("keys", "show", made["id"])["created"] == key["created"]
    assert herd("keys", "revoke", made["id"])["revoked"]
    assert herd("keys", "list")[0]["revoked"]
    assert run(["keys"]) == 0 and "revoked" in capsys.readouterr().out
    for file in home.rglob("*"):  # the log of the database as well
        assert not file.is_file() or made["secret"].encode() not in file.read_bytes()


def test_the_secret_alone_is_on_standard_output(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_mistake_is_one_line(herd: Herd, args: tuple[str, ...], said: str) -> None:
    error = herd("keys", *args, status=1)
    assert said in error and error.count("\n") == 1


def test_for_people_ids_are_whole_and_amounts_are_numbers(
    herd: Herd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = herd(
        "keys", "create", "shop", "--scope", "use:a-route-of-some-length",
        "--limit", "0.00001dollars/month", "--limit", "20000000tokens/day",
    )  # fmt: skip
    assert run(["keys"]) == 0
    out = capsys.readouterr().out
    assert made["id"] in out
    assert run(["keys", "show", made["id"]]) == 0
    out = capsys.readouterr().out
    assert "0 of 0.00001 dollars" in out and "0 of 20,000,000 tokens" in out
