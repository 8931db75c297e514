"""HERD_HOME: where models, runs and the database live, and the lock that one server holds on it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from herd.errors import HerdError


def home() -> Path:
    """HERD_HOME, or ~/.herd."""
    return Path(os.environ.get("HERD_HOME") or Path.home() / ".herd")


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the home's lock. Raises HerdError at once when another process holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        hint = "choose another place with HERD_HOME or --home"
        raise HerdError(f"{directory}: {error.strerror}; {hint}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            hint = "stop it or choose another HERD_HOME"
            raise HerdError(f"another Herd server is using {directory}; {hint}") from None
        yield
