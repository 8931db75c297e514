"""`herd train`: a model from a recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import PLACE, console, emit, json_option, note
from herd.registry import Registry, lineage
from herd.registry.entry import check_name
from herd.registry.files import tree_digest
from herd.registry.home import home

if TYPE_CHECKING:
    from herd.train.recipe import Recipe


@click.command()
@click.argument("recipe", type=PLACE)
@click.option("--out", type=PLACE, help="Where checkpoints go (default: runs/<its name>).")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option("--anneal", type=click.IntRange(1), help="End here: let the rate fall over so many steps.")
@click.option("--plot", is_flag=True, help="Draw the loss to OUT/loss.png at the end.")
@click.option("--name", help="Put the finished model into the registry under this name.")
@json_option
def train(
    recipe: Path, out: Path | None, changes: tuple[str, ...], anneal: int | None, plot: bool, name: str | None
) -> None:
    """Train a model as RECIPE (TOML) says.

    Stopped at any moment, by Ctrl-C or by force, the same command goes on from the last checkpoint, exactly.
    """
    from herd.train.loop import train as run
    from herd.train.plot import draw
    from herd.train.recipe import Recipe

    settings = Recipe.load(recipe, changes)
    if name:
        check_name(name)
    out = out or Path("runs") / settings.name
    try:
        with _screen(settings.steps) as report:
            result = run(settings, out=out, report=report, anneal=anneal)
    except KeyboardInterrupt:
        if any(out.glob("step-*")):  # not before the first step
            note(f"stopped; the same command goes on from the checkpoint in {out}")
        raise
    finally:
        if plot and (out / "metrics.jsonl").is_file():
            draw(out / "metrics.jsonl", out / "loss.png", settings.name)
    ref = _keep(settings, result.directory, result.metrics, name)
    data = {"directory": str(result.directory), "steps": result.steps, "metrics": result.metrics, "ref": ref}
    emit(data, f"{result.directory}" + (f" is {ref}" if ref else ""))


@contextmanager
def _screen(steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The run on standard error: one living line at a terminal, else a line every ten seconds; measurements stay."""
    screen, last = console(stderr=True), 0.0
    with screen.status("loading") as status:

        def report(line: dict[str, Any]) -> None:
            nonlocal last
            measured = line.get("bits_per_byte")
            text = "  ".join(
                [
                    f"step {line['step']:,}/{steps:,}",
                    f"loss {line['loss']:.3f}",
                    *([] if measured is None else [f"{measured:.3f} bits/byte held out"]),
                    f"gradient {line['grad_norm']:.2f}",
                    f"{line['tokens_per_s']:,.0f} tokens/s",
                    f"MFU {100 * line['mfu']:.0f} %",
                    f"{line['memory_mib']:,.0f} MiB",
                    f"{line['eta_s'] / 60:.0f} min left",
                ]
            )
            if measured is not None or (not screen.is_terminal and time.monotonic() - last > 10):
                screen.print(text)
                last = time.monotonic()
            status.update(text)

        yield report


def _keep(recipe: Recipe, directory: Path, metrics: dict[str, Any], name: str | None) -> str | None:
    """Write the lineage record, and with `name` put the model into the registry: returns its reference."""
    import torch

    from herd.data.shards import Shards

    parents = [tree_digest(Path(recipe.model.init))] if recipe.model.init else []
    ref = None
    if name:
        about = f"{recipe.objective}, recipe {recipe.name}"
        kept = Registry(home()).add(
            directory, name, kind="model", parents=parents, description=about, metrics=metrics
        )
        ref = kept.ref
    inputs = []
    for source in recipe.data:
        shards = Path(source.path)
        label, digest = source.source or shards.parent.name, Shards.open(shards).fingerprint
        inputs.append({"kind": "data", "name": label, "digest": digest})
    made = {"kind": "model", "name": ref or directory.parent.name, "digest": tree_digest(directory)}
    lineage.record(
        home(),
        command="train",
        inputs=inputs,
        outputs=[made],
        parents=parents,
        config=recipe.to_json(),
        seed=recipe.seed,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        metrics=metrics,
    )
    return ref
