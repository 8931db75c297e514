"""What a gateway adds to a request: CPU, time and memory; Herd beside litellm's proxy and otari.

All gateways are up at once and stand before one mock provider (upstream.py); the clients (load.py) are a process of their own;
all run on the same two cores. In each round every gateway serves every load in turn, and so does the provider by itself; a
figure is the median of the rounds. CPU is the user and system time of a gateway's whole process tree. "Added" is the
gateway's time less the provider's own, of the same round.

    python bench/gateway.py [--herd PYTHON] [--litellm PYTHON] [--otari PYTHON] [--folder FOLDER] [--quick] [--json FILE]

A durable write waits for the disk, and takes as long as the disk does: the first line says how long that is. `--folder /dev/shm`
puts the gateways' files into memory, which leaves their own time.

Each PYTHON is an interpreter that has the gateway; bench/peers/README.md says how to make them. Herd's should not have torch, so
that it is the gateway alone.
"""

import argparse
import contextlib
import json
import os
import platform
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from gateways import Gateway, Herd, LiteLLM, Otari, clean_environment

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
GAP = 2.0  # milliseconds between the chunks of a stream
TALK = [
    {"role": "system", "content": "You are the assistant of a shop for garden tools. " * 4},
    {
        "role": "user",
        "content": "My hedge trimmer stalls after ten minutes and smells of fuel. What may it be? " * 3,
    },
    {
        "role": "assistant",
        "content": "Most likely the filter or the spark plug; let us look at the filter first. " * 3,
    },
    {
        "role": "user",
        "content": "The filter is clean, I had it out yesterday. What else should I look at, in what order?",
    },
]


@dataclass(frozen=True)
class Load:
    """`requests` chat completions, from so many clients at a time."""

    stream: bool
    clients: int
    requests: int

    def __str__(self) -> str:
        return f"{'streamed' if self.stream else 'whole'}, {self.clients} at a time"


@dataclass
class Cell:
    """One load of one round: milliseconds a request but for `rate`, requests a second."""

    rate: float
    cpu: float
    first: tuple[float, float]  # to the first text: p50, p99
    whole: tuple[float, float]
    wrong: int  # requests that got no good reply


@dataclass
class Running:
    gateway: Gateway
    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    started: float  # seconds to the first 200
    idle: float = 0.0  # MiB
    key: str = ""
    sent: int = 0
    cells: dict[Load, list[Cell]] = field(default_factory=dict)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def cpu(pid: int) -> float:
    """Seconds of user and system time of the tree, its ended children included."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / TICK


def memory(pid: int) -> float:
    """Resident MiB of the tree; pages that processes share count in each."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started(gateway: Gateway, upstream: str, place: Path | None = None) -> Iterator[Running]:
    """The gateway in a folder of its own in `place`, up when it answers 200; ended on leaving."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-gateway-", dir=place) as folder:
        home = Path(folder)
        command, environment = gateway.command(home, port, upstream)
        with open(home / "log", "wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=home,
                env=clean_environment() | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            while not answers(url + gateway.alive):
                if process.poll() is not None or time.perf_counter() - began > 120:
                    raise SystemExit(f"{gateway.name} does not start:\n{(home / 'log').read_text()[-3000:]}")
                time.sleep(0.005)
            yield Running(gateway, process, url, home, time.perf_counter() - began)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def durable(place: Path | None) -> float:
    """Milliseconds that a small write to a file there takes to be durable."""
    times = []
    with tempfile.TemporaryFile(dir=place) as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, ConnectionError, TimeoutError):
        return False


def import_seconds(gateway: Gateway) -> float:
    """CPU seconds of an interpreter that imports what the server does, the interpreter's own start included."""
    before = os.times()
    command = [gateway.python, "-c", f"import {gateway.imports}"]
    subprocess.run(
        command, check=True, env=clean_environment(), cwd=tempfile.gettempdir(), capture_output=True
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def ask(generator: subprocess.Popen[str], url: str, key: str, model: str, load: Load) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": TALK, "max_tokens": 100}
    if load.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    job = {
        "url": f"{url}/chat/completions",
        "key": key,
        "body": body,
        "requests": load.requests,
        "clients": load.clients,
    }
    assert generator.stdin is not None and generator.stdout is not None
    generator.stdin.write(json.dumps(job) + "\n")
    generator.stdin.flush()
    answer: dict[str, Any] = json.loads(generator.stdout.readline())
    if len(answer["wrong"]) > load.requests / 2:
        raise SystemExit(f"{model} at {url}: {answer['wrong'][0]}")
    return answer


def cell(done: dict[str, Any], seconds: float) -> Cell:
    count = len(done["whole"])

    def points(times: list[float]) -> tuple[float, float]:
        times = sorted(times)
        return times[count // 2], times[min(int(count * 0.99), count - 1)]

    rate, each = count / done["seconds"], 1000 * seconds / count
    return Cell(rate, each, points(done["first"]), points(done["whole"]), len(done["wrong"]))


def measure(here: Running, generator: subprocess.Popen[str], load: Load) -> None:
    before = cpu(here.process.pid)
    done = ask(generator, f"{here.url}/v1", here.key, here.gateway.model, load)
    here.sent += len(done["whole"])
    if here.gateway.rows:
        wait_for_rows(here)  # what is written later is its work too
    here.cells.setdefault(load, []).append(cell(done, cpu(here.process.pid) - before))


def kept(here: Running) -> int:
    assert here.gateway.rows is not None
    database, table = here.gateway.rows
    with contextlib.closing(
        sqlite3.connect(f"file:{here.folder / database}?mode=ro", uri=True)
    ) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def wait_for_rows(here: Running) -> None:
    """Until every request with a good reply has its row. Raises SystemExit if some never get one."""
    end = time.monotonic() + 10
    while (rows := kept(here)) < here.sent:
        if time.monotonic() > end:
            raise SystemExit(f"{here.gateway.name}: {rows} rows of {here.sent} requests")
        time.sleep(0.02)


def median(cells: list[Cell], value: Callable[[Cell], float]) -> float:
    return statistics.median(value(each) for each in cells)


def versions(gateway: Gateway) -> str:
    code = f"""
from importlib.metadata import version
import platform
print(", ".join([f"{{n}} {{version(n)}}" for n in {gateway.distributions!r}] + ["Python " + platform.python_version()]))"""
    run = [gateway.python, "-c", code]
    return subprocess.run(
        run, check=True, capture_output=True, text=True, env=clean_environment()
    ).stdout.strip()


def loads(quick: bool) -> list[Load]:
    few, many = (40, 120) if quick else (300, 1000)
    found = [Load(False, clients, few if clients == 1 else many) for clients in (1, 16, 64)]
    return found + [
        Load(True, clients, max(few // 3, 10) if clients == 1 else many // 2) for clients in (1, 16, 64)
    ]


def report(
    every: list[Running], direct: dict[Load, list[Cell]], imports: dict[str, float], starts: dict[str, float]
) -> str:
    """Markdown; ratios are to Herd, the first."""
    lines = [f"| | {' | '.join(here.gateway.name for here in every)} |", "|---|" + "---|" * len(every)]

    def row(title: str, values: list[float], form: str = "{:.2f}", ratio: bool = True) -> None:
        texts = [form.format(value) for value in values]
        for i, value in enumerate(values[1:], 1):
            texts[i] += f" ({value / values[0]:.1f} ×)" if ratio else ""
        lines.append(f"| {title} | {' | '.join(texts)} |")

    row("import, CPU s", [imports[here.gateway.name] for here in every])
    row("start to the first 200, s", [starts[here.gateway.name] for here in every])
    row("memory, idle, MiB", [here.idle for here in every], "{:.0f}")
    row("memory, after the load, MiB", [memory(here.process.pid) for here in every], "{:.0f}")
    for load, base in direct.items():
        row(f"**{load}**: CPU ms a request", [median(here.cells[load], lambda c: c.cpu) for here in every])
        row("good replies/s", [median(here.cells[load], lambda c: c.rate) for here in every], "{:.0f}")
        if any(cell.wrong for here in every for cell in here.cells[load]):
            row(
                "failed, of all rounds",
                [sum(c.wrong for c in here.cells[load]) for here in every],
                "{:.0f}",
                False,
            )
        if load.clients == 1:
            for i, point in enumerate(("p50", "p99")):
                what = "first text" if load.stream else "the reply"

                def added(here: Running, i: int = i, load: Load = load, base: list[Cell] = base) -> float:
                    pairs = zip(here.cells[load], base, strict=True)
                    return statistics.median(mine.first[i] - bare.first[i] for mine, bare in pairs)

                row(f"added to {what}, {point}, ms", [added(here) for here in every])
    own = ", ".join(f"{load}: {median(cells, lambda c: c.rate):.0f}/s" for load, cells in direct.items())
    return "\n".join([*lines, "", f"The provider by itself: {own}."])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--herd", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--litellm", metavar="PYTHON")
    parser.add_argument("--otari", metavar="PYTHON")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", type=Path, help="where the gateways' files lie")
    parser.add_argument("--quick", action="store_true", help="one round of few requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    gateways: list[Gateway] = [Herd(args.herd)]
    if args.litellm:
        gateways += (
            [LiteLLM(args.litellm)] if args.quick else [LiteLLM(args.litellm), LiteLLM(args.litellm, 2)]
        )
    if args.otari:
        gateways.append(Otari(args.otari))
    rounds = args.rounds or (1 if args.quick else 5)
    again = 1 if args.quick else 3
    port = free_port()
    upstream = f"http://127.0.0.1:{port}/v1"
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(child("upstream.py", str(port), str(GAP)))
        assert provider.stdout is not None
        provider.stdout.readline()
        generator = stack.enter_context(child("load.py"))
        imports = {g.name: statistics.median(import_seconds(g) for _ in range(again)) for g in gateways}
        times: dict[str, list[float]] = {g.name: [] for g in gateways}
        for gateway in gateways * (again - 1):
            with started(gateway, upstream, args.folder) as here:
                times[gateway.name].append(here.started)
        every = []
        for gateway in gateways:
            here = stack.enter_context(started(gateway, upstream, args.folder))
            times[gateway.name].append(here.started)
            here.key = gateway.key(here.url)
            every.append(here)
        for here in every:
            for stream in (False, True):
                measure(here, generator, Load(stream, 4, 40))
            here.idle = memory(here.process.pid)
        direct: dict[Load, list[Cell]] = {}
        for number in range(rounds):
            for load in loads(args.quick):
                print(f"round {number + 1} of {rounds}: {load}", file=sys.stderr)
                direct.setdefault(load, []).append(cell(ask(generator, upstream, "none", "mock", load), 0))
                for here in every[number % len(every) :] + every[: number % len(every)]:
                    measure(here, generator, load)
        head = f"{len(cores)} cores, Python {platform.python_version()}, rounds: {rounds}"
        print(f"{head}; a write is durable after {durable(args.folder):.2f} ms\n")
        starts = {name: statistics.median(found) for name, found in times.items()}
        print(report(every, direct, imports, starts) + "\n")
        for here in every:
            rows = f"{kept(here)} rows of {here.sent} requests" if here.gateway.rows else "keeps nothing"
            print(f"{here.gateway.name}: {versions(here.gateway)}; {rows}")
        if args.json:
            cells = {
                h.gateway.name: {str(load): [vars(c) for c in found] for load, found in h.cells.items()}
                for h in every
            }
            args.json.write_text(json.dumps({"imports": imports, "starts": times, "cells": cells}, indent=1))


@contextlib.contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / script), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
