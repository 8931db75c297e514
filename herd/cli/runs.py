"""`herd runs`: what takes long, and how far it is."""

import os
import signal
from contextlib import suppress
from typing import Any

import click

from herd.cli.client import Server
from herd.cli.output import emit, facts, json_option, table, when
from herd.errors import HerdError
from herd.registry.home import home
from herd.registry.runs import OPEN, Run


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("--cancel", is_flag=True, help="Stop the run ID.")
@json_option
def runs(run_id: str | None, cancel: bool) -> None:
    """List the runs, show the run ID with the end of its log, or cancel it."""
    if run_id is None:
        if cancel:
            raise HerdError("which run? `herd runs` lists them; then `herd runs ID --cancel`")
        found = [run.data for run in Run.list(home())]
        emit(found, (lambda: _list(found)) if found else "no runs yet; `herd improve cria` starts one")
        return
    run = Run.load(home(), run_id)
    if cancel:
        _cancel(run)
        run = Run.load(home(), run_id)
    data = {**run.data, "log": run.log().splitlines()[-20:]}
    emit(data, lambda: _show(data))


def _cancel(run: Run) -> None:
    if server := Server.running():  # which started it, and would start the next
        server.call("POST", f"/api/runs/{run.id}/cancel")
        return
    if run.state not in OPEN:
        raise HerdError(f"run {run.id} is over ({run.state})")
    if run.pid:
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGTERM)
    run.set("cancelled")


def _list(found: list[dict[str, Any]]) -> None:
    rows = [(run["id"], run["kind"], run["state"], when(run["created"])) for run in found]
    table(("run", "kind", "state", "begun"), rows)


def _show(data: dict[str, Any]) -> None:
    times = {name: when(data[name]) for name in ("created", "updated") if name in data}
    facts({name: value for name, value in (data | times).items() if name != "log"})
    for line in data["log"]:
        click.echo(f"  {line}")
