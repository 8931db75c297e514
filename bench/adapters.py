"""What adapters cost: 16 replies at once with no adapter, with one for all, and with 16 different ones.

    python bench/adapters.py [--shape llama-3.2-1b|llama-125m|cria] [--rank 16]

Random weights of 8 bits and random LoRA adapters on all seven products of each layer; the engine in process, greedy,
speculation off, the three cases by turns, medians of rounds. No peer here mixes adapters in a batch on a CPU:
llama.cpp's are the context's, OpenVINO's static or the pipeline's.
"""

from __future__ import annotations

import statistics
import time

import machine
import torch
from serve_cpu import prompts
from shapes import SHAPES, checkpoint, options, weight_bytes

from herd.engine import pace
from herd.engine.engine import Engine
from herd.engine.loading import open_engine
from herd.engine.step import Adapter
from herd.model.config import Config
from herd.model.llama import Linear, Llama
from herd.protocol.types import Delta, Request, Sampling

STREAMS, STEPS = 16, {"cria": 100, "llama-125m": 24, "llama-3.2-1b": 8}


def adapter(config: Config, rank: int, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        layers = Llama(config).named_modules()
    shapes = {n: m.weight.shape for n, m in layers if isinstance(m, Linear) and n.startswith("layers.")}
    a = {n: torch.randn(rank, k, generator=generator) / k**0.5 for n, (_, k) in shapes.items()}
    b = {n: torch.randn(size, rank, generator=generator) * 0.01 for n, (size, _) in shapes.items()}
    return Adapter(1.0, a, b)


def rate(engine: Engine, adapters: list[Adapter | None], steps: int, seed: int) -> float:
    """Tokens a second of all replies together, once all have begun."""
    rows = prompts(STREAMS, 32, engine.runner.config.vocab_size, seed)
    sampling = Sampling(temperature=0, max_tokens=2 * steps + 2 * STREAMS)
    for i, (row, one) in enumerate(zip(rows, adapters, strict=True)):
        engine.submit(str(i), Request("", "completion", prompt=tuple(row), sampling=sampling), adapter=one)
    begun: set[str] = set()
    while len(begun) < STREAMS:
        begun |= {id for id, event in engine.step() if isinstance(event, Delta)}
    began, made = time.perf_counter(), 0
    for _ in range(steps):
        made += sum(len(event.tokens) for _, event in engine.step() if isinstance(event, Delta))
    seconds = time.perf_counter() - began
    for i in range(STREAMS):
        engine.cancel(str(i))
    while not engine.idle:
        engine.step()
    return made / seconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    pace.MAX_DRAFT = 0
    print(f"{machine.describe()}; {STREAMS} replies, rank {args.rank}\n")
    print("| | one adapter's share of the weights' bytes | none | one | 16 | cost of one | of 16 |")
    print("|---|---|---|---|---|---|---|")
    for shape in args.shape or SHAPES:
        engine = open_engine(checkpoint(shape, args.cache), weights="int8")
        config = engine.runner.config
        made = [adapter(config, args.rank, i) for i in range(STREAMS)]
        cases: list[list[Adapter | None]] = [[None] * STREAMS, [made[0]] * STREAMS, [*made]]
        found = [[rate(engine, case, STEPS[shape], i) for case in cases] for i in range(args.rounds + 1)]
        none, one, many = (statistics.median(rates) for rates in zip(*found[1:], strict=True))
        size = 2 * sum(t.numel() for half in (made[0].a, made[0].b) for t in half.values())
        share = size / weight_bytes(config, "int8")
        cells = (
            f"{share:.1%}",
            *(f"{x:,.0f}" for x in (none, one, many)),
            f"{1 - one / none:.0%}",
            f"{1 - many / none:.0%}",
        )
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
