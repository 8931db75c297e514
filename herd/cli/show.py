"""`herd show`: one model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import console, emit, facts, json_option, when

if TYPE_CHECKING:
    from herd.registry import ModelEntry


@click.command()
@click.argument("ref")
@json_option
def show(ref: str, as_json: bool) -> None:
    """Show the model REF (a name, or name@version): digest, shape, measurements, lineage, card."""
    from herd.registry import Registry, lineage
    from herd.registry.home import home

    entry = Registry(home()).resolve(ref)
    made_by = [record for record in lineage.records(home()) if _mentions(record, entry.digest)]
    card = entry.path / "README.md"
    data = {
        "ref": entry.ref,
        "kind": entry.kind,
        "base": entry.base,
        "digest": entry.digest,
        "parents": list(entry.parents),
        "licence": entry.licence,
        "description": entry.description,
        "created": entry.created,
        "path": str(entry.path),
        "config": _config(entry),
        "metrics": entry.metrics,
        "lineage": made_by,
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
    }
    emit(data, as_json, lambda: _print(data))


def _mentions(record: dict[str, Any], digest: str) -> bool:
    return any(output.get("digest") == digest for output in record["outputs"])


def _config(entry: ModelEntry) -> dict[str, Any]:
    name = "adapter_config.json" if entry.kind == "adapter" else "config.json"
    config: dict[str, Any] = json.loads((entry.path / name).read_text(encoding="utf-8"))
    return config


def _print(data: dict[str, Any]) -> None:
    from rich.markdown import Markdown

    names = ("ref", "kind", "base", "digest", "parents", "licence", "created", "path")
    facts({name: data[name] for name in names} | {"created": when(data["created"])})
    for title in ("config", "metrics"):
        if data[title]:
            console().print(f"\n{title}")
            facts({f"  {name}": value for name, value in data[title].items()})
    for record in data["lineage"]:
        console().print(f"\nmade by `{record['command']}`, record {record['id'][:12]}")
    if data["card"]:
        console().print("")
        console().print(Markdown(data["card"]))
