"""`herd doctor`: what could be wrong on this machine, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import click

from herd.cli.output import console, emit, json_option, note, size
from herd.errors import HerdError

State = Literal["good", "note", "bad"]
FREE_BYTES = 2 * 1024**3
# Two connections that write or checkpoint at the same moment can corrupt a WAL (sqlite.org/wal.html).
WAL_BUG = ((3, 7, 0), (3, 51, 2))


@dataclass(frozen=True)
class Check:
    name: str
    state: State
    found: str
    fix: str = ""


@click.command()
@click.option("--backup", type=click.Path(path_type=Path), help="Write a copy of the database to this file.")
@json_option
def doctor(backup: Path | None, as_json: bool) -> int:
    """Check this machine, and say how to mend what is wrong. Exit status 1 if something is."""
    from herd.registry.home import home

    if backup:
        _backup(home() / "herd.db", backup)
        note(f"the database is in {backup}")
    found = [check() for check in CHECKS]
    emit([asdict(check) for check in found], as_json, lambda: _print(found))
    return 1 if any(check.state == "bad" for check in found) else 0


def _print(checks: list[Check]) -> None:
    marks = {"good": "ok", "note": "note", "bad": "BAD"}
    for check in checks:
        console().print(f"{marks[check.state]:<5}{check.name:<10}{check.found}")
        if check.fix:
            console().print(f"{'':<15}→ {check.fix}")


def python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info < (3, 14):
        return Check("python", "good", found)
    return Check("python", "bad", found, "use Python 3.11, 3.12 or 3.13")


def torch_build() -> Check:
    try:
        build = version("torch")
    except PackageNotFoundError:
        return Check("torch", "bad", "not installed", "pip install 'openherd[local]'")
    import torch

    cpu = torch.backends.cpu.get_cpu_capability()
    features = [name for name, has in _cpu_features().items() if has]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return Check("torch", "good", f"{build}, {cpu}, {', '.join(features) or 'no extras'}, {gpu}")


def _cpu_features() -> dict[str, bool]:
    """What speeds bf16 and int8 up on a CPU, as Linux tells it (elsewhere: nothing)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        flags = set()
    return {
        "AVX-512 VNNI": "avx512_vnni" in flags,
        "AVX-512 BF16": "avx512_bf16" in flags,
        "AMX": "amx_tile" in flags,
    }


def sqlite() -> Check:
    low, high = WAL_BUG
    found = sqlite3.sqlite_version
    if low <= sqlite3.sqlite_version_info <= high:
        return Check(
            "sqlite",
            "note",
            f"{found}: 3.7.0 to 3.51.2 can corrupt a database that two connections write",
            "Herd writes by one connection only; let no other program write herd.db while it runs",
        )
    return Check("sqlite", "good", found)


def writable() -> Check:
    from herd.registry.home import home

    try:
        place = home()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("home", "bad", f"cannot write: {error}", "set HERD_HOME to a folder of yours")
    return Check("home", "good", str(place))


def disk() -> Check:
    from herd.registry.home import home

    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        return Check("disk", "bad", f"{size(free)} free", "free some space, or set HERD_HOME to another disk")
    return Check("disk", "good", f"{size(free)} free")


def port() -> Check:
    from herd.cli.client import Server
    from herd.server.settings import Settings

    settings = Settings.from_environment()
    try:
        if Server.running():
            return Check("port", "good", f"Herd answers at {settings.url}")
    except HerdError as error:
        return Check("port", "note", f"{settings.url}: {error}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            fix = "choose another: HERD_PORT=8001 herd up"
            return Check("port", "bad", f"{settings.host}:{settings.port}: {error.strerror}", fix)
    return Check("port", "good", f"{settings.host}:{settings.port} is free")


def models() -> Check:
    from herd.registry import Registry
    from herd.registry.home import home

    registry = Registry(home())
    bundled = [entry for entry in registry.models() if entry.bundled]
    if not bundled:
        return Check(
            "models",
            "bad",
            "the bundled model is missing",
            "install Herd again: pip install --force-reinstall",
        )
    problems = [problem.what for entry in bundled for problem in registry.verify(entry.ref)]
    if problems:
        return Check("models", "bad", problems[0], "install Herd again: pip install --force-reinstall")
    return Check("models", "good", ", ".join(entry.ref for entry in bundled) + " as bundled")


CHECKS: tuple[Callable[[], Check], ...] = (python, torch_build, sqlite, writable, disk, port, models)


def _backup(database: Path, target: Path) -> None:
    """Copy the database with SQLite's own online backup, which a running server does not disturb."""
    if os.environ.get("HERD_DATABASE_URL"):
        raise HerdError("HERD_DATABASE_URL names the database; back it up with its own tools (pg_dump)")
    if not database.is_file():
        raise HerdError(f"{database}: no database yet, so nothing to back up")
    if target.exists():
        raise HerdError(f"{target} exists; name another file")
    try:
        source = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        copy = sqlite3.connect(target)
        with source, copy:
            source.backup(copy)
            broken = copy.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
        source.close()
        copy.close()
    except sqlite3.Error as error:
        raise HerdError(f"cannot back up {database} to {target}: {error}") from None
    if broken:
        raise HerdError(f"{target}: the copy fails SQLite's integrity check; {database} is damaged")
