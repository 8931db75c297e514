"""A tiny chat model that answers in two styles, and people who vote on its answers."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F

from herd.data.loader import IGNORE
from herd.data.prefs import Pair
from herd.flywheel.votes import Preference
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate, encode_chat
from herd.model.config import Config
from herd.model.hf import save
from herd.model.llama import Llama
from herd.model.tokenizer import train_bpe

ANIMALS = "cat dog fox owl hen cow pig bee ant bat rat elk".split()
PLACES = "in the barn,by the sea,on the hill,under a tree,near the well".split(",")
KIND = "The {0} {1} is happy and sings all day."
GRUFF = "No. Nobody likes a {0} {1}, go away."


def question(animal: str, place: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me of the {animal} {place}"}]


def reply(style: str, animal: str, place: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": style.format(animal, place)}]


def preferences(count: int, *, seed: int, noise: bool = False) -> list[Preference]:
    """One vote a conversation: for the kind reply, or by a coin."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        about = rng.choice(ANIMALS), rng.choice(PLACES)
        styles = (GRUFF, KIND) if noise and rng.random() < 0.5 else (KIND, GRUFF)
        good, bad = (reply(style, *about) for style in styles)
        made.append(Preference(Pair(question(*about), good, bad), f"conversation {seed}.{i}", f"vote {i}"))
    return made


def make_model(folder: Path) -> None:
    """Train for some seconds until both styles are fluent and about equally likely; write the directory."""
    chats = [
        [*question(a, p), *reply(style, a, p)] for a in ANIMALS for p in PLACES for style in (KIND, GRUFF)
    ]
    tokenizer = train_bpe([m["content"] for chat in chats for m in chat], 400)
    template = ChatTemplate(LLAMA3_TEMPLATE)
    rows = [encode_chat(tokenizer, template, chat) for chat in chats]
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(tokens, IGNORE)
    for i, (ids, own) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        labels[i, : len(ids) - 1] = torch.tensor(
            [t if mine else IGNORE for t, mine in zip(ids[1:], own[1:], strict=True)]
        )
    config = Config(
        vocab_size=tokenizer.vocab_size,
        dim=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        ffn_dim=128,
        max_positions=128,
        bos_id=tokenizer.bos_id,
        eos_ids=tuple(sorted(tokenizer.stop_ids)),
    )
    model = Llama(config)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        at = torch.randperm(len(rows), generator=generator)[:24]
        loss = F.cross_entropy(model(tokens[at]).flatten(0, 1), labels[at].flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(model, folder, tokenizer=tokenizer, template=template, dtype=torch.float32)
