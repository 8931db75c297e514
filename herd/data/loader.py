"""An endless stream of packed batches: the same rows at any number of ranks, resumable to the token."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from herd.data.packing import pack
from herd.data.shards import Shards
from herd.data.words import U64, constants, mix
from herd.errors import HerdError

IGNORE = -100
_STATE = ("epoch", "row", "rows", "tokens")  # of a source: where it is in its epoch, what it served in all


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens.

    tokens [B, T] int64; labels [B, T] int64, the document's next token, IGNORE where there is none to learn;
    docs [B, T] int32, the number of the piece within its row, -1 for padding; positions [B, T] int64,
    from 0 in each piece.
    """

    tokens: np.ndarray
    labels: np.ndarray
    docs: np.ndarray
    positions: np.ndarray


class _Source:
    """One shard set's rows: epoch after epoch, each shuffled and packed anew."""

    def __init__(self, shards: Shards, share: float, seq_len: int, seeds: tuple[int, int]) -> None:
        self.shards, self.share, self.seq_len, self.seeds = shards, share, seq_len, seeds
        self.rows = self.tokens = 0  # served since the beginning
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        order = _shuffle(self.shards.n_docs, *self.seeds, epoch)
        rows = pack(self.shards.lengths()[order], self.seq_len)
        self._pieces = np.array([piece for row in rows for piece in row], np.int64).reshape(-1, 3)
        self._pieces[:, 0] = order[self._pieces[:, 0]]
        self._ends = np.cumsum([0, *map(len, rows)])
        self._order = _shuffle(len(rows), *self.seeds, epoch)
        self.epoch, self.row = epoch, 0

    def next(self) -> np.ndarray:
        """The pieces of the next row: (document, start, length) [pieces, 3]."""
        if self.row == len(self._order):
            self.start_epoch(self.epoch + 1)
        at = self._order[self.row]
        pieces = self._pieces[self._ends[at] : self._ends[at + 1]]
        self.row += 1
        self.rows += 1
        self.tokens += int(pieces[:, 2].sum())
        return pieces


class Loader:
    """Batches from weighted shard sets.

    Of the rows served, source s makes up weight[s] / sum(weights) at every moment, to within one row. The
    global stream of rows depends on sources, weights, `seq_len` and `seed` only; each step serves `batch` of
    them, and this rank gets rows rank, rank + world, … of the step. An epoch of a source is a shuffle of its
    documents packed without loss; its last row is padded. At a cut between rows the label is still the
    document's next token, so every token but a document's first is learned once an epoch.
    """

    def __init__(
        self,
        sources: list[tuple[Shards, float]],
        *,
        batch: int,
        seq_len: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world:
            raise HerdError(
                f"a batch of {batch} rows cannot be shared by {world} ranks; use a multiple of {world}"
            )
        for shards, weight in sources:
            if not (weight > 0 and shards.n_tokens > 0):
                raise HerdError(f"{shards.folder}: a source needs tokens and a weight above 0")
        self.batch, self.seq_len, self.rank, self.world = batch, seq_len, rank, world
        shares = [weight / sum(weight for _, weight in sources) for _, weight in sources]
        self._sources = [
            _Source(shards, share, seq_len, (seed, n))
            for n, ((shards, _), share) in enumerate(zip(sources, shares, strict=True))
        ]
        self.rows = 0  # served to all ranks
        self._hash = 0
        stream = [[shards.fingerprint for shards, _ in sources], shares, seq_len, seed]
        self.fingerprint = hashlib.sha256(json.dumps(stream).encode()).hexdigest()

    def next(self) -> Batch:
        """This rank's rows of the next step: B = batch / world."""
        shape = (self.batch // self.world, self.seq_len)
        out = Batch(
            tokens=np.zeros(shape, np.int64),
            labels=np.full(shape, IGNORE, np.int64),
            docs=np.full(shape, -1, np.int32),
            positions=np.zeros(shape, np.int64),
        )
        for row in range(self.batch):
            source = max(self._sources, key=lambda s: s.share * (self.rows + 1) - s.rows)  # furthest behind
            pieces = source.next()
            if row % self.world == self.rank:
                at = row // self.world
                _fill(out, at, source.shards, pieces)
                # A sum of hashes of (place, tokens): ranks add up to the hash of the whole stream.
                digest = hashlib.sha256(self.rows.to_bytes(8) + out.tokens[at].tobytes()).digest()
                self._hash = (self._hash + int.from_bytes(digest[:16])) % (1 << 128)
            self.rows += 1
        return out

    def stream_hash(self) -> str:
        """A hash of the tokens this rank has served and of their places in the global stream."""
        return f"{self._hash:032x}"

    def state(self) -> dict[str, Any]:
        """Where the stream is, for JSON. The same on every rank but for `stream_hash`; a checkpoint of a run
        on several ranks keeps rank 0's, with `stream_hash` replaced by `combine` of all of them."""
        return {
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "sources": [{name: getattr(s, name) for name in _STATE} for s in self._sources],
            "stream_hash": self.stream_hash(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on exactly after the row where `state` was taken, at any number of ranks. The hash so far goes
        to rank 0, so that `combine` still gives the whole. HerdError if the state is of other data."""
        if state.get("fingerprint") != self.fingerprint:
            raise HerdError(
                "the checkpoint's data stream is another one (the data, weights, sequence length or seed "
                "changed); use the former settings or start a new run"
            )
        self.rows = int(state["rows"])
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.start_epoch(int(saved["epoch"]))
            for name in _STATE:
                setattr(source, name, int(saved[name]))
        self._hash = int(state["stream_hash"], 16) if self.rank == 0 else 0


def combine(hashes: list[str]) -> str:
    """The `stream_hash` of the whole stream from those of all ranks."""
    return f"{sum(int(h, 16) for h in hashes) % (1 << 128):032x}"


def _fill(out: Batch, row: int, shards: Shards, pieces: np.ndarray) -> None:
    at = 0
    for number, (document, start, length) in enumerate(pieces.tolist()):
        ids, mask = shards.doc(document)[start:], shards.mask(document)
        here = slice(at, at + length)
        out.tokens[row, here] = ids[:length]
        follow = ids[1 : length + 1]
        labels = out.labels[row, at : at + len(follow)]
        labels[:] = follow
        if mask is not None:
            labels[mask[start + 1 : start + length + 1] == 0] = IGNORE
        out.docs[row, here] = number
        out.positions[row, here] = np.arange(length)
        at += length


def _shuffle(n: int, *seeds: int) -> np.ndarray:
    """A permutation of n that depends on the seeds alone, not on a library's generator."""
    key = constants(7, 1)
    for seed in seeds:
        key = mix(key ^ mix(np.array([seed], np.int64).astype(U64) + constants(8, 1)))
    return np.argsort(mix(np.arange(n, dtype=U64) ^ key), kind="stable")
