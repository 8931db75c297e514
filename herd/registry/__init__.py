"""What models there are: names and versions, targets, promotions, lineage, runs. Loads no torch."""

from herd.registry.registry import ModelEntry, Registry, Target

__all__ = ["ModelEntry", "Registry", "Target"]
