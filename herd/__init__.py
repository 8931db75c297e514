"""Herd, the open model layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.engine.api import Model


def load(name: str) -> Model:
    """A model of this machine in this process, by name: `herd.load("cria").chat("Hello")`. Raises HerdError."""
    from herd.engine.api import load

    return load(name)
