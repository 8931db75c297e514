"""How fast Herd reads prompts and writes replies on this CPU, beside `transformers` in the same run.

    python bench/serve_cpu.py [--shape cria] [--shape llama-3.2-1b] [--quick]

Random weights in bf16. Prefill: tokens a second of one 512-token prompt. Decode: tokens a second, all streams together,
greedy, after prompts of 64 tokens. `transformers` gets its best settings here: bf16, SDPA attention, a dynamic cache,
one padless batch. Rounds are interleaved, so that both meet the same machine; medians are printed.
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

import tokenizers
import torch
import transformers

from herd.engine.engine import Engine, drain
from herd.engine.packed import pack
from herd.model import hf
from herd.model.config import Config, RopeScaling
from herd.model.llama import Llama
from herd.model.tokenizer import train_bpe
from herd.protocol.types import Delta, Request, Sampling

SHAPES = {
    "cria": Config(8192, 256, 5, 4, 2, 64, 704, max_positions=2048),
    "llama-3.2-1b": Config(
        128_256, 2048, 16, 32, 8, 64, 8192, max_positions=131_072, rope_scaling=RopeScaling(32.0)
    ),
}
PROMPT = 64
PREFILL = 512


def prompts(count: int, length: int, vocab: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(row) for row in torch.randint(vocab, (count, length), generator=generator).tolist()]


def herd_seconds(engine: Engine, rows: list[tuple[int, ...]], new: int) -> tuple[float, float]:
    """Seconds to the last prompt's first token, and from there to the end."""
    for i, row in enumerate(rows):
        sampling = Sampling(temperature=0, max_tokens=new, logprobs=None)
        engine.submit(str(i), Request("", "completion", prompt=row, sampling=sampling))
    began = time.perf_counter()
    while any(c.undone > 1 for c in engine.running) or engine.waiting:
        engine.step()
    read = time.perf_counter()
    tokens = sum(len(e.tokens) for _, e in drain(engine) if isinstance(e, Delta))
    assert new == 1 or tokens > 0
    return read - began, time.perf_counter() - read


def peer_seconds(model: torch.nn.Module, rows: list[tuple[int, ...]], new: int) -> float:
    ids = torch.tensor(rows)
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None
        )
    assert out.shape[1] == ids.shape[1] + new
    return time.perf_counter() - began


def measure(name: str, streams: list[int], rounds: int, new: int) -> None:
    config = SHAPES[name]
    model = Llama(config)
    model.init_weights(0)
    with TemporaryDirectory() as folder:
        hf.save(model, folder)
        del model
        ours = hf.load(folder, dtype=torch.bfloat16)
        peer = transformers.LlamaForCausalLM.from_pretrained(Path(folder), dtype=torch.bfloat16).eval()
    peer.generation_config.pad_token_id = 0
    tokenizer = train_bpe(["a b c"], 280)
    tokenizer.vocab_size = config.vocab_size  # random token ids; their text does not matter
    tokenizer._bytes += [b"x"] * (config.vocab_size - len(tokenizer._bytes))
    tokenizer.stop_ids = frozenset()
    pack(ours)
    engine = Engine(ours, tokenizer, None, max_len=1024, slots=max(streams))

    def decode(n: int, seed: int) -> tuple[float, float]:
        rows = prompts(n, PROMPT, config.vocab_size, seed)
        mine = (new - 1) * n / herd_seconds(engine, rows, new)[1]
        theirs = (new - 1) * n / (peer_seconds(peer, rows, new) - peer_seconds(peer, rows, 1))
        return mine, theirs

    def prefill(seed: int) -> tuple[float, float]:
        rows = prompts(1, PREFILL, config.vocab_size, seed)
        return PREFILL / sum(herd_seconds(engine, rows, 1)), PREFILL / peer_seconds(peer, rows, 1)

    cases: dict[str, Callable[[int], tuple[float, float]]] = {f"prefill {PREFILL}": prefill}
    for n in streams:
        cases[f"decode, {n} streams"] = lambda seed, n=n: decode(n, seed)  # type: ignore[misc]
    for case in cases.values():
        case(0)  # warm up; the chunk finds its size
    results: dict[str, list[tuple[float, float]]] = {label: [] for label in cases}
    for i in range(rounds):
        for label, case in cases.items():
            results[label].append(case(i + 1))
    print(
        f"\n{name}: {config.parameters / 1e6:.1f} M parameters\n{'tokens/s':20}{'Herd':>10}{'transformers':>14}{'ratio':>8}"
    )
    for label, pairs in results.items():
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{label:20}{mine:10.1f}{theirs:14.1f}{mine / theirs:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="fewer streams, tokens and rounds")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, bf16")
    print(
        f"herd {version('openherd')}, torch {torch.__version__}, transformers {transformers.__version__},",
        end=" ",
    )
    print(f"tokenizers {tokenizers.__version__}, Python {platform.python_version()}")
    for shape in args.shape or SHAPES:
        streams = [1, 16] if args.quick else [1, 4, 16, 32]
        measure(shape, streams, rounds=2 if args.quick else 5, new=17 if args.quick else 65)


if __name__ == "__main__":
    main()
