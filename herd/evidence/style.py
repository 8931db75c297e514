"""Ratings with the style of the replies held equal: what length, headings, lists and bold did to the votes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from herd.errors import HerdError
from herd.evidence.bradley_terry import Matrix, Rows, bordered, fit, graph
from herd.evidence.ratings import Anchor, Ratings, assemble, few_clusters, quantile
from herd.evidence.votes import Votes

FEATURES = ("length", "headers", "lists", "bold")
LEFT = "left"


@dataclass(frozen=True)
class Coefficient:
    """In log odds: of one standard deviation of a feature's (a - b)/(a + b), or of standing at the left."""

    name: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Styled:
    """Ratings at equal style. coefficients: those that the votes identify. left_out: votes without features."""

    ratings: Ratings
    coefficients: tuple[Coefficient, ...]
    left_out: int


def contrasts(features: Matrix) -> Matrix:
    """[n, 2, 4] features of a's and b's replies -> [n, 4]: (a - b)/(a + b), 0 where neither has any; NaN stays."""
    a, b = features[:, 0], features[:, 1]
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total != 0)


def rate_styled(
    votes: Votes,
    features: Matrix,
    *,
    by: Literal["voter", "conversation"] | None = None,
    anchor: Anchor = None,
    alpha: float = 0.05,
) -> Styled:
    """Bradley–Terry with covariates, logit P(a preferred to b) = θ_a - θ_b + f·β + left.

    features [n, 2, 4]: counts of FEATURES in the reply at the left and at the right; a vote with a NaN is left out. f
    is (a - b)/(a + b) over its standard deviation, not centred, so that `left` is the advantage of the place at equal
    style (Li et al., "Does style matter?", LMSYS 2024). Nothing is penalised: a penalty would pull the coefficients to
    0 and give part of the style back to the ratings. Newton's method; sandwich errors for independent votes or
    clustered `by`. A feature that never differs, or that the targets explain fully, has no coefficient; where style
    separates the votes perfectly there is none at all, and `problems` says so. Raises HerdError for features of
    another shape, negative or infinite, or as `rate` does.
    """
    features = np.asarray(features, np.float64)
    if features.shape != (len(votes), 2, len(FEATURES)):
        raise HerdError(f"features of {len(votes)} votes have the shape [{len(votes)}, 2, {len(FEATURES)}]")
    if (features < 0).any() or np.isinf(features).any():
        raise HerdError("features of style are counts: finite and not negative")
    known = ~np.isnan(features.sum((1, 2)))
    left_out = int((~known & (votes.weight > 0)).sum())
    votes = votes.where(known)
    counts = votes.counts()
    parts = graph(counts)
    plain = fit(parts.scores, parts.gauge)
    rows = Rows.of(votes, parts, by, contrasts(features[known]))
    rows = replace(rows, x=_covariates(rows.x, rows.w))
    v = plain.chance[rows.a, rows.b]
    kept = _identified(rows, rows.w * v * (1 - v))
    names = np.array([*FEATURES, LEFT])
    notes = [f"{name}: the votes cannot tell its effect" for name in names[~kept]]
    rows, names = replace(rows, x=rows.x[:, kept]), names[kept]
    if (beta := rows.newton(plain.theta)) is None:
        notes = ["style or place separates the votes: no coefficients, ratings without them"]
        beta, rows, names = plain.theta, replace(rows, x=rows.x[:, :0]), names[:0]
    covariance, degrees = rows.sandwich(beta)
    r = len(plain.theta)
    ratings = assemble(
        counts, parts, beta[:r], covariance[:r, :r], anchor=anchor, alpha=alpha, degrees=degrees
    )
    half = quantile(alpha, degrees) * np.sqrt(np.maximum(np.diag(covariance)[r:], 0))
    coefficients = tuple(
        Coefficient(str(name), float(e), float(e - h), float(e + h))
        for name, e, h in zip(names, beta[r:], half, strict=True)
    )
    notes += few_clusters(rows, by)
    return Styled(replace(ratings, problems=(*ratings.problems, *notes)), coefficients, left_out)


def _covariates(x: Matrix, w: Matrix) -> Matrix:
    """Contrasts [m, 4] -> [m, 5]: over their standard deviations (0 where they do not vary), and 1 for the left."""
    share = w / max(float(w.sum()), 1e-300)
    spread = np.sqrt(share @ (x - share @ x) ** 2)
    return np.column_stack([x * np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0), np.ones(len(x))])


def _identified(rows: Rows, weight: Matrix) -> NDArray[np.bool_]:
    """Which covariates, taken in order, are not explained by the targets and the ones before."""
    whole = bordered(rows.outer(weight), rows.gauge)
    kept = list(range(len(rows.gauge)))
    found = np.zeros(rows.x.shape[1], bool)
    for i, at in enumerate(range(len(kept), len(whole))):
        solved = np.linalg.solve(whole[np.ix_(kept, kept)], whole[kept, at])
        found[i] = whole[at, at] - whole[at, kept] @ solved > 1e-9 * max(whole[at, at], 1e-300)
        kept += [at] * int(found[i])
    return found
