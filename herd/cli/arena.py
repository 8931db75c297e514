"""`herd arena`: which target is better, and how sure that is, in the terminal."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

import click

from herd.cli import arena_data
from herd.cli.arena_data import raters
from herd.cli.client import ask
from herd.cli.output import console, emit, facts, json_option, note, printable, table
from herd.errors import HerdError

NARROW, BROAD = 20, 60  # columns of a plot: with less room there is none, with more it says no more
NO_VOTES = "no votes yet; `herd up` and /arena in the browser gather them"


@click.group()
@json_option
def arena() -> None:
    """Which is better, for whom, and how sure: what the votes of the arena say."""


for verb in arena_data.VERBS:
    arena.add_command(verb)


@arena.command()
@click.option("--category", help="Only votes of this category: code, maths, multi-turn, tag/NAME, …")
@click.option("--style", is_flag=True, help="With length, headers, lists and bold text taken out.")
@click.option("--judge", metavar="NAME", help="By the votes of this judge instead of people's.")
@json_option
def leaderboard(category: str | None, style: bool, judge: str | None) -> None:
    """Rank the targets by their votes, each with its interval."""
    asked = {"raters": raters(judge), "style": int(style), **({"category": category} if category else {})}
    hint = "`herd arena leaderboard` alone says which judges and categories there are"
    board = _ask("/api/leaderboard", asked, hint)
    emit(board, lambda: _say(board, people=judge is None))


@arena.command()
@click.argument("a")
@click.argument("b")
@click.option("--judge", metavar="NAME", help="By the votes of this judge instead of people's.")
@json_option
def compare(a: str, b: str, judge: str | None) -> None:
    """Say which of the targets A and B is better, and how sure that is."""
    asked = {"a": a, "b": b, "raters": raters(judge)}
    found = _ask("/api/leaderboard/compare", asked, "`herd arena leaderboard` lists the targets")

    def say() -> None:
        apart, more = found["difference"], found["needed"]
        click.echo(printable(found["sentence"]))
        facts({
            "votes between them": f"{found['votes']:,}",
            "votes still needed": more and f"about {round(more, 2 - len(str(more))):,}",
            "rating of A less B": _interval(apart) if apart and apart["estimate"] is not None else None,
            "votes that would flip it": found["flip"],
        })  # fmt: skip

    emit(found, say)


def _say(board: dict[str, Any], *, people: bool) -> None:
    """The rows as a table, with a plot where the terminal has room for it, and what there is to know of them."""
    if not any(row["votes"] or row["both_bad"] for row in board["rows"]):
        click.echo(NO_VOTES)
        return
    groups = [row["component"] for row in board["rows"]]
    # Ratings of targets that no votes connect say nothing of each other: each group stands by itself.
    rows = sorted(board["rows"], key=lambda row: math.inf if row["component"] is None else row["component"])
    columns = ["ranks", "target", "rating", "95 % interval", "votes"]
    cells = [
        [_ranks(row), printable(row["name"]), _rating(row), _span(row), f"{row['votes']:,}"] for row in rows
    ]
    if any(groups):
        columns, cells = (
            ["group", *columns],
            [[_group(row), *cell] for row, cell in zip(rows, cells, strict=True)],
        )
    used = sum(max(map(len, column)) + 2 for column in zip(columns, *cells, strict=True))
    if (room := min(console().width - used, BROAD)) >= NARROW:
        columns.append("")
        cells = [[*cell, line] for cell, line in zip(cells, _lines(rows, room), strict=True)]
    table(columns, cells)
    for one in (board["style"] or {}).get("coefficients", []):
        note(f"{one['name']}: {one['estimate']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})")
    judges = [name.removeprefix("judge:") for name in board["raters"] if name != "people"]
    for what, names in (("--category", [one["name"] for one in board["categories"]]), ("--judge", judges)):
        if names:
            note(f"{what}: {printable(', '.join(names))}")
    for text in (_apart(board["totals"]) if people else "", *board["problems"], board["progress"]):
        if text:
            note(printable(text))


def _apart(totals: dict[str, Any]) -> str:
    """What people voted and what does not count of it."""
    void = sum(totals["void"].values())
    parts = [f"{totals['people']:,} votes of people"]
    parts += [f"{void:,} void ({', '.join(totals['void'])})"] if void else []
    parts += [f"{totals['flagged_votes']:,} of {totals['flagged_voters']:,} flagged voters"] if totals["flagged_voters"] else []  # fmt: skip
    return f"{parts[0]}; not counted: {', '.join(parts[1:])}" if parts[1:] else ""


def _lines(rows: list[dict[str, Any]], width: int) -> list[str]:
    """Each target's interval on one axis of `width` characters, its rating as a dot."""
    ends = [row[name] for row in rows for name in ("low", "rating", "high") if row[name] is not None]
    least, most = min(ends, default=0.0), max(ends, default=0.0)
    step = (most - least) / (width - 1) or 1.0
    lines = []
    for row in rows:
        if row["low"] is row["rating"] is row["high"]:
            lines.append("")  # nothing is known of it
            continue
        low, dot, high = (
            edge if row[name] is None else round((row[name] - least) / step)
            for name, edge in (("low", 0), ("rating", -1), ("high", width - 1))
        )
        marks = ["●" if at == dot else "─" if low <= at <= high else " " for at in range(width)]
        lines.append("".join(marks).rstrip())
    return lines


def _group(row: dict[str, Any]) -> str:
    return "" if row["component"] is None else str(row["component"] + 1)


def _ranks(row: dict[str, Any]) -> str:
    """From the best to the worst rank that the votes allow."""
    best, worst = row["best"], row["worst"]
    return "" if best is None else f"{best}" if best == worst else f"{best}–{worst}"


def _rating(row: dict[str, Any]) -> str:
    return str(round(row["rating"])) if row["rating"] is not None else row["separated"] or ""


def _span(row: dict[str, Any]) -> str:
    low, high = (None if row[name] is None else str(round(row[name])) for name in ("low", "high"))
    if low and high:
        return f"{low} to {high}"
    return f"above {low}" if low else f"below {high}" if high else ""


def _interval(found: dict[str, Any]) -> str:
    low, high = (f"{end:+.0f}" if end is not None else "?" for end in (found["low"], found["high"]))
    return f"{found['estimate']:+.0f} ({low} to {high})"


def _ask(path: str, asked: dict[str, Any], hint: str) -> Any:
    """A GET whose refusal says what to do next."""
    try:
        return ask("GET", f"{path}?{urlencode(asked)}")
    except HerdError as error:
        if error.status not in (400, 404):
            raise
        raise HerdError(f"{error}; {hint}", status=error.status) from None
