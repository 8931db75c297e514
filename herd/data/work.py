"""The part of `prepare` that runs in parallel: what is found out about a document by itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from herd.data.dedup import NgramIndex, minhash
from herd.data.sources import Document
from herd.data.spec import DataSpec, Source
from herd.data.words import Words
from herd.errors import HerdError
from herd.model.chat import ChatTemplate, encode_chat
from herd.model.tokenizer import Tokenizer
from herd.registry.files import atomic_write

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
KEEP = ""
EXCERPT = 160

# Of a document: sizes, 128 bits of its text's hash, why it is removed (or KEEP), how far beyond the rule it is.
FACTS = np.dtype(
    [(unit, "i8") for unit in ("tokens", "chars", "bytes")]
    + [("digest", "S16"), ("heldout", "?"), ("reason", "U32"), ("severity", "f8")]
)
Job = tuple[Source, list[Document], Path]


def split(spec: DataSpec, source: Source, document: Document) -> Iterator[Document]:
    """The documents made of one: {"text", "short", "heldout"} and, for chat, "messages".

    All parts of one document go the same way, so that no held-out page has its neighbours in training.
    """
    chat = {"messages": document["messages"]} if source.kind == "chat" else {}
    text = "\n".join(m["content"] for m in chat["messages"]) if chat else document["text"]
    place = int.from_bytes(hashlib.sha256(f"{spec.seed}\n{text}".encode()).digest()[:8])
    marks = {"short": len(text) < source.min_chars, "heldout": place < spec.heldout * 2.0**64}
    for part in pieces(text, None if chat else source.max_chars):
        yield {"text": part, **chat, **marks}


def pieces(text: str, max_chars: int | None) -> Iterator[str]:
    """The text in parts of at most `max_chars`, cut after a paragraph if one ends in the second half of the
    part, else after a line, a sentence, a word. The parts joined are the text."""
    start = 0
    while max_chars and len(text) - start > max_chars:
        stop = start + max_chars
        ends = ((text.rfind(e, start + max_chars // 2, stop), len(e)) for e in ("\n\n", "\n", ". ", " "))
        stop = next((at + length for at, length in ends if at >= 0), stop)
        yield text[start:stop]
        start = stop
    yield text[start:]


class Worker:
    """Everything that work on documents needs, loaded once per process."""

    def __init__(self, spec: DataSpec, evals: NgramIndex) -> None:
        self.spec, self.evals = spec, evals
        self.tokenizer = Tokenizer.load(spec.tokenizer)
        if not {BEGIN, END} <= self.tokenizer.special.keys():
            raise HerdError(f"{spec.tokenizer}: has no {BEGIN} or {END}; use a Llama 3 kind of tokenizer")
        self.dtype = np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32)
        self.template = None
        if any(source.kind == "chat" for source in spec.sources):
            path = Path(spec.tokenizer)
            self.template = ChatTemplate.load(path if path.is_dir() else path.parent)

    def encode(self, source: Source, documents: list[Document]) -> list[tuple[list[int], list[bool]]]:
        """Token ids and, for chat, the mask of the tokens to be learned."""
        if source.kind == "chat":
            assert self.template is not None
            return [encode_chat(self.tokenizer, self.template, d["messages"]) for d in documents]
        begin, end = self.tokenizer.special[BEGIN], self.tokenizer.special[END]
        encoded = self.tokenizer.encode_batch([d["text"] for d in documents])
        return [([begin, *ids, end], []) for ids in encoded]

    def judge(self, source: Source, document: Document, words: Words, tokens: int) -> tuple[str, float]:
        """Why the document is removed and how far beyond the rule it is; KEEP when it stays."""
        if document["short"] or not tokens:
            return "too short" if document["short"] else "no reply", 1.0
        rules = self.spec.quality if source.quality and source.kind == "text" else None
        if rules and (broken := rules.judge(document["text"], words)):
            return broken
        return ("contaminated", 1.0) if self.evals.overlaps(words) else (KEEP, 0.0)

    def run(self, source: Source, documents: list[Document], path: Path) -> None:
        """Write a chunk, the results for some documents: an .npz file that appears whole or not at all.

        facts [documents] FACTS, signatures [documents, permutations], ids [tokens], mask like ids or [0],
        texts (the UTF-8 of a JSON list): whole if held out, else the beginning, for examples in the manifest.
        """
        near = self.spec.dedup.near
        facts: list[Any] = []
        signatures: list[Any] = []
        encoded = self.encode(source, documents)
        for document, (ids, _) in zip(documents, encoded, strict=True):
            text, words = document["text"], Words(document["text"])
            sizes = len(ids), len(text), len(text.encode())
            digest = hashlib.sha256(text.strip().encode()).digest()[:16]
            verdict = self.judge(source, document, words, len(ids))
            facts.append((*sizes, digest, document["heldout"], *verdict))
            signatures.append(minhash(words.ngrams(near.shingle), near.permutations) if near else [])
        texts = [d["text"] if d["heldout"] else d["text"][:EXCERPT] for d in documents]
        file = io.BytesIO()
        np.savez(
            file,
            facts=np.array(facts, FACTS),
            signatures=np.array(signatures, np.uint32),
            ids=np.fromiter(chain.from_iterable(ids for ids, _ in encoded), self.dtype),
            mask=np.fromiter(chain.from_iterable(mask for _, mask in encoded), np.uint8),
            texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
        )
        atomic_write(path, file.getvalue())


def run_jobs(worker: Worker, jobs: Iterator[Job], workers: int) -> None:
    """`Worker.run` on each job, in so many processes, with few enough waiting that memory stays bounded."""
    if workers <= 1:
        for job in jobs:
            worker.run(*job)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_process, (worker.spec, worker.evals))
    pending: deque[Future[None]] = deque()
    try:
        for job in jobs:
            # A worker process may start here; it inherits the mask, so that Ctrl-C is the parent's from its first moment.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                pending.append(pool.submit(_run_job, *job))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            if len(pending) > 2 * workers:
                pending.popleft().result()
        for future in pending:
            future.result()
    except BrokenProcessPool:
        raise HerdError("a worker process died (out of memory?); run again with fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker  # of a worker process


def _start_process(spec: DataSpec, evals: NgramIndex) -> None:
    """In each worker process: never outlive the parent."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker = Worker(spec, evals)


def _follow_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _run_job(*job: *Job) -> None:
    _worker.run(*job)
