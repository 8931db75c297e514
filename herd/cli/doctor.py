"""`herd doctor`: what could be wrong on this machine, and how to mend it."""

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from herd.cli.client import Server
from herd.cli.output import PLACE, emit, json_option, note
from herd.errors import HerdError
from herd.registry import Registry
from herd.registry.home import home
from herd.server.settings import Settings

MARKS = {"good": "ok", "note": "note", "bad": "BAD"}
FREE_BYTES = 2 * 1024**3
# Two connections that write or checkpoint at the same moment can corrupt a WAL (sqlite.org/wal.html).
WAL_BUG = ((3, 7, 0), (3, 51, 2))
# What speeds bf16 and int8 up on a CPU, as Linux names it.
CPU_FLAGS = {"avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "amx_tile": "AMX"}


@dataclass(frozen=True)
class Check:
    name: str
    state: Literal["good", "note", "bad"]
    found: str
    fix: str = ""


@click.command()
@click.option("--backup", type=PLACE, help="Write a copy of the database to this file.")
@json_option
def doctor(backup: Path | None) -> int:
    """Check this machine, and say how to mend what is wrong. Exit status 1 if something is."""
    if backup:
        _backup(home().absolute() / "herd.db", backup)
        note(f"the database is in {backup}")
    found = [check() for check in CHECKS]
    lines = [
        f"{MARKS[check.state]:<5}{check.name:<10}{check.found}" + f"\n{'':<15}→ {check.fix}" * bool(check.fix)
        for check in found
    ]
    emit([asdict(check) for check in found], "\n".join(lines))
    return 1 if any(check.state == "bad" for check in found) else 0


def _check(name: str, good: bool, found: str, fix: str) -> Check:
    return Check(name, "good", found) if good else Check(name, "bad", found, fix)


def python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return _check("python", (3, 11) <= sys.version_info < (3, 14), found, "use Python 3.11, 3.12 or 3.13")


def torch_build() -> Check:
    try:
        import torch
    except ImportError:
        found = "not installed: the gateway alone, no models of this machine"
        return Check("torch", "note", found, "pip install 'openherd[local]' adds them")
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:  # not Linux
        flags = []
    cpu = torch.backends.cpu.get_cpu_capability()
    features = ", ".join(name for flag, name in CPU_FLAGS.items() if flag in flags) or "no extras"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return Check("torch", "good", f"{torch.__version__}, {cpu}, {features}, {gpu}")


def cpu_kernels() -> Check:
    try:
        from herd.engine import kernels

        found = kernels.describe().removeprefix("CPU kernels: ")
    except ImportError:
        return Check("kernels", "note", "none without torch")
    except HerdError as error:
        return Check("kernels", "bad", str(error), "unset HERD_KERNELS")
    if kernels.available():
        return Check("kernels", "good", found)
    chosen = "unset HERD_KERNELS" if "HERD_KERNELS" in os.environ else ""
    built = "install a C++ compiler, then Herd again" if platform.machine() in ("x86_64", "AMD64") else ""
    return Check("kernels", "note", found, chosen or built)


def sqlite() -> Check:
    low, high = WAL_BUG
    found = sqlite3.sqlite_version
    if not low <= sqlite3.sqlite_version_info <= high:
        return Check("sqlite", "good", found)
    fix = "Herd writes by one connection only; let no other program write herd.db while it runs"
    found += ": 3.7.0 to 3.51.2 can corrupt a database that two connections write"
    return Check("sqlite", "note", found, fix)


def database() -> Check:
    from herd.store.database import describe

    try:
        return Check("database", "good", describe(Settings.from_environment().store))
    except HerdError as error:
        return Check("database", "bad", str(error), "see HERD_DATABASE_URL, or restore a backup")


def writable() -> Check:
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home()):
            return Check("home", "good", str(home()))
    except OSError as error:
        return Check("home", "bad", f"cannot write: {error}", "set HERD_HOME to a folder of yours")


def disk() -> Check:
    folder = next(place for place in (home(), *home().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    fix = "free some space, or set HERD_HOME to another disk"
    return _check("disk", free >= FREE_BYTES, f"{free / 1024**3:,.1f} GiB free", fix)


def port() -> Check:
    from herd.server.serve import bind

    settings = Settings.from_environment()
    try:
        if Server.running():
            return Check("port", "good", f"Herd answers at {settings.url}")
    except HerdError as error:
        return Check("port", "note", f"{settings.url}: {error}")
    try:
        bind(settings.host, settings.port).close()
    except HerdError as error:
        found = str(error).partition(";")[0]
        return Check("port", "bad", found, "choose another: HERD_PORT=8001 herd up")
    return Check("port", "good", f"{settings.host}:{settings.port} is free")


def models() -> Check:
    registry = Registry(home())
    bundled = [entry.ref for entry in registry.models() if entry.bundled]
    problems = [problem.what for ref in bundled for problem in registry.verify(ref)]
    found = problems[0] if problems else ", ".join(bundled) + " as bundled"
    fix = "install Herd again: pip install --force-reinstall"
    return _check(
        "models", bool(bundled) and not problems, found if bundled else "the bundled model is missing", fix
    )


CHECKS = (python, torch_build, cpu_kernels, sqlite, database, writable, disk, port, models)


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
        with closing(source), closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            whole = copy.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    except sqlite3.Error as error:
        raise HerdError(f"cannot back up {database} to {target}: {error}") from None
    if not whole:
        raise HerdError(f"{target}: the copy fails SQLite's integrity check; {database} is damaged")
