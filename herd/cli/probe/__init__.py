"""`herd probe`: what a server of OpenAI's or Anthropic's dialect honours, ignores silently, refuses or breaks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import click

from herd.cli.output import console, emit, json_option, note, printable
from herd.cli.probe.chat import CHAT
from herd.cli.probe.check import MALFORMED, Check, Group, Result, Server, accepted, run
from herd.cli.probe.errors import ERRORS, MODELS
from herd.cli.probe.finding import Broken, NoAnswer, Refused, Unreachable
from herd.cli.probe.load import LOAD
from herd.cli.probe.messages import MESSAGES
from herd.cli.probe.older import COMPLETIONS, EMBEDDINGS
from herd.cli.probe.responses import RESPONSES
from herd.cli.probe.streaming import STREAM
from herd.cli.probe.structured import FORMAT, TOOLS
from herd.cli.probe.wire import Wire
from herd.errors import HerdError
from herd.nearest import nearest

GROUPS = (
    MODELS, CHAT, STREAM, FORMAT, TOOLS, ERRORS, LOAD, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES,
)  # fmt: skip
STATES = {"honoured": "green", "ignored": "yellow", "refused": "cyan", "broken": "red", "untested": "dim"}


@click.command()
@click.argument("url")
@click.option("--model", help="The model to ask; default: the first that the server lists.")
@click.option("--key", envvar="HERD_PROBE_KEY", help="The server's key; better set HERD_PROBE_KEY.")
@click.option("--dialect", type=click.Choice(["auto", "openai", "anthropic"]), default="auto")
@click.option("--only", help="Groups and checks, by commas: chat,stream.usage")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=60, help="Seconds a request may take.")
@click.option("--strict", is_flag=True, help="Exit status 1 also if something is ignored.")
@json_option
def probe(
    url: str, model: str | None, key: str | None, dialect: str, only: str | None, timeout: float, strict: bool
) -> int:
    """Ask the server at URL for everything its dialect promises, and report what it does.

    Each capability is honoured, ignored silently, refused clearly, or broken. Exit status 1 if one is broken.
    """
    groups = [group for group in GROUPS if dialect in ("auto", group.dialect)]
    wanted = chosen(groups, only)
    server = connect(Wire(url, {}, timeout), model, key, dialect)
    tokens = sum(check.tokens for group in groups for check in group.checks if check.full_name in wanted)
    note(
        f"{len(wanted)} checks of {printable(server.model)} at {url}; they ask for at most about {tokens:,} tokens"
    )
    began, results = time.monotonic(), []
    for result in run(server, groups, lambda check: check.full_name in wanted):
        results.append(result)
        note(f"{result.group}.{result.name}: {result.state}") if console(stderr=True).is_terminal else None
    totals = {state: sum(result.state == state for result in results) for state in STATES}
    data = {
        "url": url,
        "model": server.model,
        "totals": totals,
        "seconds": round(time.monotonic() - began, 1),
        "results": [asdict(result) for result in results],
    }
    emit(data, lambda: report(results, totals))
    return 1 if totals["broken"] or strict and totals["ignored"] else 0


def chosen(groups: Sequence[Group], only: str | None) -> set[str]:
    """The full names of the wanted checks. Raises HerdError for a name that is none."""
    checks = [check for group in groups for check in group.checks]
    if only is None:
        return {check.full_name for check in checks}
    wanted: set[str] = set()
    for name in only.split(","):
        found = {check.full_name for check in checks if name.strip() in (check.group, check.full_name)}
        if not found:
            known = [*(group.name for group in groups), *(check.full_name for check in checks)]
            near = nearest(name.strip(), known)
            hint = f"did you mean {near!r}?" if near else f"groups: {', '.join(g.name for g in groups)}"
            raise HerdError(f"no group or check {name.strip()!r}; {hint}")
        wanted |= found
    return wanted


def connect(wire: Wire, model: str | None, key: str | None, dialect: str) -> Server:
    """The server with its model. Raises HerdError if it lists none and none is named."""
    server = Server(wire, model or "", key)
    path = "/v1/models"
    headers = server.headers("/v1/messages" if dialect == "anthropic" else path)
    whole = path + "?limit=1000" * (dialect == "anthropic")  # it has pages, of 20 unless one asks
    try:
        listed = accepted(wire.call("GET", whole, None, headers))["data"]
        entries = {entry["id"]: entry for entry in listed if isinstance(entry["id"], str)}
    except Unreachable as error:
        raise HerdError(f"no server at {wire.address} ({error})") from None
    except (Broken, Refused, *MALFORMED) as error:
        if isinstance(error, NoAnswer):
            raise HerdError(
                f"{path}: {error}; is this a server of OpenAI's or Anthropic's dialect?"
            ) from None
        if model is None:
            raise HerdError(f"{path} lists no models ({error}); name one: --model NAME") from None
        entries = {}
    if model is None and not entries:
        raise HerdError(f"{path} lists no models; name one: --model NAME")
    server.model = model or next(iter(entries))
    server.listing = entries.get(server.model, {})
    return server


def report(results: Sequence[Result], totals: dict[str, int]) -> None:
    """The table by group, and the totals."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    group = ""
    for result in results:
        if result.group != group:
            group = result.group
            grid.add_row(Text(group, "bold"), "", "")
        grid.add_row(f"  {result.name}", Text(result.state, STATES[result.state]), result.evidence)
    console().print(grid)
    console().print("\n" + ", ".join(f"{count} {state}" for state, count in totals.items()))


__all__ = ["GROUPS", "Check", "probe"]
