"""Lineage: one record for each command that wrote an artifact, named by the hash of what it says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from herd.errors import HerdError
from herd.registry.files import atomic_write, read_json


def record(
    home: Path,
    *,
    command: str,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    parents: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write and return a record. inputs and outputs name things with their digests; parents are digests."""
    body = {
        "command": command,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "parents": list(parents),
        "config": config or {},
        "seed": seed,
        "device": device,
        "metrics": metrics or {},
        "code": _code(),
        "created": time.time(),
    }
    entry: dict[str, Any] = json.loads(json.dumps(body))
    entry["id"] = _digest(entry)
    atomic_write(home / "lineage" / f"{entry['id'][:16]}.json", json.dumps(entry, indent=2) + "\n")
    return entry


def records(*homes: Path) -> list[dict[str, Any]]:
    """All readable records there (BUNDLED has those of the bundled models), oldest first."""
    found = []
    for path in (path for home in homes for path in (home / "lineage").glob("*.json")):
        try:
            entry = read_json(path)
            found.append((float(entry["created"]), entry))
        except (HerdError, ValueError, KeyError, TypeError, OverflowError):
            continue  # verify() reports it
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def verify(home: Path) -> list[str]:
    """What is wrong with the records, a line each: unreadable ones, and ones changed since they were written."""
    problems = []
    for path in sorted((home / "lineage").glob("*.json")):
        try:
            entry = read_json(path)
            claimed = entry.pop("id")
        except (HerdError, KeyError):
            problems.append(f"{path}: not a lineage record")
            continue
        if _digest(entry) != claimed:
            problems.append(f"{path}: changed since it was written")
    return problems


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _code() -> dict[str, str | None]:
    """Version, and when run from a checkout the commit, with "-dirty" if files of it were changed."""
    try:
        installed = version("openherd")
    except PackageNotFoundError:
        installed = None
    root = Path(__file__).parents[2]
    commit = None
    if (root / ".git").exists():
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            commit = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or None
        except FileNotFoundError:  # no git on this machine
            commit = None
    return {"version": installed, "commit": commit}
