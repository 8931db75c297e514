"""Checkpoints: safetensors and JSON, complete or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herd.errors import HerdError
from herd.model.files import read_header, read_tensors, write_tensors
from herd.model.llama import Llama


def save(
    out: Path,
    step: int,
    model: Llama,
    optimizers: list[torch.optim.Optimizer],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write `out/step-NNNNNN` under another name, then rename it: what is there under its name is whole.

    A full disk raises HerdError and leaves the former checkpoints alone.
    """
    scratch = out / f".step-{step:06}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        write_tensors(
            scratch / "model.safetensors", {n: p.detach().contiguous() for n, p in model.named_parameters()}
        )
        tensors, plain = _flatten(optimizers)
        tensors["rng"] = torch.get_rng_state()
        write_tensors(scratch / "optimizer.safetensors", tensors)
        text = json.dumps({"step": step, "optimizers": plain, **state})
        with open(scratch / "state.json", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        target = out / f"step-{step:06}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
    except (OSError, HerdError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HerdError(
            f"{out}: checkpoint not written ({reason}); earlier ones are kept, free space"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


def checkpoints(out: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in out.glob("step-*") if (p / "state.json").is_file())


def load(path: Path, model: Llama, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Restore weights, optimizer state and RNG in place; returns what `save` was given as state, with `step`."""
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        read_tensors([path / "model.safetensors"], {n: p.data for n, p in model.named_parameters()})
        file = path / "optimizer.safetensors"
        types = {"F32": torch.float32, "U8": torch.uint8, "BF16": torch.bfloat16}
        tensors = {n: torch.empty(e["shape"], dtype=types[e["dtype"]]) for n, e in read_header(file).items()}
        read_tensors([file], tensors)
        torch.set_rng_state(tensors.pop("rng"))
        _unflatten(optimizers, tensors, state.pop("optimizers"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise HerdError(
            f"{path}: not a checkpoint of this recipe ({error}); remove it to begin anew"
        ) from None
    return state


def _flatten(optimizers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    tensors, plain = {}, []
    for i, optimizer in enumerate(optimizers):
        table = optimizer.state_dict()
        plain.append(
            {
                str(k): [n for n, v in s.items() if not isinstance(v, Tensor)]
                for k, s in table["state"].items()
            }
        )
        for index, entry in table["state"].items():
            for name, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"{i}.{index}.{name}"] = value.detach().contiguous()
    return tensors, plain


def _unflatten(
    optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor], plain: list[Any]
) -> None:
    for i, optimizer in enumerate(optimizers):
        table = optimizer.state_dict()
        table["state"] = {int(k): {} for k in plain[i]}
        for name, value in tensors.items():
            where, index, key = name.split(".", 2)
            if int(where) == i:
                table["state"][int(index)][key] = value
        optimizer.load_state_dict(table)
