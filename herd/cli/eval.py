"""`herd eval`: how good a model is."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.output import Bars, emit, json_option, table
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.model.llama import Llama
    from herd.model.tokenizer import Tokenizer

file_option = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option("--text", type=file_option, multiple=True, help="Held-out text: bits per byte.")
@click.option("--mc", type=file_option, multiple=True, help="Multiple choice (JSON Lines).")
@click.option("--blimp", type=file_option, multiple=True, help="Minimal pairs (JSON Lines).")
@click.option("--limit", type=click.IntRange(1), help="Use so many items of each file, spread evenly.")
@json_option
def eval_(
    model: str,
    text: tuple[Path, ...],
    mc: tuple[Path, ...],
    blimp: tuple[Path, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Measure MODEL, a name or a Hugging Face directory, on the files given."""
    from herd.eval import choice

    if not text + mc + blimp:
        raise HerdError("nothing to measure on; give --text, --mc or --blimp a file")
    for path in text + mc + blimp:
        if not path.is_file():
            raise HerdError(f"{path}: no such file")
    llama, tokenizer = load(model)
    results: list[dict[str, Any]] = []
    with Bars() as bars:
        for path in text:
            results.append(_text(llama, tokenizer, path, limit, partial(bars, path.name)))
        for path in mc:
            items = choice.read_items(path, limit)
            found = choice.multiple_choice(llama, tokenizer, items, progress=partial(bars, path.name))
            results.append({"measure": "multiple choice", "file": path.name, **asdict(found)})
        for path in blimp:
            items = choice.read_items(path, limit)
            pairs = choice.blimp(llama, tokenizer, items, progress=partial(bars, path.name))
            results.append({"measure": "minimal pairs", "file": path.name, **asdict(pairs)})
    emit({"model": model, "results": results}, as_json, lambda: _print(results))


def load(name: str) -> tuple[Llama, Tokenizer]:
    """The model of a Hugging Face directory or of a registered name, an adapter on its base; in fp32."""
    from herd.model import hf, lora
    from herd.model.tokenizer import Tokenizer
    from herd.registry import Registry
    from herd.registry.home import home

    if Path(name).is_dir():
        return hf.load(name), Tokenizer.load(name)
    target = Registry(home()).target(name)
    model = hf.load(target.model_dir)
    if target.adapter_dir:
        lora.load_peft(model, target.adapter_dir)
    return model, Tokenizer.load(target.model_dir)


def _text(llama: Llama, tokenizer: Tokenizer, path: Path, limit: int | None, progress: Any) -> dict[str, Any]:
    from herd.data.sources import read
    from herd.eval.text import bits_per_byte

    documents = [document["text"] for document in read(path)][: limit or None]
    found = bits_per_byte(llama, tokenizer, documents, progress=progress)
    return {"measure": "bits per byte", "file": path.name, **asdict(found)}


def _print(results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        if result["measure"] == "bits per byte":
            rows.append(
                ("bits per byte", result["file"], f"{result['value']:.4f}", f"{result['bytes']:,} bytes")
            )
        elif result["measure"] == "minimal pairs":
            rows.append(("minimal pairs", result["file"], _share(result["overall"]), "chance 50.0 %"))
            rows += [("", f"  {name}", _share(part), "") for name, part in result["phenomena"].items()]
        else:
            best = _share(result["normalised"])
            chance = f"chance {100 * result['chance']:.1f} %; not normalised: {_share(result['plain'])}"
            rows.append(("multiple choice", result["file"], best, chance))
    table(("measure", "on", "result", ""), rows)


def _share(accuracy: dict[str, Any]) -> str:
    return f"{100 * accuracy['value']:.1f} % ± {100 * accuracy['error']:.1f} (n = {accuracy['n']:,})"
