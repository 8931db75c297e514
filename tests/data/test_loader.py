"""The token stream: the same at any number of ranks and across resumes, with the right labels."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from herd.data.loader import IGNORE, Loader, combine
from herd.data.shards import Shards, ShardWriter
from herd.errors import HerdError

T = 32


def shard_set(folder: Path, seed: int, documents: int, masked: bool = False) -> Shards:
    rng = np.random.default_rng(seed)
    writer = ShardWriter(folder, "uint16", masked=masked, header={})
    for source in ("a", "b"):
        lengths = rng.integers(1, 90, documents)
        tokens = rng.integers(1, 60_000, lengths.sum())
        writer.add(source, tokens, lengths, rng.integers(0, 2, lengths.sum()) if masked else None)
    writer.close()
    return Shards.open(folder)


@pytest.fixture
def sources(tmp_path: Path) -> list[tuple[Shards, float]]:
    return [(shard_set(tmp_path / "x", 1, 40), 3.0), (shard_set(tmp_path / "y", 2, 9, masked=True), 1.0)]


def serve(loader: Loader, steps: int) -> np.ndarray:
    return np.stack([loader.next().tokens for _ in range(steps)])


@pytest.mark.parametrize("world", [2, 4])
def test_same_stream_at_any_number_of_ranks(sources: list[tuple[Shards, float]], world: int) -> None:
    alone = Loader(sources, batch=8, seq_len=T, seed=5)
    ranks = [Loader(sources, batch=8, seq_len=T, seed=5, rank=r, world=world) for r in range(world)]
    for _ in range(40):  # several epochs
        whole, parts = alone.next(), [loader.next() for loader in ranks]
        for name in ("tokens", "labels", "docs", "positions"):
            for rank, part in enumerate(parts):
                np.testing.assert_array_equal(getattr(whole, name)[rank::world], getattr(part, name))
    assert alone.state()["sources"][1]["epoch"] > 0
    assert combine([loader.stream_hash() for loader in ranks]) == alone.stream_hash()
    assert len({loader.stream_hash() for loader in ranks}) == world


@pytest.mark.parametrize("steps", [0, 1, 7, 31])
def test_resume_goes_on_exactly(sources: list[tuple[Shards, float]], steps: int) -> None:
    first = Loader(sources, batch=4, seq_len=T, seed=5)
    for _ in range(steps):
        first.next()
    state = json.loads(json.dumps(first.state()))
    expected = serve(first, 20)
    second = Loader(sources, batch=4, seq_len=T, seed=5)
    second.load_state(state)
    np.testing.assert_array_equal(serve(second, 20), expected)
    assert second.stream_hash() == first.stream_hash() and second.state() == first.state()
    ranks = [Loader(sources, batch=4, seq_len=T, seed=5, rank=r, world=2) for r in range(2)]
    for rank, loader in enumerate(ranks):
        loader.load_state(state)
        np.testing.assert_array_equal(serve(loader, 20), expected[:, rank::2])
    assert combine([loader.stream_hash() for loader in ranks]) == first.stream_hash()


def test_an_epoch_serves_every_token_and_learns_all_but_the_first_of_a_document(tmp_path: Path) -> None:
    shards = shard_set(tmp_path / "x", 3, 30)
    loader = Loader([(shards, 1.0)], batch=1, seq_len=T, seed=0)
    rows = -(-shards.n_tokens // T)
    batches = [loader.next() for _ in range(rows)]
    assert loader.state()["sources"][0] == {"epoch": 0, "row": rows, "rows": rows, "tokens": shards.n_tokens}
    documents = [shards.doc(i) for i in range(shards.n_docs)]
    served = np.concatenate([b.tokens[b.docs >= 0] for b in batches])
    np.testing.assert_array_equal(np.sort(served), np.sort(np.concatenate(documents)))
    learned = np.concatenate([b.labels[b.labels != IGNORE] for b in batches])
    np.testing.assert_array_equal(np.sort(learned), np.sort(np.concatenate([d[1:] for d in documents])))
    follow = {(int(a), int(b)) for d in documents for a, b in pairwise(d)}
    for b in batches:
        there = b.labels != IGNORE
        assert set(zip(b.tokens[there].tolist(), b.labels[there].tolist(), strict=True)) <= follow
        assert (b.labels[b.docs < 0] == IGNORE).all()
        new = np.diff(b.docs[0], prepend=-2) != 0
        assert (b.positions[0][new & (b.docs[0] >= 0)] == 0).all()
        assert (np.diff(b.positions[0])[~new[1:] & (b.docs[0][1:] >= 0)] == 1).all()


def test_masked_tokens_are_not_learned(tmp_path: Path) -> None:
    shards = shard_set(tmp_path / "x", 4, 20, masked=True)
    loader = Loader([(shards, 1.0)], batch=1, seq_len=T, seed=0)
    learned = 0
    for _ in range(-(-shards.n_tokens // T)):
        learned += int((loader.next().labels != IGNORE).sum())
    masks = [shards.mask(i) for i in range(shards.n_docs)]
    assert learned == sum(int(mask[1:].sum()) for mask in masks if mask is not None)


def test_mixture_keeps_its_weights(sources: list[tuple[Shards, float]]) -> None:
    loader = Loader(sources, batch=1, seq_len=T, seed=0)
    for n in range(1, 100):
        loader.next()
        assert abs(loader.state()["sources"][0]["rows"] - 0.75 * n) <= 1


def test_epochs_and_seeds_differ(sources: list[tuple[Shards, float]]) -> None:
    one = serve(Loader(sources, batch=1, seq_len=T, seed=0), 20)
    two = serve(Loader(sources, batch=1, seq_len=T, seed=1), 20)
    assert (one != two).any()


def test_state_of_other_data_is_refused(sources: list[tuple[Shards, float]]) -> None:
    state = Loader(sources, batch=4, seq_len=T, seed=5).state()
    with pytest.raises(HerdError, match="data stream is another one"):
        Loader(sources, batch=4, seq_len=T, seed=6).load_state(state)
    with pytest.raises(HerdError, match="multiple of 3"):
        Loader(sources, batch=4, seq_len=T, seed=6, world=3)


def damage(folder: Path, how: str) -> None:
    tokens, docs, manifest = folder / "tokens-00001.bin", folder / "docs-00000.npy", folder / "manifest.json"
    table = json.loads(manifest.read_text())
    if how == "truncated":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif how == "missing":
        tokens.unlink()
    elif how == "offsets":
        docs.write_bytes(docs.read_bytes()[:-8])
    elif how == "digests":
        table["shards"][0]["sha256"].popitem()
    elif how == "outside":
        table["shards"][0]["sha256"] = {"tokens-/../../x": "", "docs-00000.npy": ""}
    elif how == "dtype":
        table["dtype"] = "object"
    else:
        table = [1]
    manifest.write_text(json.dumps(table))


@pytest.mark.parametrize("how", ["truncated", "missing", "offsets", "digests", "outside", "dtype", "list"])
def test_a_damaged_shard_set_is_refused(tmp_path: Path, how: str) -> None:
    shard_set(tmp_path / "x", 1, 5)
    damage(tmp_path / "x", how)
    with pytest.raises(HerdError):
        Shards.open(tmp_path / "x")


def test_verify_finds_one_changed_byte(tmp_path: Path) -> None:
    shards = shard_set(tmp_path / "x", 1, 5)
    shards.verify()
    path = tmp_path / "x" / "tokens-00001.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(HerdError, match=r"tokens-00001\.bin"):
        Shards.open(tmp_path / "x").verify()


def test_one_source_of_a_set(tmp_path: Path) -> None:
    whole = shard_set(tmp_path / "x", 1, 5)
    parts = [Shards.open(tmp_path / "x", source=name) for name in ("a", "b")]
    np.testing.assert_array_equal(
        np.concatenate([p.doc(i) for p in parts for i in range(p.n_docs)]),
        np.concatenate([whole.doc(i) for i in range(whole.n_docs)]),
    )
    with pytest.raises(HerdError, match="there are: a, b"):
        Shards.open(tmp_path / "x", source="c")
