"""Preference pairs in TRL's form: {"prompt", "chosen", "rejected"}, conversations or plain strings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd.data.sources import check_messages, numbered_records
from herd.errors import HerdError

Message = dict[str, str]


@dataclass(frozen=True)
class Pair:
    """One preference. `chosen` and `rejected` are the messages that follow `prompt`."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs from JSON Lines (plain, .zst or .gz). A plain string becomes one message: the prompt the
    user's, a reply the assistant's. HerdError names the line that is malformed."""
    pairs = []
    for number, record in numbered_records(path):
        where = f"{path}:{number}"
        if not isinstance(record, dict) or not {"prompt", "chosen", "rejected"} <= record.keys():
            raise HerdError(f'{where}: a pair is an object with "prompt", "chosen" and "rejected"')
        pairs.append(
            Pair(
                _messages(record["prompt"], "user", f"{where}: prompt"),
                _messages(record["chosen"], "assistant", f"{where}: chosen"),
                _messages(record["rejected"], "assistant", f"{where}: rejected"),
            )
        )
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON Lines in the conversational form; the file appears whole or not at all."""
    path = Path(path)
    scratch = path.with_name(path.name + ".tmp")
    with open(scratch, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _messages(value: Any, role: str, where: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    check_messages(value, where)
    messages: list[Message] = value
    return messages
