"""`herd data`: corpora to token shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from herd.cli.output import Bars, console, emit, json_option, table
from herd.errors import HerdError


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the shards go (a new directory).")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--dry-run", is_flag=True, help="Count what would be read; write nothing.")
@json_option
def data(spec: Path, out: Path | None, workers: int, dry_run: bool, as_json: bool) -> None:
    """Turn corpora into token shards as the data recipe SPEC (TOML) says.

    Interrupted, the same command goes on where it was.
    """
    from herd.data.prepare import prepare
    from herd.data.spec import DataSpec

    if out is None and not dry_run:
        raise HerdError("say where the shards go: --out DIR (or --dry-run to count only)")
    recipe = DataSpec.load(spec)
    with Bars() as bars:
        manifest = prepare(recipe, out or Path(), workers=workers, dry_run=dry_run, progress=bars)
    result = dataclasses.asdict(manifest)
    if out and not dry_run:
        _record(spec, out, result)
    emit(result, as_json, lambda: _summary(result, dry_run))


def _record(spec: Path, out: Path, manifest: dict[str, Any]) -> None:
    from herd.registry import lineage
    from herd.registry.home import home

    files = [file for source in manifest["sources"] for file in source["files"]] + manifest["evals"]
    lineage.record(
        home(),
        command="data",
        inputs=[{"kind": "file", "name": file["name"], "digest": file["sha256"]} for file in files],
        outputs=[{"kind": "data", "name": out.name, "digest": manifest["fingerprint"]}],
        parents=[],
        config=manifest["spec"],
        seed=manifest["spec"]["seed"],
        device=None,
        metrics={name: manifest[name]["tokens"] for name in ("train", "heldout")},
    )


def _summary(manifest: dict[str, Any], dry_run: bool) -> None:
    rows = []
    for source in manifest["sources"]:
        kept = source["read"] if dry_run else source["kept"]
        removed = {reason: counts["documents"] for reason, counts in source.get("removed", {}).items()}
        why = ", ".join(f"{count:,} {reason}" for reason, count in removed.items())
        numbers = (source["read"]["documents"], kept["documents"], kept["tokens"])
        rows.append((source["name"], source["licence"], *(f"{n:,}" for n in numbers), why))
    table(("source", "licence", "read", "kept", "tokens", "removed"), rows)
    if not dry_run:
        train, heldout = manifest["train"], manifest["heldout"]
        console().print(f"\n{train['tokens']:,} tokens to train on, {heldout['tokens']:,} held out")
