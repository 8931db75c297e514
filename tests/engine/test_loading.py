"""Which weights and which runner a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from herd.engine import kernels, loading
from herd.engine.cache import needed
from herd.engine.eager import Eager
from herd.engine.loading import open_engine
from herd.errors import HerdError
from herd.model import hf
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

from .conftest import ask, run


def test_fp32_is_always_eager_and_unknown_weights_are_refused(model_dir: Path) -> None:
    assert isinstance(open_engine(model_dir, weights="fp32").runner, Eager)
    with pytest.raises(HerdError, match="int8"):
        open_engine(model_dir, weights="int3")


def test_without_kernels_pytorch_serves(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda: None)
    plain = run(open_engine(model_dir, weights="fp32"), ask(logprobs=0))[0]
    for weights, error in (("auto", 0.1), ("int8", 0.2), ("int4", 1.5)):
        engine = open_engine(model_dir, weights=weights)
        assert isinstance(engine.runner, Eager)
        reply = run(engine, ask(logprobs=0))[0]
        assert reply.logprobs[0].logprob == pytest.approx(plain.logprobs[0].logprob, abs=error)


def test_auto_is_what_the_environment_says_else_int8_on_kernels(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_WEIGHTS", "fp32")
    assert isinstance(open_engine(model_dir).runner, Eager)
    monkeypatch.delenv("HERD_WEIGHTS")
    assert loading.chosen("auto") == ("int8" if kernels.available() else "bf16")
    if kernels.available():
        sizes = [open_engine(model_dir, weights=w).runner.weight_bytes for w in ("bf16", "int8", "int4")]
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_the_cache_takes_half_of_free_memory_at_most_but_holds_one_sequence(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(free: int | None, promised: int = 0) -> int:
        monkeypatch.setattr(loading, "available_memory", lambda: free)
        return open_engine(model_dir, promised=promised).scheduler.cache.count

    engine = open_engine(model_dir)
    block, one = engine.runner.block_bytes, needed(engine.context)
    assert blocks(2 * (one + 3) * block) == one + 3
    assert blocks(2 * (one + 3) * block + engine.cache_bytes, engine.cache_bytes) == one + 3
    assert blocks(0) == one
    assert blocks(None) == blocks(1 << 40) == min(loading.SLOTS * one, loading.CACHE_BYTES // block)


@pytest.mark.parametrize("kernel", [True, False])
def test_nothing_of_a_loaded_model_lies_in_its_files(
    model: Llama, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """A file that is overwritten and cut under the engine changes no reply, nor ends the process."""
    if not kernel:
        monkeypatch.setattr(kernels, "available", lambda: None)
    hf.save(model, tmp_path, tokenizer=tokenizer)
    kinds = ("fp32", "bf16", "int8", "int4")
    before = [run(open_engine(tmp_path, weights=w), ask(logprobs=0))[0].logprobs for w in kinds]
    engines = [open_engine(tmp_path, weights=w) for w in kinds]
    file = tmp_path / "model.safetensors"
    if (maps := Path("/proc/self/maps")).exists():
        assert str(file) not in maps.read_text()
    with open(file, "r+b") as opened:
        opened.write(b"\0" * file.stat().st_size)
        opened.truncate(0)
    assert [run(engine, ask(logprobs=0))[0].logprobs for engine in engines] == before
