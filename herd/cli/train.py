"""`herd train`: a model from a recipe."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import console, emit, json_option, note

if TYPE_CHECKING:
    from herd.train.recipe import Recipe


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where checkpoints go (default: runs/<its name>)."
)
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option("--anneal", type=click.IntRange(1), help="End here: let the rate fall over so many steps.")
@click.option("--plot", is_flag=True, help="Draw the loss to OUT/loss.png at the end.")
@click.option("--name", help="Put the finished model into the registry under this name.")
@json_option
def train(
    recipe: Path,
    out: Path | None,
    changes: tuple[str, ...],
    anneal: int | None,
    plot: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Train a model as RECIPE (TOML) says.

    Stopped at any moment, by Ctrl-C or by force, the same command goes on from the last checkpoint, exactly.
    """
    from herd.train.loop import train as run
    from herd.train.recipe import Recipe

    settings = Recipe.load(recipe, changes)
    out = out or Path("runs") / settings.name
    try:
        with _Screen(settings.steps) as screen:
            result = run(settings, out=out, report=screen, anneal=anneal)
    except KeyboardInterrupt:
        if out.is_dir():  # made at the first step
            note(f"stopped; the same command goes on from the checkpoint in {out}")
        raise
    finally:
        if plot and (out / "metrics.jsonl").is_file():
            draw(out / "metrics.jsonl", out / "loss.png", settings.name)
    ref = _keep(settings, result.directory, result.metrics, name)
    data = {"directory": str(result.directory), "steps": result.steps, "metrics": result.metrics, "ref": ref}
    emit(data, as_json, lambda: console().print(f"{result.directory}" + (f" is {ref}" if ref else "")))


class _Screen:
    """The run on standard error: one living line at a terminal, else a line every ten seconds; measurements stay."""

    def __init__(self, steps: int) -> None:
        self.steps, self.last = steps, 0.0
        self.console = console(stderr=True)

    def __enter__(self) -> _Screen:
        self.status = self.console.status("loading") if self.console.is_terminal else None
        if self.status:
            self.status.start()
        return self

    def __call__(self, line: dict[str, Any]) -> None:
        text = self.describe(line)
        if line.get("bits_per_byte") is not None or (not self.status and time.monotonic() - self.last > 10):
            self.console.print(text)
            self.last = time.monotonic()
        if self.status:
            self.status.update(text)

    def describe(self, line: dict[str, Any]) -> str:
        parts = [
            f"step {line['step']:,}/{self.steps:,}",
            f"loss {line['loss']:.3f}",
            f"gradient {line['grad_norm']:.2f}",
            f"{line['tokens_per_s']:,.0f} tokens/s",
            f"MFU {100 * line['mfu']:.0f} %",
            f"{line['memory_mib']:,.0f} MiB",
            f"{line['eta_s'] / 60:.0f} min left",
        ]
        if line.get("bits_per_byte") is not None:
            parts.insert(2, f"{line['bits_per_byte']:.3f} bits/byte held out")
        return "  ".join(parts)

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl by step. A killed run repeats the steps after its checkpoint: the later line
    counts; a line that it left unfinished does not."""
    lines = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def draw(metrics: Path, picture: Path, title: str) -> None:
    """The loss at every step and the held-out bits per byte, over tokens, from a metrics.jsonl."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = read_metrics(metrics)
    measured = [line for line in steps if line.get("bits_per_byte") is not None]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(
        [s["tokens"] for s in steps], [s["loss"] for s in steps], lw=0.8, label="training loss (nats/token)"
    )
    axis.set(xlabel="tokens", ylabel="nats per token", title=title)
    if measured:
        other = axis.twinx()
        values = [m["bits_per_byte"] for m in measured]
        other.plot([m["tokens"] for m in measured], values, "o-", ms=3, color="#a4502c", label="held out")
        other.set(ylabel="bits per byte, held out")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def _keep(recipe: Recipe, directory: Path, metrics: dict[str, Any], name: str | None) -> str | None:
    """Write the lineage record, and with `name` put the model into the registry: returns its reference."""
    import torch

    from herd.data.shards import Shards
    from herd.registry import Registry, lineage
    from herd.registry.files import tree_digest
    from herd.registry.home import home

    parents = [tree_digest(Path(recipe.model.init))] if recipe.model.init else []
    if name:
        about = f"{recipe.objective}, recipe {recipe.name}"
        kept = Registry(home()).add(
            directory, name, kind="model", parents=parents, licence="", description=about, metrics=metrics
        )
    lineage.record(
        home(),
        command="train",
        inputs=[
            {
                "kind": "data",
                "name": s.source or Path(s.path).parent.name,
                "digest": Shards.open(Path(s.path)).fingerprint,
            }
            for s in recipe.data
        ],
        outputs=[
            {
                "kind": "model",
                "name": kept.ref if name else directory.parent.name,
                "digest": tree_digest(directory),
            }
        ],
        parents=parents,
        config=recipe.to_json(),
        seed=recipe.seed,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        metrics=metrics,
    )
    return kept.ref if name else None
