"""`herd export`: a model out of the registry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from herd.cli.output import console, emit, json_option
from herd.errors import HerdError

if TYPE_CHECKING:
    from herd.registry import ModelEntry, Registry


@click.command()
@click.argument("ref")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Add an adapter into its base: one model that stands alone.")
@json_option
def export(ref: str, directory: Path, merge: bool, as_json: bool) -> None:
    """Copy the model REF to DIRECTORY in Hugging Face layout (an adapter: PEFT layout)."""
    from herd.registry import Registry, lineage
    from herd.registry.files import tree_digest
    from herd.registry.home import home

    registry = Registry(home())
    entry = registry.resolve(ref)
    if merge and entry.kind != "adapter":
        raise HerdError(f"{entry.ref} is a whole model; leave --merge out")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise HerdError(f"{directory} exists and is not empty; name another directory")
    unfinished = directory.with_name(directory.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if merge:
            _merge(registry, entry, unfinished)
        else:
            shutil.copytree(entry.path, unfinished, ignore=shutil.ignore_patterns("herd.json"))
        unfinished.replace(directory)
    except OSError as error:
        raise HerdError(f"cannot write {directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    lineage.record(
        home(),
        command="export",
        inputs=[{"kind": entry.kind, "name": entry.ref, "digest": entry.digest}],
        outputs=[{"kind": "export", "name": directory.name, "digest": tree_digest(directory)}],
        parents=[entry.digest],
        config={"merge": merge},
        seed=None,
        device=None,
        metrics={},
    )
    emit(
        {"ref": entry.ref, "directory": str(directory), "merged": merge},
        as_json,
        lambda: console().print(f"{entry.ref} is in {directory}"),
    )


def _merge(registry: Registry, entry: ModelEntry, out: Path) -> None:
    from herd.model import hf, lora

    base = registry.resolve(entry.base or "")
    model = hf.load(base.path)
    lora.load_peft(model, entry.path)
    lora.merge(model)
    shutil.copytree(base.path, out, ignore=shutil.ignore_patterns("herd.json", "README.md", "*.safetensors*"))
    hf.save(model, out)
