"""Where settings come from: herd.toml, then HERD_*, then flags; and what is said of a wrong one."""

from pathlib import Path

import pytest

from herd.errors import HerdError
from herd.server.settings import Settings

NAMES = "HERD_HOST HERD_PORT HERD_API_KEY HERD_DATABASE_URL HERD_HOSTS HERD_ORIGINS HERD_MEMORY HERD_KEEP_ALIVE HERD_CONFIG"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    for name in NAMES.split():
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(home: Path, text: str, name: str = "herd.toml") -> Path:
    (home / name).write_text(text)
    return home / name


WHOLE = """
[server]
host = "0.0.0.0"
port = 8100
hosts = ["Llama.example"]
origins = ["https://app.example"]
memory = "6GiB"
keep_alive = 300
database = "sqlite:///other.db"
key = "env:THE_KEY"
[routes.x]
targets = ["cria"]
"""


def test_without_anything_there_are_defaults(home: Path) -> None:
    found = Settings.from_environment()
    assert (found.host, found.port, found.api_key, found.memory) == ("127.0.0.1", 8000, None, None)
    assert found.store == home / "herd.db" and found.config_file == home / "herd.toml"


def test_the_file_then_the_environment_then_flags(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, WHOLE)
    monkeypatch.setenv("THE_KEY", "a secret of some length")
    found = Settings.from_environment()
    assert (found.host, found.port, found.memory, found.keep_alive) == ("0.0.0.0", 8100, 6 * 2**30, 300)
    assert found.hosts == {"llama.example"} and found.origins == {"https://app.example"}
    assert (found.store, found.api_key) == ("sqlite:///other.db", "a secret of some length")
    for name, value in (
        ("PORT", "8200"),
        ("HOSTS", "a, b"),
        ("DATABASE_URL", "postgresql://x"),
        ("API_KEY", "k"),
    ):
        monkeypatch.setenv(f"HERD_{name}", value)
    found = Settings.from_environment()
    assert (found.port, found.hosts, found.store, found.api_key) == (8200, {"a", "b"}, "postgresql://x", "k")
    found = Settings.from_environment(port=8300, host="127.0.0.1")
    assert (found.port, found.host, found.memory) == (8300, "127.0.0.1", 6 * 2**30)


def test_the_file_may_be_elsewhere_and_the_key_in_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = write(home, "a secret of some length\n", "key")
    other = write(home, f'server = {{ port = 8400, key = "file:{key}" }}', "other.toml")
    write(home, WHOLE)
    for found in (Settings.from_environment(config=other), None):
        if found is None:
            monkeypatch.setenv("HERD_CONFIG", str(other))
            found = Settings.from_environment()
        assert (found.port, found.api_key, found.config_file) == (8400, "a secret of some length", other)


def test_no_secret_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_API_KEY", "deepest")
    monkeypatch.setenv("HERD_DATABASE_URL", "postgresql://me:deepest@host/db")
    assert "deepest" not in repr(Settings.from_environment())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('port = "many"', "server.port"), ("port = true", "server.port"), ("port = 70000", "65535"),
        ("memory = [1]", "server.memory"), ('memory = "much"', "server.memory"), ('keep_alive = "long"', "server.keep"),
        ("hosts = [1]", "server.hosts"), ("host = 1", "server.host"), ('key = "hunter2"', "env:NAME"),
        ('key = "env:NOT_THERE"', "NOT_THERE"), ('key = "file:/not/there"', "/not/there"), ("port = ", "line 2"),
        ('host = "0.0.0.0"', "HERD_API_KEY"), ("database = 1", "server.database"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(home: Path, line: str, said: str) -> None:
    write(home, f"[server]\n{line}\n")
    with pytest.raises(HerdError) as caught:
        Settings.from_environment()
    message = str(caught.value)
    assert said in message and "\n" not in message and "hunter2" not in message


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HERD_PORT", "x"), ("HERD_MEMORY", "x"), ("HERD_KEEP_ALIVE", "-1")):
        with monkeypatch.context() as patch, pytest.raises(HerdError, match=f"{name} is"):
            patch.setenv(name, value)
            Settings.from_environment()
