"""`herd models`: what is installed."""

import click

from herd.cli.output import emit, json_option, table
from herd.registry import Registry
from herd.registry.home import home

FIELDS = ("ref", "kind", "base", "licence", "digest", "description")


@click.command()
@json_option
def models() -> None:
    """List the models and targets; * marks the version that a model's name serves."""
    registry = Registry(home())
    entries = registry.models()
    names = {entry.name for entry in entries}
    current = {registry.current(name).ref for name in names}
    rows, shown = [], []
    for entry in entries:
        serves = entry.ref in current
        kind = f"adapter on {entry.base}" if entry.base else "model"
        rows.append({name: getattr(entry, name) for name in FIELDS} | {"current": serves})
        shown.append((entry.ref + " *" * serves, kind, entry.licence, entry.digest[:12], entry.description))
    for target in registry.targets():
        if target.name not in names:
            about = target.system or "settings of its own"
            of = (target.adapter or target.model).ref
            row = {"ref": target.name, "kind": "target", "base": of, "digest": target.digest}
            rows.append(row | {"description": about})
            shown.append((target.name, f"target of {of}", target.model.licence, target.digest[:12], about))
    emit(rows, lambda: table(("name", "kind", "licence", "digest", "description"), shown))
