"""`herd improve`: a better model out of the votes, served if it is proven; or the way back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import console, emit, facts, json_option, note
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.flywheel.votes import Preference
    from herd.registry.runs import Run


KEPT = "preferences.jsonl"  # in the run's directory


@click.command()
@click.argument("name")
@click.option("--undo", "back", is_flag=True, help="Serve again what NAME served before.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Learn from this file, not from the votes.")
@click.option("--run", "run_id", metavar="ID", help="Go on with this run.")
@json_option
def improve(name: str, back: bool, pairs: Path | None, run_id: str | None, as_json: bool) -> None:
    """Train NAME on its users' votes; serve the result if held-out votes prefer it."""
    from herd.flywheel.votes import to_file
    from herd.registry.home import home
    from herd.registry.registry import Registry
    from herd.registry.runs import Run

    registry = Registry(home())
    if back:
        entry = registry.rollback(name)
        reload_server()
        emit({"name": name, "current": entry.ref}, as_json, lambda: console().print(f"{name} is {entry.ref}"))
        return

    registry.target(name)  # an unknown name is said before a run begins
    run = Run.load(home(), run_id) if run_id else None
    if run and run.state == "done":
        raise HerdError(f"run {run.id} is done; `herd improve {name}` begins another")
    preferences, left_out = collect(name, pairs, run)
    improve_ = trainer()
    run = run or Run.create(home(), "improve", {"name": name})
    to_file(run.dir / KEPT, preferences)

    def say(stage: str, text: str) -> None:
        note(f"{stage}: {text}")
        if not run_id:  # the server, when it starts a run, keeps what we say as the log itself
            with open(run.dir / "log", "a", encoding="utf-8") as log:
                log.write(f"{stage}: {text}\n")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cancelling ends as tidily as Ctrl-C
    result = improve_(name, preferences, home=home(), registry=registry, run=run, say=say)
    result["left_out"] = left_out | {"too_long": result.pop("too_long")}
    if result["decision"] == "SWITCH":
        reload_server()
    emit(result, as_json, lambda: show(result))


def collect(name: str, file: Path | None, run: Run | None) -> tuple[list[Preference], dict[str, int]]:
    """The preferences to learn from, and the votes left out. A run that goes on has those that it kept."""
    from herd.flywheel.votes import from_file, from_votes

    if run and (run.dir / KEPT).is_file():
        return from_file(run.dir / KEPT), {}
    return (from_file(file), {}) if file else from_votes(read_votes(name))


def trainer() -> Callable[..., dict[str, Any]]:
    try:
        from herd.flywheel.improve import improve
    except ImportError:
        raise HerdError(
            'training runs on PyTorch, which is not installed: pip install "openherd[local]"'
        ) from None
    return improve


def read_votes(name: str) -> list[dict[str, Any]]:
    """The votes on `name`, oldest first, read beside a server that may be writing."""
    from herd.server.settings import Settings
    from herd.store import Store

    settings = Settings.from_environment()
    store = Store.open(settings.database or settings.home / "herd.db")
    try:
        return list(store.pairs(name))
    finally:
        store.close()


def reload_server() -> None:
    """Tell a running server that the registry changed, so that it serves the new version at once."""
    from herd.cli.client import Server

    server = Server.running()
    if server is None:
        note("no server is running; `herd up` will serve it")
    else:
        server.call("POST", "/api/reload")


def show(result: dict[str, Any]) -> None:
    """The verdict for a person."""
    counts, left_out = result["pairs"], result["left_out"]
    facts(
        {
            "verdict": result["decision"],
            "reason": result["reason"],
            "pairs": f"{counts['train']} to learn from, {counts['held_out']} held out",
            "left out": ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in left_out.items() if n),
            "candidate": result.get("candidate"),
            "run": result["run"],
        }
    )
    name = result["name"]
    if result["decision"] == "SWITCH":
        console().print(f"{name} is {result['candidate']} now; `herd improve {name} --undo` goes back")
    else:
        console().print(f"{name} stays {result['current']}")
