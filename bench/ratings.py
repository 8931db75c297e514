"""How fast ratings and their intervals come from 1.7 million votes, beside evalica, arena-rank and logistic regression.

    python bench/ratings.py [--peers peers/bin/python] [--votes 1700000] [--targets 130] [--rounds 7]

The same made votes for all (a Zipf-like choice of targets, 30 % ties, none both bad), in double precision; threads as
OMP_NUM_THREADS says, one unless set. Rounds are interleaved, so that all meet the same machine; medians are printed,
and how far the scores and the widths of the intervals agree. The logistic regression takes a minute and runs once.
bench/peers/README.md says how to make the peers' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np  # noqa: E402  (it reads the number of threads when it loads)

from herd.evidence.ratings import SCALE, points, rate, rate_clustered  # noqa: E402
from herd.evidence.style import rate_styled  # noqa: E402
from herd.evidence.votes import Votes  # noqa: E402

PEERS = {  # name in peers/raters.py: rounds that it takes at most
    "evalica": 99,
    "arena-rank, rows": 99,
    "arena-rank, its aggregated rows": 99,
    "logistic regression, 100 bootstraps": 1,
}
RATER = Path(__file__).parent / "peers" / "raters.py"


def made(n: int, k: int, seed: int = 0) -> Votes:
    rng = np.random.default_rng(seed)
    theta = rng.normal(0, 100, k) / SCALE
    popular = 1 / np.arange(5, k + 5)
    a = rng.choice(k, n, p=popular / popular.sum())
    b = (a + rng.integers(1, k, n)) % k
    chance = 1 / (1 + np.exp(theta[b] - theta[a]))
    tie = np.minimum(0.3, 1.8 * np.minimum(chance, 1 - chance))
    u = rng.random(n)
    outcome = np.where(u < tie, 2, np.where(u < tie / 2 + chance, 0, 1))
    return Votes.of([f"target {i}" for i in range(k)], a, b, outcome, voter=rng.integers(0, n // 20 + 1, n))


class Peers:
    """raters.py in a process of its own, spoken to line by line."""

    def __init__(self, python: str, file: str) -> None:
        environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH="")
        environment["XLA_FLAGS"] = (
            f"--xla_cpu_multi_thread_eigen={int(os.environ['OMP_NUM_THREADS']) > 1}".lower()
        )
        self.process = subprocess.Popen(
            [python, str(RATER), file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.versions = self._read()

    def _read(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peers' process ended")
        answer: dict[str, object] = json.loads(line)
        return answer

    def rate(self, name: str) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="a Python that has the peers")
    parser.add_argument("--votes", type=int, default=1_700_000)
    parser.add_argument("--targets", type=int, default=130)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    votes = made(args.votes, args.targets)
    counts = votes.counts()
    ratings = rate(counts)
    features = np.random.default_rng(1).gamma(2, 100, (len(votes), 2, 4))
    herd: dict[str, Callable[[], object]] = {
        "Herd, from counts": lambda: rate(counts),
        "Herd, from rows": lambda: rate(votes.counts()),
        "Herd, from rows, by voter": lambda: rate_clustered(votes, "voter"),
        "Herd, from rows, style held equal": lambda: rate_styled(votes, features),
        "Herd, after one more vote": lambda: points(counts, ratings.rating),
    }
    once = {"Herd, from rows, by voter": 3, "Herd, from rows, style held equal": 2}
    print(f"{platform.processor() or platform.machine()}, {os.environ['OMP_NUM_THREADS']} threads, float64")
    print(
        f"herd {version('openherd')}, numpy {np.__version__}, scipy {version('scipy')}, Python {platform.python_version()}"
    )
    print(f"{len(votes):,} votes among {args.targets} targets")

    seconds: dict[str, list[float]] = {}
    answers: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        peers = None
        if args.peers:
            file = f"{folder}/votes.npz"
            np.savez(file, k=args.targets, a=votes.a, b=votes.b, outcome=votes.outcome)
            peers = Peers(args.peers, file)
            print("peers:", ", ".join(f"{name} {number}" for name, number in peers.versions.items()))
        for i in range(args.rounds + 1):  # the first warms up and compiles
            for label, work in herd.items():
                if i <= once.get(label, args.rounds):
                    began = time.perf_counter()
                    work()
                    if i:
                        seconds.setdefault(label, []).append(time.perf_counter() - began)
            for name, most in PEERS.items() if peers else ():
                if (i or most > 1) and i <= most:
                    answers[name] = peers.rate(name)  # type: ignore[union-attr]
                    if i:
                        seconds.setdefault(name, []).append(float(answers[name]["seconds"]))  # type: ignore[arg-type]
        if peers:
            peers.close()

    half = (ratings.high - ratings.low) / 2
    base = statistics.median(seconds["Herd, from rows"])
    print(f"\n{'':38}{'ms':>11}{'/ Herd, rows':>14}{'scores differ by':>18}{'widths':>9}")
    for label, took in seconds.items():
        median = statistics.median(took)
        line = f"{label:38}{1000 * median:11,.1f}{median / base:14,.2f}"
        if label in answers:
            found = answers[label]
            line += f"{np.abs(np.array(found['points']) - ratings.rating).max():12.1e} pts"
            if found["half"] is not None:
                line += f"{'':2}×{np.median(np.array(found['half']) / half):9.3f}"
        print(line)


if __name__ == "__main__":
    main()
