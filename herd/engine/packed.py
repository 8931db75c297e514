"""Weights laid out once as oneDNN's products want them, which else happens again at every product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from herd.model.llama import Linear, Llama


class Packed(nn.Module):
    """A linear layer that can only compute."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")  # type: ignore[no-any-return]


def pack(model: Llama) -> None:
    """Repack a bf16 model's linear layers in place, where this CPU's products gain by it.

    The model can then be neither trained nor saved. A tied head becomes a second copy of the embedding.
    """
    if model.dtype != torch.bfloat16 or model.embed.weight.device.type != "cpu":
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    model.lm_head = Packed(model.head_weight)
    # Parents only, so that each weight's first layout is given back as soon as it has its second.
    for parent in [m for m in model.modules() if not isinstance(m, Linear)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                parent.add_module(name, Packed(child.weight))
