"""Attention against a softmax over the whole table of scores, in float64."""

import pytest
import torch

from herd.model.mask import BLOCK, Mask, attend, causal, document, prefix

LENGTH = 2 * BLOCK + 37  # blocks of queries, and a piece of one


def documents() -> torch.Tensor:
    """[2, LENGTH]: borders within blocks, on one, and padding."""
    docs = torch.zeros(2, LENGTH, dtype=torch.int32)
    docs[0, 50:], docs[0, BLOCK:], docs[0, -9:] = 1, 2, -1
    docs[1, BLOCK + 1 :] = 1
    return docs


def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


LOWER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
CASES = {
    "causal": (causal(), LOWER),
    "document": (
        document(documents()),
        (LOWER & (documents()[:, :, None] == documents()[:, None, :]))[:, None],
    ),
    "prefix": (
        prefix(torch.tensor([5, BLOCK + 3]), LENGTH),
        (LOWER | (torch.arange(LENGTH) < torch.tensor([[[5]], [[BLOCK + 3]]])))[:, None],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_whole_table(name: str) -> None:
    mask: Mask
    mask, seen = CASES[name]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, LENGTH, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    weight = torch.randn(q.shape, generator=generator, dtype=torch.float64)
    ours, expected = attend(mask)(0, q, k, v), whole(q, k, v, seen)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    mine = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
