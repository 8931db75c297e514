"""What the documents say about the code is what the code says."""

import re
import runpy
import tomllib
from pathlib import Path

from herd.cli import VERBS
from herd.data.spec import DataSpec
from herd.data.toml import build
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
