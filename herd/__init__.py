"""Herd, the open model layer."""

from __future__ import annotations

from typing import Any


def load(name: str, *, weights: str = "auto") -> Any:
    """A model in this process, by name: `herd.load("cria").chat("Hello")` (`herd.engine.api.Model`).

    weights: "fp32", "bf16", "int8", "int4", or "auto" for what suits the machine. Raises HerdError for an unknown
    name, naming the nearest.
    """
    import importlib  # so that rooms without models do not seem to need torch

    return importlib.import_module("herd.engine.api").load(name, weights=weights)
