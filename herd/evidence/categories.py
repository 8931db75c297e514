"""Ratings within categories, drawn towards the overall ones as far as the votes do not speak against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr

from herd.errors import HerdError
from herd.evidence.bradley_terry import Graph, Matrix, bread, fit, laplacian, squares
from herd.evidence.ratings import CENTRE, SCALE, Ratings, assemble
from herd.evidence.votes import Counts, Votes

PRIOR = (100 / SCALE) ** 2  # τ²: a category seldom shifts a target by much more than 100 points


def by_category(
    votes: Votes, member: NDArray[np.bool_], names: Sequence[str], overall: Ratings
) -> dict[str, Ratings]:
    """The ratings in each category c: overall + δ_c, δ_c ~ N(0, τ²) for each target, τ by empirical Bayes.

    member [n, c]: which votes belong to which category (to several, or none); overall: `rate` of all votes. A category
    with many votes speaks for itself; one with none has the overall ratings with intervals wider by τ.

    With u the score and H the information of a category at the overall ratings, Q = uᵀH⁺u has the expectation
    φ · rank(H) - tr(HΣ) + τ² tr(H) (DerSimonian and Laird, Controlled Clinical Trials 7, 1986), φ the dispersion that ties
    leave (below 1) and Σ the covariance of the overall ratings, of which the category is a part. τ² is the mean of
    what this says, summed over categories, given a wide prior on τ² ≥ 0: never 0, which no votes can show. δ maximises
    ln L / φ - |δ|²/2τ²; with A the inverse of its curvature, B the covariance of the category's score and K = 1 - A/τ² the covariance
    is A(B/φ² + 1/τ²)A + Σ - KΣKᵀ, since the errors of the category and of the whole of which it is a part covary by Σ. Raises HerdError for a member of
    another shape, or targets that differ from those of `overall`.
    """
    member = np.asarray(member, bool)
    if member.shape != (len(votes), len(names)) or overall.names != votes.names:
        raise HerdError("categories need one column of votes for each name, and ratings of the same targets")
    rated = np.flatnonzero(np.isfinite(overall.rating))
    counts = [votes.where(member[:, c]).counts() for c in range(len(names))]
    whole = _Part.of(votes.counts(), rated)
    parts = Graph(overall.component, rated, overall.separated, whole.scores)
    theta = (overall.rating[rated] - CENTRE) / SCALE
    sigma = np.nan_to_num(overall.covariance[np.ix_(rated, rated)]) / SCALE**2
    theta = theta - (base := parts.gauge @ theta)  # an anchor's shift, which categories share
    chance = expit(theta[:, None] - theta)
    information = float((whole.games * chance * (1 - chance)).sum())
    residuals = float(squares(chance, whole.wins, whole.ties).sum())
    phi = max(residuals / information, 0.01) if information else 1.0  # the 0.01: where all votes are ties
    inside = [_Part.of(c, rated) for c in counts]
    tau2 = _spread(inside, chance, sigma, phi)

    rates, one = {}, np.eye(len(rated))
    for name, count, part in zip(names, counts, inside, strict=True):
        fitted = fit(part.scores / phi, parts.gauge, theta, ridge=1 / tau2, centre=theta)
        curvature, pull = bread(fitted)
        spread = laplacian(squares(fitted.chance, part.wins, part.ties) + pull) / phi**2
        own = one - curvature / tau2  # how far the category's own votes decide
        covariance = curvature @ (spread + one / tau2) @ curvature + sigma - own @ sigma @ own.T
        covariance = (one - parts.gauge) @ covariance @ (one - parts.gauge)
        found = assemble(
            count, parts, fitted.theta + base, covariance, alpha=overall.alpha, degrees=overall.degrees
        )
        notes = () if part.games.any() else ("no votes here: the overall ratings",)
        rates[name] = replace(found, gauge=overall.gauge, problems=(*found.problems, *notes))
    return rates


class _Part(NamedTuple):
    """Counts among the rated, [r, r]."""

    wins: Matrix
    ties: Matrix

    @classmethod
    def of(cls, counts: Counts, rated: NDArray[np.intp]) -> _Part:
        at = np.ix_(rated, rated)
        return cls(counts.wins[at], counts.ties[at])

    @property
    def scores(self) -> Matrix:
        return self.wins + self.ties / 2

    @property
    def games(self) -> Matrix:
        return self.scores + self.scores.T


def _spread(parts: Sequence[_Part], chance: Matrix, sigma: Matrix, phi: float) -> float:
    """τ² in log odds²: its mean under a half-normal prior of scale PRIOR and a normal likelihood of the moments."""
    tau2, error = 0.0, np.inf
    for _ in range(2):  # the second time with the error that τ² itself makes
        excess = slope = noise = 0.0
        for part in parts:
            score = (part.scores - part.games * chance).sum(1)
            h = laplacian(part.games * chance * (1 - chance))
            inverse = np.linalg.pinv(h, rcond=1e-10, hermitian=True)
            alone = phi * inverse @ h
            excess += float(score @ inverse @ score - np.trace(alone - sigma @ h))
            slope += float(np.trace(h))
            matrix = alone + tau2 * h
            noise += 2 * float(np.sum(matrix * matrix.T))
        if not slope:
            break
        tau2, error = max(excess / slope, 0.0), np.sqrt(noise) / slope
    else:
        tau2 = excess / slope
    variance = 1 / (1 / error**2 + 1 / PRIOR**2)
    mean = variance * tau2 / error**2
    z = mean / np.sqrt(variance)
    return float(mean + np.sqrt(variance / (2 * np.pi)) * np.exp(-z * z / 2 - log_ndtr(z)))
