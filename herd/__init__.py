"""Herd, the open model layer."""

from __future__ import annotations

from typing import Any


def load(name: str) -> Any:
    """A model in this process, by name: `herd.load("cria").chat("Hello")` (`herd.engine.api.Model`).

    Raises HerdError for an unknown name, naming the nearest.
    """
    import importlib  # so that rooms without models do not seem to need torch

    return importlib.import_module("herd.engine.api").load(name)
