"""Preparing shards: what goes in comes out, whatever the workers, interruptions and duplicates."""

import contextlib
import dataclasses
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from herd.data import prepare as room
from herd.data.prepare import prepare
from herd.data.shards import Shards
from herd.data.spec import DataSpec
from herd.data.toml import build
from herd.data.work import pieces
from herd.errors import HerdError

SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
NOUNS = ["fox", "boat", "garden", "river", "mother", "captain", "lantern", "window", "song", "winter"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def stories(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        "\n\n".join(
            " ".join(f"The {rng.choice(NOUNS)} number {rng.integers(1e6)} came home." for _ in range(4))
            for _ in range(rng.integers(1, 5))
        )
        for _ in range(count)
    ]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r if isinstance(r, dict) else {"text": r}) + "\n" for r in records))
    return path


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(stories(50), trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    config = {"chat_template": TEMPLATE, "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (path.parent / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def make_spec(folder: Path, tokenizer: Path, **more: Any) -> DataSpec:
    table = {
        "tokenizer": str(tokenizer),
        "sources": [{"path": str(folder / "*.jsonl"), "name": "stories", "licence": "CC0-1.0"}],
        **more,
    }
    spec: DataSpec = build(DataSpec, table, "data recipe")
    return spec


def texts(folder: Path, tokenizer: Path) -> list[str]:
    """The documents of a shard set, decoded by the library that made the tokenizer."""
    bpe, shards = tokenizers.Tokenizer.from_file(str(tokenizer)), Shards.open(folder)
    ids = [shards.doc(i).tolist() for i in range(shards.n_docs)]
    assert all(doc[0] == 0 and doc[-1] == 1 for doc in ids)  # begin and end of text
    return [bpe.decode(doc[1:-1], skip_special_tokens=False) for doc in ids]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_text_comes_out_as_it_went_in(tmp_path: Path, tokenizer: Path) -> None:
    inputs = [*stories(30), "Ünïcode 雪 ☃ <|eot_id|>"]
    write_jsonl(tmp_path / "a.jsonl", inputs)
    seen: list[tuple[str, int, int]] = []
    manifest = prepare(
        make_spec(tmp_path, tokenizer), tmp_path / "out", progress=lambda *event: seen.append(event)
    )
    assert texts(tmp_path / "out" / "train", tokenizer) == inputs
    (source,) = manifest.sources
    assert source["kept"] == source["read"] and source["removed"] == {}
    assert (tmp_path / "out" / "manifest.json").stat().st_mode & 0o444 == 0o444  # others may read it too
    assert source["kept"]["documents"] == 31
    assert source["kept"]["bytes"] == sum(len(t.encode()) for t in inputs)
    assert (
        source["kept"]["tokens"]
        == manifest.train["tokens"]
        == Shards.open(tmp_path / "out" / "train").n_tokens
    )
    assert (
        seen[-1][0] == "write stories" and ("tokenise", *[(tmp_path / "a.jsonl").stat().st_size] * 2) in seen
    )
    assert prepare(make_spec(tmp_path, tokenizer), tmp_path / "out") == manifest  # done already
    with pytest.raises(HerdError, match="another recipe"):
        prepare(make_spec(tmp_path, tokenizer, seed=1), tmp_path / "out")


def test_everything_removed_is_counted(tmp_path: Path, tokenizer: Path) -> None:
    good = stories(40, 1)
    lightly_changed = good[0].replace("home.", "home!")
    leak = "one two three four five six seven eight nine ten eleven twelve thirteen"
    inputs = [*good, good[3], lightly_changed, "Hi.", "Buy now! " * 50, f"{good[5]} {leak}"]
    write_jsonl(tmp_path / "a.jsonl", inputs)
    (tmp_path / "eval.jsonl.gz").write_bytes(gzip.compress(json.dumps({"doc": {"q": leak}}).encode()))
    spec = make_spec(
        tmp_path,
        tokenizer,
        dedup={"near": {}},
        quality={"min_words": 8, "max_repeated_ngrams": 1.0, "max_top_ngram": 0.5},
        decontaminate=[str(tmp_path / "eval.jsonl.gz")],
        sources=[
            {"path": str(tmp_path / "a.jsonl"), "name": "stories", "licence": "CC0-1.0", "min_chars": 5}
        ],
    )
    manifest = prepare(spec, tmp_path / "out")
    assert texts(tmp_path / "out" / "train", tokenizer) == good
    (source,) = manifest.sources
    assert {reason: removed["documents"] for reason, removed in source["removed"].items()} == {
        "contaminated": 1,
        "exact duplicate": 1,
        "near duplicate": 1,
        "quality: one frequent n-gram": 1,
        "too short": 1,
    }
    for unit in ("documents", "chars", "bytes", "tokens"):
        assert source["read"][unit] == source["kept"][unit] + sum(r[unit] for r in source["removed"].values())
    assert source["removed"]["quality: one frequent n-gram"]["examples"][0].startswith("Buy now!")
    assert source["removed"]["near duplicate"]["examples"] == [lightly_changed[:160]]


def test_heldout_documents_stay_whole_and_apart(tmp_path: Path, tokenizer: Path) -> None:
    books = [f"Book {i}\n\n" + "\n\n".join(stories(12, i)) for i in range(40)]
    write_jsonl(tmp_path / "a.jsonl", books)
    source = {"path": str(tmp_path / "a.jsonl"), "name": "books", "licence": "CC0-1.0", "max_chars": 500}
    manifest = prepare(make_spec(tmp_path, tokenizer, heldout=0.2, sources=[source]), tmp_path / "out")
    train, heldout = ("".join(texts(tmp_path / "out" / part, tokenizer)) for part in ("train", "heldout"))
    assert 2 <= sum(book in heldout for book in books) <= 14
    assert all((book in train) != (book in heldout) for book in books)
    assert max(map(len, texts(tmp_path / "out" / "train", tokenizer))) <= 500
    raw = (tmp_path / "out" / "heldout.txt").read_text().split("\n<|endoftext|>\n")
    assert raw[-1] == "" and len(raw) - 1 == manifest.heldout["documents"]
    again = prepare(make_spec(tmp_path, tokenizer, heldout=0.2, seed=1, sources=[source]), tmp_path / "seed1")
    assert again.heldout["fingerprint"] != manifest.heldout["fingerprint"]


@pytest.mark.parametrize("limit", [100, 137, 1000])
def test_pieces_join_to_the_text(limit: int) -> None:
    text = "\n\n".join(stories(6, 3)) + "x" * 350
    parts = list(pieces(text, limit))
    assert "".join(parts) == text and max(map(len, parts)) <= limit
    assert all(part[-1] in "\n ." for part in parts if "x" not in part)


def test_chat_learns_the_replies_only(tmp_path: Path, tokenizer: Path) -> None:
    chat = [{"role": "user", "content": "Who came home?"}, {"role": "assistant", "content": "The fox."}]
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat * 2}, {"messages": chat[:1]}])
    write_jsonl(tmp_path / "text.jsonl", stories(3))
    sources = [
        {"path": str(tmp_path / f"{kind}.jsonl"), "name": kind, "licence": "CC0-1.0", "kind": kind}
        for kind in ("chat", "text")
    ]
    manifest = prepare(make_spec(tmp_path, tokenizer, sources=sources), tmp_path / "out")
    assert manifest.template == TEMPLATE and manifest.sources[0]["removed"]["no reply"]["documents"] == 1
    shards = Shards.open(tmp_path / "out" / "train", source="chat")
    ids, mask = shards.doc(0), shards.mask(0)
    assert mask is not None
    bpe = tokenizers.Tokenizer.from_file(str(tokenizer))
    assert bpe.decode(ids[mask == 1].tolist(), skip_special_tokens=False) == "The fox.<|eot_id|>" * 2
    text_mask = Shards.open(tmp_path / "out" / "train", source="text").mask(0)
    assert text_mask is not None and text_mask.all()
    with pytest.raises(HerdError, match='has no "messages"'):
        wrong = [{**sources[1], "kind": "chat"}]
        prepare(make_spec(tmp_path, tokenizer, sources=wrong), tmp_path / "wrong")


def test_conversations_are_decontaminated_as_text_is(tmp_path: Path, tokenizer: Path) -> None:
    leak = "one two three four five six seven eight nine ten eleven twelve thirteen"

    def chat(question: str, answer: str) -> dict[str, Any]:
        words = (("user", question), ("assistant", answer))
        return {"messages": [{"role": role, "content": content} for role, content in words]}

    clean = [chat("Who came home?", text) for text in stories(5)]
    leaks = [chat(f"Please count: {leak}.", "I did."), chat("Please count.", f"As you wish: {leak.upper()}!")]
    write_jsonl(tmp_path / "chat.jsonl", [*clean[:3], *leaks, *clean[3:]])
    (tmp_path / "evals").mkdir()
    write_jsonl(tmp_path / "evals" / "a.jsonl", [{"doc": {"query": leak}}])
    source = {"path": str(tmp_path / "chat.jsonl"), "name": "chat", "licence": "CC0-1.0", "kind": "chat"}
    spec = make_spec(tmp_path, tokenizer, sources=[source], decontaminate=[str(tmp_path / "evals" / "*")])
    manifest = prepare(spec, tmp_path / "out")
    (counts,) = manifest.sources
    assert (
        counts["removed"].keys() == {"contaminated"} and counts["removed"]["contaminated"]["documents"] == 2
    )
    bpe, shards = tokenizers.Tokenizer.from_file(str(tokenizer)), Shards.open(tmp_path / "out" / "train")
    kept = [bpe.decode(shards.doc(i).tolist(), skip_special_tokens=False) for i in range(shards.n_docs)]
    assert len(kept) == 5
    for text, conversation in zip(kept, clean, strict=True):
        assert all(message["content"] in text for message in conversation["messages"])


def test_dry_run_writes_nothing_and_estimates_well(tmp_path: Path, tokenizer: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(room, "CHUNK_CHARS", 5_000)
    write_jsonl(tmp_path / "a.jsonl", stories(200))
    spec = make_spec(tmp_path, tokenizer)
    before = files(tmp_path)
    dry = prepare(spec, tmp_path / "out", dry_run=True)
    assert files(tmp_path) == before and not (tmp_path / "out").exists()
    real = prepare(spec, tmp_path / "out")
    for unit in ("documents", "chars", "bytes"):
        assert dry.sources[0]["read"][unit] == real.sources[0]["read"][unit]
    assert abs(dry.sources[0]["read"]["tokens"] / real.sources[0]["read"]["tokens"] - 1) < 0.05


RUN = """
import json, sys, time
from herd.data import prepare as room
from herd.data.spec import DataSpec
from herd.data.toml import build
if __name__ == "__main__":
    room.CHUNK_CHARS = 10_000
    if sys.argv[4:]:  # it comes to no end
        write = room.write_json
        room.write_json = lambda path, value: time.sleep(600) if path.name == "manifest.json" else write(path, value)
    spec = build(DataSpec, json.load(open(sys.argv[1])), "data recipe")
    room.prepare(spec, sys.argv[2], workers=int(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_and_resumed_is_byte_identical(tmp_path: Path, tokenizer: Path) -> None:
    inputs = stories(600)
    write_jsonl(tmp_path / "a.jsonl", inputs + inputs[::7])
    spec = make_spec(tmp_path, tokenizer, heldout=0.05, dedup={"near": {}})
    (tmp_path / "spec.json").write_text(json.dumps(dataclasses.asdict(spec)))
    (tmp_path / "run.py").write_text(RUN)

    def start(out: str, workers: int, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "spec.json"), str(tmp_path / out)]
        return subprocess.Popen([*command, str(workers), *more], stderr=subprocess.PIPE)

    assert start("whole", 1).wait(120) == 0
    work = tmp_path / "parts" / ".work"
    process = start("parts", 2, "held")
    while len(list(work.glob("0*.npz"))) < 4 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate(
        timeout=60
    )  # ends when no process holds the pipe: workers do not outlive their parent
    assert not (tmp_path / "parts" / "manifest.json").exists()

    def written() -> dict[str, int]:
        times = {}
        with contextlib.suppress(FileNotFoundError):  # the folder goes away at the end
            for path in work.glob("0*.npz"):
                times[path.name] = path.stat().st_mtime_ns
        return times

    done = written()
    process = start("parts", 2)
    while not (tmp_path / "parts" / "manifest.json").exists() and process.poll() is None:
        assert all(done[name] == when for name, when in written().items() if name in done)
    assert process.wait(120) == 0 and done
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_recipe_mistakes(tmp_path: Path, tokenizer: Path) -> None:
    good = f'tokenizer = "{tokenizer}"\n[[sources]]\npath = "a.jsonl"\nname = "a"\nlicence = "CC0"\n'
    mistakes = {
        good + "lisence = 1": "unknown key 'lisence'; did you mean 'licence'?",
        good + "limit = 'ten'": "limit: expected a int",
        good + "[dedup.near]\nthreshold = 2.0": "threshold",
        good + "[quality]\nmean_word = [1.0]": "expected 2 values",
        good.replace("licence", "# "): "'licence' is missing",
        good + good[good.index("[[") :]: "name of its own",
        "tokenizer = 'x'\nsources = 3": "expected a list",
        "= 3": "not valid TOML",
        "tokenizer = 'x'\nsources = []": "at least one source",
    }
    path = tmp_path / "data.toml"
    for text, message in mistakes.items():
        path.write_text(text)
        with pytest.raises(HerdError) as caught:
            DataSpec.load(path)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(good)
    with pytest.raises(HerdError, match=r"a\.jsonl: no such file"):
        prepare(DataSpec.load(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_evaluation_sets_are_found_in_text(shared_data: Path, tmp_path: Path, tokenizer: Path) -> None:
    """Passages planted from LAMBADA and BoolQ are removed; children's stories stay."""
    from herd.data.sources import numbered_records

    passages = [
        next(numbered_records(shared_data / "evals" / f"{name}.jsonl.zst"))[1]["doc"]["query"]
        for name in ("lambada", "boolq")
    ]
    inputs = [*stories(5), *(f"An introduction. {passage} And an end." for passage in passages)]
    write_jsonl(tmp_path / "a.jsonl", inputs)
    evals = [str(shared_data / "evals" / f"{name}.jsonl.zst") for name in ("lambada", "boolq", "basic*")]
    manifest = prepare(make_spec(tmp_path, tokenizer, decontaminate=evals), tmp_path / "out")
    assert manifest.sources[0]["removed"]["contaminated"]["documents"] == 2
    assert texts(tmp_path / "out" / "train", tokenizer) == inputs[:5]
