"""The pictures of bench/arena_stats.py."""

from pathlib import Path

import numpy as np

Curves = dict[str, list[tuple[float, float]]]
INK, SOFT, PAPER = "#2b2724", "#6b645e", "#faf7f3"
COLOURS = ("#a4502c", "#2f6690", "#4d7c3a", "#7b4b94", "#8a6d1b")
LOOKS = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "legend.labelcolor": INK,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "herd",
    "font.family": "sans-serif",
    "figure.figsize": (7.6, 3.8),
}


def picture(
    file: Path, title: str, xlabel: str, ylabel: str, curves: Curves, line: float | None = None
) -> None:
    """Curves named "fixed, WORLD" are dashed, in the colour of their world."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(LOOKS)
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(layout="constrained")
    worlds = list(dict.fromkeys(name.split(", ", 1)[-1] for name in curves))
    for name, curve in curves.items():
        x, y = np.transpose(curve)
        colour = COLOURS[worlds.index(name.split(", ", 1)[-1])]
        axes.plot(x, 100 * y, color=colour, ls="--" if name.startswith("fixed") else "-", lw=1.8, label=name)
    if line is not None:
        axes.axhline(100 * line, color=SOFT, linewidth=1, linestyle=":")
    low, high = axes.get_xlim()
    axes.set_xscale("log")
    axes.set_xticks([x for p in range(1, 5) for x in (10**p, 2 * 10**p, 5 * 10**p) if low <= x <= high])
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def draw(folder: Path, curves: dict[str, Curves]) -> None:
    def of(part: str) -> Curves:
        return {k: v for name, c in curves.items() if name.startswith(part) for k, v in c.items()}

    for name, title, xlabel, ylabel, part, line in (
        ("peeking", "Two equal targets, looked at every day", "votes so far (20 a day)",
         "arenas with a false winner, %", "peeking", 0.05),
        ("decide", "How many votes it takes to decide", "votes", "arenas decided, %", "decide", None),
        ("anomaly", "Odd voters found, five among 100 who differ", "votes of the odd voter",
         "found, %", "anomalies", None),
    ):  # fmt: skip
        picture(folder / f"arena-{name}.svg", title, xlabel, ylabel, of(part), line)
