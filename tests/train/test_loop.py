"""The loop: exact resume after kill -9, annealing, the loss against plain torch, and errors that say what to do."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from herd.data.loader import Batch, Loader
from herd.data.shards import Shards
from herd.errors import HerdError
from herd.model import hf
from herd.model.files import write_tensors
from herd.model.llama import Llama
from herd.model.mask import document
from herd.train import checkpoint
from herd.train.loop import Trainer, products, train
from herd.train.objective import NextToken, cross_entropy
from herd.train.optim import flops_per_token, scale_at
from herd.train.plot import read_metrics
from herd.train.recipe import Recipe, Schedule


def losses(out: Path) -> dict[int, float]:
    return {
        (line := json.loads(x))["step"]: line["loss"]
        for x in (out / "metrics.jsonl").read_text().splitlines()
    }


@pytest.mark.slow
def test_kill_9_then_the_same_losses_to_the_bit(recipe: Path, tmp_path: Path):
    settings = Recipe.load(recipe)
    train(settings, out=tmp_path / "whole")
    out = tmp_path / "killed"
    code = (
        "import sys, time; from pathlib import Path; from herd.train.loop import train; "
        "from herd.train.recipe import Recipe; "
        "train(Recipe.load(sys.argv[1]), out=Path(sys.argv[2]), report=lambda line: time.sleep(0.15 if line['step'] < 11 else 600))"
    )
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, "-c", code, str(recipe), str(out)], env=env)
    deadline = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and len(losses(out)) >= 7) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 7 <= len(losses(out)) < 12
    train(settings, out=out)
    assert losses(out) == losses(tmp_path / "whole")
    a, b = (hf.load(tmp_path / name / "final").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_two_runs_do_not_write_to_one_place(recipe: Path, tmp_path: Path):
    settings = Recipe.load(recipe)

    def second(line: dict[str, object]) -> None:
        with pytest.raises(HerdError, match="another run is using"):
            train(settings, out=tmp_path / "out")

    assert train(settings, out=tmp_path / "out", report=second).steps == settings.steps


def test_loss_falls_and_the_result_is_a_model(recipe: Path, tmp_path: Path):
    lines = []
    result = train(Recipe.load(recipe, ("steps=40",)), out=tmp_path / "o", report=lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert lines[0]["loss"] == pytest.approx(math.log(320), rel=0.05)
    measured = [line["bits_per_byte"] for line in lines if line.get("bits_per_byte")]
    assert measured[-1] < measured[0]
    assert lines[-1]["mfu"] == 0.0 or torch.cuda.is_available()
    assert hf.load(result.directory).config.dim == 32


def test_accumulation_changes_nothing(recipe: Path, tmp_path: Path):
    train(Recipe.load(recipe, ("steps=3",)), out=tmp_path / "a")
    train(Recipe.load(recipe, ("steps=3", "accumulate=4")), out=tmp_path / "b")
    assert list(losses(tmp_path / "a").values()) == pytest.approx(
        list(losses(tmp_path / "b").values()), abs=1e-4
    )


def test_a_stop_can_be_annealed(recipe: Path, tmp_path: Path):
    settings = Recipe.load(recipe, ("steps=1000",))
    count = []
    train(settings, out=tmp_path / "o", report=count.append, stop=lambda: len(count) >= 6)
    lines = []
    result = train(settings, out=tmp_path / "o", report=lines.append, anneal=5)
    assert result.steps == 11
    rates = [line["lr"] for line in lines]
    assert rates == pytest.approx([0.01 * (5 - i) / 5 for i in range(5)])


def test_an_annealed_run_stays_annealed(recipe: Path, tmp_path: Path):
    settings = Recipe.load(recipe)
    count: list[object] = []
    train(settings, out=tmp_path / "o", report=count.append, stop=lambda: len(count) >= 6)
    assert train(settings, out=tmp_path / "o", anneal=2).steps == 8
    assert train(settings, out=tmp_path / "o").steps == 8  # the recipe's twelve would raise the rate again
    cosine = Recipe.load(recipe, ('schedule.kind="cosine"',))
    with pytest.raises(HerdError, match="only wsd"):
        train(cosine, out=tmp_path / "c", anneal=2)


@pytest.mark.parametrize("where", ["forward", "report"])
def test_interrupted_anywhere_the_step_is_whole(recipe: Path, tmp_path: Path, where: str):
    class Interrupting(NextToken):
        calls = 0

        def loss(self, model: Llama, batch: Batch) -> tuple[torch.Tensor, int]:
            self.calls += 1
            if where == "forward" and self.calls == 5:
                signal.raise_signal(signal.SIGINT)
            return super().loss(model, batch)

    def report(line: dict) -> None:
        if where == "report" and line["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    settings = Recipe.load(recipe)
    train(settings, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "o", objective=Interrupting("pretrain")).run(report)
    assert checkpoint.checkpoints(tmp_path / "o")[-1].name == "step-000005"
    train(settings, out=tmp_path / "o")
    assert losses(tmp_path / "o") == losses(tmp_path / "whole")


def test_half_a_line_in_the_metrics_costs_no_other(recipe: Path, tmp_path: Path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "metrics.jsonl").write_text('{"step": 1, "lo')
    train(Recipe.load(recipe), out=tmp_path / "o")
    assert [line["step"] for line in read_metrics(tmp_path / "o" / "metrics.jsonl")] == list(range(1, 13))


def test_heldout_that_is_not_there_is_said_before_the_first_step(recipe: Path, tmp_path: Path):
    with pytest.raises(HerdError, match="no shard set"):
        train(Recipe.load(recipe, ('heldout="nowhere"',)), out=tmp_path / "o")
    assert not (tmp_path / "o" / "metrics.jsonl").exists()


def test_full_disk_keeps_the_former_checkpoint(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "o"
    trainer = Trainer(Recipe.load(recipe), out)
    trainer.run(stop=lambda: trainer.step >= 3)
    before = [p.name for p in checkpoint.checkpoints(out)]

    def full(path: Path, tensors: object, *rest: object) -> None:
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device")
        write_tensors(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(HerdError, match="No space left.*free space"):
        trainer.run(stop=lambda: trainer.step >= 5)
    assert [p.name for p in checkpoint.checkpoints(out)] == before
    assert not list(out.glob(".step*"))


def test_another_recipe_does_not_resume(recipe: Path, tmp_path: Path):
    train(Recipe.load(recipe, ("steps=2",)), out=tmp_path / "o")
    with pytest.raises(HerdError, match="another recipe"):
        train(Recipe.load(recipe, ("optimizer.lr=0.5",)), out=tmp_path / "o")


def test_head_loss_is_cross_entropy():
    torch.manual_seed(0)
    h, w = torch.randn(3000, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (3000,))
    labels[::3] = -100
    loss = cross_entropy(h, w, labels)
    loss.backward()
    ours = loss.detach(), h.grad.clone(), w.grad.clone()
    h.grad = w.grad = None
    expected = F.cross_entropy(h @ w.T, labels, reduction="sum")
    expected.backward()
    for a, b in zip(ours, (expected.detach(), h.grad, w.grad), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_packed_loss_is_the_models_own(recipe: Path, tmp_path: Path):
    trainer = Trainer(Recipe.load(recipe), tmp_path / "o")
    loader = Loader([(Shards.open(Path(trainer.recipe.data[0].path)), 1.0)], batch=2, seq_len=32, seed=3)
    batch = loader.next()
    loss, count = NextToken("x").loss(trainer.model, batch)
    tokens, labels, docs, positions = (
        torch.from_numpy(a).to(trainer.ranks.device)
        for a in (batch.tokens, batch.labels, batch.docs, batch.positions)
    )
    logits = trainer.model(tokens, document(docs), positions)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and count == int((labels >= 0).sum())


def test_schedules():
    wsd = Schedule("wsd", warmup=10, decay=0.2)
    assert [scale_at(s, 100, wsd) for s in (0, 9, 50, 79, 90, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])
    cosine = Schedule("cosine", warmup=0, floor=0.1)
    assert [scale_at(s, 100, cosine) for s in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])


def test_flops_of_a_known_model():
    from herd.model.config import Config

    llama = Config(128256, 2048, 16, 32, 8, 64, 8192, tied=True)
    assert llama.parameters == 1_235_814_400  # Llama 3.2 1B, as its card says
    assert flops_per_token(llama, 0) == 6 * 1_235_814_400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('stepz = 5\nname = "x"', "did you mean 'steps'"),
        ("steps = 0", "steps"),
        ('objective = "reward"', "objective"),
        ("[optimizer]\nlearning_rate = 1", "unknown key 'learning_rate'"),
        ("steps = [", "TOML"),
        ("steps = 'ten'", "steps"),
    ],
)
def test_wrong_recipes_say_what_to_do(tmp_path: Path, change: str, words: str):
    base = {"steps": "steps = 5", "objective": 'objective = "pretrain"', "name": 'name = "x"'}
    lines = [
        line for key, line in base.items() if not any(c.startswith(key + " ") for c in change.split("\n"))
    ]
    tail = '\n[model]\ntokenizer = "t"\n[[data]]\npath = "d"\n'
    (tmp_path / "r.toml").write_text("\n".join([*lines, change]) + tail)
    with pytest.raises(HerdError, match=words):
        Recipe.load(tmp_path / "r.toml")


def test_missing_recipe_and_bad_override(recipe: Path, tmp_path: Path):
    with pytest.raises(HerdError, match="no such file"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(HerdError, match="key=value"):
        Recipe.load(recipe, ("steps",))


def test_bf16_is_not_emulated(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    cpu, asked = torch.device("cpu"), Recipe.load(recipe, ("dtype=bfloat16",))
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        assert products(asked, cpu) == expected
        assert products(asked, torch.device("cuda")) == torch.bfloat16
        assert products(Recipe.load(recipe), cpu) == torch.float32
