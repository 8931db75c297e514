"""Preference pairs in TRL's form: {"prompt", "chosen", "rejected"}, conversations or plain strings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd.data.sources import check_messages, numbered_records
from herd.errors import HerdError
from herd.registry.files import atomic_write

Message = dict[str, str]
_ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}  # of a plain string


@dataclass(frozen=True)
class Pair:
    """One preference. `chosen` and `rejected` are the messages that follow `prompt`."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs from JSON Lines (plain, .zst or .gz). A plain string becomes one message: the prompt the
    user's, a reply the assistant's. HerdError names the line that is malformed."""
    return [_pair(record, f"{path}:{number}") for number, record in numbered_records(path)]


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON Lines in the conversational form; the file appears whole or not at all."""
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    atomic_write(Path(path), "".join(lines))


def _pair(record: Any, where: str) -> Pair:
    if not isinstance(record, dict) or not _ROLES.keys() <= record.keys():
        raise HerdError(f'{where}: a pair is an object with "prompt", "chosen" and "rejected"')
    parts = {name: record[name] for name in _ROLES}
    for name, role in _ROLES.items():
        if isinstance(parts[name], str):
            parts[name] = [{"role": role, "content": parts[name]}]
        check_messages(parts[name], f"{where}: {name}")
    return Pair(**parts)
