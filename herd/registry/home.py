"""HERD_HOME: where models, runs and the database live, and the lock on a directory that only one process may write."""

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
def lock(directory: Path, who: str = "Herd server", choice: str = "HERD_HOME") -> Iterator[None]:
    """Hold a directory, made if need be, for this process. Raises HerdError at once when another (`who`) holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise HerdError(f"{directory}: {error.strerror}; choose another {choice}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HerdError(
                f"another {who} is using {directory}; stop it or choose another {choice}"
            ) from None
        yield
