"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) as Llama 3 does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.data.loader import IGNORE
from herd.data.prefs import Pair
from herd.errors import HerdError
from herd.model.chat import ChatTemplate, Messages, encode_chat, encode_prompt
from herd.model.llama import Llama
from herd.model.mask import attend, causal
from herd.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reply:
    """A conversation's tokens, and as labels (the token that follows each) those of its last reply alone."""

    tokens: list[int]
    labels: list[int]


@dataclass(frozen=True)
class PairBatch:
    """B pairs. tokens, labels [2B, T] int64: the chosen replies, then the rejected; padding follows the
    text, so that a causal model never sees it. reference [2B]: the reference model's log-probabilities."""

    tokens: Tensor
    labels: Tensor
    reference: Tensor


def encode_reply(
    tokenizer: Tokenizer, template: ChatTemplate, prompt: Messages, reply: Messages, limit: int
) -> Reply | None:
    """The reply with labels on its content only; None if it has no content or is over `limit` tokens.

    Headers and `<|eot_id|>` are masked in chosen and rejected alike: shared by both, they would be pushed
    up and down at once (Llama 3, arXiv:2407.21783, section 4.1.4).
    """
    ids, own = encode_chat(tokenizer, template, [*prompt, *reply])
    start = len(encode_prompt(tokenizer, template, prompt))
    formatting = set(tokenizer.special.values())
    labels = [
        token if own[i] and i >= start and token not in formatting else IGNORE for i, token in enumerate(ids)
    ]
    labels = [*labels[1:], IGNORE]
    if len(ids) > limit or all(label == IGNORE for label in labels):
        return None
    return Reply(ids, labels)


def encode_pairs(
    tokenizer: Tokenizer, template: ChatTemplate, pairs: Sequence[Pair], limit: int
) -> list[tuple[Reply, Reply] | None]:
    """(chosen, rejected) for each pair; None where either is empty or longer than `limit` tokens."""
    encoded: list[tuple[Reply, Reply] | None] = []
    for pair in pairs:
        chosen = encode_reply(tokenizer, template, pair.prompt, pair.chosen, limit)
        rejected = encode_reply(tokenizer, template, pair.prompt, pair.rejected, limit)
        encoded.append((chosen, rejected) if chosen and rejected else None)
    return encoded


def pad(replies: Sequence[Reply], device: torch.device) -> tuple[Tensor, Tensor]:
    """tokens and labels, both [len(replies), longest]."""
    longest = max(len(reply.tokens) for reply in replies)
    tokens = torch.zeros(len(replies), longest, dtype=torch.long)
    labels = torch.full_like(tokens, IGNORE)
    for row, reply in enumerate(replies):
        tokens[row, : len(reply.tokens)] = torch.tensor(reply.tokens)
        labels[row, : len(reply.labels)] = torch.tensor(reply.labels)
    return tokens.to(device), labels.to(device)


def sequence_logprobs(model: Llama, tokens: Tensor, labels: Tensor) -> Tensor:
    """Σ log p(label) over the labelled positions of each row, float32 [B], in nats.

    tokens, labels [B, T]; labels are IGNORE where nothing is scored. The head runs on labelled positions only.
    """
    scored = labels != IGNORE
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    hidden = model.hidden(tokens, positions, attend(causal()))
    logits = model.head(hidden[scored]).float()
    logprobs = -F.cross_entropy(logits, labels[scored], reduction="none")
    rows = scored.nonzero()[:, 0]
    return torch.zeros(len(tokens), device=logprobs.device).index_add(0, rows, logprobs)


@torch.no_grad()
def score(model: Llama, replies: Sequence[Reply], batch: int = 16) -> Tensor:
    """`sequence_logprobs` of many replies without gradient, float32 [len(replies)] on the CPU."""
    out = torch.zeros(len(replies))
    order = sorted(range(len(replies)), key=lambda i: len(replies[i].tokens))
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        tokens, labels = pad([replies[i] for i in rows], _device(model))
        out[rows] = sequence_logprobs(model, tokens, labels).cpu()
    return out


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """−log σ(β [(log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected))]), each pair.

    All arguments and the result [B]: log-probabilities of whole replies, in nats (equation 7 of the paper).
    """
    advantage = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    return -F.logsigmoid(beta * advantage)


class DPO:
    """The DPO objective: `dpo_loss`, plus `nll` times the chosen reply's mean negative log-likelihood a token,
    which keeps the chosen from becoming less likely while its lead grows (Llama 3, section 4.1.4)."""

    name = "dpo"

    def __init__(self, *, beta: float = 0.1, nll: float = 0.2) -> None:
        self.beta, self.nll = beta, nll

    def loss(self, model: Llama, batch: PairBatch) -> tuple[Tensor, int]:
        """The sum of the pairs' losses, and how many pairs there are (the `Objective` protocol)."""
        losses, _ = self.pairs(model, batch)
        return losses.sum(), len(losses)

    def pairs(self, model: Llama, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Each pair's loss and its advantage: by how many nats more the chosen has gained on the reference than
        the rejected. Both [B]; no gradient flows through the advantage."""
        logprobs = sequence_logprobs(model, batch.tokens, batch.labels)
        chosen, rejected = logprobs.chunk(2)
        ref_chosen, ref_rejected = batch.reference.chunk(2)
        lengths = (batch.labels[: len(chosen)] != IGNORE).sum(1)
        preference = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=self.beta)
        advantage = (chosen - ref_chosen) - (rejected - ref_rejected)
        return preference - self.nll * chosen / lengths, advantage.detach()


def batches(
    model: Llama, pairs: Sequence[tuple[Reply, Reply]], *, batch: int, epochs: int, seed: int
) -> Iterator[PairBatch]:
    """Every pair once an epoch, shuffled. The reference is `model` as it is when the first batch is asked for:
    with LoRA fresh (a zero product) or as loaded, that is the model before this training."""
    reference = score(model, [reply for pair in pairs for reply in pair]).view(-1, 2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            replies = [pairs[i][side] for side in (0, 1) for i in rows]
            tokens, labels = pad(replies, _device(model))
            yield PairBatch(tokens, labels, reference[rows].T.flatten().to(tokens.device))


def fit(
    model: Llama,
    pairs: Sequence[tuple[Reply, Reply]],
    *,
    objective: DPO,
    lr: float,
    batch: int,
    epochs: int,
    seed: int,
    progress: Callable[[dict[str, float]], None] = lambda _: None,
) -> None:
    """Train what requires a gradient (LoRA's matrices) in place: AdamW, the rate falling linearly to zero.

    After every step `progress` gets step, steps, loss (the mean of the pairs), accuracy (the share of pairs with
    an advantage above zero) and advantage (its mean, in nats). HerdError if the loss is not finite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    steps = epochs * -(-len(pairs) // batch)
    for step, item in enumerate(batches(model, pairs, batch=batch, epochs=epochs, seed=seed)):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        losses, advantage = objective.pairs(model, item)
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise HerdError(f"the DPO loss is not finite at step {step}; use a lower learning rate than {lr}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        progress(
            {
                "step": step + 1,
                "steps": steps,
                "loss": loss.item(),
                "accuracy": (advantage > 0).float().mean().item(),
                "advantage": advantage.mean().item(),
            }
        )


def _device(model: Llama) -> torch.device:
    return next(model.parameters()).device
