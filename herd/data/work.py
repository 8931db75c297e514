"""The part of `prepare` that runs in parallel: one chunk of documents in, one file of results out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path

import numpy as np

from herd.data.dedup import NgramIndex, minhash
from herd.data.sources import Document
from herd.data.spec import DataSpec, Source
from herd.data.words import Words
from herd.errors import HerdError
from herd.model.chat import ChatTemplate, encode_chat
from herd.model.tokenizer import Tokenizer

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
EVALS = "evals.npz"  # the n-gram index of the evaluation sets, beside the chunks
KEEP = ""
EXCERPT = 160
NO_SHINGLES = np.iinfo(np.uint32).max  # every place of the signature of a text too short to have one


@dataclass
class Chunk:
    """The results for some documents of one source, in order. Arrays are [documents] unless said."""

    tokens: np.ndarray  # [tokens]
    mask: np.ndarray  # [tokens] uint8, or [0] for text
    lengths: np.ndarray  # tokens
    chars: np.ndarray
    bytes: np.ndarray
    digests: np.ndarray  # [documents, 2] uint64: 128 bits of the text's hash
    signatures: np.ndarray  # [documents, permutations] uint32; [documents, 0] without near-deduplication
    heldout: np.ndarray  # bool
    reasons: list[str]  # why removed, or KEEP
    severity: list[float]  # how far beyond the rule
    texts: list[str]  # whole if held out, else the beginning, for examples in the manifest

    def save(self, path: Path) -> None:
        arrays = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        notes = {k: v for k, v in vars(self).items() if isinstance(v, list)}
        scratch = path.with_suffix(".tmp")
        with open(scratch, "wb") as file:
            np.savez(file, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: Path) -> Chunk:
        with np.load(path, allow_pickle=False) as file:
            notes = json.loads(file["notes"].tobytes())
            return cls(**{name: file[name] for name in file.files if name != "notes"}, **notes)


def pieces(text: str, max_chars: int | None) -> Iterator[str]:
    """The text in parts of at most `max_chars`, cut after a paragraph if one ends in the second half of the
    part, else after a line, a sentence, a word. The parts joined are the text."""
    start = 0
    while max_chars and len(text) - start > max_chars:
        stop = start + max_chars
        for end in ("\n\n", "\n", ". ", " "):
            at = text.rfind(end, start + max_chars // 2, stop)
            if at >= 0:
                stop = at + len(end)
                break
        yield text[start:stop]
        start = stop
    yield text[start:]


class Worker:
    """Everything a chunk needs, loaded once per process."""

    def __init__(self, spec: DataSpec, evals: NgramIndex) -> None:
        self.spec, self.evals = spec, evals
        self.tokenizer, self.template = load_tokenizer(spec), chat_template(spec)
        self.dtype = np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32

    def encode(self, source: Source, documents: list[Document]) -> list[tuple[list[int], list[bool]]]:
        """Token ids and, for chat, the mask of the tokens to be learned."""
        if source.kind == "chat":
            assert self.template is not None
            return [encode_chat(self.tokenizer, self.template, d["messages"]) for d in documents]
        special = self.tokenizer.special
        encoded = self.tokenizer.encode_batch([d["text"] for d in documents])
        return [([special[BEGIN], *ids, special[END]], []) for ids in encoded]

    def examine(self, source: Source, text: str, words: Words) -> tuple[str, float]:
        """Why the document is removed and how far beyond the rule it is; KEEP when it stays."""
        rules = self.spec.quality if source.quality and source.kind == "text" else None
        if rules and (broken := rules.judge(text, words)):
            return broken
        if self.evals.overlaps(words):
            return "contaminated", 1.0
        return KEEP, 0.0

    def run(self, source: Source, documents: list[Document]) -> Chunk:
        """Documents as `split` yields them."""
        near = self.spec.dedup.near
        encoded = self.encode(source, documents)
        texts = [plain_text(d) for d in documents]
        words = [Words(text) for text in texts]
        verdicts = [
            ("too short", 1.0) if d["short"] else ("no reply", 1.0) if not ids else self.examine(source, t, w)
            for d, t, w, (ids, _) in zip(documents, texts, words, encoded, strict=True)
        ]
        signatures = [minhash(w.ngrams(near.shingle), near.permutations) for w in words] if near else []
        held = [d["heldout"] for d in documents]
        return Chunk(
            tokens=np.fromiter((i for ids, _ in encoded for i in ids), self.dtype),
            mask=np.fromiter((m for _, mask in encoded for m in mask), np.uint8),
            lengths=np.array([len(ids) for ids, _ in encoded], np.int64),
            chars=np.array([len(t) for t in texts], np.int64),
            bytes=np.array([len(t.encode()) for t in texts], np.int64),
            digests=np.array([_digest(t) for t in texts], np.uint64).reshape(-1, 2),
            signatures=np.array(signatures, np.uint32).reshape(len(texts), near.permutations if near else 0),
            heldout=np.array(held, bool),
            reasons=[reason for reason, _ in verdicts],
            severity=[severity for _, severity in verdicts],
            texts=[t if h else t[:EXCERPT] for t, h in zip(texts, held, strict=True)],
        )


def load_tokenizer(spec: DataSpec) -> Tokenizer:
    tokenizer = Tokenizer.load(spec.tokenizer)
    if not {BEGIN, END} <= tokenizer.special.keys():
        raise HerdError(f"{spec.tokenizer}: has no {BEGIN} or {END}; use a Llama 3 kind of tokenizer")
    return tokenizer


def chat_template(spec: DataSpec) -> ChatTemplate | None:
    """The template that lies beside the tokenizer, if any source is chat."""
    if all(source.kind == "text" for source in spec.sources):
        return None
    path = Path(spec.tokenizer)
    return ChatTemplate.load(path if path.is_dir() else path.parent)


def plain_text(document: Document) -> str:
    """A document's words: its text, or what the messages of a chat say."""
    if "messages" in document:
        return "\n".join(m["content"] for m in document["messages"])
    return str(document["text"])


def split(spec: DataSpec, source: Source, document: Document) -> list[Document]:
    """The documents made of one: split where it is too long, each marked held out or not. All parts of one
    document go the same way, so that no held-out page has its neighbours in training."""
    text = plain_text(document)
    where = int.from_bytes(hashlib.sha256(f"{spec.seed}\n{text}".encode()).digest()[:8])
    marks = {"heldout": where < spec.heldout * 2.0**64, "short": len(text) < source.min_chars}
    if source.kind == "chat":
        return [{"messages": document["messages"], **marks}]
    return [{"text": part, **marks} for part in pieces(text, source.max_chars)]


def _digest(text: str) -> list[int]:
    digest = hashlib.sha256(text.strip().encode()).digest()
    return [int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])]


@lru_cache(maxsize=1)
def _worker(spec: str, evals: Path) -> Worker:
    return Worker(DataSpec.from_json(spec), NgramIndex.load(evals))


def start_process() -> None:
    """In each worker process: leave Ctrl-C to the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_chunk(spec: str, source: int, documents: list[Document], path: Path) -> None:
    """Work on one chunk and write its file."""
    worker = _worker(spec, path.with_name(EVALS))
    worker.run(worker.spec.sources[source], documents).save(path)
