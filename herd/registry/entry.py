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
    kinds = {"kind": str, "digest": str, "licence": str, "description": str, "metrics": dict, "parents": list}
    wrong = [k for k, kind in kinds.items() if not isinstance(table.get(k, kind()), kind)]
    if wrong or table.get("name") != path.parent.name or str(table.get("version")) != path.name:
        raise HerdError(
            f"{path / CARD}: malformed card ({', '.join(wrong) or 'its name or version is another'})"
        )
    if not NAME.fullmatch(table["name"]) or table.get("kind") not in ("model", "adapter"):
        raise HerdError(f"{path / CARD}: malformed card (name or kind)")
    if not re.fullmatch("[0-9a-f]{64}", table.get("digest", "")):
        raise HerdError(f"{path / CARD}: malformed card (digest); add the directory again")
    base, created = table.get("base"), table.get("created", 0)
    if not isinstance(base, str | None) or not isinstance(created, int | float) or not 0 <= created < 1e12:
        raise HerdError(f"{path / CARD}: malformed card (base or created)")
    return ModelEntry(
        name=table["name"],
        version=int(path.name),
        kind=table["kind"],
        path=path,
        digest=table.get("digest", ""),
        base=base,
        parents=tuple(str(p) for p in table.get("parents", [])),
        licence=table.get("licence", ""),
        description=table.get("description", ""),
        metrics=table.get("metrics", {}),
        created=float(created),
        bundled=bundled,
    )


def sampling_defaults(entry: ModelEntry) -> dict[str, Any]:
    """Sampling defaults that the model's own generation_config.json states."""
    try:
        table = read_json(entry.path / "generation_config.json")
    except HerdError:
        return {}
    known = ("temperature", "top_k", "top_p", "min_p")
    return {
        k: table[k] for k in known if isinstance(table.get(k), int | float) and not isinstance(table[k], bool)
    }
