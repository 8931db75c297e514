"""Votes and preference files as pairs to learn from, and which of them are held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd.data.prefs import Pair, read_pairs
from herd.data.sources import numbered_records
from herd.registry.files import atomic_write

HELD_OUT = 4  # one conversation in so many is held out


@dataclass(frozen=True)
class Preference:
    """A pair, the vote it comes from, and the conversation and the voter (None: not known) it belongs to; pairs of one
    are not independent."""

    pair: Pair
    conversation: str
    vote: str
    voter: str | None = None


def from_votes(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Preference], dict[str, int]]:
    """Preferences of `Store.pairs`, and how many votes were left out and why.

    A tie and "both bad" prefer nothing; a reply that is empty, or the same as the other, teaches nothing; of
    several votes on the same two replies the last counts.
    """
    left_out: Counter[str] = Counter()
    chosen: dict[frozenset[str], Preference] = {}
    for row in rows:
        if row["outcome"] not in ("a", "b"):
            left_out[row["outcome"]] += 1
            continue
        good, bad = (row["a"], row["b"]) if row["outcome"] == "a" else (row["b"], row["a"])
        if not row["prompt"] or not good.strip() or not bad.strip() or good == bad:
            left_out["empty_or_same"] += 1
            continue
        pair = Pair(list(row["prompt"]), [_reply(good)], [_reply(bad)])
        replies = frozenset((row["a_id"], row["b_id"]))
        left_out["voted_again"] += replies in chosen
        conversation = row["conversation"] or _digest(pair.prompt)
        chosen[replies] = Preference(pair, conversation, row["id"], row.get("voter"))
    return list(chosen.values()), {reason: n for reason, n in left_out.items() if n}


def from_file(path: Path) -> list[Preference]:
    """Preferences of a file in TRL's form (or one that `to_file` wrote). Without a "conversation" the prompt is it."""
    pairs = read_pairs(path)
    records = (record for _, record in numbered_records(path))
    return [
        Preference(
            pair,
            str(record.get("conversation") or _digest(pair.prompt)),
            str(record.get("vote") or _digest(asdict(pair))),
            str(record["voter"]) if record.get("voter") else None,
        )
        for pair, record in zip(pairs, records, strict=True)
    ]


def to_file(path: Path, preferences: Sequence[Preference]) -> None:
    """Write TRL's conversational form with each pair's conversation, vote and voter; whole or not at all."""
    rows = (
        {**asdict(p.pair), "conversation": p.conversation, "vote": p.vote, "voter": p.voter}
        for p in preferences
    )
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def split(preferences: Iterable[Preference]) -> tuple[list[Preference], list[Preference]]:
    """(to train on, held out), by conversation. A conversation's side never changes, so that what is held out now
    was never learned before."""
    sides: tuple[list[Preference], list[Preference]] = ([], [])
    for preference in preferences:
        sides[_digest_number(preference.conversation) % HELD_OUT == 0].append(preference)
    return sides


def votes_digest(preferences: Iterable[Preference]) -> str:
    """sha256 of the votes' ids in order: which votes an artifact came from, without their text."""
    return _digest(sorted(p.vote for p in preferences))


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
