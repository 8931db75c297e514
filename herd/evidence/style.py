"""Ratings with the style of the replies held equal: what length, headings, lists and bold did to the votes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from herd.errors import HerdError
from herd.evidence.bradley_terry import (
    Matrix,
    clustered,
    fit,
    graph,
    laplacian,
    rated_rows,
    said,
)
from herd.evidence.ratings import Anchor, Ratings, assemble, quantile
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
    used, a, b = rated_rows(votes, parts)
    w, y = votes.weight[used], said(votes.outcome[used])
    rows = _Rows(a, b, _covariates(contrasts(features[known][used]), w), len(parts.rated), parts.gauge)
    kept = rows.identified(w * (v := plain.chance[a, b]) * (1 - v))
    names = np.array([*FEATURES, LEFT])
    notes = [f"{name}: the votes cannot tell its effect" for name in names[~kept]]
    rows = replace(rows, x=rows.x[:, kept])
    if (beta := _newton(rows, plain.theta, w, y)) is None:
        notes, names = (
            ["style or place separates the votes: no coefficients, ratings without them"],
            names[:0],
        )
        beta, rows, kept = plain.theta, replace(rows, x=rows.x[:, :0]), kept[:0]

    p = expit(rows.odds(beta))
    information = w * p * (1 - p)
    inverse = rows.inverse(information)
    middle, degrees = rows.outer((w * (y - p)) ** 2), math.inf
    if by is not None:
        together, clusters = clustered(getattr(votes, by)[used], a, b, w * (y - p), rows.r, rows.x)
        if clusters > 1:
            middle, degrees = together, clusters - 1.0
        elif clusters:
            notes.append(f"all votes are of one {by}: the intervals take them as independent")
    middle += rows.outer(information * np.minimum(p * (1 - p) * rows.spread(inverse), 1))  # as `bread` does
    covariance = inverse @ middle @ inverse
    theta, between = beta[: rows.r], covariance[: rows.r, : rows.r]
    ratings = assemble(counts, parts, theta, between, anchor=anchor, alpha=alpha, degrees=degrees)
    half = quantile(alpha, degrees) * np.sqrt(np.maximum(np.diag(covariance)[rows.r :], 0))
    coefficients = tuple(
        Coefficient(str(name), float(e), float(e - h), float(e + h))
        for name, e, h in zip(names[kept], beta[rows.r :], half, strict=True)
    )
    return Styled(replace(ratings, problems=(*ratings.problems, *notes)), coefficients, left_out)


def _covariates(x: Matrix, w: Matrix) -> Matrix:
    """Contrasts [m, 4] -> [m, 5]: over their standard deviations (0 where they do not vary), and 1 for the left."""
    share = w / max(float(w.sum()), 1e-300)
    spread = np.sqrt(share @ (x - share @ x) ** 2)
    return np.column_stack([x * np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0), np.ones(len(x))])


@dataclass(frozen=True)
class _Rows:
    """The design of m votes: +1 at a, -1 at b of r targets, and covariates x [m, c]. It is never laid out."""

    a: NDArray[np.intp]
    b: NDArray[np.intp]
    x: Matrix
    r: int
    gauge: Matrix

    def odds(self, beta: Matrix) -> Matrix:
        theta = beta[: self.r]
        odds: Matrix = theta[self.a] - theta[self.b] + self.x @ beta[self.r :]
        return odds

    def score(self, residual: Matrix) -> Matrix:
        theta = np.bincount(self.a, residual, self.r) - np.bincount(self.b, residual, self.r)
        return np.concatenate([theta, residual @ self.x])

    def outer(self, weight: Matrix) -> Matrix:
        """Σ weight · z zᵀ over the rows z of the design, [r + c, r + c]."""
        r = self.r
        pairs = np.bincount(self.a * r + self.b, weight, r * r).reshape(r, r).astype(np.float64)
        out = np.zeros((r + self.x.shape[1],) * 2)
        out[:r, :r] = laplacian(pairs + pairs.T)
        weighted = weight[:, None] * self.x
        out[r:, r:] = weighted.T @ self.x
        for i, column in enumerate(weighted.T):
            out[:r, r + i] = out[r + i, :r] = self.score(column)[:r]
        return out

    def information(self, weight: Matrix) -> Matrix:
        """`outer` made invertible by the gauge."""
        out = self.outer(weight)
        size = max(float(np.trace(out[: self.r, : self.r])) / max(self.r, 1), 1e-300)
        out[: self.r, : self.r] += self.gauge * size
        return out

    def inverse(self, weight: Matrix) -> Matrix:
        whole = self.information(weight)
        return np.asarray(np.linalg.inv(whole))

    def spread(self, inverse: Matrix) -> Matrix:
        """zᵀ inverse z of each row z, [m]."""
        r, own = self.r, np.diag(inverse)
        targets = own[self.a] + own[self.b] - 2 * inverse[self.a, self.b]
        across = inverse[self.a, r:] - inverse[self.b, r:]
        spread: Matrix = targets + ((2 * across + self.x @ inverse[r:, r:]) * self.x).sum(1)
        return spread

    def identified(self, weight: Matrix) -> NDArray[np.bool_]:
        """Which covariates, taken in order, are not explained by the targets and the ones before."""
        whole = self.information(weight)
        kept = list(range(self.r))
        found = np.zeros(self.x.shape[1], bool)
        for i in range(len(found)):
            at = self.r + i
            solved = np.linalg.solve(whole[np.ix_(kept, kept)], whole[kept, at])
            found[i] = whole[at, at] - whole[at, kept] @ solved > 1e-9 * max(whole[at, at], 1e-300)
            if found[i]:
                kept.append(at)
        return found


def _newton(rows: _Rows, theta: Matrix, w: Matrix, y: Matrix) -> Matrix | None:
    """The maximum [r + c] of the likelihood; None where it lies at infinity."""
    beta = np.concatenate([theta, np.zeros(rows.x.shape[1])])
    for _ in range(40):
        if not len(beta):
            return beta
        p = expit(rows.odds(beta))
        try:
            step = np.linalg.solve(rows.information(w * p * (1 - p)), rows.score(w * (y - p)))
        except np.linalg.LinAlgError:
            return None
        longest = float(np.abs(step).max())
        beta += step * min(1.0, 2 / longest if longest else 1.0)
        if longest < 1e-8:  # far out everything is flat, and no maximum
            return beta if np.abs(rows.odds(beta)).max() < 30 else None
        if not np.isfinite(beta).all():
            return None
    return None
