"""A PostgreSQL server of the tests' own, in a temporary directory, reached by a socket there."""

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest


class PostgreSQL:
    """`new()` makes a place for tables. Runs as an unprivileged user if the tests run as root, which it refuses."""

    def __init__(self) -> None:
        places = [os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
        initdb = shutil.which("initdb", path=os.pathsep.join(places))
        if initdb is None:
            pytest.skip("PostgreSQL is not installed (no initdb)")
        self.bin, self.folder = Path(initdb).resolve().parent, Path(tempfile.mkdtemp(prefix="herd-pg"))
        self.url = f"postgresql://herd@/postgres?host={self.folder}"
        self.user = "nobody" if os.getuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        options = ["-A", "trust", "-U", "herd", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run("initdb", *options)
        # Only the gateways are killed here, not the server: it need not wait for the disk.
        with open(self.folder / "data" / "postgresql.conf", "a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nfsync = off\n")
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """As a crash would."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def new(self) -> str:
        """The URL of a new, empty schema: a database is a copy of 7 MB, made in ten times as long."""
        name = f"herd_{uuid.uuid4().hex}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}&options=-csearch_path%3D{name}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, command: str, *options: str) -> None:
        subprocess.run(
            [self.bin / command, "-D", self.folder / "data", *options],
            check=True,
            timeout=120,
            user=self.user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )
