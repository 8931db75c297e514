"""`herd models`: what is installed."""

import click

from herd.cli.output import emit, json_option, table
from herd.registry import Registry
from herd.registry.home import home

FIELDS = ("ref", "kind", "base", "licence", "digest", "description")


@click.command()
@json_option
def models() -> None:
    """List the models; * marks the version that its name serves."""
    registry = Registry(home())
    entries = registry.models()
    current = {registry.current(name).ref for name in {entry.name for entry in entries}}
    rows = [
        {name: getattr(entry, name) for name in FIELDS} | {"current": entry.ref in current}
        for entry in entries
    ]
    shown = [
        (
            entry.ref + " *" * (entry.ref in current),
            f"adapter on {entry.base}" if entry.base else "model",
            entry.licence,
            entry.digest[:12],
            entry.description,
        )
        for entry in entries
    ]
    emit(rows, lambda: table(("model", "kind", "licence", "digest", "description"), shown))
