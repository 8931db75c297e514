"""A tiny Llama with its tokenizer, and the same weights in transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from herd.model.hf import save
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer, train_bpe

from ..tiny import tiny_config, tiny_llama

STORY = "Once upon a time a small brown fox lived near the river. It was kind, and it had 12 friends. "


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([STORY], 320)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Llama:
    return tiny_llama(tiny_config(tokenizer, max_positions=48))


@pytest.fixture(scope="session")
def peer(model: Llama, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model in transformers."""
    from transformers import LlamaForCausalLM

    folder: Path = tmp_path_factory.mktemp("model")
    save(model, folder, dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
