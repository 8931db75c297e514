"""`herd models`: what is installed."""

from __future__ import annotations

import click

from herd.cli.output import emit, json_option, table


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the models; * marks the version that its name serves."""
    from herd.registry import Registry
    from herd.registry.home import home

    registry = Registry(home())
    entries = registry.models()
    current = {name: registry.current(name).ref for name in {entry.name for entry in entries}}
    rows = [
        {
            "ref": entry.ref,
            "current": current[entry.name] == entry.ref,
            "kind": entry.kind,
            "base": entry.base,
            "licence": entry.licence,
            "digest": entry.digest,
            "description": entry.description,
        }
        for entry in entries
    ]
    shown = [
        (
            f"{row['ref']}{' *' if row['current'] else ''}",
            f"adapter on {row['base']}" if row["base"] else "model",
            row["licence"] or "",
            str(row["digest"])[:12],
            row["description"] or "",
        )
        for row in rows
    ]
    emit(rows, as_json, lambda: table(("model", "kind", "licence", "digest", "description"), shown))
