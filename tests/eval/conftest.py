"""A tiny Llama with its tokenizer, and the same weights in transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from herd.model.config import Config
from herd.model.hf import save
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer, train_bpe

STORY = "Once upon a time a small brown fox lived near the river. It was kind, and it had 12 friends. "


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Matrices this small lose by more threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([STORY], 320)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Llama:
    config = Config(
        vocab_size=tokenizer.vocab_size,
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        ffn_dim=64,
        max_positions=48,
        bos_id=tokenizer.bos_id,
    )
    model = Llama(config)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that mistakes show
            parameter *= 4
    return model.eval()


@pytest.fixture(scope="session")
def peer(model: Llama, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model in transformers."""
    from transformers import LlamaForCausalLM

    folder: Path = tmp_path_factory.mktemp("model")
    save(model, folder, dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
