"""Votes made by a known truth."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from herd.evidence.votes import Counts, Votes


def names(k: int) -> list[str]:
    return [f"t{i}" for i in range(k)]


def outcomes(rng: np.random.Generator, chance: NDArray[np.float64], ties: float = 0.3) -> NDArray[np.int64]:
    """Of which the mean score is `chance`, about so many of them ties."""
    tie = np.minimum(ties, 1.8 * np.minimum(chance, 1 - chance))
    u = rng.random(len(chance))
    return np.where(u < tie, 2, np.where(u < tie / 2 + chance, 0, 1))


def pairs(rng: np.random.Generator, k: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    a = rng.integers(0, k, n)
    return a, (a + rng.integers(1, k, n)) % k


def cast(rng: np.random.Generator, theta: NDArray[np.float64], n: int, **columns: NDArray[np.int64]) -> Votes:
    """n votes between targets of log odds theta."""
    a, b = pairs(rng, len(theta), n)
    chance = 1 / (1 + np.exp(theta[b] - theta[a]))
    return Votes.of(names(len(theta)), a, b, outcomes(rng, chance), **columns)


def truth(rng: np.random.Generator, k: int) -> NDArray[np.float64]:
    theta = rng.normal(0, 0.5, k)
    return theta - theta.mean()


def counted(wins: list[list[float]], ties: list[list[float]] | None = None) -> Counts:
    w = np.array(wins, float)
    none = np.zeros_like(w)
    return Counts(tuple(names(len(w))), w, none if ties is None else np.array(ties, float), none)


def llmfao(folder: Path) -> Votes:
    """The crowd's votes on 59 models (CC-BY 4.0)."""
    import csv

    with (folder / "arena" / "llmfao.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = sorted({row[side] for row in rows for side in ("left", "right")})
    number = {name: i for i, name in enumerate(order)}
    said = {"left": 0, "right": 1, "tie": 2}
    return Votes.of(
        order,
        [number[row["left"]] for row in rows],
        [number[row["right"]] for row in rows],
        [said[row["winner"]] for row in rows],
        voter=[int(row["worker"]) for row in rows],
    )
