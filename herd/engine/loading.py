"""An engine from files: model directory, adapter, and a cache that fits a memory budget."""

from __future__ import annotations

from pathlib import Path

import torch

from herd.engine.cache import SlotCache
from herd.engine.engine import Engine
from herd.engine.packed import pack
from herd.errors import HerdError
from herd.model import hf
from herd.model.chat import ChatTemplate
from herd.model.lora import load_peft, merge
from herd.model.tokenizer import Tokenizer

MAX_LEN = 8192  # positions a sequence, unless the model has fewer
CACHE_BYTES = 4 << 30  # address space of keys and values; memory is taken as it fills
MAX_SLOTS = 32


def open_engine(
    model_dir: Path, adapter_dir: Path | None = None, *, dtype: torch.dtype = torch.bfloat16
) -> Engine:
    """Load a model, with the adapter merged into its weights. Raises HerdError for whatever is malformed."""
    model = hf.load(model_dir, dtype=dtype)
    if adapter_dir:
        load_peft(model, adapter_dir)
        merge(model)
    pack(model)
    tokenizer = Tokenizer.load(model_dir)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise HerdError(
            f"{model_dir}: the tokenizer has more tokens than the model; they do not belong together"
        )
    max_len = min(model.config.max_positions, MAX_LEN)
    each = SlotCache.bytes_per_token(model.config, dtype) * max_len
    slots = min(max(CACHE_BYTES // each, 1), MAX_SLOTS)
    return Engine(model, tokenizer, _template(model_dir), max_len=max_len, slots=slots)


def _template(model_dir: Path) -> ChatTemplate | None:
    """None for a model that only completes text."""
    try:
        return ChatTemplate.load(model_dir)
    except HerdError as error:
        if "no chat template" in str(error):
            return None
        raise
