"""The peers of bench/ratings.py, under an interpreter that has them: python raters.py VOTES.npz

Reads a name a line on the standard input, rates the same votes by it, and answers with one line of JSON: the seconds it
took, the scores [k] in points with their mean at 1000, and half the width of the 95 % intervals where it gives them.
What each needs in its own form (lists, a data frame, its aggregated data set) is made before the clock starts.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import evalica
import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.utils.data_utils import PairDataset
from sklearn.linear_model import LogisticRegression

SCALE = 400 / math.log(10)
Result = tuple[np.ndarray, np.ndarray | None]  # points, half widths

votes = np.load(sys.argv[1])
k, left, right, outcome = int(votes["k"]), votes["a"], votes["b"], votes["outcome"]
frame = pd.DataFrame({"model_a": left, "model_b": right})
frame["winner"] = np.array(["model_a", "model_b", "tie"])[outcome]
xs, ys = left.tolist(), right.tolist()
winners = [(evalica.Winner.X, evalica.Winner.Y, evalica.Winner.Draw)[o] for o in outcome]
index = pd.Index(range(k))
aggregated = PairDataset.from_pandas(frame)


def centred(points: np.ndarray) -> np.ndarray:
    return points - points.mean() + 1000


def by_evalica() -> Result:
    result = evalica.bradley_terry(xs, ys, winners, index=index)
    return centred(SCALE * np.log(result.scores[list(range(k))].to_numpy())), None


def arena_rank(dataset: PairDataset) -> Result:
    result = BradleyTerry(k).compute_ratings_and_cis(dataset)
    low, high = np.asarray(result["rating_lower"]), np.asarray(result["rating_upper"])
    return centred(np.asarray(result["ratings"])), (high - low) / 2


def logistic(rounds: int = 100) -> Result:
    """FastChat's way: a logistic regression without penalty on one row a pair and outcome, ties as half of each, and
    the percentiles of as many fits to votes drawn again."""
    cell = np.bincount((outcome.astype(np.int64) * k + left) * k + right, minlength=3 * k * k)
    cells = np.flatnonzero(cell)
    said, a, b = cells // (k * k), cells // k % k, cells % k
    x = np.zeros((len(cells), k))
    x[np.arange(len(cells)), a], x[np.arange(len(cells)), b] = 1, -1
    rows = np.concatenate([np.flatnonzero(said != 1), np.flatnonzero(said != 0)])
    y = np.repeat([1, 0], [(said != 1).sum(), (said != 0).sum()])
    share = np.where(said == 2, 0.5, 1.0)

    def fit(counts: np.ndarray) -> np.ndarray:
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-6, max_iter=1000)
        model.fit(x[rows], y, sample_weight=(counts * share)[rows])
        return SCALE * model.coef_[0]

    rng = np.random.default_rng(0)
    again = rng.multinomial(len(left), cell[cells] / len(left), rounds)
    low, high = np.quantile([fit(counts) for counts in again], (0.025, 0.975), axis=0)
    return centred(fit(cell[cells].astype(float))), (high - low) / 2


RATERS: dict[str, Callable[[], Result]] = {
    "evalica": by_evalica,
    "arena-rank, rows": lambda: arena_rank(PairDataset.from_pandas(frame)),
    "arena-rank, its aggregated rows": lambda: arena_rank(aggregated),
    "logistic regression, 100 bootstraps": logistic,
}

packages = ("evalica", "arena-rank", "jax", "scikit-learn", "numpy")
print(
    json.dumps({"python": platform.python_version(), **{name: version(name) for name in packages}}),
    flush=True,
)
for line in sys.stdin:
    began = time.perf_counter()
    points, half = RATERS[line.strip()]()
    seconds = time.perf_counter() - began
    answer = {"seconds": seconds, "points": points.tolist(), "half": None if half is None else half.tolist()}
    print(json.dumps(answer), flush=True)
os._exit(0)  # JAX's threads need no goodbye
