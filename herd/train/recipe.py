"""A recipe: everything that decides a training run, in one TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from herd.data.toml import build, read_toml
from herd.errors import HerdError


@dataclass(frozen=True)
class Model:
    """Shape of a new model (`init` empty), or the directory of weights to begin from (`init`), adapter or not."""

    init: str = ""
    tokenizer: str = ""
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 704
    context: int = 2048
    tied: bool = True


@dataclass(frozen=True)
class Source:
    """A prepared shard set (`path`), one source in it if named, and its share of the rows."""

    path: str
    weight: float = 1.0
    source: str = ""


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up, then `cosine` to `floor`, or `wsd`: stable, then linear to `floor` over the last
    `decay` of the steps. A wsd run that is stopped early can be annealed from any checkpoint (`herd train --anneal`)."""

    kind: str = "wsd"
    warmup: int = 100
    decay: float = 0.2
    floor: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """`adamw`, or `muon` for matrices inside blocks with AdamW for the rest. lr is the peak."""

    kind: str = "adamw"
    lr: float = 1e-3
    embed_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """One run. `batch` rows of `seq_len` tokens a step, in `accumulate` parts; `objective` is pretrain or sft."""

    name: str
    objective: str
    data: list[Source]
    steps: int
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch: int = 16
    accumulate: int = 1
    seq_len: int = 512
    seed: int = 0
    dtype: str = "bfloat16"
    compile: bool = False
    heldout: str = ""
    eval_every: int = 100
    eval_tokens: int = 100_000
    save_every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        rules = {
            "steps, batch, accumulate, seq_len, eval_every, save_every and keep must be at least 1": min(
                self.steps,
                self.batch,
                self.accumulate,
                self.seq_len,
                self.eval_every,
                self.save_every,
                self.keep,
            )
            >= 1,
            "objective must be 'pretrain' or 'sft'": self.objective in ("pretrain", "sft"),
            "schedule.kind must be 'wsd' or 'cosine'": self.schedule.kind in ("wsd", "cosine"),
            "optimizer.kind must be 'adamw' or 'muon'": self.optimizer.kind in ("adamw", "muon"),
            "dtype must be 'bfloat16' or 'float32'": self.dtype in ("bfloat16", "float32"),
            "accumulate must divide batch": self.batch % self.accumulate == 0,
            "optimizer.lr must be above 0": self.optimizer.lr > 0,
            "schedule.decay must be between 0 and 1": 0 <= self.schedule.decay <= 1,
            "data must name at least one source": bool(self.data),
            "model needs a tokenizer, or init": bool(self.model.init or self.model.tokenizer),
            "seq_len must not exceed model.context": self.seq_len <= self.model.context
            or bool(self.model.init),
        }
        for rule, good in rules.items():
            if not good:
                raise HerdError(f"recipe: {rule}")

    @classmethod
    def load(cls, path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
        """Read and check a TOML file. `overrides` are `key=value` or `table.key=value`, the value in TOML.

        An unknown key is refused with the nearest known one. Relative paths are taken from the file's directory.
        """
        path = Path(path)
        table = read_toml(path)
        for override in overrides:
            _override(table, override)
        _resolve(table, path.parent)
        recipe: Recipe = build(cls, table, str(path))
        return recipe

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _override(table: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign:
        raise HerdError(f"--set {text}: write key=value, as in --set optimizer.lr=0.001")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except ValueError:
        parsed = value
    *path, leaf = key.strip().split(".")
    for name in path:
        table = table.setdefault(name, {})
    table[leaf] = parsed


def _resolve(table: dict[str, Any], base: Path) -> None:
    model = table.get("model")
    places = [(model, "init"), (model, "tokenizer"), (table, "heldout")]
    places += [(source, "path") for source in table.get("data") or []]
    for where, key in places:
        if isinstance(where, dict) and isinstance(where.get(key), str) and where[key]:
            where[key] = str(base / where[key])
