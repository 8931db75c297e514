"""herd.toml: what it means, and what each mistake is told: its line, and what would be right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import HerdError
from herd.gateway.config import Config, ConfigError, DriftSpec, load, parse_route
from herd.gateway.lines import line_of
from herd.gateway.prices import Prices
from herd.gateway.route import ArenaModel, ArenaSpec, ProviderSpec, Route, Shadow, TargetSpec, Weighted
from herd.protocol import Usage
from herd.protocol.upstream import MAX_TOKENS

ENV = {"OPENAI_API_KEY": "sk-secret-1", "ANTHROPIC_API_KEY": "sk-secret-2", "VLLM_KEY": "sk-secret-3"}
LOCAL = ("cria", "tale")
WHOLE = """\
# A comment, with [routes.other] in it
[providers.vllm]
dialect = "openai"
base_url = ["http://10.0.0.5:8000/v1", "http://10.0.0.6:8000/v1/"]
key = "env:VLLM_KEY"
private = true
concurrency = 8
headers = { "X-Team" = "models" }

[targets.helper]
provider = "openai"
model = "gpt-4o-mini"
system = \"\"\"
Be brief.
[routes.not-one]
retries = 99
\"\"\"
sampling = { temperature = 0.3 }
price = { input = 0.15, output = 0.6 }

[routes.assistant]
targets = [
    { target = "helper", weight = 9 },
    "cria",
]
fallbacks = ["anthropic/claude-haiku-4-5", "cria@2", "vllm/some/model"]
retries = 2
timeout = { first_token = 20, total = 120 }
concurrency = 64
drop = ["seed"]
shadow = { target = "tale", share = 0.05, budget = 2.5 }
keep = "text"
use = ["evaluate", "train"]
redact = ["email", "EMP-[0-9]{6}"]
retain_days = 30

[routes."team:plain"]
targets = ["cria"]

[drift]
every_hours = 6

[server]
port = 8000

[arena]
targets = ["cria", "openai/gpt-4o-mini"]
votes_per_hour = 30
identities = ["Acme"]

[arena.models."openai/gpt-4o-mini"]
open = false
licence = "proprietary"
"""


def _load(tmp_path: Path, text: str, env: dict[str, str] = ENV, local: Any = LOCAL) -> Config:
    path = tmp_path / "herd.toml"
    path.write_text(text)
    return load(path, env, local)


def test_everything(tmp_path: Path) -> None:
    found = _load(tmp_path, WHOLE)
    urls = ("http://10.0.0.5:8000/v1", "http://10.0.0.6:8000/v1")
    assert found.providers["vllm"] == ProviderSpec(
        "vllm", "openai", urls, "env:VLLM_KEY", True, None, 8, {"X-Team": "models"}
    )
    helper = found.targets["helper"]
    assert helper == TargetSpec(
        "helper", "openai", "gpt-4o-mini", "Be brief.\n[routes.not-one]\nretries = 99\n", {"temperature": 0.3},
        {"input": 0.15, "output": 0.6},
    )  # fmt: skip
    assert found.routes["assistant"] == Route(
        "assistant", (Weighted("helper", 9), Weighted("cria")), ("anthropic/claude-haiku-4-5", "cria@2", "vllm/some/model"),
        2, 20, 120, 64, frozenset({"seed"}), Shadow("tale", 0.05, 2, 2.5), "text", frozenset({"evaluate", "train"}),
        ("email", "EMP-[0-9]{6}"), 30, "file",
    )  # fmt: skip
    assert found.routes["team:plain"] == Route("team:plain", (Weighted("cria"),), source="file")
    assert found.drift == DriftSpec(6) and found.server == {"port": 8000}
    closed = {"openai/gpt-4o-mini": ArenaModel(False, "proprietary")}
    battling = ("cria", "openai/gpt-4o-mini")
    assert found.arena == ArenaSpec(battling, 30, identities=("Acme",), models=closed)
    assert _load(tmp_path, "").arena == ArenaSpec()


def test_keys_in_the_environment_are_enough(tmp_path: Path) -> None:
    env = {
        "OPENAI_API_KEY": "a",
        "MISTRAL_API_KEY": "b",
        "COHERE_API_KEY": "",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1/",
    }
    found = load(tmp_path / "not-there.toml", env)
    assert found.providers == {
        "openai": ProviderSpec("openai", "openai", ("http://127.0.0.1:9/v1",), "env:OPENAI_API_KEY", True),
        "mistral": ProviderSpec("mistral", "openai", ("https://api.mistral.ai/v1",), "env:MISTRAL_API_KEY"),
    }
    assert load(None, {}) == Config()
    written = _load(
        tmp_path, '[providers.openai]\ndialect = "openai"\nprivate = true\nbase_url = "http://10.1.1.1/v1"'
    )
    assert written.providers["openai"].urls == ("http://10.1.1.1/v1",)


# What is put in place of what, the line of the mistake, and what is said of it.
MISTAKES = [
    ("retries = 2", "retires = 2", 27, "did you mean 'retries'"),
    ("retries = 2", "retries = 200", 27, "from 0 to 10"),
    ("retries = 2", "retries = 1.5", 27, "a whole number"),
    ("retries = 2", "retries = true", 27, "must be a number"),
    ('    "cria",\n', '    "crai",\n', 24, "did you mean 'cria'"),
    ("weight = 9", "weight = -1", 23, "from 0 to"),
    ("weight = 9", "wieght = 9", 23, "did you mean 'weight'"),
    ('target = "helper"', 'target = "hleper"', 23, "did you mean 'helper'"),
    ("first_token = 20", "first_tokens = 20", 28, "did you mean 'first_token'"),
    ("total = 120", "total = 0", 28, "from 0.001"),
    ('"anthropic/claude', '"antropic/claude', 26, "did you mean 'anthropic'"),
    ('keep = "text"', 'keep = "texts"', 32, "did you mean 'text'"),
    ('"evaluate", "train"', '"evaluate", "trian"', 33, "did you mean 'train'"),
    ('use = ["evaluate", "train"]', 'use = "train"', 33, "must be a list"),
    ('"EMP-[0-9]{6}"', '"EMP-[0-9{6}"', 34, ""),
    ("retain_days = 30", "retain_days = nan", 35, "from 0.001"),
    ('shadow = { target = "tale"', 'shadow = { traget = "tale"', 31, "did you mean 'target'"),
    ('provider = "openai"', 'provider = "openia"', 11, "did you mean 'openai'"),
    ("temperature = 0.3", "temperature = 3.0", 18, "from 0 to 2"),
    ("temperature = 0.3", "temprature = 0.3", 18, "did you mean 'temperature'"),
    ("input = 0.15", 'input = "cheap"', 19, "must be a number"),
    ('dialect = "openai"', 'dialect = "opneai"', 3, "did you mean 'openai'"),
    ('dialect = "openai"', 'dialect = "any-llm"', 2, "vendor"),
    ("private = true", "private = false", 4, "https://"),
    ("private = true", 'private = "yes"', 6, "true or false"),
    ('key = "env:VLLM_KEY"', 'key = "sk-live-1234567890"', 5, '"env:NAME"'),
    ('key = "env:VLLM_KEY"', 'key = "env:VLLM_KAY"', 5, "VLLM_KAY"),
    ("http://10.0.0.5:8000/v1", "ftp://10.0.0.5", 4, "base_url"),
    ("http://10.0.0.5:8000/v1", "http://user:hunter2@10.0.0.5/v1", 4, "base_url"),
    ('"X-Team" = "models"', '"X-Team" = 7', 8, "must be text"),
    ("[providers.vllm]", "[providers.local]", 2, "choose another name"),
    ("[providers.vllm]", "[provider.vllm]", 2, "did you mean 'providers'"),
    ("[routes.assistant]", '[routes."two words"]', 21, "no name"),
    ("[drift]", "[drfit]", 40, "did you mean 'drift'"),
    ("every_hours = 6", "every_hours = 0", 41, "from 0.01"),
    ("port = 8000", 'port = "8000"', 44, "a whole number"),
    ("port = 8000", "prot = 8000", 44, "did you mean 'port'"),
    ('[routes."team:plain"]\ntargets = ["cria"]', '[routes."team:plain"]\ntargets = []', 38, "needs a target"),
    ('[routes."team:plain"]\ntargets = ["cria"]', '[routes."team:plain"]\nretries = 1', 37, "targets is missing"),
    ('[routes."team:plain"]\ntargets = ["cria"]', '[routes."team:plain"]\ntargets = ["cria", "cria"]', 38, "twice"),
    ("retries = 2", "retries = ", 27, "not TOML"),
    ('["cria", "openai/gpt-4o-mini"]', '["cria", "opnai/gpt-4o-mini"]', 47, "did you mean 'openai'"),
    ("votes_per_hour = 30", "votes_per_hour = 0", 48, "from 1"),
    ("votes_per_hour = 30", "votes_an_hour = 30", 48, "did you mean 'votes_per_hour'"),
    ("open = false", 'open = "no"', 52, "true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "line", "words"), MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    tmp_path: Path, right: str, wrong: str, line: int, words: str
) -> None:
    assert WHOLE.count(right) == 1
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, WHOLE.replace(right, wrong))
    said = str(caught.value)
    assert f"herd.toml, line {line}:" in said or f"(at line {line}," in said, said
    assert words in said and "\n" not in said
    for secret in ("sk-live-1234567890", "hunter2", *ENV.values()):
        assert secret not in said


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "herd.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, {})
    path.write_text("a = " + "[" * 5000)
    with pytest.raises(ConfigError):
        load(path, {})


def test_a_route_of_the_api_is_told_the_field() -> None:
    known = load(None, ENV, LOCAL)
    route = parse_route("r", {"targets": ["openai/gpt-4o"], "retries": 0}, known, LOCAL)
    assert route == Route("r", (Weighted("openai/gpt-4o"),), retries=0)
    for table, param in (
        ({"targets": [{"target": "cria", "weight": "x"}]}, "targets[0].weight"),
        ({"targets": ["cria"], "timeout": {"total": []}}, "timeout.total"),
        ({"targets": ["cria"], "fallbacks": ["cria", 7]}, "fallbacks[1]"),
        ({"targets": "cria"}, "targets"),
        ({"targets": [["cria"]]}, "targets[0]"),
        ({"targets": ["cria"], "nonsense": 1}, "nonsense"),
        ({"targets": ["cria"] * 101}, "targets"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_route("r", table, known, LOCAL)
        assert caught.value.param == param and caught.value.status == 400
    for table in ([], None, "x", 7):
        with pytest.raises(ConfigError, match="must be a table"):
            parse_route("r", table, known, LOCAL)


_LINES = WHOLE.split("\n")
_VALUES = st.sampled_from(
    ['""', "0", "-1", "1e400", "nan", "true", "[]", "{}", '"x"', "[[]]", '[{}, "", 7]', "1979-05-27T07:32:00Z", '"\\u0000"',
     "{ a = { b = [1] } }", "99999999999999999999", '"openai/"', '"/"', "'''\n[routes.x]\n'''"]
)  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    lines = list(_LINES)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "drop", "repeat", "characters", "move"]))
        if kind == "value" and "=" in lines[place]:
            lines[place] = lines[place].partition("=")[0] + "= " + draw(_VALUES)
        elif kind == "drop":
            del lines[place]
        elif kind == "repeat":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines[place])
        elif kind == "move":
            lines.insert(draw(st.integers(0, len(lines) - 2)), lines.pop(place))
        else:
            at = draw(st.integers(0, len(lines[place])))
            lines[place] = lines[place][:at] + draw(st.text(max_size=3)) + lines[place][at:]
        if not lines:
            return ""
    return "\n".join(lines)


@given(_mutated())
@settings(max_examples=300, deadline=None)
def test_no_file_makes_it_stumble(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """It is taken or refused in one line that names one that exists."""
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        load(path, ENV, LOCAL)
    except HerdError as error:
        assert isinstance(error, ConfigError)
        said = str(error).partition(", line ")[2].partition(":")[0]
        assert not said or 1 <= int(said) <= text.count("\n") + text.count("\r") + 1


@given(
    st.lists(st.sampled_from(["a", "b", "'c d'", '"e.f"']), min_size=1, max_size=3, unique=True),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_the_line_of_a_key(parts: list[str], above: int) -> None:
    """Against the number of the line on which it was written."""
    names = [part.strip("\"'") for part in parts]
    headed = "\n" * above + f"[{'.'.join(parts)}]\nx = 1\n"
    assert tomllib.loads(headed)
    assert line_of(headed, names) == above + 1 and line_of(headed, [*names, "x"]) == above + 2
    assert line_of("\n" * above + f"{'.'.join(parts)} = 1\n", names) == above + 1


@pytest.mark.parametrize(
    "text",
    [
        '[providers]\nopenai = "{}"',
        'providers = "{}"',
        '[providers.a]\ndialect = "openai"\nkey = ["{}"]',
        '[providers.a]\ndialect = "openai"\nkey = {{ is = "{}" }}',
        '[providers.a]\ndialect = "openai"\nkey = "{}"',
        '[providers.a]\ndialect = "openai"\nprivate = "{}"',
        '[providers.a]\ndialect = "openai"\nbase_url = ["{}"]',
        '[providers.a]\ndialect = "openai"\nheaders = "{}"',
        '[providers.a]\ndialect = "openai"\nheaders = {{ Authorization = ["{}"] }}',
        '[server]\nkey = ["{}"]',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    """The message goes to a log and to pages."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text.format("sk-canary-0123456789"))
    assert "canary" not in str(caught.value), str(caught.value)


def test_a_price_that_no_ledger_could_book_is_refused_at_once(tmp_path: Path) -> None:
    price = '[targets.t]\nprovider = "local"\nmodel = "cria"\nprice = {{ input = {} }}'
    assert _load(tmp_path, price.format(10**4)).targets["t"].price == {"input": 10**4}
    with pytest.raises(ConfigError, match="from 0 to 10000"):
        _load(tmp_path, price.format(10**4 + 1))
    most = Usage(MAX_TOKENS, MAX_TOKENS)
    assert Prices.load().cost("a", "m", most, {"input": 10**4, "output": 10**4}) < 2**62
