"""How every command speaks: results on standard output, for people or as JSON; the rest on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.console import Console

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def console(*, stderr: bool = False) -> Console:
    """A rich console (NO_COLOR is honoured) that leaves numbers, paths and brackets as they are."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def emit(data: Any, as_json: bool, human: Callable[[], None]) -> None:
    """Print `data` as one JSON document, or call `human`, which prints the same for a person."""
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        human()


def note(text: str) -> None:
    """A remark beside the result."""
    console(stderr=True).print(text, style="dim")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table; columns whose every cell is a number are set to the right."""
    from rich.table import Table

    cells = [list(row) for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        numeric = bool(cells) and all(str(row[i]).replace(",", "").isdecimal() for row in cells)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        grid.add_row(*map(str, row))
    console().print(grid)


def facts(pairs: Mapping[str, object]) -> None:
    """Name and value, a line each; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        console().print(f"{name:<{width}}  {value}")


def size(count: float) -> str:
    """Bytes for people: 1,024 to the next unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def when(seconds: float) -> str:
    """Unix seconds as local date and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class Bars:
    """Progress bars on standard error, one a stage: `with Bars() as bars: bars("read", done, total)`."""

    def __enter__(self) -> Self:
        from rich.progress import Progress

        self._progress = Progress(console=console(stderr=True))
        self._tasks: dict[str, Any] = {}
        self._progress.start()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
