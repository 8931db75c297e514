"""What the arrival of a long prompt does to replies that are being written, beside peers in the same run.

    python bench/arrival.py --peers PYTHON [--shape llama-3.2-1b|llama-125m|cria]

Four replies are under way when a prompt of 4,000 tokens comes. For each engine: the time between a reply's tokens while it
is read, and between the same tokens when no prompt comes; and how long it was read. Engines, weights and processes as in serve_cpu.py.
"""

from __future__ import annotations

import sys

import machine
import numpy as np
from serve_cpu import GROUPS, System, convert, prompts
from shapes import SHAPES, checkpoint, options

PROMPT, STREAMS = 4000, 4
# When the prompt comes, in seconds, and the tokens of each reply: those before it, and about those while it is read.
PLANS = {"cria": (0.5, 3000), "llama-125m": (2.0, 1200), "llama-3.2-1b": (4.0, 480)}
LEAST = 8  # times between tokens, to say anything


def measure(system: System, shape: str) -> str:
    at, new = PLANS[shape]
    vocab = SHAPES[shape].vocab_size
    replies = [(0.0, row, new) for row in prompts(STREAMS, 32, vocab, 1)]
    system.ask(job="fixed", prompts=prompts(STREAMS, 32, vocab, 2), steps=20)  # warm up
    alone = system.ask(job="mixed", requests=replies)
    times = system.ask(job="mixed", requests=[*replies, (at, prompts(1, PROMPT, vocab, 3)[0], 1)])
    if not alone or not times:
        return f"| {system.title} | {system.problem} |"
    *times, [read] = times
    # The same tokens of the same replies, as contexts that grow make steps longer by themselves.
    meant = [(i, j) for i, t in enumerate(times) for j in range(1, new) if t[j] > at and t[j - 1] < read]
    if len(meant) < LEAST:
        return f"| {system.title} | only {len(meant)} tokens came meanwhile |"
    before, during = ([1000 * (t[i][j] - t[i][j - 1]) for i, j in meant] for t in (alone, times))
    (b50, b95), (d50, d95, d99) = np.percentile(before, [50, 95]), np.percentile(during, [50, 95, 99])
    cells = " | ".join(f"{x:,.1f}" for x in (b50, b95, d50, d95, d99, max(during)))
    return f"| {system.title} | {cells} | {d95 / b95:.2f} | {read - at:,.1f} |"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    args = parser.parse_args()
    print(machine.describe(), flush=True)
    for shape in args.shape or SHAPES:
        folder = checkpoint(shape, args.cache).parent
        systems = [System(*key) for group in GROUPS.values() for key in group if key[0] != "transformers"]
        convert(args.peers, folder, systems)
        print(f"\n{shape}: milliseconds between tokens, and seconds until the prompt was read\n")
        print("| | without, p50 | p95 | with it, p50 | p95 | p99 | longest | p95, ratio | read in, s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for system in systems:
            system.start(sys.executable if system.name == "herd" else args.peers, folder)
            print(measure(system, shape), flush=True)
            system.stop()


if __name__ == "__main__":
    main()
