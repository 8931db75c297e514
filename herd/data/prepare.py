"""From corpora to token shards: read, clean, deduplicate, tokenise, write, and say what was done.

Two stages. Chunks of documents are tokenised and examined in parallel, one result file each, under
`out/.work`; a chunk whose file exists is not done again. Then one pass in the order of the sources removes
duplicates and writes the shards. The outcome depends only on the recipe and the files, never on the number
of workers or on interruptions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np

from herd.data.dedup import near_duplicates
from herd.data.shards import ShardWriter, write_json
from herd.data.sources import SEPARATOR, Document, expand, read
from herd.data.spec import DataSpec, Source
from herd.data.work import EXAMPLES, Chunk, Worker, plain_text, run_chunk, split, start_process
from herd.errors import HerdError

CHUNK_CHARS = 4_000_000
SAMPLE_CHARS = 1_000_000

Progress = Callable[[str, int, int], None]  # (stage, done, total): bytes of the source files, then chunks


@dataclass(frozen=True)
class Manifest:
    """What `prepare` made, as in `out/manifest.json`.

    sources: per source, its name, licence, files with sha256, counts of documents, chars, bytes and tokens
    read and kept, and `removed` by reason with examples. train, heldout: documents, tokens, fingerprint.
    In a dry run the tokens are an estimate and there is no fingerprint.
    """

    fingerprint: str
    tokenizer: str
    dtype: str
    spec: dict[str, Any]
    sources: list[dict[str, Any]]
    train: dict[str, Any]
    heldout: dict[str, Any]
    dry_run: bool = False


def prepare(
    spec: DataSpec,
    out: str | Path,
    *,
    workers: int = 1,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Make the shard sets `out/train` and `out/heldout`, `out/heldout.txt` and `out/manifest.json`.

    Interrupted at any moment, the same call goes on where it was. Calling it again when all is done returns
    the manifest at once. HerdError when `out` holds other data, a file is malformed, or a path matches nothing.
    """
    out, report = Path(out), progress or (lambda *_: None)
    files = [[Path(path) for path in expand(source.path)] for source in spec.sources]
    if dry_run:
        return _dry_run(spec, files, report)
    identity = _identity(spec, files)
    work = out / ".work"
    if (out / "manifest.json").is_file():
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if manifest.pop("identity", None) != identity:
            raise HerdError(f"{out}: holds data of another recipe; name another directory or remove it")
        shutil.rmtree(work, ignore_errors=True)
        return Manifest(**manifest)
    _begin(out, work, identity)
    chunks = _make_chunks(spec, files, work, workers, report)
    manifest = _merge(spec, identity, chunks, out, work, report)
    write_json(out / "manifest.json", {**dataclasses.asdict(manifest), "identity": identity})
    shutil.rmtree(work)
    return manifest


def _identity(spec: DataSpec, files: list[list[Path]]) -> dict[str, Any]:
    """All that decides the outcome: the recipe and the digests of every file it reads."""
    from herd.model.tokenizer import Tokenizer

    evals = [Path(path) for pattern in spec.decontaminate for path in expand(pattern)]
    return {
        "spec": json.loads(spec.to_json()),
        "tokenizer": Tokenizer.load(spec.tokenizer).fingerprint,
        "files": [{path.name: _sha256(path) for path in paths} for paths in files],
        "evals": {path.name: _sha256(path) for path in evals},
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _begin(out: Path, work: Path, identity: dict[str, Any]) -> None:
    """Start, or go on with the chunks of an interrupted run of the same recipe over the same files."""
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise HerdError(f"{out}: not empty; name another directory or remove it")
    journal = work / "journal.json"
    if not journal.is_file() or json.loads(journal.read_text(encoding="utf-8")) != identity:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(journal, identity)
    for unfinished in (work / "train", work / "heldout", out / "train", out / "heldout"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _documents(
    spec: DataSpec, source: Source, files: list[Path], on_bytes: Callable[[int], None]
) -> Iterator[Document]:
    count = 0
    for path in files:
        for document in read(path, source.text_field, on_bytes):
            if source.limit is not None and count >= source.limit:
                return
            count += 1
            if (source.kind == "chat") != ("messages" in document):
                wanted = '"messages"' if source.kind == "chat" else f"text in field {source.text_field!r}"
                raise HerdError(
                    f"{path}: document {count} has no {wanted}, but {source.name!r} is {source.kind}"
                )
            yield from split(spec, source, document)


def _make_chunks(
    spec: DataSpec, files: list[list[Path]], work: Path, workers: int, report: Progress
) -> list[list[Path]]:
    """Stage one. Returns the chunk files of each source, in order."""
    total = sum(path.stat().st_size for paths in files for path in paths)
    done, chunks, text = 0, [], spec.to_json()

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        report("tokenise", done, total)

    with _Pool(workers) as pool:
        for number, (source, paths) in enumerate(zip(spec.sources, files, strict=True)):
            chunks.append([])
            for batch in _batches(_documents(spec, source, paths, on_bytes)):
                path = work / f"{number:03d}-{len(chunks[-1]):06d}.npz"
                chunks[-1].append(path)
                if not path.exists():
                    pool.submit(text, number, batch, path)
    return chunks


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch, chars = [], 0
    for document in documents:
        batch.append(document)
        chars += (
            len(document["text"])
            if "text" in document
            else sum(len(m["content"]) for m in document["messages"])
        )
        if chars >= CHUNK_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


class _Pool:
    """`run_chunk` in processes, with a bounded queue; with one worker, in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pending: set[Future[int]] = set()
        self.executor = (
            ProcessPoolExecutor(workers, get_context("spawn"), start_process) if workers > 1 else None
        )

    def __enter__(self) -> Self:
        return self

    def submit(self, *args: Any) -> None:
        if self.executor is None:
            run_chunk(*args)
            return
        self.pending.add(self.executor.submit(run_chunk, *args))
        if len(self.pending) > 2 * self.workers:
            self._collect(FIRST_COMPLETED)

    def _collect(self, until: str) -> None:
        finished, self.pending = wait(self.pending, return_when=until)
        for future in finished:
            try:
                future.result()
            except BrokenProcessPool:
                raise HerdError(
                    "a worker process died (out of memory?); run again with fewer workers"
                ) from None

    def __exit__(self, kind: object, *_: object) -> None:
        if self.executor is not None:
            try:
                if kind is None:
                    self._collect("ALL_COMPLETED")
            finally:
                self.executor.shutdown(cancel_futures=True)


def _merge(
    spec: DataSpec,
    identity: dict[str, Any],
    chunks: list[list[Path]],
    out: Path,
    work: Path,
    report: Progress,
) -> Manifest:
    """Stage two: duplicates out, shards written, everything counted."""
    copies = _duplicates(spec, [path for paths in chunks for path in paths])
    masked = any(source.kind == "chat" for source in spec.sources)
    first = Chunk.load(chunks[0][0]) if chunks[0] else None
    dtype = first.tokens.dtype.name if first else "uint16"
    header = {"tokenizer": identity["tokenizer"]}
    writers = {
        name: ShardWriter(work / name, dtype, masked=masked, header=header) for name in ("train", "heldout")
    }
    sources = []
    with open(work / "heldout.txt", "w", encoding="utf-8", errors="replace", newline="\n") as heldout:
        for source, paths, digests in zip(spec.sources, chunks, identity["files"], strict=True):
            tally = _Tally(source, digests)
            for number, path in enumerate(paths):
                report(f"write {source.name}", number, len(paths))
                chunk = Chunk.load(path)
                reasons = np.array([r or c for r, c in zip(chunk.reasons, next(copies), strict=True)])
                tally.add(chunk, reasons)
                for name, writer in writers.items():
                    keep = (reasons == "") & (chunk.heldout == (name == "heldout"))
                    spread = np.repeat(keep, chunk.lengths)
                    mask = chunk.mask[spread] if source.kind == "chat" else None
                    if keep.any():
                        writer.add(source.name, chunk.tokens[spread], chunk.lengths[keep], mask)
                heldout.writelines(
                    chunk.texts[i].strip("\n") + f"\n{SEPARATOR}\n"
                    for i in np.flatnonzero((reasons == "") & chunk.heldout)
                )
            sources.append(tally.summary())
    sets = {}
    for name, writer in writers.items():
        written = writer.close()
        sets[name] = {key: written[key] for key in ("documents", "tokens", "fingerprint")}
        (work / name).rename(out / name)
    (work / "heldout.txt").rename(out / "heldout.txt")
    both = hashlib.sha256("".join(s["fingerprint"] for s in sets.values()).encode()).hexdigest()
    return Manifest(
        both, identity["tokenizer"], dtype, identity["spec"], sources, sets["train"], sets["heldout"]
    )


def _duplicates(spec: DataSpec, paths: list[Path]) -> Iterator[list[str]]:
    """For each chunk, why each document is dropped as a copy of an earlier one ("" when it is not)."""
    seen: set[bytes] = set()
    exact, signatures, eligible = [], [], []
    for path in paths:
        chunk = Chunk.load(path)
        keys = [row.tobytes() for row in chunk.digests]
        dropped = []
        for key, reason in zip(keys, chunk.reasons, strict=True):
            dropped.append(spec.dedup.exact and not reason and key in seen)
            if not reason:
                seen.add(key)
        exact.append(dropped)
        good = ~np.array(dropped, bool) & (np.array(chunk.reasons) == "")
        good &= (chunk.signatures != np.iinfo(np.uint32).max).any(axis=1)  # at least one shingle
        eligible.append(good)
        signatures.append(chunk.signatures[good])
    near = np.zeros(0, bool)
    if spec.dedup.near and signatures:
        near = near_duplicates(np.concatenate(signatures), spec.dedup.near.threshold) >= 0
    start = 0
    for dropped, good in zip(exact, eligible, strict=True):
        reasons = ["exact duplicate" if d else "" for d in dropped]
        places = np.flatnonzero(good)
        for place, twin in zip(places, near[start : start + len(places)], strict=False):
            reasons[place] = "near duplicate" if twin else ""
        start += len(places)
        yield reasons


class _Tally:
    """Counts of one source for the manifest."""

    def __init__(self, source: Source, files: dict[str, str]) -> None:
        self.source, self.files = source, files
        self.read: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.removed: dict[str, Counter[str]] = {}
        self.worst: dict[str, list[tuple[float, str]]] = {}

    def add(self, chunk: Chunk, reasons: np.ndarray) -> None:
        for reason in np.unique(reasons):
            at = reasons == reason
            counts = Counter(documents=int(at.sum()))
            for unit, values in {"chars": chunk.chars, "bytes": chunk.bytes, "tokens": chunk.lengths}.items():
                counts[unit] = int(values[at].sum())
            self.read += counts
            if reason == "":
                self.kept += counts
                continue
            self.removed[str(reason)] = self.removed.get(str(reason), Counter()) + counts
            found = [(chunk.severity[i], chunk.texts[i]) for i in np.flatnonzero(at) if chunk.texts[i]]
            self.worst[str(reason)] = sorted(
                self.worst.get(str(reason), []) + found, key=lambda pair: -pair[0]
            )[:EXAMPLES]

    def summary(self) -> dict[str, Any]:
        units = ("documents", "chars", "bytes", "tokens")
        return {
            "name": self.source.name,
            "licence": self.source.licence,
            "kind": self.source.kind,
            "files": self.files,
            "read": {unit: self.read[unit] for unit in units},
            "kept": {unit: self.kept[unit] for unit in units},
            "removed": {
                reason: {
                    **{unit: counts[unit] for unit in units},
                    "examples": [text for _, text in self.worst[reason]],
                }
                for reason, counts in sorted(self.removed.items())
            },
        }


def _dry_run(spec: DataSpec, files: list[list[Path]], report: Progress) -> Manifest:
    """Count what would be read; tokens by the ratio in the first million characters of each source."""
    worker, sources, done = Worker(spec), [], 0
    total = sum(path.stat().st_size for paths in files for path in paths)

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        report("count", done, total)

    for source, paths in zip(spec.sources, files, strict=True):
        sample: list[Document] = []
        counts: Counter[str] = Counter(chars=0)
        sampled = 0
        for document in _documents(spec, source, paths, on_bytes):
            text = plain_text(document)
            counts.update(documents=1, chars=len(text), bytes=len(text.encode("utf-8", "replace")))
            if sampled < SAMPLE_CHARS:
                sample.append(document)
                sampled += len(text)
        tokens = sum(len(ids) for ids, _ in worker.encode(source, sample)) if sample else 0
        counts["tokens"] = round(tokens * counts["chars"] / max(1, sampled))
        sources.append(
            {"name": source.name, "licence": source.licence, "kind": source.kind, "read": dict(counts)}
        )
    dtype = np.dtype(worker.dtype).name
    return Manifest(
        "", worker.tokenizer.fingerprint, dtype, json.loads(spec.to_json()), sources, {}, {}, True
    )
