"""What scale buys: pretrain.toml at three sizes and three amounts of text, and a picture of the loss.

    python recipes/cria-cpu/scaling.py OUT PICTURE.png [SIZE …]

Each size is trained at the recipe's stable rate; at each of STEPS the run branches, and the branch's rate falls to
zero over another quarter of the steps, so that every point is a finished model. Stopped, it goes on where it was.
SIZEs (default: all) are trained if they are not there yet; the picture has all that is finished.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.model.config import Config
from herd.train.loop import train
from herd.train.plot import read_metrics
from herd.train.recipe import Recipe

RECIPE = Path(__file__).with_name("pretrain.toml")
STEPS = (122, 244, 488)  # of 8,192 tokens
SIZES = {
    "small": ("dim=64", "layers=3", "heads=1", "kv_heads=1", "ffn=176"),
    "middle": ("dim=128", "layers=4", "heads=2", "kv_heads=1", "ffn=352"),
    "cria": (),
}


@dataclass(frozen=True)
class Point:
    size: str
    weights: int
    tokens: int
    bits_per_byte: float

    @property
    def compute(self) -> float:
        """Training FLOPs by the rule of six for each weight and token (Kaplan et al. 2020)."""
        return 6.0 * self.weights * self.tokens


def until(step: int) -> tuple[Callable[[dict[str, Any]], None], Callable[[], bool]]:
    """A report and a stop for `train`: stop when `step` is reached."""
    reached = 0

    def report(line: dict[str, Any]) -> None:
        nonlocal reached
        reached = line["step"]
        if reached % 20 == 0:
            print(f"  step {reached}  loss {line['loss']:.3f}", file=sys.stderr, flush=True)

    return report, lambda: reached >= step


def run(size: str, out: Path) -> None:
    recipe = Recipe.load(RECIPE, ("compile=false", *(f"model.{change}" for change in SIZES[size])))
    for step in STEPS:
        branch = out / f"{size}-{step}"
        start = branch / f"step-{step:06}"
        if not start.is_dir():
            report, stop = until(step)
            train(recipe, out=out / size, report=report, stop=stop)
            shutil.copytree(out / size / start.name, start)
        if not (branch / "final").is_dir():
            print(f"{size}: annealing from step {step}", file=sys.stderr)
            train(recipe, out=branch, anneal=step // 4, report=until(0)[0])


def points(out: Path) -> list[Point]:
    found = []
    for size in SIZES:
        for step in STEPS:
            final = out / f"{size}-{step}" / "final"
            if final.is_dir():
                config = Config.from_hf(json.loads((final / "config.json").read_text()))
                last = read_metrics(final.parent / "metrics.jsonl")[-1]
                found.append(Point(size, config.parameters, last["tokens"], last["bits_per_byte"]))
    return found


def draw(found: list[Point], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    for tokens in sorted({p.tokens for p in found}):
        line = [(p.weights, p.bits_per_byte) for p in found if p.tokens == tokens]
        axes[0].plot(*zip(*line, strict=True), "o-", ms=4, label=f"{tokens / 1e6:.1f} M tokens")
    for size in SIZES:
        line = [p for p in found if p.size == size]
        if line:
            label = f"{size}, {line[0].weights / 1e6:.1f} M weights"
            axes[1].plot([p.tokens for p in line], [p.bits_per_byte for p in line], "o-", ms=4, label=label)
            axes[2].plot([p.compute for p in line], [p.bits_per_byte for p in line], "o-", ms=4, label=size)
    for axis, title in zip(axes, ("weights", "tokens", "training FLOPs"), strict=True):
        axis.set(xscale="log", xlabel=title)
        axis.xaxis.set_minor_formatter("")
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="bits per byte, held out")
    figure.savefig(picture, dpi=150)


def main(out: str, picture: str, *sizes: str) -> None:
    for size in sizes or SIZES:
        run(size, Path(out))
    found = points(Path(out))
    for p in found:
        print(
            f"{p.size:8}{p.weights / 1e6:6.2f} M weights {p.tokens / 1e6:6.2f} M tokens"
            f" {p.compute:9.2e} FLOPs {p.bits_per_byte:7.3f} bits per byte"
        )
    draw(found, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
