"""Which pair to show next: the one whose vote teaches most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from herd.errors import HerdError
from herd.evidence.votes import Counts


def pair_weights(counts: Counts, *, boost: float = 3.0, new: int = 50) -> NDArray[np.float64]:
    """Probabilities [k, k] of each pair, in the upper triangle: by how much one more vote would lower the standard
    error of its win fraction, P ∝ √(v/n) - √(v/(n + 1)), n the votes of the pair and v the variance of one of them
    (Chiang et al., "Chatbot Arena", ICML 2024, section 4), with one win each put in for v. A pair without votes counts
    as half a vote; pairs of a target with fewer than `new` votes weigh `boost` times as much. "Both bad" says nothing
    of the pair's fraction, and is no vote here. Raises HerdError for fewer than two targets.
    """
    k = len(counts.names)
    if k < 2:
        raise HerdError("a battle needs two targets")
    n = counts.games
    mean = (counts.wins + counts.ties / 2 + 1) / (n + 2)
    square = (counts.wins + counts.ties / 4 + 1) / (n + 2)
    spread = np.sqrt(square - mean**2)
    seen = np.maximum(n, 0.5)
    gain = spread * (1 / np.sqrt(seen) - 1 / np.sqrt(seen + 1))
    fresh = n.sum(1) < new
    gain = np.triu(np.where(fresh[:, None] | fresh, boost, 1.0) * gain, 1)
    return np.asarray(gain / gain.sum())
