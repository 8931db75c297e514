"""How every command speaks: results on standard output, for people or as JSON; the rest on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

JSON = "herd.json"  # where click's context keeps whether --json was given
# What an argument is: any path; a file that is there; a file that may be.
PLACE = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OUT = click.Path(path_type=Path, dir_okay=False)

json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, given: context.meta.update({JSON: given or context.meta.get(JSON, False)}),
    help="Print the result as JSON.",
)


def console(*, stderr: bool = False) -> Console:
    """A rich console (NO_COLOR is honoured) that leaves numbers, paths and brackets as they are."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def emit(data: Any, human: str | Callable[[], None]) -> None:
    """Print `data` as one JSON document if --json asks for it, else `human`, or what calling it prints."""
    if click.get_current_context().meta[JSON]:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    elif callable(human):
        human()
    else:
        click.echo(human)


def note(text: str) -> None:
    """A remark beside the result."""
    click.secho(text, dim=True, err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table; columns whose every cell is a number are set to the right."""
    from rich.table import Table

    cells = list(rows)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        numeric = bool(cells) and all(row[i].replace(",", "").isdecimal() for row in cells)
        # The first says which one it is, for the next command: it is copied whole.
        least = None if i else min(max((len(row[0]) for row in cells), default=0), 40)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold", min_width=least)
    for row in cells:
        grid.add_row(*row)
    console().print(grid)


def facts(pairs: Mapping[str, object]) -> None:
    """Name and value, a line each; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


@contextmanager
def whole(out: Path | None) -> Iterator[IO[bytes]]:
    """A file to write that appears whole or not at all; standard output without a name. A device is written as it is."""
    if out is None:
        yield sys.stdout.buffer
        return
    out = out.resolve()  # what a link points to is replaced, not the link
    if out.exists() and not out.is_file():
        with out.open("wb") as file:
            yield file
        return
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Somebody else's text on one line: without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def when(seconds: float) -> str:
    """Unix seconds as local date and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on standard error, one a stage: `with bars() as show: show("read", done, total)`."""
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(console=console(stderr=True)) as progress:

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)

        yield show
