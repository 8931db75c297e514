"""`herd eval`: how good a model is."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import bars, emit, json_option, table
from herd.errors import HerdError
from herd.registry import Registry
from herd.registry.home import home

if TYPE_CHECKING:
    from herd.model.llama import Llama
    from herd.model.tokenizer import Tokenizer

Files = tuple[Path, ...]
file_option = partial(click.option, type=click.Path(path_type=Path), multiple=True)


@click.command()
@click.argument("model")
@file_option("--text", help="Held-out text: bits per byte.")
@file_option("--mc", help="Multiple choice (JSON Lines).")
@file_option("--blimp", help="Minimal pairs (JSON Lines).")
@click.option("--limit", type=click.IntRange(1), help="Use so many items of each file, spread evenly.")
@json_option
def eval_(model: str, text: Files, mc: Files, blimp: Files, limit: int | None) -> None:
    """Measure MODEL, a name or a Hugging Face directory, on the files given."""
    from herd.data.sources import read
    from herd.eval import choice
    from herd.eval.text import bits_per_byte

    if not text + mc + blimp:
        raise HerdError("nothing to measure on; give --text, --mc or --blimp a file")
    for path in text + mc + blimp:
        if not path.is_file():
            raise HerdError(f"{path}: no such file")

    def read_texts(path: Path, limit: int | None) -> list[str]:
        return [document["text"] for document in read(path)][:limit]

    measures: tuple[tuple[str, Files, Any, Any], ...] = (
        ("bits per byte", text, read_texts, bits_per_byte),
        ("multiple choice", mc, choice.read_items, choice.multiple_choice),
        ("minimal pairs", blimp, choice.read_items, choice.blimp),
    )
    llama, tokenizer = load(model)
    results: list[dict[str, Any]] = []
    with bars() as show:
        for name, files, items_of, measure in measures:
            for path in files:
                found = measure(llama, tokenizer, items_of(path, limit), progress=partial(show, path.name))
                results.append({"measure": name, "file": path.name, **asdict(found)})
    emit({"model": model, "results": results}, lambda: _print(results))


def load(name: str) -> tuple[Llama, Tokenizer]:
    """The model of a Hugging Face directory or of a registered name, an adapter on its base; in fp32."""
    from herd.model import hf, lora
    from herd.model.tokenizer import Tokenizer

    if Path(name).is_dir():
        return hf.load(name), Tokenizer.load(name)
    target = Registry(home()).target(name)
    model = hf.load(target.model_dir)
    if target.adapter_dir:
        lora.load_peft(model, target.adapter_dir)
    return model, Tokenizer.load(target.model_dir)


def _print(results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        if result["measure"] == "bits per byte":
            found, beside = f"{result['value']:.4f}", f"{result['bytes']:,} bytes"
        elif result["measure"] == "minimal pairs":
            found, beside = _share(result["overall"]), "chance 50.0 %"
        else:
            found = _share(result["normalised"])
            beside = f"chance {100 * result['chance']:.1f} %; not normalised: {_share(result['plain'])}"
        rows.append((result["measure"], result["file"], found, beside))
        rows += [("", f"  {name}", _share(part), "") for name, part in result.get("phenomena", {}).items()]
    table(("measure", "on", "result", ""), rows)


def _share(accuracy: dict[str, Any]) -> str:
    return f"{100 * accuracy['value']:.1f} % ± {100 * accuracy['error']:.1f} (n = {accuracy['n']:,})"
