"""`herd routes`: the names that applications call, and what stands behind them."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from herd.cli.client import ask
from herd.cli.output import FILE, emit, facts, json_option, table, when
from herd.errors import HerdError


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def routes(context: click.Context) -> None:
    """List, show, check or change routes; those of herd.toml are changed there."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@routes.command("list")
@json_option
def list_() -> None:
    """List the routes."""
    found = ask("GET", "/api/routes")["data"]
    rows = [
        (
            route["name"],
            route["source"] + (f", version {route['version']}" if route["version"] else ""),
            ", ".join(map(_target, route["definition"].get("targets", []))),
            ", ".join(route["definition"].get("fallbacks", [])),
            ", ".join(sorted({f"{one['provider']} {one['state']}" for one in route["health"]})),
        )
        for route in found
    ]
    emit(found, lambda: table(("route", "from", "targets", "fallbacks", "health"), rows))


@routes.command()
@click.argument("name")
@json_option
def show(name: str) -> None:
    """Show the route NAME, its definition and its versions."""
    route = ask("GET", _path(name))

    def say() -> None:
        facts({"route": route["name"], "from": route["source"], "version": route["version"]})
        click.echo(json.dumps(route["definition"], indent=2, ensure_ascii=False))
        rows = [
            (str(row["version"]), when(row["created"]), row["author"] or "", row["note"] or "")
            for row in route["versions"]
        ]
        if rows:
            table(("version", "made", "by", "note"), rows)

    emit(route, say)


@routes.command("set")
@click.argument("name")
@click.argument("file", type=FILE)
@click.option("--note", help="Why; kept with the version.")
@click.option(
    "--expect", type=int, help="The version that this changes; if it is not the newest, nothing happens."
)
@json_option
def set_(name: str, file: Path, note: str | None, expect: int | None) -> None:
    """Make the route NAME as FILE says: what stands in its table, as TOML or JSON."""
    made = ask("PUT", _path(name), {"definition": _read(file), "note": note, "expect": expect})
    emit(made, f"{name} is at version {made['version']}; `herd routes restore {name} N` goes back")


@routes.command()
@click.argument("name")
@json_option
def remove(name: str) -> None:
    """Remove the route NAME; its versions stay."""
    ask("DELETE", _path(name))
    emit(
        {"name": name, "removed": True},
        f"{name} is removed; `herd routes show {name}` lists what can be restored",
    )


@routes.command()
@click.argument("name")
@click.argument("version", type=int)
@json_option
def restore(name: str, version: int) -> None:
    """Bring VERSION of the route NAME back, as a new version."""
    made = ask("POST", f"{_path(name)}/restore", {"version": version})
    emit(made, f"{name} is as it was at version {version}, now version {made['version']}")


@routes.command()
@click.argument("file", type=FILE)
@json_option
def check(file: Path) -> None:
    """Check FILE, a whole herd.toml, before it is put in place."""
    from herd.gateway.config import load
    from herd.registry import Registry
    from herd.registry.home import home

    found = load(file, os.environ, [target.name for target in Registry(home()).targets()])
    parts = {name: sorted(getattr(found, name)) for name in ("providers", "targets", "routes")}
    emit({"ok": True, **parts}, lambda: facts({name: ", ".join(words) for name, words in parts.items()}))


def _path(name: str) -> str:
    return f"/api/routes/{quote(name, safe='')}"


def _target(given: Any) -> str:
    if isinstance(given, str):
        return given
    return f"{given['target']} ({given['weight']:g})" if "weight" in given else str(given["target"])


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise HerdError(f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise HerdError(f'{file}: not an object; a route is written as in {{"targets": ["cria"]}}')
    return found
