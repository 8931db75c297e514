"""Put a trained cria where Herd carries it.

    python recipes/cria/bundle.py SCALING.png CARD VERSION [metric=value …]

The registry writes the card's digest, in a home of its own; the version's directory is then copied into the package,
and a lineage record written beside it: which data went in, under which recipes.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from herd.data.shards import Shards
from herd.registry import ModelEntry, Registry, lineage
from herd.registry.registry import BUNDLED
from herd.train.plot import draw, read_metrics
from herd.train.recipe import Recipe

BUILD = Path("build/cria")
STAGES = {
    "pretrain": BUILD / "run-base",
    "chat": BUILD / "run-chat",
    "talk": BUILD / "run-talk",
    "talk_more": BUILD / "run-talk-more",
}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}  # what suits a small model


def plot(picture: Path) -> None:
    """The runs' loss, one after the other."""
    lines: list[dict[str, Any]] = []
    for run in STAGES.values():
        done = lines[-1] if lines else {"step": 0, "tokens": 0}
        lines += [
            x | {n: x[n] + done[n] for n in ("step", "tokens")} for x in read_metrics(run / "metrics.jsonl")
        ]
    joined = picture.with_suffix(".jsonl")
    joined.write_text("\n".join(map(json.dumps, lines)))
    draw(joined, picture, "cria: text, then conversations, then short answers")
    joined.unlink()


def record(entry: ModelEntry) -> None:
    recipes = {name: Recipe.load(f"recipes/cria/{name}.toml") for name in STAGES}
    sources = {(s.path, s.source): s for recipe in recipes.values() for s in recipe.data}.values()
    shutil.rmtree(BUNDLED / "lineage", ignore_errors=True)
    lineage.record(
        BUNDLED,
        command="train",
        inputs=[
            {"kind": "data", "name": s.source, "digest": Shards.open(s.path, source=s.source).fingerprint}
            for s in sources
        ],
        outputs=[{"kind": "model", "ref": entry.ref, "digest": entry.digest}],
        config={name: recipe.to_json() for name, recipe in recipes.items()},
        seed=recipes["pretrain"].seed,
        device="cuda, then cpu",
        metrics=entry.metrics,
    )


def main(scaling: str, card: str, version: str, *metrics: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "cria"
        shutil.copytree(STAGES["talk_more"] / "final", directory)
        plot(directory / "loss.png")
        shutil.copy(scaling, directory / "scaling.png")
        shutil.copy(card, directory / "README.md")
        settings = json.loads((directory / "generation_config.json").read_text()) | SAMPLING
        (directory / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        target = BUNDLED / "models" / "cria" / version
        shutil.rmtree(target, ignore_errors=True)  # else it would count as the version before this one
        entry = Registry(Path(scratch) / "home").add(
            directory,
            "cria",
            kind="model",
            licence="Apache-2.0",
            description="A very small Llama that tells little stories and chats simply.",
            metrics={name: float(value) for name, value in (m.split("=") for m in metrics)},
        )
        if str(entry.version) != version:
            raise SystemExit(f"this would be version {entry.version}, not {version}")
        shutil.copytree(entry.path, target)
        record(entry)
        print(f"{target}: {sum(f.stat().st_size for f in target.iterdir()):,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
