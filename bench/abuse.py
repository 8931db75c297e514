"""What a server does under abuse: statuses, hangs, memory, and what others notice meanwhile. Prints one table.

    python bench/abuse.py [--quick] [--mutations 3000] [--seed 0]

Starts `herd serve` with cria on a free port, in a home of its own. Another process is the other user: a reply of four
tokens and /health, ten times a second. Exit status 1 if any answer was a 5xx, any client was left hanging, a place
stayed taken, or the second of two equal passes took memory that the first had not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import hostile
import machine
import numpy as np
import serving
from bodies import USER
from serving import Kept, Reply, Server, request, send

from herd.registry.registry import BUNDLED, Registry

LEAK = 48.0  # MiB that a second pass over the same bodies may add
TICK = 0.005  # seconds between two looks of the generator, in which requests leave and answers are read
CLEAN = 15.0  # seconds after which no place may still be taken by a client that has gone


@dataclass
class Row:
    """One kind of abuse: how its requests ended, and what another user and the processes' memory saw of it."""

    name: str
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    others: dict[str, list[float]] = field(default_factory=dict)  # seconds
    failed: int = 0  # of the other user's requests
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)  # before, after
    problems: list[str] = field(default_factory=list)

    def count(self, reply: Reply, what: str = "") -> None:
        kind = "hung" if reply.hung else f"{reply.status // 100}xx" if reply.status else "closed"
        self.statuses["429" if reply.status == 429 else kind] += 1
        self.slowest = max(self.slowest, reply.seconds)
        if reply.hung or reply.status >= 500:
            self.problems.append(f"{what or self.name}: {kind} {reply.body[:200]!r}")

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.statuses.items()))
        reply, health = (_percentiles(self.others.get(k, [])) for k in ("reply", "health"))
        grown = " / ".join(f"{after - before:+.0f}" for before, after in self.memory.values())
        return f"| {self.name} | {counts} | {self.seconds:.0f} | {self.slowest:.2f} | {reply} | {health} | {grown} |"


HEADER = (
    "| | answers | s | slowest, s | others' reply p50 / p99, ms | others' /health p50 / p99, ms "
    "| memory of server / engine, MiB |\n|---|---|---|---|---|---|---|"
)


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "–"
    middle, high = 1000 * np.percentile(seconds, [50, 99])
    return f"{middle:.0f} / {high:.0f}"


@contextlib.contextmanager
def watched(server: Server, name: str) -> Iterator[Row]:
    """A row whose other user and memory are measured around the block; afterwards no place may be taken."""
    row, before, began = Row(name), server.memory(), time.perf_counter()
    command = [sys.executable, serving.__file__, str(server.port)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield row
        row.seconds = time.perf_counter() - began
        seen = json.loads(other.communicate(timeout=2 * serving.HUNG)[0])
    finally:
        other.kill()
        other.wait()
    for kind, replies in seen.items():
        row.others[kind] = [seconds for status, seconds in replies if status == 200]
        row.failed += sum(status not in (200, 429) for status, _ in replies)
    if row.failed:
        row.problems.append(f"{name}: {row.failed} of the other user's requests failed")
    end = time.monotonic() + CLEAN
    while (left := server.engine())["running"] or left["waiting"]:
        if time.monotonic() > end:
            row.problems.append(
                f"{name}: {left['running']} running, {left['waiting']} waiting after {CLEAN:.0f} s"
            )
            break
        time.sleep(0.1)
    after = server.memory()
    row.memory = {process: (before[process], after.get(process, 0.0)) for process in before}
    if set(after) != set(before) or server.processes().get("engine") != server.processes().get("engine"):
        row.problems.append(f"{name}: a process is gone")
    print(row, flush=True)


async def several(server: Server, requests: Iterable[tuple[str, bytes]], row: Row, at_once: int) -> None:
    """Send all, so many at a time."""
    waiting = iter(requests)

    async def client() -> None:
        for name, raw in waiting:
            row.count(await send(server.port, raw), name)

    await asyncio.gather(*(client() for _ in range(at_once)))


async def slow_readers(server: Server, row: Row, count: int, seconds: float) -> None:
    """Clients with small buffers that ask for long streams and read a byte a second, then go."""
    loop = asyncio.get_running_loop()
    body = {"model": "cria", "prompt": "Once upon a time", "max_tokens": 1500, "stream": True}

    async def reader() -> None:
        with socket.socket() as s:
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await loop.sock_connect(s, ("127.0.0.1", server.port))
            await loop.sock_sendall(s, request("POST", "/v1/completions", body))
            head, end = b"", time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    async with asyncio.timeout(1):
                        head = head or await loop.sock_recv(s, 12)
                        await loop.sock_recv(s, 1)
                except (TimeoutError, OSError):
                    pass
                await asyncio.sleep(1)
            row.count(Reply(int(head[9:12] or 0), b"", 0.0))

    await asyncio.gather(*(reader() for _ in range(count)))


async def drop(server: Server, row: Row, count: int, at_once: int) -> None:
    """Connect and go: without a word, in the middle of a head or a body, after a request, or with a reset."""
    body = request("POST", "/v1/chat/completions", {"model": "cria", "messages": USER, "stream": True})
    endings = itertools.cycle((b"", body[:40], body[:-10], body))
    numbers = iter(range(count))

    async def client() -> None:
        for i in numbers:
            try:
                async with asyncio.timeout(serving.HUNG):
                    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    writer.write(next(endings))
                    if i % 2:
                        linger = struct.pack("ii", 1, 0)  # a reset instead of an end
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, linger
                        )
                    writer.transport.abort()
                row.statuses["dropped"] += 1
            except OSError as error:
                row.statuses[type(error).__name__] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))


@dataclass
class Load:
    """One run of the generator: tokens of complete replies a second, and what the refusals took at the server, in ms."""

    goodput: float
    statuses: Counter[int]
    refusals: list[float]


def generate(server: Server, rate: float, seconds: float, tokens: int) -> Load:
    """Requests at random times (Poisson), `rate` a second, whatever becomes of the earlier ones; the first fifth is not counted."""
    due = np.cumsum(np.random.default_rng(1).exponential(1 / rate, int(2 * rate * seconds)))
    due = due[due < seconds]
    bodies = ({"model": "cria", "messages": USER, "max_tokens": tokens, "seed": i} for i in range(len(due)))
    raw = deque(  # made beforehand: this process shares the server's CPUs
        request("POST", "/v1/chat/completions", body, Connection="keep-alive") for body in bodies
    )
    kept, since, began = Kept(server.port), server.log.stat().st_size, time.perf_counter()
    done, sent, statuses = 0, 0, Counter[int]()
    while (now := time.perf_counter() - began) < seconds:
        for _ in range(sent, sent := int(np.searchsorted(due, now))):
            kept.ask(raw.popleft())
        for status, body in kept.answers():
            if now > seconds / 5:
                statuses[status] += 1
                if status == 200:
                    done += json.loads(body)["usage"]["completion_tokens"]
        time.sleep(TICK)
    kept.close()
    return Load(done / (0.8 * seconds), statuses, server.refusals(429, since))


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


async def capacity(server: Server, count: int, tokens: int) -> float:
    """Requests a second that 64 clients get answered, each asking again as soon as it has its answer."""
    body = {"model": "cria", "messages": USER, "max_tokens": tokens}
    raw = [("", request("POST", "/v1/chat/completions", {**body, "seed": i})) for i in range(count)]
    began = time.perf_counter()
    await several(server, raw, Row("capacity"), at_once=64)
    return count / (time.perf_counter() - began)


def overload(server: Server, rounds: int, seconds: float) -> list[str]:
    """The generator at capacity and at ten times that, by turns: what else the machine does counts for both."""
    tokens = 256
    rate = asyncio.run(capacity(server, int(10 * seconds), tokens))
    runs: dict[int, list[Load]] = {1: [], 10: []}
    problems = []
    for _ in range(rounds):
        for times, loads in runs.items():
            name = f"load × {times}: {times * rate:.0f} requests a second, {tokens} tokens"
            with watched(server, name) as row:
                run = generate(server, times * rate, seconds, tokens)
                row.statuses = Counter({f"× {status}": n for status, n in run.statuses.items()})
            loads.append(run)
            if bad := {s: n for s, n in run.statuses.items() if s not in (200, 429)}:
                problems.append(f"{row.name}: {bad}")
            problems += row.problems
    one, ten = (float(np.median([run.goodput for run in loads])) for loads in runs.values())
    pairs = ", ".join(share(b.goodput, a.goodput) for a, b in zip(*runs.values(), strict=True))
    refusals = [ms for run in runs[10] for ms in run.refusals]
    late = np.percentile(refusals, 95) if refusals else float("nan")
    print(
        f"\n10 × overload: {ten:,.0f} tokens/s of complete replies, {share(ten, one)} of the {one:,.0f} at 1 × (medians; "
        f"by pairs {pairs}); {len(refusals):,} × 429, p95 {late:.0f} ms at the server\n"
    )
    return problems


TEMPLATES = {
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "greedy": "{% set a = namespace(s='a' * 1000) %}{% for i in range(60) %}{% set a.s = a.s ~ a.s %}{% endfor %}",
    "raising": "{{ raise_exception('no') }}",
    "prying": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


def hostile_models(home: Path) -> list[tuple[str, bytes]]:
    """Models like cria, but for a chat template that is a bomb; and a request to each."""
    requests = []
    for name, template in TEMPLATES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            shutil.copytree(BUNDLED / "models" / "cria" / "1", folder)
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            settings.pop("chat_template", None)
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            (folder / "chat_template.jinja").write_text(template)
            Registry(home).add(folder, name, kind="model", licence="Apache-2.0")
        requests += [(f"template: {name}", hostile.chat(model=name))] * 8
    return requests


def warm_up(server: Server) -> None:
    """Fill what fills once: the cache of keys and values, pools of threads."""
    body = {"model": "cria", "messages": USER, "max_tokens": 300}
    raw = [("warm-up", request("POST", "/v1/chat/completions", {**body, "seed": i})) for i in range(200)]
    asyncio.run(several(server, raw, Row("warm-up"), at_once=64))


def run(server: Server, templates: list[tuple[str, bytes]], args: argparse.Namespace) -> Iterator[Row]:
    """All kinds of abuse, the mildest first."""
    quick = args.quick
    with watched(server, "nothing") as row:
        time.sleep(5 if quick else 20)
    yield row
    count, seconds = (50, 5) if quick else (200, 30)
    with watched(server, f"{count} slow readers") as row:
        asyncio.run(slow_readers(server, row, count, seconds))
    yield row
    count = 1000 if quick else 10_000
    with watched(server, f"{count:,} connect and drop") as row:
        asyncio.run(drop(server, row, count, at_once=50))
    yield row
    kinds = {
        "malformed": list(hostile.malformed()),
        "bombs": list(hostile.bombs()),
        "template bombs": templates,
    }
    for name, requests in kinds.items():
        with watched(server, f"{name}: {len(requests)}") as row:
            asyncio.run(several(server, requests, row, at_once=4))
        yield row
    count = args.mutations or (300 if quick else 3000)
    for again in ("", ", again"):
        with watched(server, f"{count:,} mutated bodies{again}") as row:
            asyncio.run(several(server, hostile.mutated(count, args.seed), row, at_once=8))
        if again:
            row.problems += [
                f"{row.name}: the {process} took {after - before:.0f} MiB more"
                for process, (before, after) in row.memory.items()
                if after - before > LEAK
            ]
        yield row


def logged(server: Server) -> Counter[str]:
    """The last lines of the tracebacks in the server's log."""
    found, inside = Counter[str](), False
    for line in server.log.read_text(errors="replace").splitlines():
        if inside and line and not line.startswith(" "):
            found[line[:300]] += 1
        inside = line.startswith("Traceback") or (inside and line.startswith(" "))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--mutations", type=int, metavar="N", help="mutated bodies in each of the two passes")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{machine.describe()}; herd {version('openherd')}, cria\n")
    problems = []
    with Server() as server:
        templates = hostile_models(server.home)
        warm_up(server)
        print(HEADER)
        for row in run(server, templates, args):
            problems += row.problems
        problems += overload(server, *((1, 8) if args.quick else (5, 20)))
        problems += [f"in the log {n} ×: {error}" for error, n in logged(server).items()]
    print("\n".join(problems) or "no 5xx, no hang, no place kept, no growth")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
