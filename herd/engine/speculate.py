"""Prompt-lookup speculation: a reply that repeats something is guessed to go on as that did.

The guess is the continuation of the last three tokens' latest earlier occurrence in the sequence itself (Saxena 2023,
"Prompt Lookup Decoding"). All guessed tokens are rows of one step; the reply then draws row by row with its own
randomness and stops at the first token that is not the guess. So every token is drawn from the same numbers as
without speculation, and is the same token.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3
HOPE = 0.6  # chance that a draft's token is accepted, before anything is known


class Drafter:
    """One reply's guesses, and how good they have been: `acceptance`, the chance of each token."""

    def __init__(self) -> None:
        self.acceptance = HOPE
        self._after: dict[tuple[int, ...], int] = {}  # three tokens → the position behind them
        self._seen = GRAM - 1  # ends of grams before here are in the table

    def find(self, tokens: Sequence[int]) -> int | None:
        """The position from which the sequence may go on as it did before."""
        for end in range(self._seen, len(tokens) - 1):
            self._after[tuple(tokens[end - GRAM + 1 : end + 1])] = end + 1
        self._seen = max(self._seen, len(tokens) - 1)
        return self._after.get(tuple(tokens[-GRAM:]))

    def forgo(self) -> None:
        """A guess was not worth its row: try again after a good while."""
        self.acceptance += 0.002 * (HOPE - self.acceptance)

    def learn(self, drafted: int, accepted: int) -> None:
        tried = min(accepted + 1, drafted)
        self.acceptance += (1 - 0.9**tried) * (accepted / tried - self.acceptance)


def draft(tokens: Sequence[int], start: int, count: int) -> list[int]:
    """`count` tokens from position `start` on; past the end, what was there repeats itself."""
    period = len(tokens) - start
    return [tokens[start + i % period] for i in range(count)]
