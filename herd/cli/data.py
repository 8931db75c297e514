"""`herd data`: corpora to token shards."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from herd.cli.output import PLACE, bars, emit, json_option, table
from herd.errors import HerdError
from herd.registry import lineage
from herd.registry.home import home


@click.command()
@click.argument("spec", type=PLACE)
@click.option("--out", type=PLACE, help="Where the shards go (a new directory).")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--dry-run", is_flag=True, help="Count what would be read; write nothing.")
@json_option
def data(spec: Path, out: Path | None, workers: int, dry_run: bool) -> None:
    """Turn corpora into token shards as the data recipe SPEC (TOML) says.

    Interrupted, the same command goes on where it was.
    """
    from herd.data.prepare import prepare
    from herd.data.spec import DataSpec

    if out is None and not dry_run:
        raise HerdError("say where the shards go: --out DIR (or --dry-run to count only)")
    recipe = DataSpec.load(spec)
    with bars() as show:
        made = prepare(recipe, out or Path(), workers=workers, dry_run=dry_run, progress=show)
    manifest = dataclasses.asdict(made)
    if out and not dry_run:
        files = [file for source in manifest["sources"] for file in source["files"]] + manifest["evals"]
        lineage.record(
            home(),
            command="data",
            inputs=[{"kind": "file", "name": file["name"], "digest": file["sha256"]} for file in files],
            outputs=[{"kind": "data", "name": out.name, "digest": manifest["fingerprint"]}],
            config=manifest["spec"],
            seed=manifest["spec"]["seed"],
            metrics={name: manifest[name]["tokens"] for name in ("train", "heldout")},
        )
    emit(manifest, lambda: _print(manifest, dry_run))


def _print(manifest: dict[str, Any], dry_run: bool) -> None:
    rows = []
    for source in manifest["sources"]:
        kept = source["read"] if dry_run else source["kept"]
        removed = source.get("removed", {}).items()
        why = ", ".join(f"{counts['documents']:,} {reason}" for reason, counts in removed)
        numbers = (source["read"]["documents"], kept["documents"], kept["tokens"])
        rows.append((source["name"], source["licence"], *(f"{n:,}" for n in numbers), why))
    table(("source", "licence", "read", "kept", "tokens", "removed"), rows)
    if not dry_run:
        train, heldout = manifest["train"]["tokens"], manifest["heldout"]["tokens"]
        click.echo(f"\n{train:,} tokens to train on, {heldout:,} held out")
