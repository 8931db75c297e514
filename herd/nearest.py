"""The known word that somebody probably meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None when nothing is close."""
    return next(iter(difflib.get_close_matches(word, list(choices), 1)), None)


def hint(word: str, choices: Iterable[str], otherwise: str) -> str:
    """A question whether the nearest choice was meant, or `otherwise` when nothing is close."""
    near = nearest(word, choices)
    return f"did you mean {near!r}?" if near else otherwise
