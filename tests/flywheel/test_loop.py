"""The loop, closed on a tiny model: votes → a better version → served → undone; chance votes change nothing."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from herd.cli import run
from herd.data.loader import IGNORE
from herd.data.prefs import Pair, write_pairs
from herd.errors import HerdError
from herd.evidence.verdict import verdict
from herd.flywheel import improve as flywheel
from herd.flywheel.improve import Measure, improve, judge
from herd.flywheel.votes import Preference
from herd.model.chat import LLAMA3_TEMPLATE, ChatTemplate, encode_chat
from herd.model.hf import load, save
from herd.model.lora import load_peft
from herd.model.tokenizer import Tokenizer, train_bpe
from herd.registry import lineage
from herd.registry.registry import Registry, Target
from herd.registry.runs import Run
from herd.store import Store
from herd.train.dpo import encode_reply, score

from ..tiny import tiny_config, tiny_llama

ANIMALS = "cat dog fox owl hen cow pig bee ant bat rat elk".split()
PLACES = "in the barn,by the sea,on the hill,under a tree,near the well".split(",")
KIND = "The {0} {1} is happy and sings all day."
GRUFF = "No. Nobody likes a {0} {1}, go away."


def question(animal: str, place: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me of the {animal} {place}"}]


def reply(style: str, animal: str, place: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": style.format(animal, place)}]


def preferences(count: int, *, seed: int, noise: bool = False) -> list[Preference]:
    """One vote a conversation: for the kind reply, or by a coin."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        about = rng.choice(ANIMALS), rng.choice(PLACES)
        styles = (GRUFF, KIND) if noise and rng.random() < 0.5 else (KIND, GRUFF)
        good, bad = (reply(style, *about) for style in styles)
        made.append(Preference(Pair(question(*about), good, bad), f"conversation {seed}.{i}", f"vote {i}"))
    return made


def make_model(folder: Path) -> None:
    """Train for some seconds until both styles are fluent and about equally likely; write the directory."""
    chats = [
        [*question(a, p), *reply(style, a, p)] for a in ANIMALS for p in PLACES for style in (KIND, GRUFF)
    ]
    tokenizer = train_bpe([m["content"] for chat in chats for m in chat], 400)
    template = ChatTemplate(LLAMA3_TEMPLATE)
    rows = [encode_chat(tokenizer, template, chat) for chat in chats]
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(tokens, IGNORE)
    for i, (ids, own) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        labels[i, : len(ids) - 1] = torch.tensor(
            [t if mine else IGNORE for t, mine in zip(ids[1:], own[1:], strict=True)]
        )
    shape = {"dim": 64, "head_dim": 16, "ffn_dim": 128, "max_positions": 128}
    config = tiny_config(tokenizer, eos_ids=tuple(sorted(tokenizer.stop_ids)), **shape)
    model = tiny_llama(config, spread=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        at = torch.randperm(len(rows), generator=generator)[:24]
        loss = F.cross_entropy(model(tokens[at]).flatten(0, 1), labels[at].flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(model, folder, tokenizer=tokenizer, template=template, dtype=torch.float32)


TEXTS = [KIND.format(a, p) for a in ANIMALS for p in PLACES]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_model(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, model_dir: Path) -> Path:
    Registry(tmp_path).add(model_dir, "tiny", kind="model", licence="Apache-2.0", description="two styles")
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
    for style in (KIND, GRUFF):
        replies = [
            encode_reply(tokenizer, template, question(a, p), reply(style, a, p), 128)
            for a in ANIMALS
            for p in PLACES
        ]
        gaps.append(score(model, [r for r in replies if r]).mean().item())
    return gaps[0] - gaps[1]


def test_votes_make_a_better_version_and_undo_takes_it_back(home: Path, run_improve: Improve) -> None:
    registry = Registry(home)
    before = preference_for_kindness(registry.target("tiny"))
    result = run_improve(preferences(48, seed=0))
    assert result["decision"] == "SWITCH", result["reason"]
    assert result["candidate"] == "tiny@2" and result["current"] == "tiny@1"
    assert result["low"] > 0
    json.dumps(result)  # JSON types throughout

    target = Registry(home).target("tiny")  # as another process sees it
    assert target.adapter is not None and target.adapter.ref == "tiny@2" and target.model.ref == "tiny@1"
    assert preference_for_kindness(target) > before + 0.2
    assert target.adapter.parents and set(target.adapter.parents) == {target.model.digest}
    assert not Registry(home).verify(None)
    [record] = [r for r in lineage.records(home) if r["command"] == "improve"]
    assert target.adapter.digest in json.dumps(record["outputs"])

    second = run_improve(preferences(48, seed=1))  # the adapter goes on; adapters do not pile up
    assert second["current"] == "tiny@2"
    assert Registry(home).resolve("tiny@3").base == "tiny@1"

    while Registry(home).target("tiny").adapter is not None:
        Registry(home).rollback("tiny")
    assert preference_for_kindness(Registry(home).target("tiny")) == pytest.approx(before, abs=1e-4)


def test_votes_by_a_coin_change_nothing(home: Path, run_improve: Improve) -> None:
    result = run_improve(preferences(48, seed=2, noise=True))
    assert result["decision"] in ("STAY", "NOT ENOUGH DATA")
    assert Registry(home).target("tiny").adapter is None
    assert Registry(home).resolve(result["candidate"]).metrics["verdict"] == result["decision"]


def test_few_votes_train_nothing_and_say_how_many_are_missing(
    home: Path, run_improve: Improve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(flywheel, "_train")
    run = Run.create(home, "improve", {"name": "tiny"})
    result = run_improve(preferences(9, seed=3), run)
    assert result["decision"] == "NOT ENOUGH DATA" and "candidate" not in result
    assert "more conversations with a vote are needed" in result["reason"]
    assert Run.load(home, run.id).state == "done"
    assert run_improve([])["decision"] == "NOT ENOUGH DATA"


def test_interrupted_it_registers_nothing_and_goes_on_from_the_trained_adapter(
    home: Path, run_improve: Improve, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = preferences(48, seed=0)
    run = Run.create(home, "improve", {"name": "tiny"})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lineage, "record", interrupt)
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
        run_improve(preferences(48, seed=0), run, settings=flywheel.Settings(lr=float("inf")))
    assert Run.load(home, run.id).state == "failed"


def test_better_on_votes_but_worse_at_writing_stays() -> None:
    before = Measure([0.0] * 10, 2.0)
    after = Measure([1.0 + i / 10 for i in range(10)], 2.019)
    sources = preferences(10, seed=4)
    conversations = [p.conversation for p in sources]
    assert judge(before, after, sources) == verdict(after.margins, conversations)
    worse = judge(before, replace(after, bits_per_byte=2.021), sources)
    assert worse.decision == "STAY" and "2.000 → 2.021 bits a byte" in worse.reason


def test_votes_of_the_same_few_people_say_less() -> None:
    """Seven voters who agree within themselves: 70 conversations are 7 opinions."""
    before = Measure([0.0] * 70, 2.0)
    growth = [0.3 * ((i % 7) - 2) + 0.05 * (i % 3) for i in range(70)]
    sources = [replace(p, voter=f"voter {i % 7}") for i, p in enumerate(preferences(70, seed=5))]
    alone = judge(before, Measure(growth, 2.0), preferences(70, seed=5))
    together = judge(before, Measure(growth, 2.0), sources)
    assert (alone.decision, together.decision) == ("SWITCH", "NOT ENOUGH DATA")


@pytest.mark.slow
def test_the_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file of pairs, in a home without a server, and back again."""
    monkeypatch.setenv("HERD_HOME", str(home))
    monkeypatch.setenv("HERD_PORT", "1")  # nobody answers there
    monkeypatch.setattr(flywheel, "bundled_texts", lambda: TEXTS)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    pairs = [p.pair for p in preferences(96, seed=0)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)

    assert run(["improve", "tiny", "--pairs", str(tmp_path / "pairs.jsonl"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["decision"], result["candidate"]) == ("SWITCH", "tiny@2")
    [kept] = Run.list(home)
    assert kept.id == result["run"] and "promote: better" in kept.log() and kept.metrics()

    assert run(["improve", "tiny", "--undo"]) == 0
    assert capsys.readouterr().out == "tiny is tiny@1\n"
    assert run(["improve", "tiny", "--undo"]) == 1
    assert run(["improve", "tiney"]) == 1
    assert run(["improve", "tiny", "--run", kept.id]) == 1
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "herd: tiny: no promotion to undo",
        "herd: no model 'tiney'",
        f"herd: run {kept.id} is done",
    ]
    assert len(Run.list(home)) == 1


def test_the_command_reads_the_votes_beside_a_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HERD_HOME", str(home))
    monkeypatch.setenv("HERD_PORT", "1")
    monkeypatch.setattr(flywheel, "bundled_texts", lambda: TEXTS)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    store = Store.open(home / "herd.db")  # stays open, as the server's does
    for i, p in enumerate(preferences(49, seed=0)):
        for side, text in (("good", p.pair.chosen), ("bad", p.pair.rejected)):
            store.add_generation(
                {
                    "id": f"{side}-{i}",
                    "conversation": p.conversation,
                    "route": "tiny",
                    "request": {"messages": p.pair.prompt},
                    "reply": text[0]["content"],
                }
            )
        a, b, outcome = (f"good-{i}", f"bad-{i}", "a") if i % 2 else (f"bad-{i}", f"good-{i}", "b")
        store.add_vote(id=f"v{i}", a=a, b=b, outcome=outcome if i else "tie", source="regenerate")
    try:
        assert run(["improve", "tiny"]) == 0
    finally:
        store.close()
    out = capsys.readouterr().out
    assert "verdict    SWITCH" in out and "left out   1 tie\n" in out
    assert "tiny is tiny@2 now; `herd improve tiny --undo` goes back" in out
    target = Registry(home).target("tiny")
    assert preference_for_kindness(target) > preference_for_kindness(Registry(home).target("tiny@1"))
