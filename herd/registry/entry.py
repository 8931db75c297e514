"""A model's card and a target, as read from files that anybody may have written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.registry.files import read_json

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
CARD = "herd.json"
OPTIONAL = {"licence": str, "description": str, "metrics": dict, "parents": list}  # fields of a card
SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def check_name(name: str) -> None:
    """Raises HerdError for what cannot name a model."""
    if not NAME.fullmatch(name):
        rule = "lower-case letters, digits, '.', '_' and '-'"
        raise HerdError(f"{name[:80]!r} is not a model name: {rule}")


@dataclass(frozen=True)
class ModelEntry:
    """One version of a model or an adapter. `digest` is over the files' paths and hashes, the card left out."""

    name: str
    version: int
    kind: str  # "model" or "adapter"
    path: Path
    digest: str
    base: str | None = None
    parents: tuple[str, ...] = ()
    licence: str = ""
    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0
    bundled: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Target:
    """What may stand behind a name: model, adapter, system prompt and sampling defaults, with one digest."""

    name: str
    model: ModelEntry
    adapter: ModelEntry | None = None
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine_key(self) -> str:
        """Names the weights that an engine must hold; targets that share them share it."""
        return self.model.digest[:16] + (f"+{self.adapter.digest[:16]}" if self.adapter else "")

    @property
    def digest(self) -> str:
        parts = [self.model.digest, self.adapter and self.adapter.digest, self.system, dict(self.sampling)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def model_dir(self) -> Path:
        return self.model.path

    @property
    def adapter_dir(self) -> Path | None:
        return self.adapter.path if self.adapter else None


@dataclass(frozen=True)
class Problem:
    """Something that verification found: `where` it is and `what` is wrong."""

    where: str
    what: str


def read_entry(path: Path, bundled: bool) -> ModelEntry:
    """The entry of the version directory `path`. Raises HerdError for a card that is missing or malformed."""
    card = path / CARD
    try:
        stamp = card.stat().st_mtime_ns
    except OSError:
        raise HerdError(f"{card}: no such file") from None
    return _parse(path, stamp, bundled)


@lru_cache(maxsize=1024)
def _parse(path: Path, stamp: int, bundled: bool) -> ModelEntry:
    table = read_json(path / CARD)
    name, number, base = path.parent.name, path.name, table.get("base")
    digest, created = table.get("digest"), table.get("created", 0)
    good: dict[str, object] = {
        "name": NAME.fullmatch(name) and table.get("name") == name,
        "version": re.fullmatch("[1-9][0-9]{0,8}", number) and str(table.get("version")) == number,
        "kind": table.get("kind") in ("model", "adapter"),
        "digest": isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest),
        "base": isinstance(base, str | None),
        "created": isinstance(created, int | float) and 0 <= created < 1e12,
    }
    for key, kind in OPTIONAL.items():
        good[key] = isinstance(table.setdefault(key, kind()), kind)
    if wrong := [key for key, fine in good.items() if not fine]:
        raise HerdError(f"{path / CARD}: malformed card ({', '.join(wrong)}); add the directory again")
    return ModelEntry(
        name=name,
        version=int(number),
        kind=table["kind"],
        path=path,
        digest=table["digest"],
        base=base,
        parents=tuple(map(str, table["parents"])),
        licence=table["licence"],
        description=table["description"],
        metrics=table["metrics"],
        created=float(created),
        bundled=bundled,
    )


def sampling_defaults(entry: ModelEntry) -> dict[str, Any]:
    """Sampling defaults that the model's own generation_config.json states."""
    try:
        table = read_json(entry.path / "generation_config.json")
    except HerdError:
        return {}
    return {k: table[k] for k in SAMPLING if type(table.get(k)) in (int, float)}
