"""From text to a named model and back out, by commands alone: data, train, eval, models, show, verify, export."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run

WORDS = "the a cat dog bird sun moon sees likes finds red big small and then".split()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HERD_PORT", "9")  # nobody listens there
    return tmp_path / "home"


def result(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    capsys.readouterr()
    status = run([*map(str, args), "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


@pytest.mark.slow
def test_text_to_model_and_back(
    home: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    with open(tmp_path / "text.jsonl", "w") as file:
        for _ in range(200):
            file.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=60))}) + "\n")
    (tmp_path / "data.toml").write_text(
        'tokenizer = "tiny"\nheldout = 0.2\n'
        '[[sources]]\nname = "words"\npath = "text.jsonl"\nlicence = "CC0-1.0"\n'
    )
    (tmp_path / "train.toml").write_text(
        'name = "words"\nobjective = "pretrain"\nsteps = 12\nbatch = 4\nseq_len = 64\neval_every = 4\n'
        'heldout = "shards/heldout"\n[optimizer]\nlr = 0.01\n[schedule]\nwarmup = 2\n'
        '[model]\ninit = "tiny"\n[[data]]\npath = "shards/train"\n'
    )
    counted = result(capsys, "data", tmp_path / "data.toml", "--dry-run")
    assert counted["sources"][0]["read"]["documents"] == 200 and not (tmp_path / "shards").exists()
    made = result(capsys, "data", tmp_path / "data.toml", "--out", tmp_path / "shards")
    assert made["train"]["documents"] + made["heldout"]["documents"] == 200

    out = tmp_path / "run"
    trained = result(capsys, "train", tmp_path / "train.toml", "--out", out, "--plot", "--name", "words")
    assert trained["ref"] == "words@1" and trained["steps"] == 12
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    before = result(capsys, "eval", tiny, "--text", tmp_path / "shards" / "heldout.txt")
    after = result(capsys, "eval", "words", "--text", tmp_path / "shards" / "heldout.txt")
    assert after["results"][0]["value"] < before["results"][0]["value"]

    listed = {row["ref"]: row for row in result(capsys, "models")}
    assert listed["words@1"]["current"]
    shown = result(capsys, "show", "words")
    (record,) = shown["lineage"]
    assert record["command"] == "train" and record["inputs"][0]["digest"] == made["train"]["fingerprint"]

    result(capsys, "export", "words", tmp_path / "copy")
    again = result(capsys, "eval", tmp_path / "copy", "--text", tmp_path / "shards" / "heldout.txt")
    assert again["results"][0]["bits"] == after["results"][0]["bits"]
    assert run(["export", "words", str(tmp_path / "copy")]) == 1
    assert "not empty" in capsys.readouterr().err

    assert result(capsys, "verify") == {"ok": True, "problems": []}
    weights = next((home / "models" / "words" / "1").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o600)
    weights.write_bytes(data)
    assert run(["verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and str(weights.parent) in found["problems"][0]


def test_the_same_for_people(home: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from herd.registry import Registry

    Registry(home).add(tiny, "small", kind="model", licence="MIT", description="a test")
    assert run(["models"]) == 0 and "small@1 *" in capsys.readouterr().out
    assert run(["models"]) == 0 and "target of cria@1" in capsys.readouterr().out
    assert run(["show", "tale"]) == 1 and "is a target" in capsys.readouterr().err
    assert run(["train", "none.toml", "--name", "a bad/name"]) == 1
    assert run(["show", "small"]) == 0 and "vocab_size" in capsys.readouterr().out
    assert run(["show", "smal"]) == 1 and "small" in capsys.readouterr().err
    assert run(["verify", "small"]) == 0 and "as recorded" in capsys.readouterr().out
    assert run(["runs"]) == 0 and "no runs yet" in capsys.readouterr().out


def test_an_adapter_merges_into_its_base(
    home: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from herd.model import hf, lora
    from herd.registry import Registry

    registry = Registry(home)
    base = registry.add(tiny, "small", kind="model", licence="MIT")
    model = hf.load(base.path)
    lora.add_lora(model, rank=2, alpha=4)
    torch.manual_seed(1)
    for parameter in lora.lora_parameters(model):
        parameter.data = torch.randn_like(parameter) * 0.1
    lora.save_peft(model, tmp_path / "adapter", base=base.ref)
    registry.add(tmp_path / "adapter", "small", kind="adapter", parents=[base.digest], base=base.ref)
    tokens = torch.tensor([[1, 5, 9, 20]])
    expected = model(tokens)
    result(capsys, "export", "small@2", tmp_path / "merged", "--merge")
    merged = hf.load(tmp_path / "merged")(tokens)
    assert (merged - expected).abs().max() < 2e-2 * expected.abs().max()  # the export is bf16
    assert (merged - hf.load(base.path)(tokens)).abs().max() > 0.05 * expected.abs().max()
    assert run(["export", "small@1", str(tmp_path / "other"), "--merge"]) == 1
    assert "whole model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["data", "missing.toml", "--dry-run"], "no such file"),
        (["data", "missing.toml"], "--out"),
        (["train", "missing.toml"], "no such file"),
        (["eval", "cria"], "nothing to measure on"),
        (["eval", "cria", "--text", "missing.txt"], "no such file"),
        (["export", "nothing-like-it", "x"], "nothing-like-it"),
        (["runs", "missing"], "missing"),
        (["runs", "--cancel"], "which run"),
    ],
)
def test_mistakes_are_one_line(
    home: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
