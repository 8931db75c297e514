"""The models that the benchmarks serve: shapes of Llamas with random weights, written once and kept."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from herd.model import hf
from herd.model.config import Config, RopeScaling
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

SHAPES = {
    "cria": Config(8192, 384, 6, 6, 2, 64, 896, max_positions=4096),
    "llama-125m": Config(32_000, 576, 30, 9, 3, 64, 1536, max_positions=4096),  # MobileLLM-125M's
    "llama-3.2-1b": Config(
        128_256, 2048, 16, 32, 8, 64, 8192, max_positions=131_072, rope_scaling=RopeScaling(32.0)
    ),
}


def options(description: str | None) -> argparse.ArgumentParser:
    """--shape and --cache, as all that serve these have them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "herd-bench")
    return parser


def tokenizer(size: int) -> Tokenizer:
    """A vocabulary of so many ASCII words, none of which ends a reply; texts do not matter here, ids do."""
    vocab = {chr(33 + i): i for i in range(94)} | {f"w{i}": i for i in range(94, size)}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def checkpoint(name: str, cache: Path) -> Path:
    """The shape's Hugging Face directory in `cache`: bf16, a tied head, the same weights whenever it is made."""
    config = SHAPES[name]
    folder, part = cache / name / "hf", cache / name / "hf.part"
    if not folder.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        model = Llama(config)
        model.init_weights(0)
        hf.save(model, part, tokenizer=tokenizer(config.vocab_size))
        # For those who load tokenizers by transformers.
        words = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_positions}
        (part / "tokenizer_config.json").write_text(json.dumps(words))
        os.rename(part, folder)
    return folder


def weight_bytes(config: Config, precision: str) -> float:
    """Bytes of weights that a step reads: all but the embedding's rows, the head among them.

    int8 has a scale of 4 bytes a row. q8_0 and q4_0 have one of 2 bytes for 32 weights, as has int4, whose head is int8.
    """
    head = config.vocab_size * config.dim
    inner = config.parameters - head if config.tied else config.parameters - 2 * head
    bits = {"bf16": 16, "f16": 16, "int8": 8, "q8_0": 8.5, "int4": 4.5, "q4_0": 4.5}[precision]
    return (inner * bits + head * (8 if precision == "int4" else bits)) / 8


def products(config: Config, tokens: int) -> float:
    """Multiplications and additions to read a prompt of so many tokens: products of weights, and attention."""
    inner = config.parameters - config.vocab_size * config.dim * (1 if config.tied else 2)
    attention = 2 * config.n_layers * config.n_heads * config.head_dim * tokens**2  # half of each square
    return 2.0 * inner * tokens + attention
