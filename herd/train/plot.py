"""The picture of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
    loss = [s["loss"] for s in steps]
    axis.plot([s["tokens"] for s in steps], loss, lw=0.8, label="training loss (nats/token)")
    axis.set(xlabel="tokens", ylabel="nats per token", title=title)
    if measured:
        other = axis.twinx()
        values = [m["bits_per_byte"] for m in measured]
        other.plot([m["tokens"] for m in measured], values, "o-", ms=3, color="#a4502c", label="held out")
        other.set(ylabel="bits per byte, held out")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
