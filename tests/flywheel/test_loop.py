"""The loop, closed on a tiny model: votes → a better version → served → undone; chance votes change nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from herd.errors import HerdError
from herd.evidence.verdict import paired_verdict
from herd.flywheel import improve as flywheel
from herd.flywheel.improve import Measure, improve, judge, undo
from herd.flywheel.votes import Preference
from herd.model.chat import ChatTemplate
from herd.model.hf import load
from herd.model.lora import load_peft
from herd.model.tokenizer import Tokenizer
from herd.registry import lineage
from herd.registry.registry import Registry, Target
from herd.registry.runs import Run
from herd.train.dpo import encode_reply, score

TEXTS = [tiny.KIND.format(a, p) for a in tiny.ANIMALS for p in tiny.PLACES]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny.make_model(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, model_dir: Path) -> Path:
    registry = Registry(tmp_path)
    registry.add(
        model_dir,
        "tiny",
        kind="model",
        parents=[],
        licence="Apache-2.0",
        description="two styles",
        metrics={},
    )
    return tmp_path


Improve = Callable[..., dict[str, Any]]


@pytest.fixture
def run_improve(home: Path) -> Improve:
    def call(preferences: list[Preference], run: Run | None = None, **options: Any) -> dict[str, Any]:
        run = run or Run.create(home, "improve", {"name": "tiny"})
        options = {"registry": Registry(home), "texts": TEXTS, **options}
        return improve("tiny", preferences, home=home, run=run, **options)

    return call


def preference_for_kindness(target: Target) -> float:
    """Mean over all subjects of log p(kind reply) − log p(gruff reply), in nats a reply, of what is served."""
    model = load(target.model_dir)
    if target.adapter_dir:
        load_peft(model, target.adapter_dir)
    tokenizer, template = Tokenizer.load(target.model_dir), ChatTemplate.load(target.model_dir)
    gaps = []
    for style in (tiny.KIND, tiny.GRUFF):
        replies = [
            encode_reply(tokenizer, template, tiny.question(a, p), tiny.reply(style, a, p), 128)
            for a in tiny.ANIMALS
            for p in tiny.PLACES
        ]
        gaps.append(score(model, [r for r in replies if r]).mean().item())
    return gaps[0] - gaps[1]


def test_votes_make_a_better_version_and_undo_takes_it_back(home: Path, run_improve: Improve) -> None:
    registry = Registry(home)
    before = preference_for_kindness(registry.target("tiny"))
    result = run_improve(tiny.preferences(48, seed=0))
    assert result["decision"] == "SWITCH", result["reason"]
    assert result["candidate"] == "tiny@2" and result["current"] == "tiny@1"
    assert result["low"] > 0
    json.dumps(result)  # JSON types throughout

    target = Registry(home).target("tiny")  # as another process sees it
    assert target.adapter is not None and target.adapter.ref == "tiny@2" and target.model.ref == "tiny@1"
    assert preference_for_kindness(target) > before + 1
    assert target.adapter.parents and set(target.adapter.parents) == {target.model.digest}
    assert not Registry(home).verify(None)
    [record] = [r for r in lineage.records(home) if r["command"] == "improve"]
    assert target.adapter.digest in json.dumps(record["outputs"])

    second = run_improve(tiny.preferences(48, seed=1))  # the adapter goes on; adapters do not pile up
    assert second["current"] == "tiny@2"
    assert Registry(home).resolve("tiny@3").base == "tiny@1"

    while Registry(home).target("tiny").adapter is not None:
        undo("tiny", registry=Registry(home))
    assert preference_for_kindness(Registry(home).target("tiny")) == pytest.approx(before, abs=1e-4)


def test_votes_by_a_coin_change_nothing(home: Path, run_improve: Improve) -> None:
    result = run_improve(tiny.preferences(48, seed=2, noise=True))
    assert result["decision"] in ("STAY", "NOT ENOUGH DATA")
    assert Registry(home).target("tiny").adapter is None
    assert Registry(home).resolve(result["candidate"]).metrics["verdict"] == result["decision"]


def test_few_votes_train_nothing_and_say_how_many_are_missing(
    home: Path, run_improve: Improve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(flywheel, "_train")
    run = Run.create(home, "improve", {"name": "tiny"})
    result = run_improve(tiny.preferences(9, seed=3), run)
    assert result["decision"] == "NOT ENOUGH DATA" and "candidate" not in result
    assert "more conversations with a vote are needed" in result["reason"]
    assert Run.load(home, run.id).state == "done"
    assert run_improve([])["decision"] == "NOT ENOUGH DATA"


def test_interrupted_it_registers_nothing_and_goes_on_from_the_trained_adapter(
    home: Path, run_improve: Improve, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = tiny.preferences(48, seed=0)
    run = Run.create(home, "improve", {"name": "tiny"})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flywheel, "_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_improve(votes, run)
    assert Run.load(home, run.id).state == "cancelled"
    assert [m.ref for m in Registry(home).models() if m.name == "tiny"] == ["tiny@1"]
    assert not Registry(home).verify(None)

    monkeypatch.setattr(flywheel, "_train", interrupt)  # not trained again
    assert run_improve(votes, Run.load(home, run.id))["decision"] == "SWITCH"


def test_a_failure_is_kept_in_the_run(home: Path, run_improve: Improve) -> None:
    run = Run.create(home, "improve", {"name": "tiny"})
    with pytest.raises(HerdError, match="not finite"):
        run_improve(tiny.preferences(48, seed=0), run, settings=flywheel.Settings(lr=float("inf")))
    assert Run.load(home, run.id).state == "failed"


def test_better_on_votes_but_worse_at_writing_stays() -> None:
    before = Measure([0.0] * 10, 2.0)
    after = Measure([1.0 + i / 10 for i in range(10)], 2.019)
    clusters = [str(i) for i in range(10)]
    assert judge(before, after, clusters) == paired_verdict(after.margins, clusters)
    worse = judge(before, replace(after, bits_per_byte=2.021), clusters)
    assert worse.decision == "STAY" and "2.000 → 2.021 bits a byte" in worse.reason
