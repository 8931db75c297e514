"""Whether a reply depends on anything but its own request, and what that promise costs.

    python bench/invariance.py [--model cria] [--weights bf16 --weights int8 …] [--requests 200] [--seed 0]

Requests with shared beginnings arrive at random steps, some are cancelled, chunks and drafts change at random, and the
cache holds little more than one of them, so that they are preempted and found again. Each is then answered alone by an
engine with room for all. Tokens, logprobs (to the last bit) and the reason to end must be equal; of a cancelled one, as
far as it came. Exit status 1 if one is not.

The cost: a step's time beside torch's own bf16 products and attention on the same rows, which promise nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import machine
import torch

from herd.engine.cache import needed
from herd.engine.engine import Engine
from herd.engine.loading import open_engine
from herd.engine.packed import pack
from herd.engine.step import Span
from herd.model import hf
from herd.model.kv import KVCache
from herd.protocol.types import Delta, Event, Finished, Request, Sampling
from herd.registry.home import home
from herd.registry.registry import Registry

CONTEXT = 512
KINDS = ("bf16", "int8", "int4")
WORDS = "She saw a big tree and the tree said hello little llama then it went up the hill to play".split()


@dataclass
class Asked:
    """A request, the step before which it arrives, the one before which it is cancelled if at all, and its answer."""

    request: Request
    arrives: int
    cancelled: int | None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: str = ""

    def see(self, event: Event) -> None:
        if isinstance(event, Delta):
            self.tokens += event.tokens
            self.logprobs += [p.logprob for p in event.logprobs]
        elif isinstance(event, Finished):
            self.reason = event.reason

    def equals(self, alone: Asked) -> bool:
        mine, whole = (self.tokens, self.logprobs), (alone.tokens, alone.logprobs)
        if self.reason == "cancelled":
            return all(a == b[: len(a)] for a, b in zip(mine, whole, strict=True))
        return mine == whole and self.reason == alone.reason


def schedule(count: int, seed: int) -> list[Asked]:
    rng = random.Random(seed)
    beginnings = [" ".join(rng.choices(WORDS, k=rng.choice((40, 100, 200)))) for _ in range(5)]
    asked, step = [], 0
    for i in range(count):
        step += rng.choice((0, 0, 0, 1, 4))
        prompt = rng.choice(beginnings) + " " + " ".join(rng.choices(WORDS, k=rng.choice((1, 3, 40))))
        sampling = Sampling(
            temperature=rng.choice((0.0, 0.7, 1.3)),
            top_p=rng.choice((1.0, 0.9)),
            top_k=rng.choice((0, 50)),
            seed=i,
            max_tokens=rng.choice((5, 40, 120)),
            logprobs=1,
        )
        gone = step + rng.randrange(1, 60) if rng.random() < 0.15 else None
        asked.append(Asked(Request("", "completion", prompt=prompt, sampling=sampling), step, gone))
    return asked


def crowded(engine: Engine, asked: Sequence[Asked], seed: int) -> dict[str, float]:
    """All of them in one engine, by the schedule; the engine's own counts."""
    rng = random.Random(seed)
    engine.pace.learn = lambda *_: None  # type: ignore[method-assign]
    engine.pace.draft = lambda *_: rng.choice((0, 0, 2, 7))  # type: ignore[method-assign]
    due, gone = defaultdict(list), defaultdict(list)
    for i, a in enumerate(asked):
        due[a.arrives].append(i)
        if a.cancelled is not None:
            gone[a.cancelled].append(i)
    step, last = 0, max([*due, *gone])
    while not engine.idle or step <= last:
        for i in due[step]:
            engine.submit(str(i), asked[i].request, salt=f"{i % 2}")
        for i in gone[step]:
            engine.cancel(str(i))
        engine.pace.chunk = engine.pace.chunk_alone = rng.choice((3, 16, 37, 256))
        for id, event in engine.step():
            asked[int(id)].see(event)
        step += 1
    return engine.metrics()


def alone(engine: Engine, asked: Iterable[Asked]) -> list[Asked]:
    """Each by itself, without drafts, and without anything in the cache that it could find (the salt is its own)."""
    engine.pace.draft = lambda *_: 0  # type: ignore[method-assign]
    answers = []
    for i, a in enumerate(asked):
        answer = Asked(a.request, 0, None)
        engine.submit(str(i), a.request, salt=f"alone {i}")
        while not engine.idle:
            for _, event in engine.step():
                answer.see(event)
        answers.append(answer)
    return answers


def compare(directory: Path, weights: str, count: int, seed: int) -> int:
    """Print a row; the number of replies that differ."""
    began = time.perf_counter()
    whole = open_engine(directory, weights=weights)
    if not whole.runner.invariant:
        print(f"| {weights} | this machine's products promise nothing | | | | | |")
        return 0
    expected = alone(whole, schedule(count, seed))
    asked = schedule(count, seed)
    blocks = needed(CONTEXT) + 2
    parts = whole.runner, whole.tokenizer, whole.template
    crowd = Engine(*parts, max_len=CONTEXT, slots=8, blocks=blocks, draw=whole.draw)
    seen = crowded(crowd, asked, seed)
    different = sum(not a.equals(b) for a, b in zip(asked, expected, strict=True))
    tokens = sum(len(a.tokens) for a in asked)
    print(
        f"| {weights} | {count} | {tokens:,} | {different} | {seen['num_preemptions']:.0f} | "
        f"{seen['prefix_cache_hits']:,.0f} of {seen['prefix_cache_queries']:,.0f} | "
        f"{seen['spec_decode_num_draft_tokens']:,.0f} | {time.perf_counter() - began:.0f} |",
        flush=True,
    )
    return different


def cost(directory: Path, rows: int, past: int, rounds: int = 30) -> tuple[float, float]:
    """Milliseconds of a step: Herd's runner in bf16, and torch's own. rows: replies of one token, or a prompt if past is 0."""
    runner = open_engine(directory, weights="bf16").runner
    model = hf.load(directory, dtype=torch.bfloat16)
    pack(model)
    replies = rows if past else 1
    each = rows // replies
    per = needed(past + each)
    runner.allocate(replies * per + 1)
    spans = [
        Span(i * each, (i + 1) * each, past, range(1 + i * per, 1 + (i + 1) * per)) for i in range(replies)
    ]
    ids = torch.randint(runner.config.vocab_size, (replies, past + each)).tolist()
    tokens = [t for row in ids for t in row[past:]]
    cache = KVCache(model.config, replies, past + each, dtype=torch.bfloat16)
    positions = torch.arange(past, past + each).expand(replies, each)

    def ours() -> None:
        h = runner.hidden(tokens, spans, lambda: None)
        runner.logits(h[[s.stop - 1 for s in spans]])

    def theirs() -> None:
        cache.length = past
        h = model.hidden(torch.tensor(ids)[:, past:], positions, cache.attend)
        model.head(h[:, -1])

    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with torch.inference_mode():
        for i in range(rounds):
            for name, work in (("ours", ours), ("theirs", theirs)):
                began = time.perf_counter()
                work()
                if i > 2:
                    times[name].append(1000 * (time.perf_counter() - began))
    return statistics.median(times["ours"]), statistics.median(times["theirs"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cria")
    parser.add_argument("--weights", action="append", choices=KINDS)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    directory = Registry(home()).target(args.model).model_dir
    print(f"{machine.describe()}; herd {version('openherd')}, torch {torch.__version__}, {args.model}\n")
    print("| weights | requests | tokens | different | preempted | prompt tokens found | drafted | s |")
    print("|---" * 8 + "|")
    different = sum(
        compare(directory, weights, args.requests, args.seed) for weights in args.weights or KINDS
    )
    print("\n| a step in bf16 | Herd, ms | torch's own, ms | ratio |\n|---|---|---|---|")
    for name, rows, past in (
        ("1 reply", 1, 255), ("16 replies", 16, 255), ("a prompt of 512", 512, 0),
    ):  # fmt: skip
        mine, theirs = cost(directory, rows, past)
        print(f"| {name} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
