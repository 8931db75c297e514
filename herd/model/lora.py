"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) in PEFT's file layout."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herd.errors import HerdError
from herd.model.config import Config
from herd.model.files import read_tensors, write_tensors
from herd.model.hf import MODULES
from herd.model.llama import Attention, FeedForward, Linear, Llama

PREFIX = "base_model.model."
ALL = ("q", "k", "v", "o", "gate", "up", "down")


class LoRALinear(nn.Module):
    """W x + (α/r) B A x with W frozen. A: [r, inputs], B: [outputs, r], zero at first."""

    def __init__(self, base: Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.enabled = True
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        return y + F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype)) * self.scale


def _adapted(model: Llama) -> Iterator[tuple[str, LoRALinear]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear))


def add_lora(model: Llama, *, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = ALL) -> None:
    """Put adapters on the named layers of every block and freeze everything else."""
    if unknown := set(targets) - set(ALL):
        raise HerdError(f"LoRA: unknown layers {sorted(unknown)}; choose among {', '.join(ALL)}")
    model.requires_grad_(False)
    for part in list(model.modules()):
        if isinstance(part, Attention | FeedForward):
            # in a fixed order, so that a seed gives the same first weights
            for name in [n for n, _ in part.named_children() if n in targets]:
                linear = LoRALinear(getattr(part, name), rank, alpha)
                setattr(part, name, linear.to(model.embed.weight.device))


def set_lora(model: Llama, enabled: bool) -> None:
    """Switch the adapters on or off: off is the base model (the reference of DPO)."""
    for _, layer in _adapted(model):
        layer.enabled = enabled


def lora_parameters(model: Llama) -> list[nn.Parameter]:
    return [p for _, layer in _adapted(model) for p in (layer.a, layer.b)]


@torch.no_grad()
def merge(model: Llama) -> None:
    """Add every adapter into its weights, leaving a plain Llama."""
    for name, layer in list(_adapted(model)):
        delta = layer.b.float() @ layer.a.float() * layer.scale
        weight = layer.base.weight
        weight.copy_((weight.float() + delta).to(weight.dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.base)


def save_peft(model: Llama, directory: str | os.PathLike[str], *, base: str) -> None:
    """Write the adapters as PEFT does (`adapter_config.json`, `adapter_model.safetensors`). `base` names the model."""
    layers = dict(_adapted(model))
    if not layers:
        raise HerdError("this model has no adapter to save")
    first = next(iter(layers.values()))
    rank = first.a.shape[0]
    tensors = {}
    for name, layer in layers.items():
        path = f"{PREFIX}model.{_hf_module(name)}"
        tensors[f"{path}.lora_A.weight"] = layer.a.detach().float().contiguous()
        tensors[f"{path}.lora_B.weight"] = layer.b.detach().float().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({_hf_module(n).rpartition(".")[2] for n in layers}),
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "adapter_model.safetensors", tensors)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_peft(model: Llama, directory: str | os.PathLike[str]) -> None:
    """Put the adapter of a PEFT directory on the model. Raises HerdError when it does not fit."""
    layers, scale = read_peft(model.config, directory)
    rank = next(iter(layers.values()))[0].shape[0]
    targets = sorted({name.rpartition(".")[2] for name in layers}, key=ALL.index)
    add_lora(model, rank=rank, alpha=scale * rank, targets=targets)
    for name, layer in _adapted(model):
        layer.a.data.copy_(layers[name][0])
        layer.b.data.copy_(layers[name][1])


def read_peft(
    config: Config, directory: str | os.PathLike[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """A [r, inputs] and B [outputs, r] (fp32) by layer ("layers.3.attn.q"), and the scale α/r, for such a model.

    Raises HerdError when they do not fit it.
    """
    directory = Path(directory)
    try:
        table = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = int(table["r"]), float(table["lora_alpha"])
    except FileNotFoundError:
        raise HerdError(f"{directory}: no adapter_config.json; not a PEFT adapter") from None
    except (ValueError, KeyError, TypeError) as error:
        raise HerdError(f"{directory}/adapter_config.json: malformed ({error})") from None
    for key, plain in (("use_dora", False), ("use_rslora", False), ("bias", "none"), ("rank_pattern", {})):
        if table.get(key, plain) != plain:
            raise HerdError(f"{directory}: adapter option {key} = {table[key]!r} is not supported")
    if not 1 <= rank <= 1024:
        raise HerdError(f"{directory}: rank {rank} is not between 1 and 1024")
    shapes = {MODULES[part].rpartition(".")[2]: (part, shape) for part, shape in _shapes(config).items()}
    names = table.get("target_modules") or []
    targets = [shapes[n] for n in names if n in shapes]
    if len(targets) != len(names) or not targets:
        raise HerdError(f"{directory}: target_modules {names} are not layers of a Llama")
    layers = {
        f"layers.{i}.{part}": (torch.empty(rank, inputs), torch.empty(outputs, rank))
        for i in range(config.n_layers)
        for part, (outputs, inputs) in targets
    }
    want: dict[str, Tensor] = {}
    for name, (a, b) in layers.items():
        path = f"{PREFIX}model.{_hf_module(name)}"
        want |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
    read_tensors([directory / "adapter_model.safetensors"], want)
    return layers, alpha / rank


def _shapes(config: Config) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of a block's linear layers."""
    c, queries, keys = config, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "attn.q": (queries, c.dim),
        "attn.k": (keys, c.dim),
        "attn.v": (keys, c.dim),
        "attn.o": (c.dim, queries),
        "ffn.gate": (c.ffn_dim, c.dim),
        "ffn.up": (c.ffn_dim, c.dim),
        "ffn.down": (c.dim, c.ffn_dim),
    }


def _hf_module(name: str) -> str:
    layers, index, rest = name.split(".", 2)
    return f"{layers}.{index}.{MODULES[rest]}"
