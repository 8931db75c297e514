"""Optimizers, learning-rate schedules and the arithmetic of a step."""

from __future__ import annotations

import math

import torch

from herd.model.config import Config
from herd.model.llama import Llama
from herd.train.recipe import Recipe, Schedule


def optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (torch.optim.Muon; Jordan et al. 2024) for the matrices inside blocks.

    Norms and embeddings are not decayed. Each group's `peak` is its rate at scale 1.
    """
    o = recipe.optimizer
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.dim() == 2 and n.startswith("layers.")]
    other = [p for n, p in named if p.dim() == 2 and not n.startswith("layers.")]
    vectors = [p for n, p in named if p.dim() != 2]
    groups = [
        {"params": other, "lr": o.embed_lr or o.lr, "weight_decay": 0.0},
        {"params": vectors, "lr": o.embed_lr or o.lr, "weight_decay": 0.0},
    ]
    if o.kind == "adamw":
        groups.append({"params": matrices, "lr": o.lr, "weight_decay": o.weight_decay})
    built: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], betas=o.betas, fused=True)
    ]
    if o.kind == "muon":
        built.append(
            torch.optim.Muon(matrices, lr=o.lr, weight_decay=o.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in built:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return built


def scale_at(step: int, steps: int, schedule: Schedule, anneal_from: int | None = None) -> float:
    """Learning rate at `step` (from 0) of `steps`, as a fraction of the peak.

    With `anneal_from`, the decay begins at that step and ends at `steps`, whatever the recipe says.
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.kind == "cosine":
        done = (step - schedule.warmup) / max(1, steps - schedule.warmup)
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    start = steps - int(steps * schedule.decay) if anneal_from is None else anneal_from
    if step < start:
        return 1.0
    return schedule.floor + (1 - schedule.floor) * max(0.0, (steps - step) / max(1, steps - start))


def flops_per_token(config: Config, seq_len: int) -> int:
    """Training FLOPs a token: 6 for each weight that multiplies, plus 12·L·H·D·T for attention.

    PaLM's appendix B (Chowdhery et al. 2022). Causal masking is not discounted; norms and softmax are left out.
    """
    multiplied = config.parameters - (0 if config.tied else config.vocab_size * config.dim)
    return 6 * multiplied + 12 * config.n_layers * config.n_heads * config.head_dim * seq_len


# Dense bf16 peak of one device in FLOP/s, by the name that torch reports (vendors' data sheets).
_PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops(device: torch.device) -> float:
    """0 when unknown: an unknown peak gives no utilisation rather than a guess."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAKS.items() if key in name), 0.0)
