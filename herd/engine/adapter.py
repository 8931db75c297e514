"""A LoRA adapter from its files, for a model that it was not merged into."""

from __future__ import annotations

import os
from pathlib import Path

from herd.engine.step import Adapter
from herd.model.config import Config
from herd.model.lora import read_peft


def load_adapter(config: Config, directory: str | os.PathLike[str]) -> Adapter:
    """The adapter of a PEFT directory, fp32, for a model of this shape. Raises HerdError when it does not fit."""
    layers, scale = read_peft(config, Path(directory))
    return Adapter(scale, {n: a for n, (a, _) in layers.items()}, {n: b for n, (_, b) in layers.items()})
