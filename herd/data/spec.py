"""What `prepare` is to do: dataclasses read from a TOML file and checked."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from herd.data.quality import Quality
from herd.errors import HerdError


@dataclass(frozen=True)
class Source:
    """Files of one origin and licence. `path` may be a glob; its matches are read in sorted order.

    kind is "text" or "chat". limit: at most so many documents. min_chars: shorter documents are dropped.
    max_chars: longer text is split at paragraph ends. quality = false exempts it from the quality filter.
    """

    path: str
    name: str
    licence: str
    kind: str = "text"
    text_field: str = "text"
    limit: int | None = None
    min_chars: int = 1
    max_chars: int | None = None
    quality: bool = True


@dataclass(frozen=True)
class Near:
    """Documents are near-duplicates when the Jaccard similarity of their word shingles, estimated by
    MinHash, is at least `threshold`."""

    threshold: float = 0.8
    shingle: int = 5
    permutations: int = 64


@dataclass(frozen=True)
class Dedup:
    exact: bool = True
    near: Near | None = None


@dataclass(frozen=True)
class DataSpec:
    """A data recipe. `tokenizer` is a file or a directory, which for chat holds the chat template too. `heldout` is the share of documents kept out of training, chosen by their hash.

    `decontaminate` lists evaluation files (JSON Lines; globs): documents that share 13 words in a row with
    them are removed. Relative paths are taken from the TOML file's directory.
    """

    tokenizer: str
    sources: list[Source]
    dedup: Dedup = field(default_factory=Dedup)
    quality: Quality | None = None
    decontaminate: list[str] = field(default_factory=list)
    heldout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        near = self.dedup.near or Near()
        rules = {
            "sources must name at least one source": bool(names),
            "each source needs a name of its own": len(set(names)) == len(names),
            'kind must be "text" or "chat"': all(s.kind in ("text", "chat") for s in self.sources),
            "max_chars must be at least 100": all(
                s.max_chars is None or s.max_chars >= 100 for s in self.sources
            ),
            "heldout must be at least 0 and below 1": 0 <= self.heldout < 1,
            "dedup.near.threshold must be above 0 and at most 1": 0 < near.threshold <= 1,
            "dedup.near.shingle must be 1 to 64": 1 <= near.shingle <= 64,
            "dedup.near.permutations must be 1 to 1024": 1 <= near.permutations <= 1024,
        }
        for rule, good in rules.items():
            if not good:
                raise HerdError(f"data recipe: {rule}")

    @classmethod
    def load(cls, path: str | Path) -> DataSpec:
        """Read and check a TOML file; an unknown key is refused with the nearest known one."""
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise HerdError(f"{path}: no such file") from None
        except ValueError as error:
            raise HerdError(f"{path}: not valid TOML ({error})") from None
        spec: DataSpec = build(cls, table, str(path))
        return spec.resolved(path.parent)

    @classmethod
    def from_json(cls, text: str) -> DataSpec:
        spec: DataSpec = build(cls, json.loads(text), "data recipe")
        return spec

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def resolved(self, base: Path) -> DataSpec:
        """The same with all relative paths taken from `base`."""
        return replace(
            self,
            tokenizer=str(base / self.tokenizer),
            sources=[replace(s, path=str(base / s.path)) for s in self.sources],
            decontaminate=[str(base / pattern) for pattern in self.decontaminate],
        )

    def named(self) -> DataSpec:
        """The same with names in place of paths: what the recipe says, wherever the files lie."""
        return replace(
            self,
            tokenizer=Path(self.tokenizer).name,
            sources=[replace(s, path=Path(s.path).name) for s in self.sources],
            decontaminate=[Path(pattern).name for pattern in self.decontaminate],
        )


def build(kind: Any, value: Any, where: str) -> Any:
    """A value of type `kind` (a dataclass or a plain type) from TOML, or HerdError that says where and why."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if value is None:
            return None
        return build(next(t for t in inner if t is not type(None)), value, where)
    if origin in (list, tuple) and isinstance(value, list):
        if origin is tuple and len(value) != len(inner):
            raise HerdError(f"{where}: expected {len(inner)} values, found {len(value)}")
        kinds = inner if origin is tuple else inner * len(value)
        return origin(build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if is_dataclass(kind) and isinstance(value, dict):
        return _build_dataclass(kind, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    name = "table" if is_dataclass(kind) else "list" if origin else kind.__name__
    raise HerdError(f"{where}: expected a {name}, found {value!r}")


def _build_dataclass(kind: Any, table: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1, 0.0)[0]
            raise HerdError(f"{where}: unknown key {key!r}; did you mean {near!r}?")
    for f in fields(kind):
        if f.name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise HerdError(f"{where}: {f.name!r} is missing")
    return kind(**{key: build(hints[key], value, f"{where}: {key}") for key, value in table.items()})
