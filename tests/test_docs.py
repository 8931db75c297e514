"""What the documents say about the code is what the code says."""

import dataclasses
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

from herd.cli import VERBS
from herd.data.spec import DataSpec
from herd.data.toml import build
from herd.gateway.config import SERVER, DriftSpec, load
from herd.gateway.route import ArenaModel, ArenaSpec, ProviderSpec, Route, Shadow, TargetSpec, Weighted
from herd.train.recipe import Recipe

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_tables_of_api_fields_are_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "fields.py"))
    text = read("docs/api.md")
    assert script["page"](text) == text, "run python docs/fields.py"
    assert "| `functions` | refused but for `[]` | unknown | unknown |" in text


def test_every_command_in_the_documents_exists() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        text = page.read_text(encoding="utf-8")
        commands = re.findall(r"(?:^ {4}|`|\| |^)herd ([a-z]+)", text, re.MULTILINE)
        assert set(commands) <= set(VERBS), page.name


def test_the_recipes_in_the_documents_are_valid() -> None:
    for page, kind in (("docs/data.md", DataSpec), ("docs/training.md", Recipe)):
        (block,) = re.findall(r"```toml\n(.*?)```", read(page), re.DOTALL)
        build(kind, tomllib.loads(block), page)


def test_every_dependency_has_a_pin() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    pins = {
        line.partition("==")[0].lower().replace("_", "-") for line in read("constraints.txt").splitlines()
    }
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    for requirement in wanted:
        name = re.split(r"[<>=!\[ ]", requirement)[0].lower().replace("_", "-")
        assert name in pins, name


# Each table of herd.toml: the values that it makes, and where the name of a key is another than the field's.
TABLES: dict[str, dict[str, Any]] = {
    "providers.NAME": {"": ProviderSpec},
    "targets.NAME": {"": TargetSpec},
    "routes.NAME": {"": Route, "targets.": Weighted, "shadow.": Shadow},
    "drift": {"": DriftSpec},
    "arena": {"": ArenaSpec, "models.": ArenaModel},
}
OTHERS = {"urls": "base_url", "first_token": "timeout.first_token", "total": "timeout.total"}
NOT_KEYS = {"name", "source", "version"}
OF_A_VENDOR = {"base_url": "the vendor's", "price": "the table's"}  # defaults that no dataclass has


def test_every_key_of_herd_toml_is_documented_with_its_default() -> None:
    text = read("docs/gateway.md")
    for heading, made in TABLES.items():
        section = text.partition(f"### [{heading}]\n")[2].partition("\n#")[0]
        rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", section, re.MULTILINE)
        wanted = {
            prefix + OTHERS.get(field.name, field.name): _default(field)
            for prefix, kind in made.items()
            for field in dataclasses.fields(kind)
            if field.name not in NOT_KEYS
        }
        if heading == "providers.NAME":
            wanted |= {"base_url": OF_A_VENDOR["base_url"]}
        if heading == "targets.NAME":
            wanted |= {"price": OF_A_VENDOR["price"]}
        assert dict(rows) == wanted, heading
    server = text.partition("### [server]\n")[2].partition("\n#")[0]
    assert set(SERVER) <= set(re.findall(r"`([a-z_]+)`", server))


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "needed"
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case tuple() | frozenset():
            inner = ", ".join(f'"{one}"' for one in value)
            return f"`[{inner}]`"
    return f"`{value}`"


def test_the_configurations_in_the_documents_are_good(tmp_path: Path) -> None:
    for page in ("docs/gateway.md", "examples/helpdesk.toml", "deploy/etc/herd.toml"):
        text = read(page)
        for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if page.endswith(".md") else [text]:
            file = tmp_path / "herd.toml"
            file.write_text(block)
            found = load(file, {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-x"})
            assert found.routes, page
