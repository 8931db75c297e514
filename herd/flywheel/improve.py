"""`herd improve`: preference pairs → LoRA by DPO → proof on held-out pairs → served, or why not."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from herd.data.loader import IGNORE
from herd.data.sources import read
from herd.errors import HerdError
from herd.eval.text import bits_per_byte
from herd.evidence.sequences import least_clusters
from herd.evidence.verdict import Verdict, verdict
from herd.flywheel.votes import HELD_OUT, Preference, split, votes_digest
from herd.model.chat import ChatTemplate
from herd.model.config import Config
from herd.model.hf import load
from herd.model.llama import Llama
from herd.model.lora import add_lora, load_peft, lora_parameters, save_peft
from herd.model.tokenizer import Tokenizer
from herd.registry import lineage
from herd.registry.files import read_json
from herd.registry.registry import BUNDLED, ModelEntry, Registry, Target
from herd.registry.runs import Run
from herd.train.dpo import DPO, Reply, encode_pairs, fit, score

STAGES = ("collect", "train", "judge", "promote")
LEAST_TRAINED = 8
WORSE = 1.01  # the bits per byte of ordinary text may grow by this factor

Say = Callable[[str, str], None]  # stage, what it is about to do


@dataclass(frozen=True)
class Settings:
    """How a candidate is trained."""

    rank: int = 8
    alpha: float = 16.0
    lr: float = 2e-4
    batch: int = 4
    epochs: int = 6
    beta: float = 0.1
    nll: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Measure:
    """A model on the held-out pairs and texts. margins [pairs]: log p(chosen) − log p(rejected), each a token."""

    margins: list[float]
    bits_per_byte: float

    def summary(self) -> dict[str, float]:
        right = sum(margin > 0 for margin in self.margins) / len(self.margins)
        return {"pairs_ranked_right": right, "bits_per_byte": self.bits_per_byte}


def improve(
    name: str,
    preferences: Sequence[Preference],
    *,
    home: Path,
    registry: Registry,
    run: Run,
    texts: Sequence[str] | None = None,
    settings: Settings | None = None,
    say: Say = lambda stage, text: None,
) -> dict[str, Any]:
    """Train a candidate for `name` on `preferences`, and let it replace what is served if it is better.

    The pairs of a quarter of the conversations are held out. The candidate is an adapter trained from the version
    served now. It is better when it tells the held-out chosen from the rejected replies more clearly (`judge`) and
    needs at most 1 % more bits for `texts` (the bundled held-out ones). It becomes a version of `name` in any case;
    only a better one is served.

    Returns the verdict, the counts and, if one was trained, the candidate's ref and metrics, as JSON types. The
    run's stages and metrics follow along; one begun before goes on from its trained adapter. HerdError when `name`
    is unknown or is no model's own name, or the loss diverges. Interrupted at any moment, nothing is left registered in part.
    """
    settings = settings or Settings()
    with _outcome(run):
        target = registry.target(name)
        current = target.adapter or target.model
        if current.name != name:
            raise HerdError(f"{name} is {current.name} with settings of its own; improve {current.name}")

        def stage(number: int, text: str) -> None:
            run.set("running", stage=STAGES[number], stages=list(STAGES), pid=os.getpid())
            say(STAGES[number], text)

        train, held = split(preferences)
        stage(0, f"{len(train)} pairs to learn from, {len(held)} held out")
        result: dict[str, Any] = {"name": name, "current": current.ref, "run": run.id}
        template, tokenizer = ChatTemplate.load(target.model_dir), Tokenizer.load(target.model_dir)
        limit = Config.from_hf(read_json(target.model_dir / "config.json")).max_positions
        learned, _ = _encode(train, target, tokenizer, template, limit)
        judged, sources = _encode(held, target, tokenizer, template, limit)
        result["pairs"] = {"train": len(learned), "held_out": len(judged)}
        result["too_long"] = len(preferences) - len(learned) - len(judged)
        if few := _too_few(len(learned), len({p.conversation for p in sources})):
            return _finish(run, result, few)
        model = _open(target.model_dir, target.adapter_dir)
        texts = bundled_texts() if texts is None else texts
        before = measure(model, tokenizer, judged, texts)

        adapter = run.dir / "adapter"
        if not adapter.exists():
            stage(1, f"LoRA of rank {settings.rank} on {current.ref}")
            _train(model, learned, settings, run)
            _save(model, adapter, target.model.ref)

        stage(2, f"the candidate against {current.ref}, on pairs that it has not learned")
        after = measure(_open(target.model_dir, adapter), tokenizer, judged, texts)
        decided = judge(before, after, sources)

        stage(3, decided.reason)
        metrics = {"verdict": decided.decision, **after.summary(), "before": before.summary()}
        source = votes_digest(preferences)
        entry = _register(home, registry, target, adapter, source, settings, metrics)
        if decided.decision == "SWITCH":
            registry.promote(name, entry.version, asdict(decided))
        return _finish(run, result | {"candidate": entry.ref, "metrics": metrics}, decided)


def bundled_texts() -> list[str]:
    """The text that comes with Herd and that none of its models has learned."""
    return [document["text"] for document in read(BUNDLED / "heldout.txt")]


def measure(
    model: Llama, tokenizer: Tokenizer, pairs: Sequence[tuple[Reply, Reply]], texts: Sequence[str]
) -> Measure:
    """How clearly the model tells chosen from rejected, and how well it writes ordinary text."""
    replies = [reply for pair in pairs for reply in pair]
    lengths = torch.tensor([sum(label != IGNORE for label in reply.labels) for reply in replies])
    chosen, rejected = (score(model, replies) / lengths).view(-1, 2).T
    return Measure((chosen - rejected).tolist(), bits_per_byte(model, tokenizer, texts).value)


def judge(before: Measure, after: Measure, sources: Sequence[Preference]) -> Verdict:
    """The verdict on the growth of each held-out pair's margin, by conversation and voter (`sources`: the pairs'); SWITCH
    needs that ordinary text costs at most 1 % more bits, too."""
    growth = [new - old for new, old in zip(after.margins, before.margins, strict=True)]
    voters = [p.voter or p.conversation for p in sources] if any(p.voter for p in sources) else None
    found = verdict(growth, [p.conversation for p in sources], voters)
    if found.decision == "SWITCH" and after.bits_per_byte > before.bits_per_byte * WORSE:
        cost = f"{before.bits_per_byte:.3f} → {after.bits_per_byte:.3f} bits a byte of ordinary text"
        return replace(found, decision="STAY", reason=f"better on votes, but at too high a price: {cost}")
    if found.needed:
        more = (found.needed - found.clusters) * HELD_OUT
        reason = f"{found.reason}; about {more} more conversations with a vote may decide"
        return replace(found, reason=reason)
    return found


def _too_few(trained: int, clusters: int) -> Verdict | None:
    """The verdict when there is nothing to gain from training at all, with what is needed."""
    least = least_clusters()
    if trained >= LEAST_TRAINED and clusters >= least:
        return None
    to_learn = math.ceil((LEAST_TRAINED - trained) * HELD_OUT / (HELD_OUT - 1))
    more = max(to_learn, (least - clusters) * HELD_OUT)
    reason = (
        f"{trained} pairs to learn from (at least {LEAST_TRAINED}) and {clusters} held-out conversations "
        f"(at least {least}); about {more} more conversations with a vote are needed"
    )
    return Verdict("NOT ENOUGH DATA", reason, None, None, None, 0, clusters, least)


def _encode(
    preferences: Sequence[Preference],
    target: Target,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    limit: int,
) -> tuple[list[tuple[Reply, Reply]], list[Preference]]:
    """The pairs that fit into `limit` tokens, as the target would see them, and the preferences they are of."""
    pairs = [p.pair for p in preferences]
    if target.system:
        system = {"role": "system", "content": target.system}
        pairs = [
            pair if pair.prompt[0]["role"] == "system" else replace(pair, prompt=[system, *pair.prompt])
            for pair in pairs
        ]
    encoded = encode_pairs(tokenizer, template, pairs, limit)
    kept = [(e, p) for e, p in zip(encoded, preferences, strict=True) if e]
    return [pair for pair, _ in kept], [preference for _, preference in kept]


def _train(model: Llama, pairs: Sequence[tuple[Reply, Reply]], settings: Settings, run: Run) -> None:
    """DPO over the adapter that is served now, or over a new one."""
    if not lora_parameters(model):
        torch.manual_seed(settings.seed)
        add_lora(model, rank=settings.rank, alpha=settings.alpha)
    fit(
        model,
        pairs,
        objective=DPO(beta=settings.beta, nll=settings.nll),
        lr=settings.lr,
        batch=settings.batch,
        epochs=settings.epochs,
        seed=settings.seed,
        progress=run.log_metric,
    )


def _register(
    home: Path,
    registry: Registry,
    target: Target,
    adapter: Path,
    votes: str,
    settings: Settings,
    metrics: dict[str, Any],
) -> ModelEntry:
    """The adapter as the next version of the target's name, with its lineage record: both or neither."""
    current = target.adapter or target.model
    entry = registry.add(
        adapter,
        target.name,
        kind="adapter",
        base=target.model.ref,
        parents=sorted({target.model.digest, current.digest}),
        licence=target.model.licence,
        description=f"{current.ref} after its users' votes",
        metrics=metrics,
    )
    try:
        lineage.record(
            home,
            command="improve",
            inputs=[{"kind": "votes", "digest": votes}],
            outputs=[{"kind": "adapter", "ref": entry.ref, "digest": entry.digest}],
            parents=list(entry.parents),
            config=asdict(settings),
            seed=settings.seed,
            device=_device(),
            metrics=metrics,
        )
    except BaseException:
        registry.remove(entry.ref)
        raise
    return entry


def _open(model_dir: Path, adapter_dir: Path | None) -> Llama:
    model = load(model_dir, device=_device())
    if adapter_dir:
        load_peft(model, adapter_dir)
    return model


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _save(model: Llama, adapter: Path, base: str) -> None:
    """Write the adapter so that its directory exists only when it is whole."""
    scratch = adapter.with_name("adapter.part")
    shutil.rmtree(scratch, ignore_errors=True)
    save_peft(model, scratch, base=base)
    os.replace(scratch, adapter)


@contextmanager
def _outcome(run: Run) -> Iterator[None]:
    """Whatever ends the work early is written into the run."""
    try:
        yield
    except KeyboardInterrupt:
        run.set("cancelled")
        raise
    except BaseException as error:
        run.set("failed", error=str(error))
        raise


def _finish(run: Run, result: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    result = {**asdict(verdict), **result}
    run.set("done", result=result)
    return result
