"""`herd logs`: kept traffic in the terminal, and out of it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from herd.cli.client import Server, api
from herd.cli.output import JSON, OUT, emit, json_option, note, printable, whole
from herd.errors import HerdError

TEXT = ("request", "reply", "reasoning", "calls", "response", "labels")  # what of a generation may hold text
AGES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# What `--follow` looks through EVERY second: the rows of so long (a reply may take that), and at most so many.
LONGEST, MOST_RECENT, EVERY = 900.0, 1000, 1.0
PAGE = 200
FORMATS = click.Choice(["jsonl", "parquet"])


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in ("conversation", "finish", "key", "target", "route"):
        command = click.option(f"--{name}", help=f"Only of this {name}.")(command)
    command = click.option("--search", "query", help="Only with this text in request or reply.")(command)
    command = click.option("--until", help="Only what began before, as --since.")(command)
    return click.option("--since", help="Only from then on: 30m, 2h, 7d ago, or a date as 2026-05-31T12:00.")(
        command
    )


@click.group(invoke_without_command=True)
@_filters
@click.option("-n", "count", default=50, type=click.IntRange(1, 10_000), help="How many at most (50).")
@click.option("--text", is_flag=True, help="With the text of requests and replies.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@json_option
@click.pass_context
def logs(context: click.Context, /, count: int, text: bool, follow: bool, **given: str | None) -> None:
    """Show kept traffic, the newest last; without text unless it is asked for."""
    if context.invoked_subcommand:
        if any(given.values()) or follow or text:
            raise HerdError("options of an export stand behind the word: herd logs export --route …")
        return
    chosen = _chosen(given)
    with api() as server:
        seen = {row["id"] for row in _recent(server, chosen)} if follow else set()
        found = [_slim(row, text) for row in _newest(server, chosen, count)][::-1]
        if not follow:
            none = "no traffic is kept that fits; one base_url line sends it here, and `herd up` shows it"
            emit(found, "\n".join(map(_line, found)) or none)
            return
        as_json = context.meta[JSON]
        seen |= {row["id"] for row in found}
        while True:
            for row in found:
                click.echo(json.dumps(row, ensure_ascii=False) if as_json else _line(row))
            sys.stdout.flush()
            time.sleep(EVERY)
            rows = _recent(server, chosen)
            found = [_slim(row, text) for row in rows if row["id"] not in seen][::-1]
            seen = {row["id"] for row in rows}


@logs.command()
@_filters
@click.option("--format", "form", type=FORMATS, default="jsonl", help="jsonl or parquet (jsonl).")
@click.option("--out", type=OUT, help="Where it goes; else to standard output.")
def export(form: str, out: Path | None, **given: str | None) -> None:
    """Write all that fits, with what text is kept, as JSON Lines or Parquet."""
    query = urlencode({**_chosen(given), "format": form})
    if out is None and form == "parquet" and sys.stdout.isatty():
        raise HerdError("Parquet is not for a terminal; name a file with --out")
    with api() as server, whole(out) as file:
        server.download(f"/api/generations/export?{query}", file)
    if out:
        note(f"in {out}")


def _newest(server: Server, chosen: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """At most `count` generations, the newest first."""
    before: dict[str, Any] = {}
    while count > 0:
        query = urlencode({**chosen, **before, "limit": min(count, PAGE)})
        page = server.call("GET", f"/api/generations?{query}")
        yield from page["data"]
        count -= len(page["data"])
        if not page["more"]:
            return
        before = {"before": page["data"][-1]["id"]}


def _recent(server: Server, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """What may have come since the last look: a reply is kept when it ends, under the time at which it began."""
    since = max(float(chosen.get("since", 0)), time.time() - LONGEST)
    return list(_newest(server, {**chosen, "since": since}, MOST_RECENT))


def _chosen(given: dict[str, str | None]) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return chosen | {name: _moment(name, chosen[name]) for name in ("since", "until") if name in chosen}


def _moment(name: str, text: str) -> float:
    """Unix seconds of an age or a date."""
    if match := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return time.time() - int(match[1]) * AGES[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise HerdError(f"--{name} {text!r} is neither an age, as 2h, nor a date, as 2026-05-31") from None


def _slim(row: dict[str, Any], text: bool) -> dict[str, Any]:
    return row if text else {name: value for name, value in row.items() if name not in TEXT}


def _line(row: dict[str, Any]) -> str:
    """A generation as a line for people, with what was asked last and said below it if that is there.

    Somebody else's text: no control character of it reaches the terminal.
    """
    tokens, total = row["tokens"], row["latency"]["total"]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["created"]))
    parts = [
        at, row["id"], row["route"] + (f" → {row['target']}" if row["target"] not in (None, row["route"]) else ""),
        row["finish"] or "", f"{tokens['prompt'] or 0}+{tokens['completion'] or 0} tokens",
        f"{total:.0f} ms" if total is not None else "", f"${row['cost'] / 1e12:.6f}" if row["cost"] else "",
        row["error"] or "",
    ]  # fmt: skip
    lines = ["  ".join(part for part in parts if part)]
    if "request" in row:
        asked = row["request"].get("messages") or [{"content": row["request"].get("prompt") or ""}]
        for mark, said in (("<", asked[-1].get("content") or ""), (">", row["reply"])):
            lines += [f"  {mark} {line}" for line in str(said).splitlines()]
    return "\n".join(map(printable, lines))
