"""Llamas small enough to know everything about, for the tests of all rooms."""

from __future__ import annotations

from typing import Any

import torch

from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer


def tiny_config(tokenizer: Tokenizer, **changes: Any) -> Config:
    """Two layers, four heads of 8 that share two of keys and values; `changes` are Config's fields."""
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 64}
    return Config(vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, **(shape | changes))


def tiny_llama(config: Config, *, seed: int = 0, spread: float = 4.0) -> Llama:
    """Random weights, wide enough that mistakes show and that no next token is a foregone conclusion."""
    model = Llama(config)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(spread)
    return model.eval()
