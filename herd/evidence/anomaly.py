"""Who does not vote like the others."""

from __future__ import annotations

from dataclasses import dataclass

from herd.evidence.votes import Votes


@dataclass(frozen=True)
class Suspicion:
    """The evidence against one voter. e_value: how much likelier the votes are under some other behaviour than under
    voting like the others; log_e its logarithm (e_value may overflow to infinity). kind: the behaviour that explains
    them best, as "random", "always left", "always tie", "for cria", "against cria" or "against the others"."""

    e_value: float
    log_e: float
    kind: str
    votes: int


def suspects(votes: Votes, *, alpha: float = 0.01) -> dict[int, Suspicion]:
    """By voter number, those who do not vote like the others; of those flagged, about alpha are wronged."""
    raise NotImplementedError
