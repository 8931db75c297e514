"""Weights laid out once as oneDNN's products want them, which else happens again at every product; or quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from herd.engine import kernels
from herd.model.llama import Linear, Llama


class Packed(nn.Module):
    """A linear layer that can only compute."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")  # type: ignore[no-any-return]


class Quantised(nn.Module):
    """A linear layer whose weight is int8 or int4, as the kernels would compute it."""

    def __init__(self, weight: Tensor, kind: kernels.Kind) -> None:
        super().__init__()
        self.weight = kernels.PlainWeight(weight, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.linear(x.flatten(0, -2)).to(x.dtype).view(*x.shape[:-1], self.weight.n)


def pack(model: Llama) -> None:
    """Repack a bf16 model's linear layers in place, where this CPU's products gain by it."""
    if model.dtype != torch.bfloat16 or model.embed.weight.device.type != "cpu":
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _replace(model, Packed, Packed)


def quantise(model: Llama, kind: Literal["int8", "int4"]) -> None:
    """Quantise a model's linear layers in place; the head never below int8."""
    _replace(model, lambda w: Quantised(w, kind), lambda w: Quantised(w, "int8"))


def _replace(model: Llama, layer: Callable[[Tensor], nn.Module], head: Callable[[Tensor], nn.Module]) -> None:
    """The model can then be neither trained nor saved. A tied head becomes a second copy of the embedding."""
    model.lm_head = head(model.head_weight)
    # Parents only, so that each weight's first layout is given back as soon as it has its second.
    for parent in [m for m in model.modules() if not isinstance(m, Linear)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                parent.add_module(name, layer(child.weight))
