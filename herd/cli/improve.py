"""`herd improve`: a better model out of the votes, served if it is proven; or the way back."""

import signal
from pathlib import Path
from typing import Any

import click

from herd.cli.client import reload
from herd.cli.output import PLACE, emit, facts, json_option, note
from herd.errors import HerdError
from herd.flywheel.votes import Preference, from_file, from_votes, to_file
from herd.registry import Registry
from herd.registry.home import home
from herd.registry.runs import Run
from herd.server.settings import Settings

KEPT = "preferences.jsonl"  # in the run's directory


@click.command()
@click.argument("name")
@click.option("--undo", "back", is_flag=True, help="Serve again what NAME served before.")
@click.option("--pairs", type=PLACE, help="Learn from this file, not from the votes.")
@click.option("--run", "run_id", metavar="ID", help="Go on with this run.")
@json_option
def improve(name: str, back: bool, pairs: Path | None, run_id: str | None) -> None:
    """Train NAME on its users' votes; serve the result if held-out votes prefer it."""
    registry = Registry(home())
    if back:
        entry = registry.rollback(name)
        _reload()
        emit({"name": name, "current": entry.ref}, f"{name} is {entry.ref}")
        return

    registry.target(name)  # an unknown name is said before a run begins
    run = Run.load(home(), run_id) if run_id else None
    if run and run.state == "done":
        raise HerdError(f"run {run.id} is done; `herd improve {name}` begins another")
    preferences, left_out = _collect(name, pairs, run)

    from herd.flywheel.improve import improve as train  # without torch, this is said before a run begins

    run = run or Run.create(home(), "improve", {"name": name})
    to_file(run.dir / KEPT, preferences)

    def say(stage: str, text: str) -> None:
        note(f"{stage}: {text}")
        if not run_id:  # the server, when it starts a run, keeps what we say as the log itself
            with open(run.dir / "log", "a", encoding="utf-8") as log:
                log.write(f"{stage}: {text}\n")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cancelling ends as tidily as Ctrl-C
    result = train(name, preferences, home=home(), registry=registry, run=run, say=say)
    result["left_out"] = left_out | {"too_long": result.pop("too_long")}
    if result["decision"] == "SWITCH":
        _reload()
    emit(result, lambda: _print(result))


def _collect(name: str, file: Path | None, run: Run | None) -> tuple[list[Preference], dict[str, int]]:
    """The preferences to learn from, and the votes left out. A run that goes on has those that it kept."""
    if run and (run.dir / KEPT).is_file():
        file = run.dir / KEPT
    if file:
        return from_file(file), {}

    from herd.store import Store

    store = Store.open(Settings.from_environment().store)  # beside a server that may be writing
    try:
        return from_votes(store.pairs(name))
    finally:
        store.close()


def _reload() -> None:
    if not reload():
        note("no server is running; `herd up` will serve it")


def _print(result: dict[str, Any]) -> None:
    """The verdict for a person."""
    name, counts = result["name"], result["pairs"]
    facts(
        {
            "verdict": result["decision"],
            "reason": result["reason"],
            "pairs": f"{counts['train']} to learn from, {counts['held_out']} held out",
            "left out": ", ".join(
                f"{n} {why.replace('_', ' ')}" for why, n in result["left_out"].items() if n
            ),
            "candidate": result.get("candidate"),
            "run": result["run"],
        }
    )
    if result["decision"] == "SWITCH":
        click.echo(f"{name} is {result['candidate']} now; `herd improve {name} --undo` goes back")
    else:
        click.echo(f"{name} stays {result['current']}")
