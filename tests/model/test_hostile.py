"""Files that lie are refused with one line, before memory is taken."""

import json
import struct
from pathlib import Path

import pytest
import torch

from herd.errors import HerdError
from herd.model import hf
from herd.model.config import Config
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

SMALL = Config(vocab_size=64, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=32)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    hf.save(Llama(SMALL), tmp_path, dtype=torch.float32)
    return tmp_path


def header(path: Path, change) -> None:
    """Rewrite a safetensors header in place."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + size])
    change(table)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def config(path: Path, **changes: object) -> None:
    table = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(table | changes))


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def entry(**changes: object):
    def change(path: Path) -> None:
        header(path / "model.safetensors", lambda t: t["model.norm.weight"].update(changes))

    return change


def only_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def index_outside(path: Path) -> None:
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../../x.safetensors"}})
    )


CASES = {
    "truncated": (cut, "outside the file"),
    "empty": (lambda p: (p / "model.safetensors").write_bytes(b""), "weights"),
    "huge header": (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 16384), "not a safetensors"),
    "offset past the end": (entry(data_offsets=[0, 1 << 39]), "outside the file"),
    "negative offset": (entry(data_offsets=[-64, 0]), "impossible"),
    "wrong shape": (entry(shape=[4, 4]), "the config wants"),
    "shape that overflows": (entry(shape=[1 << 39, 1 << 39]), "outside the file"),
    "unknown type": (entry(dtype="F8"), "described wrongly"),
    "missing tensor": (
        lambda p: header(p / "model.safetensors", lambda t: t.pop("model.norm.weight")),
        "not a sound",
    ),
    "extra tensor": (
        lambda p: header(p / "model.safetensors", lambda t: t.update(evil=t["model.norm.weight"])),
        "safetensors",
    ),
    "pickles only": (only_pickle, "pickled"),
    "index outside": (index_outside, "outside its directory"),
    "other architecture": (lambda p: config(p, architectures=["EvilForCausalLM"]), "EvilForCausalLM"),
    "bias": (lambda p: config(p, attention_bias=True), "attention_bias"),
    "absurd size": (lambda p: config(p, vocab_size=1 << 20, hidden_size=1 << 15), "weights"),
    "many heads": (lambda p: config(p, num_attention_heads=1024), "n_heads"),
    "wide heads": (lambda p: config(p, num_attention_heads=512, head_dim=1024), "heads of 1024"),
    "negative size": (lambda p: config(p, hidden_size=-5), "dim"),
    "text for a number": (lambda p: config(p, hidden_size="16"), "config"),
    "nested JSON": (lambda p: (p / "config.json").write_text("[" * 100_000), "JSON"),
    "no config": (lambda p: (p / "config.json").unlink(), "no such file"),
}


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(good: Path, name: str, copy: bool):
    spoil, words = CASES[name]
    spoil(good)
    with pytest.raises(HerdError) as caught:
        hf.load(good, copy=copy)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": {"type": "Unigram"}}', "\x00" * 100])
def test_tokenizer_files_that_are_none(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(HerdError):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["x y z", "YQ== one", "YQ== 5\n"])
def test_tiktoken_files_that_are_none(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.model").write_text(text)
    with pytest.raises(HerdError):
        Tokenizer.load(tmp_path)
