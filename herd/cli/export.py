"""`herd export`: a model out of the registry."""

import shutil
from pathlib import Path

import click

from herd.cli.output import PLACE, emit, json_option
from herd.errors import HerdError
from herd.registry import ModelEntry, Registry, lineage
from herd.registry.files import tree_digest
from herd.registry.home import home


@click.command()
@click.argument("ref")
@click.argument("directory", type=PLACE)
@click.option("--merge", is_flag=True, help="Add an adapter into its base: one model that stands alone.")
@json_option
def export(ref: str, directory: Path, merge: bool) -> None:
    """Copy the model REF to DIRECTORY in Hugging Face layout (an adapter: PEFT layout)."""
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
            _merge(registry.resolve(entry.base or ""), entry, unfinished)
        else:
            shutil.copytree(entry.path, unfinished, ignore=shutil.ignore_patterns("herd.json"))
        unfinished.replace(directory)
    except OSError as error:
        raise HerdError(f"cannot write {directory}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    lineage.record(
        home(),
        command="export",
        inputs=[{"kind": entry.kind, "name": entry.ref, "digest": entry.digest}],
        outputs=[{"kind": "export", "name": directory.name, "digest": tree_digest(directory)}],
        parents=[entry.digest],
        config={"merge": merge},
    )
    data = {"ref": entry.ref, "directory": str(directory), "merged": merge}
    emit(data, f"{entry.ref} is in {directory}")


def _merge(base: ModelEntry, adapter: ModelEntry, out: Path) -> None:
    from herd.model import hf, lora

    model = hf.load(base.path)
    lora.load_peft(model, adapter.path)
    lora.merge(model)
    shutil.copytree(base.path, out, ignore=shutil.ignore_patterns("herd.json", "*.safetensors*"))
    hf.save(model, out)
