"""`herd verify`: is every byte the one that was recorded?"""

from __future__ import annotations

import click

from herd.cli.output import console, emit, json_option


@click.command()
@click.argument("ref", required=False)
@json_option
def verify(ref: str | None, as_json: bool) -> int:
    """Re-hash the model REF, or all models and lineage records. Works offline; exit status 1 if any differs."""
    from herd.registry import Registry, lineage
    from herd.registry.home import home

    problems = [f"{problem.where}: {problem.what}" for problem in Registry(home()).verify(ref)]
    if ref is None:
        problems += lineage.verify(home())

    def human() -> None:
        for problem in problems:
            console().print(problem)
        if not problems:
            console().print("all as recorded")

    emit({"ok": not problems, "problems": problems}, as_json, human)
    return 1 if problems else 0
