"""How fast Herd reads prompts and writes replies on this CPU, beside its peers in the same run.

    python bench/serve_cpu.py --peers PYTHON [--shape llama-3.2-1b|llama-125m|cria] [--quick | --rounds N] [--json FILE]

The same random weights for all, written once to --cache and converted there; tables compare equal precisions. PYTHON
has the peers installed (bench/peers/README.md); without it, or where a peer is missing or crashes, its column says so.
Every engine is a process of its own, driven without HTTP, one at a time, on all cores; rounds are interleaved, so that
all meet the same machine; medians are printed, with their share of what this machine measured in this run can do.

Prefill: tokens a second of one prompt. Decode: tokens a second of all streams together, greedy, after prompts of 32
tokens (8 with --quick), with the head's logits and the choice of the token in it. Mixed: prompts that arrive at
random (Poisson) while others run; time to first token, and time between tokens. Herd's speculation is off: random
weights repeat themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from shapes import SHAPES, checkpoint, options, products, weight_bytes

from herd.model.config import Config

PEERS = Path(__file__).parent / "peers"
PREFILL, STREAMS = (128, 512, 2048), (1, 4, 16, 32)
READING = 0.3  # seconds
ANSWER = 300.0  # seconds that a child may take for one job


@dataclass(frozen=True)
class Plan:
    """rounds; the mixed load: so many requests a second, longest prompt, new tokens; decoding: steps, length of prompts."""

    rounds: int
    steps: int
    requests: int
    rate: float
    longest: int
    new: int
    prompt: int = 32


PLANS = {
    "cria": Plan(7, 64, 100, 20.0, 512, 32),
    "llama-125m": Plan(5, 32, 60, 4.0, 512, 32),
    "llama-3.2-1b": Plan(2, 12, 16, 0.6, 256, 16),
}


@dataclass
class System:
    """An engine with weights of one precision: what is measured of it, and why it is not if it is not."""

    name: str  # of bench/peers/run_<name>.py
    precision: str
    problem: str = ""
    versions: str = ""
    process: subprocess.Popen[str] | None = None
    results: dict[str, list[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.name.replace('_', '.').replace('herd', 'Herd')} {self.precision}"

    def start(self, python: str, folder: Path) -> None:
        log = open(folder / f"{self.name}-{self.precision}.log", "w")
        command = [python, str(PEERS / "child.py"), self.name, self.precision, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.log = Path(log.name)
        if said := self._read():
            self.versions = said["versions"]

    def ask(self, **job: Any) -> Any:
        """The child's answer; None once it is dead."""
        if self.process is None or self.process.stdin is None:
            return None
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
        except OSError:
            pass
        return self._read()

    def _read(self) -> Any:
        assert self.process and self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
        last = lines[-1].strip() if lines else f"exit status {self.process.poll()}"
        self.problem = last if ready else f"no answer in {ANSWER:.0f} s"
        self.stop()
        return None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


GROUPS = {  # Herd first, then its peers at the same precision
    "16 bits": (("herd", "bf16"), ("llama_cpp", "f16"), ("transformers", "bf16")),
    "8 bits": (("herd", "int8"), ("llama_cpp", "q8_0"), ("openvino", "int8")),
    "4 bits": (("herd", "int4"), ("llama_cpp", "q4_0"), ("openvino", "int4")),
}
# The rows in which a peer was the best, at some shape, in the whole runs of docs/benchmarks.md: all that --quick asks of it.
_READING, _FEW, _MANY = (
    ("prefill 128", "prefill 512", "prefill 2,048"),
    ("decode, 1", "decode, 4"),
    ("decode, 16", "decode, 32"),
)
BEST: dict[tuple[str, str], tuple[str, ...]] = {
    ("llama_cpp", "f16"): (*_READING, *_FEW, *_MANY, "mixed"),
    ("llama_cpp", "q8_0"): (*_FEW, "decode, 16"),
    ("llama_cpp", "q4_0"): ("prefill 128", *_FEW, *_MANY, "mixed"),
    ("transformers", "bf16"): (*_READING, *_MANY, "mixed"),
    ("openvino", "int8"): (*_READING, *_FEW, *_MANY, "mixed"),
    ("openvino", "int4"): (*_READING, *_FEW, *_MANY, "mixed"),
}


def prompts(count: int, length: int, vocab: int, seed: int) -> list[list[int]]:
    rows: list[list[int]] = np.random.default_rng(seed).integers(vocab, size=(count, length)).tolist()
    return rows


def arrivals(plan: Plan, vocab: int) -> list[tuple[float, list[int], int]]:
    """The mixed load, the same for all: exponential gaps, lengths of prompts uniform in their logarithm."""
    rng = np.random.default_rng(7)
    times = rng.exponential(1 / plan.rate, plan.requests).cumsum()
    lengths = np.exp(rng.uniform(np.log(16), np.log(plan.longest), plan.requests)).astype(int)
    rows = [rng.integers(vocab, size=n).tolist() for n in lengths]
    return [(float(at), row, plan.new) for at, row in zip(times, rows, strict=True)]


def prefill(system: System, length: int, vocab: int, seed: int) -> None:
    """The median of prompts one after the other for a while: a short one alone would tell how soon a core wakes."""
    rates: list[float] = []
    end = time.monotonic() + READING
    while not rates or time.monotonic() < end:
        answer = system.ask(job="fixed", prompts=prompts(1, length, vocab, 1000 * seed + len(rates)), steps=0)
        if not answer:
            return
        rates.append(length / answer["read"])
    system.results.setdefault(f"prefill {length:,}", []).append(statistics.median(rates))


def decode(system: System, streams: int, plan: Plan, vocab: int, seed: int) -> None:
    rows = prompts(streams, plan.prompt, vocab, seed)
    if answer := system.ask(job="fixed", prompts=rows, steps=plan.steps):
        rate = answer["tokens"] / answer["rest"]
        system.results.setdefault(f"decode, {streams}", []).append(rate)


MIXED = ("first token, p50", "first token, p99", "between tokens, p99")


def mixed(system: System, requests: list[tuple[float, list[int], int]]) -> None:
    if times := system.ask(job="mixed", requests=requests):
        first = [t[0] - at for t, (at, _, _) in zip(times, requests, strict=True)]
        gaps = [later - earlier for t in times for earlier, later in zip(t, t[1:], strict=False)]
        values = (*np.percentile(first, [50, 99]), np.percentile(gaps, 99))
        for name, value in zip(MIXED, values, strict=True):
            system.results.setdefault(name, []).append(1000 * float(value))


def share(case: str, value: float, precision: str, config: Config, limits: machine.Limits) -> str:
    """A rate's share of the most that memory and products allow; nothing for weights that caches may hold."""
    wide = precision in ("bf16", "f16")
    peak = limits.bf16 if wide else limits.int8
    kind, _, count = case.replace(",", "").partition(" ")
    size = weight_bytes(config, precision)
    if kind == "prefill":
        most = peak * int(count) / products(config, int(count))
    elif kind == "decode" and size > 64 << 20:
        most = min(int(count) * limits.bandwidth / size, peak / (2 * config.parameters))
    else:
        return ""
    return f" ({value / most:.0%})"


def table(group: list[System], config: Config, limits: machine.Limits) -> Iterable[str]:
    yield "| | " + " | ".join(s.title for s in group) + " | Herd / best peer |"
    yield "|---" * (len(group) + 2) + "|"
    for case in dict.fromkeys(case for s in group for case in s.results):
        medians = {s.title: statistics.median(s.results[case]) for s in group if case in s.results}
        slower_is_more = case in MIXED
        cells = []
        for s in group:
            value = medians.get(s.title)
            unit = " ms" if slower_is_more else ""
            shown = "–" if value is None else f"{value:,.{0 if value >= 100 else 1}f}{unit}"
            cells.append(shown + (share(case, value, s.precision, config, limits) if value else ""))
        peers = [medians[s.title] for s in group[1:] if s.title in medians]
        ratio = ""
        if group[0].title in medians and peers:
            mine, theirs = medians[group[0].title], (min if slower_is_more else max)(peers)
            ratio = f"{theirs / mine if slower_is_more else mine / theirs:.2f}"
        yield f"| {case} | " + " | ".join(cells) + f" | {ratio} |"
    for s in group:
        if s.problem:
            yield f"\n{s.title}: {s.problem}"


def convert(python: str, folder: Path, systems: list[System]) -> None:
    """The peers' files. llama.cpp's quantiser starts from bf16."""
    wanted = [s.precision for s in systems if s.name in ("llama_cpp", "openvino")]
    if wanted:
        with open(folder / "convert.log", "w") as log:
            for precision in ["bf16", *wanted]:
                command = [python, str(PEERS / "convert.py"), str(folder), precision]
                subprocess.run(command, stdout=log, stderr=log, check=False)


def measure(name: str, args: argparse.Namespace, limits: machine.Limits) -> dict[str, Any]:
    config, plan, quick = SHAPES[name], PLANS[name], args.quick
    if quick:
        plan = replace(plan, rounds=1, requests=plan.requests // 3, prompt=8)
    folder = checkpoint(name, args.cache).parent
    groups = {title: [System(*key) for key in keys] for title, keys in GROUPS.items()}
    systems = [s for group in groups.values() for s in group]
    began = time.perf_counter()
    convert(args.peers, folder, systems)
    rounds = args.rounds or plan.rounds
    cases: dict[str, Callable[[System, int], None]] = {
        f"prefill {n:,}": lambda s, seed, n=n: prefill(s, n, config.vocab_size, seed)  # type: ignore[misc]
        for n in PREFILL
    }
    cases |= {
        f"decode, {n}": lambda s, seed, n=n: decode(s, n, plan, config.vocab_size, seed)  # type: ignore[misc]
        for n in STREAMS
    }

    def asked(s: System, case: str) -> bool:
        return not quick or s.name == "herd" or case in BEST[s.name, s.precision]

    def told(what: str) -> None:
        print(f"{time.perf_counter() - began:5.0f} s  {name}: {what}", file=sys.stderr, flush=True)

    load = arrivals(plan, config.vocab_size)
    try:
        for s in systems:
            told(f"{s.title} starts")
            s.start(sys.executable if s.name == "herd" else args.peers, folder)
            for case in ("prefill 128", "decode, 4"):
                cases[case](s, 0)  # warm up
            s.results.clear()
        for i in range(rounds):
            for j, case in enumerate(cases):
                told(f"round {i + 1} of {rounds}, {case}")
                at = (i + j) % len(systems)
                for s in [s for s in systems[at:] + systems[:at] if asked(s, case)]:
                    cases[case](s, i + 1)
        for s in systems:
            if asked(s, "mixed"):
                told(f"mixed load, {s.title}")
                mixed(s, load)
    finally:
        for s in systems:
            s.stop()
    print(f"\n### {name}: {config.parameters / 1e6:.1f} M parameters, rounds: {rounds}\n")
    print(f"Mixed: {plan.requests} requests, {plan.rate:g} a second, {plan.new} new tokens each.")
    for title, group in groups.items():
        print(f"\nWeights of {title}, tokens/s (share of the machine's limit):\n")
        print("\n".join(table(group, config, limits)), flush=True)
    for line in sorted({s.versions for s in systems if s.versions}):
        print(f"\n{line}", end="")
    print()
    return {s.title: {"results": s.results, "problem": s.problem, "versions": s.versions} for s in systems}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, shorter prompts before replies, a third of the mixed load, Herd and each row's best peer",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="in place of each shape's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, too")
    args = parser.parse_args()
    began = time.perf_counter()
    limits = machine.measure()
    print(f"{machine.describe()}; {limits}", flush=True)
    found = {shape: measure(shape, args, limits) for shape in args.shape or SHAPES}
    if args.json:
        args.json.write_text(json.dumps({"limits": vars(limits), "cores": os.cpu_count(), **found}, indent=1))
    print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
