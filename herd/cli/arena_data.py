"""`herd arena import | export | judge | agreement | freeze`: votes in and out, and judges that are models."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import click

from herd.cli.client import PATIENCE, Server, api, ask
from herd.cli.output import FILE, OUT, bars, emit, facts, json_option, note, table, whole
from herd.errors import HerdError
from herd.server.settings import Settings

READABLE = ("fastchat", "csv", "parquet", "counts")
FINAL = (401, 402, 403, 404)  # answers that the next pair would get, too
MOST_FAILED = 20
BATCH = 1 << 18  # characters of prompts in one request
MAX_LINE = 1 << 20

_file = click.argument("file", type=FILE)


def raters(judge: str | None) -> str:
    """Whose votes, as the API calls them."""
    return f"judge:{judge.removeprefix('judge:')}" if judge else "people"


@click.command("import")
@_file
@click.option("--format", "form", type=click.Choice(READABLE), help="Else as the file's name says.")
@click.option("--judge", metavar="NAME", help="Count the votes as this judge's, not as people's.")
@click.option("--use", multiple=True, type=click.Choice(["evaluate", "train"]), help="What their text may be used for (evaluate).")  # fmt: skip
@json_option
def import_(file: Path, form: str | None, judge: str | None, use: tuple[str, ...]) -> None:
    """Keep all votes in FILE, or none if anything in it is wrong.

    FastChat's and LMArena's JSON Lines (perhaps with gzip), CSV, Parquet, or pair counts. The same file again adds nothing.
    """
    from herd.arena.formats import guess

    form = form or guess(file.name)
    server = Server.running()
    with file.open("rb") as stream, bars() as show:
        size = file.stat().st_size
        if not size:
            raise HerdError(f"{file}: {'it is empty' if file.is_file() else 'must be a file, not a pipe'}")
        if server:
            asked = {"format": form, "use": use, **({"judge": judge} if judge else {})}
            sent = _Shown(stream, lambda at: show("sent", at, size))
            report = server.upload(f"/api/arena/import?{urlencode(asked, doseq=True)}", sent, size)  # type: ignore[arg-type]
        else:
            report = _import_here(stream, form, judge, use, lambda at: show("read", at, size))
            show("read", size, size)
    report = {"file": str(file), **report}
    emit(report, lambda: _say_import(report))


def _import_here(
    stream: IO[bytes], form: Any, judge: str | None, use: tuple[str, ...], show: Callable[[int], None]
) -> dict[str, Any]:
    from herd.arena.imports import import_votes
    from herd.registry.home import lock
    from herd.store import Store

    settings = Settings.from_environment()
    with lock(settings.home):
        store = Store.open(settings.store)
        try:
            found = import_votes(stream, form, store, use=use or ("evaluate",), judge=judge, progress=show)  # type: ignore[arg-type]
        except KeyboardInterrupt:  # closing the store would finish what it has begun
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)
        finally:
            store.close()
    return found.to_json()


class _Shown:
    """A file that says how far it has been read."""

    def __init__(self, file: IO[bytes], show: Callable[[int], None]) -> None:
        self.file, self.show = file, show

    def read(self, size: int = -1) -> bytes:
        piece = self.file.read(size)
        self.show(self.file.tell())
        return piece


def _say_import(report: Mapping[str, Any]) -> None:
    parts = [f"{report['votes']:,} votes"]
    parts += [f"{report['known']:,} known already"] if report["known"] else []
    parts += [f"{n:,} left out ({why})" for why, n in report["left_out"].items()]
    click.echo(f"{report['file']}: {', '.join(parts)}")
    if report["ignored"]:
        note(f"columns that are not kept: {', '.join(report['ignored'])}")


@click.command()
@click.option("--format", "form", type=click.Choice([*READABLE, "preferences"]), default="fastchat", help="fastchat, csv, parquet, counts or preferences (fastchat).")  # fmt: skip
@click.option("-o", "--out", type=OUT, help="Where it goes; else to standard output.")
@click.option("--judge", metavar="NAME", help="The votes of this judge instead of people's.")
@click.option("--purpose", type=click.Choice(["train", "evaluate"]), default="train", help="Of preferences: what their text must be allowed for (train).")  # fmt: skip
def export(form: str, out: Path | None, judge: str | None, purpose: str) -> None:
    """Write the votes, or pairs of a chosen and a rejected reply to train on."""
    if out is None and form == "parquet" and sys.stdout.isatty():
        raise HerdError("Parquet is not for a terminal; name a file with -o")
    query = urlencode({"format": form, "raters": raters(judge), "purpose": purpose})
    with api() as server, whole(out) as file:
        headers = server.download(f"/api/arena/export?{query}", file)
    left_out = json.loads(headers.get("X-Herd-Left-Out") or "{}")
    if left_out:
        note("left out: " + ", ".join(f"{n:,} {why}" for why, n in left_out.items()))
    if out:
        note(f"in {out}")


@click.command()
@click.option("--route", required=True, metavar="NAME", help="Who judges: a route, a target, provider/model.")
@click.option("--limit", default=100, type=click.IntRange(1, 1_000_000), help="How many pairs at most (100).")
@click.option("--concurrency", default=4, type=click.IntRange(1, 64), help="Pairs at a time (4).")
@json_option
def judge(route: str, limit: int, concurrency: int) -> int:
    """Let a model say which of two stored replies is better, in both orders.

    What it has judged is not asked again, so that a run that was stopped goes on. The status is 1 if a pair failed.
    """
    server = Server.running()
    if server is None:
        raise HerdError(
            f"no server answers at {Settings.from_environment().url}; `herd up` starts one, HERD_PORT is its port"
        )
    counts: Counter[str] = Counter()
    failed: dict[tuple[str, str], str] = {}
    own = 0
    with bars() as show, ThreadPoolExecutor(concurrency) as pool:
        try:
            while len(failed) < MOST_FAILED:
                pairs = _pairs(server, route, failed)[: limit - counts.total()]
                if not pairs:
                    break
                own += sum(route in (pair["a_target"], pair["b_target"]) for pair in pairs)
                work = {pool.submit(_judge, server, route, pair): pair for pair in pairs}
                for done in as_completed(work):
                    try:
                        counts[done.result()] += 1
                    except HerdError as error:
                        if error.status in FINAL or error.code == "unreachable":
                            raise
                        failed[_ids(work[done])] = str(error)
                    show("pairs", counts.total() + len(failed), limit)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    for reason, n in Counter(failed.values()).most_common(5):
        note(f"{n} failed: {reason}")
    if own:
        note(f"{route} is one of the two in {own} of these pairs; models favour their own replies")
    result = {"judge": route, "judged": counts.total(), "outcomes": dict(counts), "failed": len(failed)}
    said = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    emit(result, f"{route}: {counts.total()} judged" + (f" ({said})" if said else "") + ", `herd arena agreement` says how well")  # fmt: skip
    return 1 if failed else 0


def _pairs(server: Server, route: str, failed: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    found = server.call("GET", f"/api/arena/pairs?{urlencode({'judge': route})}", timeout=120)["data"]
    return [pair for pair in found if _ids(pair) not in failed]


def _ids(pair: Mapping[str, Any]) -> tuple[str, str]:
    return pair["a"]["id"], pair["b"]["id"]


def _judge(server: Server, route: str, pair: Mapping[str, Any]) -> str:
    """Judge a pair and keep the vote; its outcome."""
    from herd.arena.judging import judge_pair

    def complete(body: dict[str, Any]) -> tuple[int, Any]:
        status, _, answer = server.post("/v1/chat/completions", body, timeout=PATIENCE)
        return status, answer

    vote = judge_pair(pair, route, complete)
    server.call("POST", "/api/votes", vote)
    return str(vote["outcome"])


@click.command()
@click.option("--judge", metavar="NAME", help="Only of this judge.")
@json_option
def agreement(judge: str | None) -> None:
    """Say how far judges agree with people, and what sways them."""
    query = f"?{urlencode({'judge': judge})}" if judge else ""
    found = ask("GET", f"/api/arena/agreement{query}")
    emit(found, lambda: _say_agreement(found["judges"]))


def _say_agreement(judges: list[dict[str, Any]]) -> None:
    if not judges:
        click.echo("no judge has voted; `herd arena judge --route NAME` lets one")
    for one in judges:
        agreed, bias = one["agreement"], one["bias"]
        click.echo(f"{one['judge']}: {one['votes']:,} votes")
        facts({
            "with people": agreed["n"] and f"{agreed['n']:,} of people's votes on the same replies",
            "agrees": _percent(agreed["share"], agreed["kappa"]),
            "agrees without ties": _percent(agreed["share_decided"], agreed["kappa_decided"]),
            "stays at a place": bias and f"{bias['follows_place']:.0%} of {bias['n']:,} when the order changes",
            "towards the left": bias and _interval(bias["to_left"]),
            "towards the longer": bias and bias["length"] and _interval(bias["length"]),
        })  # fmt: skip
        cells = [
            [pair["a"], pair["b"], *(_range(pair[name]) for name in ("people", "judge", "calibrated"))]
            for pair in one["pairs"]
        ]
        if cells:
            table(["a", "b", "people prefer a", "judge prefers a", "both, calibrated"], cells)


def _percent(share: float | None, kappa: float | None) -> str | None:
    return None if share is None else f"{share:.0%}" + (f", kappa {kappa:.2f}" if kappa is not None else "")


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _range(found: Mapping[str, float] | None) -> str:
    return f"{found['estimate']:.0%} ({found['low']:.0%} to {found['high']:.0%})" if found else ""


@click.command()
@_file
@json_option
def freeze(file: Path) -> None:
    """Mark the prompts in FILE as evaluation prompts: no pair on them is exported for training.

    JSON Lines: texts, or objects with a "prompt" (a text or messages) or "messages", of which the first question counts.
    """
    counts: Counter[str] = Counter()
    with api(write=True) as server:
        for prompts in _batches(file):
            counts.update(server.call("POST", "/api/arena/frozen", {"prompts": prompts}))
    emit(dict(counts), f"{counts['frozen']:,} prompts frozen, {counts['known']:,} known already")


def _batches(file: Path) -> Iterator[list[str]]:
    """All prompts, read once before the first is sent, so that a wrong line is found before anything is kept."""
    prompts = list(_prompts(file))
    if not prompts:
        raise HerdError(f"{file}: no prompts in it")
    batch: list[str] = []
    size = 0
    for prompt in prompts:
        if batch and size + len(prompt) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(prompt)
        size += len(prompt)
    yield batch


def _prompts(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
                found = found.get("prompt", found.get("messages")) if isinstance(found, dict) else found
                if isinstance(found, list):
                    found = next(message["content"] for message in found if message["role"] == "user")
                if not isinstance(found, str) or not found.strip():
                    raise TypeError
            except (ValueError, TypeError, KeyError, StopIteration, RecursionError):
                raise HerdError(f"{file}: line {number}: neither a text nor an object with a prompt or messages") from None  # fmt: skip
            yield found


VERBS = (import_, export, judge, agreement, freeze)
