"""How fast Herd pretrains on this CPU, beside `transformers.Trainer` and a loop in nanoGPT's manner, in one run.

    python bench/train_cpu.py [--shape cria-cpu] [--shape llama-125m] [--rounds 5]

The same rows of random tokens for all (each row one document), fp32 weights, products in bf16 (in fp32 where the CPU can
only emulate that), AdamW, gradient clipping; each system eager and compiled. Rounds are interleaved, so that all meet the
same machine; medians are printed, and Herd's best beside the best of the others. cria-cpu is the shape of
recipes/cria-cpu, llama-125m MobileLLM-125M's (Liu et al. 2024).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from peers import hf_trainer, plain_loop

from herd.data.shards import ShardWriter
from herd.model import hf
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.tokenizer import train_bpe
from herd.train.loop import Trainer, emulates_bf16
from herd.train.recipe import Model, Recipe, Source

LENGTH = 512
BF16 = not emulates_bf16(torch.device("cpu"))
SHAPES = {  # configuration, rows a step, steps a round
    "cria-cpu": (Config(8192, 256, 5, 4, 2, 64, 704), 16, 4),
    "llama-125m": (Config(32_000, 576, 30, 9, 3, 64, 1536), 4, 2),
}
Round = Callable[[int], list[float]]  # seconds of each of so many steps


def timed(step: Callable[[], object]) -> Round:
    def round_(steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        return seconds

    return round_


def herd_round(c: Config, rows: torch.Tensor, batch: int, folder: Path, *, compiled: bool) -> Round:
    init, shards = folder / "init", folder / "shards"
    if not init.is_dir():
        model = Llama(c)
        model.init_weights(0)
        hf.save(model, init, tokenizer=train_bpe(["a b c"], 280))
        writer = ShardWriter(shards, "uint16", masked=False, header={})
        writer.add("random", rows.flatten().numpy(), np.full(len(rows), rows.shape[1]))
        writer.close()
    recipe = Recipe(
        name="bench",
        objective="pretrain",
        data=[Source(str(shards))],
        steps=1_000_000,
        model=Model(init=str(init)),
        batch=batch,
        seq_len=LENGTH,
        compile=compiled,
    )
    return timed(Trainer(recipe, folder / f"run-{compiled}").train_step)


def systems(c: Config, batch: int, folder: Path) -> dict[str, Round]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(c.vocab_size, (batch * 16, LENGTH), generator=generator)

    def batches() -> torch.Tensor:
        return torch.randint(c.vocab_size, (batch, LENGTH + 1), generator=generator)

    built: dict[str, Round] = {}
    for compiled in (False, True):
        how = "compiled" if compiled else "eager"
        built[f"Herd, {how}"] = herd_round(c, rows, batch, folder, compiled=compiled)
        peer = hf_trainer.Peer(c, rows, batch, folder / "trainer", bf16=BF16, compiled=compiled)
        built[f"transformers.Trainer, {how}"] = peer.run
        loop = plain_loop.stepper(c, batches, LENGTH, bf16=BF16, compiled=compiled)
        built[f"nanoGPT-style loop, {how}"] = timed(loop)
    return built


def measure(name: str, rounds: int) -> None:
    config, batch, steps = SHAPES[name]
    print(f"\n{name}: {config.parameters / 1e6:.1f} M parameters, {batch} × {LENGTH} tokens a step")
    with TemporaryDirectory() as folder:
        built = systems(config, batch, Path(folder))
        seconds: dict[str, list[float]] = {label: [] for label in built}
        for i in range(rounds + 1):
            for label, round_ in built.items():
                took = round_(steps if i else 2)
                if i:  # the first round compiles and warms up
                    seconds[label] += took
    rate = {label: batch * LENGTH / statistics.median(s) for label, s in seconds.items()}
    for label, value in sorted(rate.items(), key=lambda item: -item[1]):
        print(f"{label:32}{value:10,.0f} tokens/s", flush=True)
    best = max(v for label, v in rate.items() if label.startswith("Herd"))
    print(
        f"Herd's best / the best of the others: {best / max(v for k, v in rate.items() if not k.startswith('Herd')):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,"
        f" {'bf16' if BF16 else 'fp32'} on fp32 weights"
    )
    print(
        f"herd {version('openherd')}, torch {torch.__version__}, transformers {transformers.__version__},"
        f" Python {platform.python_version()}"
    )
    for shape in args.shape or SHAPES:
        measure(shape, args.rounds)


if __name__ == "__main__":
    main()
