"""`herd verify`: is every byte the one that was recorded?"""

import click

from herd.cli.output import emit, json_option
from herd.registry import Registry, lineage
from herd.registry.home import home
from herd.registry.registry import BUNDLED


@click.command()
@click.argument("ref", required=False)
@json_option
def verify(ref: str | None) -> int:
    """Re-hash the model REF, or all models and lineage records. Works offline; exit status 1 if any differs."""
    problems = [f"{problem.where}: {problem.what}" for problem in Registry(home()).verify(ref)]
    if ref is None:
        problems += lineage.verify(BUNDLED) + lineage.verify(home())
    emit({"ok": not problems, "problems": problems}, "\n".join(problems) or "all as recorded")
    return 1 if problems else 0
