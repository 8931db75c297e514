"""What the Models page shows: card, shape, size and memory of every model, and how one came from another."""

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from herd.memory import available_memory
from herd.registry.registry import ModelEntry, Registry

PLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(png|svg)")
MAX_HEADER = 64 * 1024 * 1024
CARD_BYTES = 256 * 1024
ENTRY_FIELDS = ("ref", "name", "version", "kind", "base", "parents", "licence", "description", "digest", "metrics",
                "created", "bundled")  # fmt: skip
WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number, by the config's dtype
# Bytes of a weight as the engine keeps it: scales, and of int4 the head, are in it.
KEPT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.03, "int4": 0.7}


def describe(
    entry: ModelEntry, base: ModelEntry | None, current: bool, size: Callable[[ModelEntry], int]
) -> dict[str, Any]:
    """One model as GET /api/models gives it; what a broken directory lacks is null, never an error.

    An adapter has the shape of its `base`, and needs the memory of both, whose bytes `size` says.
    """
    facts = _facts(entry.path, entry.digest)
    shape = facts if base is None else _facts(base.path, base.digest)
    return {
        **{name: getattr(entry, name) for name in ENTRY_FIELDS},
        **{name: facts[name] for name in ("bytes", "parameters", "card")},
        "current": current,
        "config": shape["config"],
        "plots": [f"/api/models/{entry.ref}/files/{name}" for name in facts["plots"]],
        "memory": _memory(shape["config"], sum(map(size, filter(None, (entry, base))))),
    }


def size(entry: ModelEntry, weights: str | None) -> int:
    """Bytes that an engine needs for a model whose weights it keeps as `weights`; None: not known, as its files have them."""
    try:
        facts = _facts(entry.path, entry.digest)
    except OSError:  # loading it says what is missing
        return 0
    if weights is None or facts["parameters"] is None or entry.kind == "adapter":
        return int(facts["weights"])
    return int(facts["parameters"] * KEPT[weights])


def plot_file(entry: ModelEntry, name: str) -> Path | None:
    """The model's plot of that name: a .png or .svg directly in its directory, and nothing else."""
    path = entry.path / name
    return path if PLOT.fullmatch(name) and path.is_file() and not path.is_symlink() else None


def parameters(files: Iterable[Path]) -> int:
    """How many numbers the safetensors files hold, by their headers alone. Raises ValueError, OSError."""
    count = 0
    for path in files:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, os.fstat(file.fileno()).st_size - 8):
                raise ValueError(f"{path.name}: the header is longer than the file")
            header = json.loads(file.read(length))
        count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count


def lineage(registry: Registry, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Nodes (artifacts by digest) and edges (from parent to child) of the registry and its records."""
    nodes: dict[str, dict[str, Any]] = {}
    edges: set[tuple[str, str]] = set()

    def node(digest: str, kind: str, label: str) -> None:
        nodes.setdefault(digest, {"id": digest, "digest": digest, "kind": kind, "label": label})

    for entry in registry.models():
        node(entry.digest, entry.kind, entry.ref)
        edges.update((parent, entry.digest) for parent in entry.parents)
    for record in records:
        inputs = [item for item in record["inputs"] if item.get("digest")]
        outputs = [item for item in record["outputs"] if item.get("digest")]
        for item in (*inputs, *outputs):
            kind = str(item.get("kind", "file"))
            node(item["digest"], kind, str(item.get("label") or item.get("ref") or item.get("name") or kind))
        edges.update((i["digest"], o["digest"]) for i in inputs for o in outputs)
    for digest in {end for edge in edges for end in edge}:
        node(digest, "file", digest[:12])
    return {"nodes": list(nodes.values()), "edges": sorted(edges)}


@lru_cache(maxsize=256)
def _facts(path: Path, digest: str) -> dict[str, Any]:
    """What the directory says; its digest makes the cache right."""
    weights = sorted(path.glob("*.safetensors"))
    try:
        count = parameters(weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        count = None
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        config = {}
    try:
        card = (path / "README.md").read_bytes()[:CARD_BYTES].decode(errors="replace")
    except OSError:
        card = ""
    return {
        "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "weights": sum(file.stat().st_size for file in weights),
        "parameters": count,
        "config": config if isinstance(config, dict) else {},
        "card": card,
        "plots": sorted(file.name for file in path.iterdir() if PLOT.fullmatch(file.name)),
    }


def _memory(config: dict[str, Any], weights: int) -> dict[str, int | None]:
    """Bytes of the weights, bytes of the KV cache a token, and how many tokens fit beside the weights now.

    A token keeps a key and a value a layer: 2 · layers · kv_heads · head_dim numbers.
    """
    free = available_memory()
    per_token = fits = None
    try:
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        width = WIDTH.get(str(config.get("dtype") or config.get("torch_dtype")), 2)
        per_token = (
            2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * head_dim * width
        )
    except (KeyError, TypeError, ZeroDivisionError):
        pass
    if per_token and free is not None:
        fits = max(0, (free - weights) // per_token)
    return {"weights": weights, "kv_per_token": per_token, "fits_tokens": fits}
