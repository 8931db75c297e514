"""`herd runs`: what takes long, and how far it is."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import click

from herd.cli.client import Server
from herd.cli.output import console, emit, facts, json_option, table, when
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.registry.runs import Run


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("--cancel", is_flag=True, help="Stop the run ID.")
@json_option
def runs(run_id: str | None, cancel: bool, as_json: bool) -> None:
    """List the runs, show the run ID with the end of its log, or cancel it."""
    from herd.registry.home import home
    from herd.registry.runs import Run

    if run_id is None:
        if cancel:
            raise HerdError("which run? `herd runs` lists them; then `herd runs ID --cancel`")
        found = [run.data for run in Run.list(home())]
        emit(found, as_json, lambda: _list(found))
        return
    run = Run.load(home(), run_id)
    if cancel:
        _cancel(run)
        run = Run.load(home(), run_id)
    data = {**run.data, "log": run.log().splitlines()[-20:]}
    emit(data, as_json, lambda: _show(data))


def _cancel(run: Run) -> None:
    from herd.registry.runs import OPEN

    if server := Server.running():  # which started it, and would start the next
        server.call("POST", f"/api/runs/{run.id}/cancel")
        return
    if run.state not in OPEN:
        raise HerdError(f"run {run.id} is over ({run.state})")
    if run.pid:
        try:
            os.kill(run.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    run.set("cancelled")


def _list(found: list[dict[str, Any]]) -> None:
    if not found:
        console().print("no runs yet; `herd improve cria` starts one")
        return
    rows = [(run["id"], run["kind"], run["state"], when(run["created"])) for run in found]
    table(("run", "kind", "state", "begun"), rows)


def _show(data: dict[str, Any]) -> None:
    times = {name: when(data[name]) for name in ("created", "updated") if name in data}
    facts({name: value for name, value in (data | times).items() if name != "log"})
    for line in data["log"]:
        console().print(f"  {line}")
