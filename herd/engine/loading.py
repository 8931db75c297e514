"""An engine from files: the model in the weights asked for, on the kernels where there are some, and its cache."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from herd.engine import kernels, sampler
from herd.engine.cache import needed
from herd.engine.eager import Eager
from herd.engine.engine import Engine
from herd.engine.native import Native, draw
from herd.engine.packed import pack, quantise
from herd.engine.step import Runner
from herd.errors import HerdError
from herd.memory import available_memory
from herd.model import hf
from herd.model.chat import ChatTemplate
from herd.model.tokenizer import Tokenizer

MAX_LEN = 8192  # positions a sequence, unless the model has fewer
CACHE_BYTES = 4 << 30  # of keys and values at most; memory is taken as they fill, and a little ahead
CACHE_SHARE = 0.5  # of the memory that is free once the weights are there
SLOTS = 64

Weights = Literal["auto", "fp32", "bf16", "int8", "int4"]


def open_engine(model_dir: Path, *, weights: str = "auto", promised: int = 0) -> Engine:
    """Load a model. Raises HerdError for whatever is malformed.

    promised: bytes that other engines' caches may still take. "auto" is HERD_WEIGHTS if that is set, else int8 where the kernels are and bf16 where they are not.
    """
    with ThreadPoolExecutor(2) as beside:
        reading, compiling = beside.submit(Tokenizer.load, model_dir), beside.submit(_template, model_dir)
        runner = _runner(model_dir, chosen(weights))
    tokenizer, template = reading.result(), compiling.result()
    if tokenizer.vocab_size > runner.config.vocab_size:
        raise HerdError(
            f"{model_dir}: the tokenizer has more tokens than the model; they do not belong together"
        )
    max_len = min(runner.config.max_positions, MAX_LEN)
    free = available_memory()
    size = CACHE_BYTES if free is None else min(CACHE_BYTES, int(CACHE_SHARE * (free - promised)))
    most = max(size // runner.block_bytes, needed(max_len))
    blocks = min(most, SLOTS * needed(max_len))
    return Engine(
        runner,
        tokenizer,
        template,
        max_len=max_len,
        slots=SLOTS,
        blocks=blocks,
        draw=draw if kernels.available() else sampler.draw,
    )


def chosen(weights: str) -> Weights:
    if weights == "auto":
        weights = os.environ.get("HERD_WEIGHTS") or "auto"
    if weights not in get_args(Weights):
        raise HerdError(f"weights are {', '.join(get_args(Weights))}; not {weights!r}")
    if weights == "auto":
        return "int8" if kernels.available() else "bf16"
    return cast(Weights, weights)


def _runner(model_dir: Path, weights: Weights) -> Runner:
    if weights == "fp32":
        return Eager(hf.load(model_dir))
    if kernels.available():
        return Native(hf.load(model_dir, dtype=torch.bfloat16, copy=False), weights)
    model = hf.load(model_dir, dtype=torch.bfloat16)
    if weights == "int8" or weights == "int4":
        quantise(model, weights)
    else:
        pack(model)
    return Eager(model)


def _template(model_dir: Path) -> ChatTemplate | None:
    """None for a model that only completes text."""
    try:
        return ChatTemplate.load(model_dir)
    except HerdError as error:
        if "no chat template" in str(error):
            return None
        raise
