"""`herd show`: one model."""

from typing import Any

import click

from herd.cli.output import console, emit, facts, json_option, when
from herd.registry import Registry, lineage
from herd.registry.files import read_json
from herd.registry.home import home
from herd.registry.registry import BUNDLED

FIELDS = ("ref", "kind", "base", "digest", "parents", "licence", "description", "created", "metrics")
SHOWN = ("ref", "kind", "base", "digest", "parents", "licence", "created", "path")


@click.command()
@click.argument("ref")
@json_option
def show(ref: str) -> None:
    """Show the model REF (a name, or name@version): digest, shape, measurements, lineage, card."""
    entry = Registry(home()).resolve(ref)
    card = entry.path / "README.md"
    data = {name: getattr(entry, name) for name in FIELDS} | {
        "parents": list(entry.parents),
        "path": str(entry.path),
        "config": read_json(
            entry.path / ("adapter_config.json" if entry.kind == "adapter" else "config.json")
        ),
        "lineage": [
            record
            for record in lineage.records(BUNDLED, home())
            if any(output.get("digest") == entry.digest for output in record["outputs"])
        ],
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
    }
    emit(data, lambda: _print(data))


def _print(data: dict[str, Any]) -> None:
    from rich.markdown import Markdown

    facts({name: data[name] for name in SHOWN} | {"created": when(data["created"])})
    for title in ("config", "metrics"):
        if data[title]:
            click.echo(f"\n{title}")
            facts({f"  {name}": value for name, value in data[title].items()})
    for record in data["lineage"]:
        click.echo(f"\nmade by `{record['command']}`, record {record['id'][:12]}")
    if data["card"]:
        click.echo()
        console().print(Markdown(data["card"]))
