"""What a run minimises. The loop knows nothing of it but this protocol."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.data.loader import IGNORE, Batch
from herd.model.llama import Llama
from herd.model.mask import attend, causal, document


class Objective(Protocol):
    """`loss` gives the *sum* of the loss over the batch's labels, and how many labels there are.

    The loop divides by the labels of the whole step, so that accumulation and ranks change nothing.
    """

    name: str

    def loss(self, model: Llama, batch: Any) -> tuple[Tensor, int]: ...


class NextToken:
    """Cross-entropy of the next token within each document: pretraining, and sft when the labels are masked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def loss(self, model: Llama, batch: Batch) -> tuple[Tensor, int]:
        device = model.embed.weight.device
        tokens, labels, docs, positions = (
            torch.from_numpy(a).to(device, non_blocking=True)
            for a in (batch.tokens, batch.labels, batch.docs, batch.positions)
        )
        one = bool((batch.docs == 0).all())
        h = model.hidden(tokens, positions, attend(causal() if one else document(docs)))
        return cross_entropy(h.flatten(0, 1), model.head_weight, labels.flatten()), int(
            (batch.labels != IGNORE).sum()
        )


class _HeadLoss(torch.autograd.Function):
    """Sum of cross-entropy of h·Wᵀ against labels, logits made and consumed a chunk of rows at a time.

    The gradients are computed in the forward pass. Products take CHUNK rows, which keeps them efficient; on a CPU the
    softmax takes SOFTMAX_ROWS, so that its passes in fp32 stay in the cache. h: [N,C], weight: [V,C], labels: [N].
    """

    CHUNK = 1024
    SOFTMAX_ROWS = 64
    CHUNK_CUDA = 8192  # few launches, and at most some gigabytes of logits

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        w = weight.to(h.dtype)
        keep = (labels != IGNORE).nonzero()[:, 0]
        states, targets = h[keep], labels[keep, None]
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        dstates = torch.empty_like(states)
        dw = torch.zeros_like(weight, dtype=torch.float32)
        chunk, softmax_rows = _HeadLoss.CHUNK, _HeadLoss.SOFTMAX_ROWS
        if h.is_cuda:
            chunk = softmax_rows = _HeadLoss.CHUNK_CUDA
        for at in range(0, len(keep), chunk):
            rows = slice(at, at + chunk)
            x = states[rows]
            logits = x @ w.T
            small = (torch.split(t, softmax_rows) for t in (logits, targets[rows]))
            for z, target in zip(*small, strict=True):
                p = F.softmax(z, dim=-1, dtype=torch.float32)
                total -= p.gather(1, target).clamp_(min=1e-38).log_().sum()
                p.scatter_add_(1, target, torch.full_like(p[:, :1], -1.0))
                z.copy_(p)  # the logits' gradient takes their place
            torch.mm(logits, w, out=dstates[rows])
            dw += logits.T @ x
        ctx.save_for_backward(torch.zeros_like(h).index_copy_(0, keep, dstates), dw)
        ctx.types = h.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        dh, dw = ctx.saved_tensors
        h_type, w_type = ctx.types
        return (dh * grads[0]).to(h_type), (dw * grads[0]).to(w_type), None


def cross_entropy(h: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Σ −log softmax(h·Wᵀ)[label] over labels that are not IGNORE, in nats."""
    loss: Tensor = _HeadLoss.apply(h, weight, labels)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def nll(h: Tensor, weight: Tensor, labels: Tensor) -> float:
    """The same sum without gradients."""
    total = 0.0
    w = weight.to(h.dtype)
    for at in range(0, h.shape[0], _HeadLoss.CHUNK):
        rows = slice(at, at + _HeadLoss.CHUNK)
        total += F.cross_entropy(
            (h[rows] @ w.T).float(), labels[rows], ignore_index=IGNORE, reduction="sum"
        ).item()
    return total
