"""Runs: whatever takes long, as a directory that says how it stands."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from herd.errors import HerdError
from herd.registry.files import atomic_write, read_json

State = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]
OPEN = ("queued", "running", "waiting")


class Run:
    """`HERD_HOME/runs/<id>` with run.json, metrics.jsonl and log. `data` is run.json's content."""

    def __init__(self, directory: Path, data: dict[str, Any]) -> None:
        self.dir, self.data = directory, data

    @classmethod
    def create(cls, home: Path, kind: str, args: Mapping[str, Any]) -> Run:
        name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        data = {"id": name, "kind": kind, "args": dict(args), "created": time.time()}
        run = cls(home / "runs" / name, data)
        run.dir.mkdir(parents=True)
        run.set("queued", pid=None)
        return run

    @classmethod
    def load(cls, home: Path, name: str) -> Run:
        """One run. A run that says it is running but whose process is gone has failed, and is marked so."""
        if not name or Path(name).name != name or name.startswith("."):
            raise HerdError(f"{name[:80]!r} is not a run's id; `herd runs` lists them", status=404)
        try:
            run = cls(home / "runs" / name, read_json(home / "runs" / name / "run.json"))
            begun = run.state in ("running", "waiting")
        except (HerdError, ValueError, KeyError):
            raise HerdError(f"no run {name[:80]!r}; `herd runs` lists them", status=404) from None
        if begun and run.pid is not None and not _alive(run.pid, run.data.get("pid_start")):
            run.set("failed", error="the process ended without saying why; see its log")
        return run

    @classmethod
    def list(cls, home: Path) -> list[Run]:
        """All runs, newest first; damaged ones are left out."""
        runs = []
        for path in (home / "runs").glob("*/run.json"):
            try:
                runs.append(cls.load(home, path.parent.name))
            except HerdError:
                continue
        return sorted(runs, key=lambda run: -float(run.data.get("created", 0)))

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def state(self) -> str:
        return str(self.data["state"])

    @property
    def pid(self) -> int | None:
        pid = self.data.get("pid")
        return pid if isinstance(pid, int) else None

    def set(self, state: State, **fields: Any) -> None:
        """Change state and other fields of run.json, atomically; what other processes wrote meanwhile is kept."""
        if isinstance(fields.get("pid"), int):
            fields["pid_start"] = _start(fields["pid"])
        with open(self.dir / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if (self.dir / "run.json").exists():
                self.data = json.loads((self.dir / "run.json").read_text(encoding="utf-8"))
            self.data |= {"state": state, "updated": time.time(), **fields}
            atomic_write(self.dir / "run.json", json.dumps(self.data, indent=2) + "\n")

    def log_metric(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def metrics(self, last: int = 500) -> list[dict[str, Any]]:  # type: ignore[valid-type]
        """The last lines of metrics.jsonl that are whole."""
        lines = self._tail("metrics.jsonl", 1 << 20).splitlines()[-last:]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def log(self, size: int = 16_384) -> str:
        """The end of the log."""
        return self._tail("log", size)

    def _tail(self, name: str, size: int) -> str:
        try:
            with open(self.dir / name, "rb") as file:
                file.seek(max(0, os.path.getsize(file.name) - size))
                return file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def _alive(pid: int, start: str | None) -> bool:
    """Whether the process runs, and is the one that started then: after a restart the number may be another's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    now = _start(pid)
    return now != "dead" and start in (None, now)


def _start(pid: int) -> str | None:
    """The start of a process in ticks since boot, "dead" for one that only waits to be reaped; None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None
