"""Votes a second through the API while the leaderboard is read, and what `kill -9` loses of them.

    python bench/votes.py [--seconds 10] [--clients 32] [--targets 20] [--kills 3] [--database URL] [--json]

Starts `herd serve` on a free port, in a home of its own, over battles that are prepared in the store. Clients vote on
them one after the other (POST /api/battles/{id}/vote: checked, written, on the disk, ratings before and after in the
answer); meanwhile one reads the leaderboard twice a second and one listens to its news. Then the server is killed under
the same load, and every vote that it had acknowledged is looked for. Exit status 1 if one is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from herd.store import Store

OUTCOMES = ("left", "right", "tie", "both_bad")
CONFIG = """[arena]
votes_per_hour = 1000000
[providers.lab]
dialect = "openai"
base_url = "http://127.0.0.1:9/v1"
private = true
"""  # nobody asks it


@dataclass
class Heard:
    """What the clients were told."""

    votes: set[str] = field(default_factory=set)  # acknowledged
    seconds: list[float] = field(default_factory=list)  # that each took
    pages: list[float] = field(default_factory=list)  # that the leaderboard took
    news: int = 0
    wrong: list[str] = field(default_factory=list)


class Server:
    """`herd serve` with a database and a home of its own."""

    def __init__(self, home: Path, database: str, targets: int) -> None:
        self.home, self.database = home, database
        named = (f'[targets.t{n}]\nprovider = "lab"\nmodel = "m{n}"\n' for n in range(targets))
        (home / "herd.toml").write_text(CONFIG + "".join(named))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
        env |= {"HERD_HOME": str(self.home), "HERD_DATABASE_URL": self.database}
        command = [sys.executable, "-m", "herd", "serve", "--port", str(self.port)]
        with open(self.home / "log", "a") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            try:
                urlopen(f"http://127.0.0.1:{self.port}/health", timeout=60).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"herd serve does not answer: {(self.home / 'log').read_text()[-2000:]}")

    def cpu(self) -> float:
        """Seconds of processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, sent: signal.Signals) -> None:
        self.process.send_signal(sent)
        self.process.wait(30)


async def prepare(database: str, targets: int, battles: int, name: str) -> list[str]:
    """Battles that are ready to be voted on; their ids."""
    store = Store.open(database)
    rng = np.random.default_rng(0)
    request = {"kind": "chat", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    store.add_generations([
        {"id": f"g{t}", "route": f"t{t}", "target": f"t{t}", "request": request, "reply": f"It is, says {t}.",
         "finish": "stop", "total_ms": 100.0 + t, "cost": t * 10**6} for t in range(targets)
    ])  # fmt: skip
    written = []
    for n in range(battles):
        a, b = (int(t) for t in rng.choice(targets, 2, replace=False))
        turn = {"prompt": f"Why is the sky blue, {name} {n}?", "left": f"g{a}", "right": f"g{b}"}
        row = {"id": f"{name}-{n}", "kind": "embed", "left_target": f"t{a}", "right_target": f"t{b}"}
        written.append(store.write_battle({**row, "turns": [turn], "expires": time.time() + 86400}))
    await asyncio.gather(*written)
    store.close()
    return [f"{name}-{n}" for n in range(battles)]


async def ask(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], method: str, path: str, body: Any = None
) -> tuple[int, bytes]:
    """One request on a connection that stays open."""
    reader, writer = streams
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(answer[9:12]), await reader.readexactly(int(length.split(b":")[1]))


async def load(port: int, ids: list[str], clients: int, seconds: float, heard: Heard) -> float:
    """Vote until the time is over, the battles are used up, or the server is gone; the seconds it took."""
    left: Iterator[tuple[int, str]] = iter(enumerate(ids))
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        for n, id in left:
            if time.perf_counter() > end:
                break
            sent = {"outcome": OUTCOMES[n % 7 % 4], "user": f"user {number}-{n % 50}"}
            began = time.perf_counter()
            status, answer = await ask(streams, "POST", f"/api/battles/{id}/vote", sent)
            if status == 200:
                heard.seconds.append(time.perf_counter() - began)
                heard.votes.add(json.loads(answer)["vote"])
            else:
                heard.wrong.append(f"{status} {answer[:200]!r}")

    async def read() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        while True:
            began = time.perf_counter()
            await ask(streams, "GET", "/api/leaderboard")
            heard.pages.append(time.perf_counter() - began)
            await asyncio.sleep(0.5)

    async def listen() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/leaderboard/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while line := await reader.readline():
            heard.news += line.startswith(b"data:")

    beside = [asyncio.create_task(read()), asyncio.create_task(listen())]
    began = time.perf_counter()
    ends = await asyncio.gather(*(client(number) for number in range(clients)), return_exceptions=True)
    took = time.perf_counter() - began
    for end_ in ends:
        if end_ is not None and not isinstance(end_, (ConnectionError, asyncio.IncompleteReadError)):
            raise end_
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    return took


async def killed(server: Server, ids: list[str], clients: int, after: float) -> Heard:
    """The load, and in the midst of it the end of the server."""
    heard = Heard()

    async def kill() -> None:
        while len(heard.votes) < 50:  # until it is warm
            await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        server.stop(signal.SIGKILL)

    await asyncio.gather(load(server.port, ids, clients, 60, heard), kill())
    return heard


def measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"database": server.database.partition(":")[0]}
    if options.seconds:
        ids = asyncio.run(prepare(server.database, options.targets, int(options.seconds * 1500), "speed"))
        server.start()
        heard = Heard()
        asyncio.run(load(server.port, ids[:200], options.clients, 10, Heard()))  # warm
        before, own = server.cpu(), time.process_time()
        took = asyncio.run(load(server.port, ids[200:], options.clients, options.seconds, heard))
        cpu, own = server.cpu() - before, time.process_time() - own
        server.stop(signal.SIGTERM)
        if heard.wrong or not heard.votes:
            raise SystemExit(f"votes that were refused: {heard.wrong[:2]}")
        ms = np.array(heard.seconds) * 1000
        found |= {
            "votes": len(heard.votes), "votes_per_second": len(heard.votes) / took,
            "server_cpu_ms_a_vote": cpu / len(heard.votes) * 1000,
            "client_cpu_ms_a_vote": own / len(heard.votes) * 1000,
            "p50_ms": float(np.percentile(ms, 50)), "p99_ms": float(np.percentile(ms, 99)),
            "leaderboards": len(heard.pages), "leaderboard_p50_ms": float(np.median(heard.pages) * 1000),
            "news": heard.news,
        }  # fmt: skip
    acknowledged = missing = 0
    for n in range(options.kills):
        ids = asyncio.run(prepare(server.database, options.targets, 3000, f"kill{n}"))
        server.start()
        heard = asyncio.run(killed(server, ids, options.clients, 0.3 + 0.2 * n))
        store = Store.open(server.database)
        missing += len(heard.votes - {vote["id"] for vote in store.votes()})
        store.close()
        acknowledged += len(heard.votes)
    return found | {"kills": options.kills, "acknowledged_before_a_kill": acknowledged, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--database", help="of PostgreSQL, an empty one; without, SQLite")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        found = measure(
            Server(home, options.database or f"sqlite:///{home / 'herd.db'}", options.targets), options
        )
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(
                f"{name.replace('_', ' '):28} {value:,.1f}"
                if isinstance(value, float)
                else f"{name.replace('_', ' '):28} {value}"
            )
    sys.exit(1 if found["missing"] else 0)


if __name__ == "__main__":
    main()
