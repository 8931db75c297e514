"""What `prepare` is to do: dataclasses read from a TOML file and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from herd.data.quality import Quality
from herd.data.toml import build, read_toml
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
    """A data recipe. `tokenizer` is a file or a directory, which for chat holds the chat template too.

    `heldout` is the share of documents kept out of training, chosen by their hash. `decontaminate` lists
    evaluation files (JSON Lines; globs): documents that share 13 words in a row with them are removed.
    """

    tokenizer: str
    sources: list[Source]
    dedup: Dedup = field(default_factory=Dedup)
    quality: Quality | None = None
    decontaminate: list[str] = field(default_factory=list)
    heldout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = {source.name for source in self.sources}
        near = self.dedup.near or Near()
        rules = {
            "sources must name at least one source": bool(names),
            "each source needs a name of its own": len(names) == len(self.sources),
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
        """Read and check a TOML file. Relative paths are taken from its directory."""
        path = Path(path)
        spec: DataSpec = build(cls, read_toml(path), str(path))
        return spec.with_paths(lambda inner: str(path.parent / inner))

    def with_paths(self, change: Callable[[str], str]) -> DataSpec:
        """The same with each path changed."""
        return replace(
            self,
            tokenizer=change(self.tokenizer),
            sources=[replace(source, path=change(source.path)) for source in self.sources],
            decontaminate=[change(pattern) for pattern in self.decontaminate],
        )
