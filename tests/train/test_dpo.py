"""DPO against closed forms, an independent NumPy implementation, and a problem whose optimum is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from herd.data.loader import IGNORE
from herd.data.prefs import Pair
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.train.dpo import DPO, PairBatch, Reply, batches, dpo_loss, encode_pairs, fit, sequence_logprobs


class Bigram(nn.Module):
    """The smallest causal model: the next token's logits depend on the present token alone."""

    def __init__(self, vocab: int, seed: int = 0) -> None:
        super().__init__()
        table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))
        self.table = nn.Parameter(table)

    def hidden(self, tokens: Tensor, positions: Tensor, attend: object) -> Tensor:
        return nn.functional.one_hot(tokens, len(self.table)).to(self.table.dtype)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table


def logsumexp(x: np.ndarray) -> np.ndarray:
    return np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1)


def numpy_logprob(table: np.ndarray, tokens: list[int], labels: list[int]) -> float:
    return sum(
        float(table[a, b] - logsumexp(table[a])) for a, b in zip(tokens, labels, strict=True) if b != IGNORE
    )


def test_log_2_where_policy_is_reference() -> None:
    chosen, rejected = torch.randn(2, 5)
    assert torch.allclose(dpo_loss(chosen, rejected, chosen, rejected), torch.full((5,), math.log(2)))


def test_gradient_is_the_formula() -> None:
    """∂L/∂log π(chosen) = −β σ(−β·advantage), and its negative for the rejected."""
    parts = torch.randn(4, 6, dtype=torch.float64).requires_grad_()
    beta = 0.3
    dpo_loss(*parts, beta=beta).sum().backward()
    pc, pr, rc, rr = parts.detach().numpy()
    expected = -beta / (1 + np.exp(beta * ((pc - rc) - (pr - rr))))
    assert parts.grad is not None
    np.testing.assert_allclose(
        parts.grad.numpy(), np.stack([expected, -expected, -expected, expected]), rtol=1e-12
    )


def test_sequence_logprobs_counts_labels_alone() -> None:
    model = Bigram(7)
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    labels = torch.tensor([[IGNORE, 3, 4, IGNORE], [6, IGNORE, IGNORE, IGNORE]])
    table = model.table.detach().double().numpy()
    expected = [numpy_logprob(table, t, lab) for t, lab in zip(tokens.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(sequence_logprobs(model, tokens, labels).detach(), expected, rtol=1e-5)


def test_objective_against_numpy() -> None:
    model, reference = Bigram(9, seed=1), Bigram(9, seed=2)
    tokens = torch.randint(9, (6, 5), generator=torch.Generator().manual_seed(3))
    labels = torch.randint(9, (6, 5), generator=torch.Generator().manual_seed(4))
    labels[:, :2] = IGNORE
    labels[0, 3:] = IGNORE
    ref = sequence_logprobs(reference, tokens, labels).detach()
    objective, batch = DPO(beta=0.25, nll=0.2), PairBatch(tokens, labels, ref)
    loss, count = objective.loss(model, batch)
    losses, advantages = objective.pairs(model, batch)

    def score(m: Bigram) -> np.ndarray:
        table = m.table.detach().double().numpy()
        return np.array(
            [numpy_logprob(table, t, lab) for t, lab in zip(tokens.tolist(), labels.tolist(), strict=True)]
        )

    policy, gain = score(model), score(model) - score(reference)
    advantage = gain[:3] - gain[3:]
    lengths = np.array([1, 3, 3])
    expected = np.log1p(np.exp(-0.25 * advantage)) + 0.2 * (-policy[:3] / lengths)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(advantages, advantage, rtol=1e-4)
    assert (loss.item(), count) == (pytest.approx(expected.sum(), rel=1e-5), 3)


def test_the_optimum_of_two_tokens_is_the_closed_form() -> None:
    """A preferred to B in a share q of votes, reference uniform: at the optimum β·(log p(A)/p(B)) = logit q."""
    beta, votes = 0.5, [(0, 1)] * 7 + [(1, 0)] * 3
    model = Bigram(2)
    model.table.data.zero_()
    pairs = [(Reply([0], [a]), Reply([0], [b])) for a, b in votes]
    item = next(batches(model, pairs, batch=len(pairs), epochs=1, seed=0))
    torch.testing.assert_close(item.reference, torch.full((20,), -math.log(2)))
    objective = DPO(beta=beta, nll=0.0)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = objective.loss(model, item)
        loss.backward()
        return loss

    optimizer.step(closure)
    odds = (model.table[0, 0] - model.table[0, 1]).item()
    assert odds == pytest.approx(math.log(7 / 3) / beta, rel=1e-3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the cat sat on the mat", "hello there, how are you today"], 300)


def test_only_the_replys_content_is_scored(tokenizer: Tokenizer) -> None:
    prompt = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "the mat"},
        {"role": "user", "content": "how are you"},
    ]
    pair = Pair(
        prompt,
        [{"role": "assistant", "content": "the cat"}],
        [{"role": "assistant", "content": "<|eot_id|> sat"}],
    )
    template = ChatTemplate(LLAMA3_TEMPLATE)
    [encoded] = encode_pairs(tokenizer, template, [pair], limit=200)
    assert encoded is not None
    for reply, text in zip(encoded, ["the cat", "<|eot_id|> sat"], strict=True):
        scored = [label for label in reply.labels if label != IGNORE]
        assert tokenizer.decode(scored) == text
        assert all(reply.tokens[i + 1] == label for i, label in enumerate(reply.labels) if label != IGNORE)
    assert encode_pairs(tokenizer, template, [pair], limit=20) == [None]
    empty = Pair(prompt, pair.chosen, [{"role": "assistant", "content": ""}])
    assert encode_pairs(tokenizer, template, [empty], limit=200) == [None]


def test_fit_is_deterministic_and_learns_the_preference() -> None:
    pairs = [(Reply([i, 1], [1, i]), Reply([i, 2], [2, i])) for i in range(3, 8)]
    tables, last = [], {}
    for _ in range(2):
        model = Bigram(9)
        steps: list[dict[str, float]] = []
        fit(model, pairs, objective=DPO(), lr=0.05, batch=2, epochs=8, seed=1, progress=steps.append)
        tables.append(model.table.detach().clone())
        last = steps[-1]
    assert torch.equal(*tables)
    assert (last["step"], last["steps"], last["accuracy"]) == (24, 24, 1.0)
    assert last["advantage"] > 0
