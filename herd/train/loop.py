"""The training loop."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from herd.data.loader import Batch, Loader
from herd.data.shards import Shards
from herd.errors import HerdError
from herd.model import hf
from herd.model.chat import ChatTemplate
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.mask import attend, document
from herd.model.tokenizer import Tokenizer
from herd.registry.home import lock
from herd.train import checkpoint
from herd.train.objective import NextToken, Objective, nll
from herd.train.optim import flops_per_token, optimizers, peak_flops, scale_at
from herd.train.recipe import Recipe

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """`directory` is the trained model in Hugging Face's form; `metrics` the last line of metrics.jsonl."""

    directory: Path
    metrics: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class Ranks:
    """This process among those of `torchrun`; alone, rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls) -> Ranks:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(rank, world, device)

    def sum(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor.item())


def new_model(recipe: Recipe, tokenizer: Tokenizer) -> Llama:
    """The model that a recipe begins from, weights in fp32."""
    m = recipe.model
    if m.init:
        return hf.load(m.init, dtype=torch.float32)
    stops = tuple(sorted(tokenizer.stop_ids))
    model = Llama(
        Config(
            vocab_size=tokenizer.vocab_size,
            dim=m.dim,
            n_layers=m.layers,
            n_heads=m.heads,
            n_kv_heads=m.kv_heads,
            head_dim=m.head_dim,
            ffn_dim=m.ffn,
            max_positions=m.context,
            tied=m.tied,
            bos_id=tokenizer.bos_id,
            eos_ids=stops,
        )
    )
    model.init_weights(recipe.seed)
    return model


def emulates_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are slower there than in fp32."""
    has = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and not has


def products(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What activations are computed in: the recipe's type, but fp32 where bf16 is only emulated."""
    emulated = emulates_bf16(device)
    return torch.float32 if recipe.dtype == "float32" or emulated else torch.bfloat16


class Trainer:
    """One run of a recipe in `out`; `run` goes on from the last checkpoint there."""

    def __init__(self, recipe: Recipe, out: Path, *, objective: Objective | None = None) -> None:
        self.recipe, self.out = recipe, out
        self.objective = objective or NextToken(recipe.objective)
        self.ranks = Ranks.join()
        self.tokenizer = Tokenizer.load(recipe.model.tokenizer or recipe.model.init)
        self.model = new_model(recipe, self.tokenizer).to(self.ranks.device).train()
        self.model.dtype = products(recipe, self.ranks.device)
        if recipe.compile:
            self.model.hidden = torch.compile(self.model.hidden, dynamic=False)  # type: ignore[method-assign]
        self.optimizers = optimizers(self.model, recipe)
        sources = [(Shards.open(Path(s.path), source=s.source or None), s.weight) for s in recipe.data]
        self.loader = Loader(
            sources,
            batch=recipe.batch,
            seq_len=recipe.seq_len,
            seed=recipe.seed,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        self.heldout = Shards.open(recipe.heldout) if recipe.heldout else None
        self.step, self.tokens = 0, 0
        self.anneal_from: int | None = None
        self._ahead: Batch | None = None  # the next step's, made while the device computes
        self._served = self.loader.state()  # without it
        if found := checkpoint.checkpoints(out):
            self._restore(found[-1])

    def _restore(self, path: Path) -> None:
        state = checkpoint.load(path, self.model, self.optimizers)
        if state["recipe"] != _identity(self.recipe):
            raise HerdError(f"{self.out}: holds a run of another recipe; choose another --out, or remove it")
        self.step, self.tokens, self.anneal_from = state["step"], state["tokens"], state["anneal_from"]
        if self.anneal_from is not None:  # it ends where it was to end, whatever the recipe says
            self.recipe = replace(self.recipe, steps=state["steps"])
        self.loader.load_state(state["loader"])
        self._served = self.loader.state()

    def anneal(self, steps: int) -> None:
        """End here: the rate falls to the floor over so many steps from where it began to fall, or from now."""
        if self.recipe.schedule.kind != "wsd":
            raise HerdError("a cosine schedule falls by itself; only wsd can be annealed")
        if self.anneal_from is None:
            self.anneal_from = self.step
        self.recipe = replace(self.recipe, steps=self.anneal_from + steps)

    def _save(self) -> None:
        if self.ranks.rank == 0:
            state = {
                "tokens": self.tokens,
                "anneal_from": self.anneal_from,
                "steps": self.recipe.steps,
                "loader": self._served,
                "recipe": _identity(self.recipe),
            }
            checkpoint.save(self.out, self.step, self.model, self.optimizers, state, self.recipe.keep)

    def _parts(self) -> Iterator[Batch]:
        """The next batch in `accumulate` parts of equal rows."""
        batch = self._ahead or self.loader.next()
        self._ahead, self._served = None, self.loader.state()
        size = -(-batch.tokens.shape[0] // self.recipe.accumulate)
        for at in range(0, batch.tokens.shape[0], size):
            yield Batch(
                *(getattr(batch, n)[at : at + size] for n in ("tokens", "labels", "docs", "positions"))
            )

    def train_step(self) -> dict[str, float]:
        """One optimizer step; its mean loss in nats a label, gradient norm and rate."""
        o = self.recipe.optimizer
        losses, labels = [], 0
        for part in self._parts():
            loss, count = self.objective.loss(self.model, part)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            labels += count
        self._ahead = self.loader.next()
        labels = int(self.ranks.sum(labels))
        total = self.ranks.sum(sum(loss.item() for loss in losses))
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        for p in parameters:
            if self.ranks.world > 1:
                dist.all_reduce(p.grad)
            p.grad.div_(max(1, labels))  # type: ignore[union-attr]
        norm = torch.nn.utils.clip_grad_norm_(parameters, o.clip).item()
        if norm != norm or norm == float("inf"):
            raise HerdError(f"step {self.step}: the gradient is not finite; lower optimizer.lr and resume")
        scale = scale_at(self.step, self.recipe.steps, self.recipe.schedule, self.anneal_from)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += self.recipe.batch * self.recipe.seq_len
        return {"loss": total / max(1, labels), "grad_norm": norm, "lr": o.lr * scale}

    @torch.no_grad()
    def bits_per_byte(self) -> float | None:
        """On the held-out shards: bits of the labels over the UTF-8 bytes that they stand for."""
        shards = self.heldout
        if shards is None or not shards.n_tokens:
            return None
        rows = min(self.recipe.eval_tokens, shards.n_tokens) // self.recipe.seq_len + 1
        loader = Loader([(shards, 1.0)], batch=min(rows, 8), seq_len=self.recipe.seq_len, seed=0)
        size = torch.tensor(
            [
                0 if i in set(self.tokenizer.special.values()) else len(self.tokenizer.token_bytes(i))
                for i in range(self.tokenizer.vocab_size)
            ]
        )
        bits, count = 0.0, 0
        for _ in range(-(-rows // 8)):
            batch = loader.next()
            tokens, labels, docs, positions = (
                torch.from_numpy(a).to(self.ranks.device)
                for a in (batch.tokens, batch.labels, batch.docs, batch.positions)
            )
            # Not the compiled one, which would be compiled again for these rows.
            h = Llama.hidden(self.model, tokens, positions, attend(document(docs)))
            bits += nll(h.flatten(0, 1), self.model.head_weight, labels.flatten()) / 0.6931471805599453
            count += int(size[labels[labels >= 0].cpu()].sum())
        return bits / max(1, count)

    def run(self, report: Report = lambda line: None, *, stop: Callable[[], bool] = lambda: False) -> Result:
        """Train to the end, or until `stop()`; then write the model to `out/final`.

        Ctrl-C takes effect when the step is whole: a checkpoint is saved, then KeyboardInterrupt raised. A second
        one ends at once, and loses the steps since the last checkpoint.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        line: dict[str, Any] = {}
        pace = Pace(self.model.config, self.recipe, self.ranks)
        with _Interrupt() as interrupt:
            while self.step < self.recipe.steps and not stop():
                line = {"step": self.step + 1, **self.train_step(), "tokens": self.tokens}
                line |= pace.measure(self.step)
                last = self.step == self.recipe.steps
                if (self.step % self.recipe.eval_every == 0 or last) and not interrupt.asked:
                    line["bits_per_byte"] = self.bits_per_byte()
                    pace.restart()
                if self.ranks.rank == 0:
                    _append(self.out / "metrics.jsonl", line)
                    report(line)
                if interrupt.asked or (self.step % self.recipe.save_every == 0 and not last):
                    self._save()
                if interrupt.asked:
                    raise KeyboardInterrupt
        self._save()
        if self.ranks.rank == 0:
            self._export(self.out / "final")
        return Result(self.out / "final", line, self.step)

    def _export(self, directory: Path) -> None:
        try:
            template = ChatTemplate.load(self.recipe.model.tokenizer or self.recipe.model.init)
        except HerdError:
            template = None
        hf.save(self.model, directory, tokenizer=self.tokenizer, template=template, shard_bytes=11 << 20)


class _Interrupt:
    """Keeps Ctrl-C for later: `asked` says whether it came. A second one is a KeyboardInterrupt as ever."""

    def __enter__(self) -> _Interrupt:
        self.asked = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:  # only there can signals be handled
            self._former = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._former)


def _append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON, on a line of its own even where a killed run left half of one."""
    try:
        with open(path, "ab+") as file:
            torn = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(torn) + json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise HerdError(f"{path}: {error.strerror}; mend that, and the same command goes on") from None


class Pace:
    """Tokens a second, utilisation, memory and time left, from the steps since the last restart."""

    def __init__(self, config: Config, recipe: Recipe, ranks: Ranks) -> None:
        self.recipe = recipe
        self.flops = flops_per_token(config, recipe.seq_len)
        self.peak = peak_flops(ranks.device) * ranks.world
        self.restart()

    def restart(self) -> None:
        self.began, self.steps = time.perf_counter(), 0

    def measure(self, step: int) -> dict[str, float]:
        self.steps += 1
        rate = self.steps * self.recipe.batch * self.recipe.seq_len / (time.perf_counter() - self.began)
        left = (self.recipe.steps - step) * self.recipe.batch * self.recipe.seq_len / rate
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated() / 2**20
        utilisation = rate * self.flops / self.peak if self.peak else 0.0
        return {
            "tokens_per_s": rate,
            "mfu": utilisation,
            "memory_mib": memory,
            "eta_s": left,
            "time": time.time(),
        }


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption: all but how often to look and where things lie."""
    free = (
        "steps",
        "eval_every",
        "eval_tokens",
        "save_every",
        "keep",
        "heldout",
        "compile",
        "data",
        "model",
        "accumulate",
    )
    table: dict[str, Any] = json.loads(json.dumps(recipe.to_json()))
    shape = {k: v for k, v in table["model"].items() if k not in ("init", "tokenizer")}
    return {k: v for k, v in table.items() if k not in free} | {"model": shape}


def train(
    recipe: Recipe,
    *,
    out: Path,
    report: Report = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    anneal: int | None = None,
) -> Result:
    """Run a recipe in `out`, going on from a checkpoint if one is there.

    anneal: instead of the recipe's remaining steps, decay the rate to the floor over this many steps from here.
    Raises HerdError when another run is writing there.
    """
    alone = lock(out, "run", "--out") if int(os.environ.get("RANK", 0)) == 0 else nullcontext()
    with alone:
        trainer = Trainer(recipe, out)
        if anneal is not None:
            trainer.anneal(anneal)
        return trainer.run(report, stop=stop)
