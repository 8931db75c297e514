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
from typing import Any

import numpy as np

from herd.data.dedup import NgramIndex, near_duplicates
from herd.data.shards import ShardWriter, write_json
from herd.data.sources import SEPARATOR, Document, expand, numbered_records, read
from herd.data.spec import DataSpec, Source
from herd.data.work import (
    EVALS,
    EXCERPT,
    KEEP,
    NO_SHINGLES,
    Chunk,
    Worker,
    chat_template,
    load_tokenizer,
    plain_text,
    run_chunk,
    split,
    start_process,
)
from herd.errors import HerdError

CHUNK_CHARS = 1_000_000  # a second or so of work: what Ctrl-C waits for
SAMPLE_CHARS = 1_000_000
EXAMPLES = 3  # of removed documents, for each reason

Job = tuple[str, int, list[Document], Path]  # the arguments of run_chunk
Progress = Callable[[str, int, int], None]  # (stage, done, total): bytes of the source files, then chunks


@dataclass(frozen=True)
class Manifest:
    """What `prepare` made, as in `out/manifest.json`.

    spec: the recipe, files by name only. tokenizer, template (the chat template, else empty), evals: fingerprint,
    source and digests of what else was read.
    sources: for each its name, licence, kind, files with sha256, counts of documents, chars, bytes and tokens
    `read` and `kept`, and the same counts in `removed` by reason, with the worst examples. train, heldout:
    documents, tokens, fingerprint. A dry run has no fingerprint, and `read` alone, with tokens estimated.
    """

    fingerprint: str
    dtype: str
    spec: dict[str, Any]
    tokenizer: str
    template: str
    evals: list[dict[str, str]]
    sources: list[dict[str, Any]]
    train: dict[str, Any]
    heldout: dict[str, Any]


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
    inputs = _inputs(spec, files)
    work = out / ".work"
    if (out / "manifest.json").is_file():
        manifest = Manifest(**json.loads((out / "manifest.json").read_text(encoding="utf-8")))
        found = {name: getattr(manifest, name) for name in inputs if name != "files"}
        if {**found, "files": [source["files"] for source in manifest.sources]} != inputs:
            raise HerdError(f"{out}: holds data of another recipe; name another directory or remove it")
    else:
        _begin(out, work, inputs)
        chunks = _make_chunks(spec, files, work, workers, report)
        manifest = _merge(spec, inputs, chunks, out, work, report)
        write_json(out / "manifest.json", dataclasses.asdict(manifest))
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _inputs(spec: DataSpec, files: list[list[Path]]) -> dict[str, Any]:
    """All that decides the outcome: the recipe and the digest of every file it reads, wherever they lie."""
    template = chat_template(spec)
    evals = [Path(path) for pattern in spec.decontaminate for path in expand(pattern)]
    return {
        "spec": json.loads(spec.named().to_json()),
        "tokenizer": load_tokenizer(spec).fingerprint,
        "template": template.source if template else "",
        "evals": [_digest(path) for path in evals],
        "files": [[_digest(path) for path in paths] for paths in files],
    }


def _digest(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _begin(out: Path, work: Path, inputs: dict[str, Any]) -> None:
    """Start, or go on with the chunks of an interrupted run of the same recipe over the same files."""
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise HerdError(f"{out}: not empty; name another directory or remove it")
    journal = work / "journal.json"
    if not journal.is_file() or json.loads(journal.read_text(encoding="utf-8")) != inputs:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(journal, inputs)
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
    if not (work / EVALS).exists():
        paths = [path for pattern in spec.decontaminate for path in expand(pattern)]
        NgramIndex(record for path in paths for _, record in numbered_records(path)).save(work / EVALS)
    count = _Counting("tokenise", files, report)
    chunks: list[list[Path]] = [[] for _ in files]
    text = spec.to_json()

    def jobs() -> Iterator[Job]:
        for number, (source, paths) in enumerate(zip(spec.sources, files, strict=True)):
            for batch in _batches(_documents(spec, source, paths, count)):
                path = work / f"{number:03d}-{len(chunks[number]):06d}.npz"
                chunks[number].append(path)
                if not path.exists():
                    yield text, number, batch, path

    if workers <= 1:
        for job in jobs():
            run_chunk(*job)
    else:
        _run_parallel(jobs(), workers)
    return chunks


def _run_parallel(jobs: Iterator[Job], workers: int) -> None:
    """`run_chunk` on each job, with few enough waiting that memory stays bounded."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), start_process)
    pending: set[Future[None]] = set()
    try:
        for job in jobs:
            pending.add(pool.submit(run_chunk, *job))
            if len(pending) > 2 * workers:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
        for future in pending:
            future.result()
    except BrokenProcessPool:
        raise HerdError("a worker process died (out of memory?); run again with fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Counting:
    """Reports the bytes of the source files that were read, of all there are."""

    def __init__(self, stage: str, files: list[list[Path]], report: Progress) -> None:
        self.stage, self.report, self.done = stage, report, 0
        self.total = sum(path.stat().st_size for paths in files for path in paths)

    def __call__(self, count: int) -> None:
        self.done += count
        self.report(self.stage, self.done, self.total)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(plain_text(document))
        if chars >= CHUNK_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _merge(
    spec: DataSpec,
    inputs: dict[str, Any],
    chunks: list[list[Path]],
    out: Path,
    work: Path,
    report: Progress,
) -> Manifest:
    """Stage two: duplicates out, shards written, everything counted."""
    verdicts = iter(_duplicates(spec, [path for paths in chunks for path in paths]))
    masked = any(source.kind == "chat" for source in spec.sources)
    dtype = next((Chunk.load(path).tokens.dtype.name for paths in chunks for path in paths), "uint16")
    header = {"tokenizer": inputs["tokenizer"]}
    writers = {
        name: ShardWriter(work / name, dtype, masked=masked, header=header) for name in ("train", "heldout")
    }
    sources = []
    with open(work / "heldout.txt", "w", encoding="utf-8", errors="replace", newline="\n") as heldout:
        for source, paths, digests in zip(spec.sources, chunks, inputs["files"], strict=True):
            tally = _Tally()
            for number, path in enumerate(paths):
                report(f"write {source.name}", number, len(paths))
                chunk, reasons = Chunk.load(path), next(verdicts)
                tally.add(chunk, reasons)
                for name, writer in writers.items():
                    keep = (reasons == KEEP) & (chunk.heldout == (name == "heldout"))
                    spread = np.repeat(keep, chunk.lengths)
                    mask = chunk.mask[spread] if source.kind == "chat" else None
                    if keep.any():
                        writer.add(source.name, chunk.tokens[spread], chunk.lengths[keep], mask)
                heldout.writelines(
                    chunk.texts[i].strip("\n") + f"\n{SEPARATOR}\n"
                    for i in np.flatnonzero((reasons == KEEP) & chunk.heldout)
                )
            sources.append({**_heading(source), "files": digests, **tally.summary()})
    sets = {}
    for name, writer in writers.items():
        written = writer.close()
        sets[name] = {key: written[key] for key in ("documents", "tokens", "fingerprint")}
        (work / name).rename(out / name)
    (work / "heldout.txt").rename(out / "heldout.txt")
    both = hashlib.sha256("".join(s["fingerprint"] for s in sets.values()).encode()).hexdigest()
    return Manifest(
        fingerprint=both,
        dtype=dtype,
        spec=inputs["spec"],
        tokenizer=inputs["tokenizer"],
        template=inputs["template"],
        evals=inputs["evals"],
        sources=sources,
        train=sets["train"],
        heldout=sets["heldout"],
    )


def _duplicates(spec: DataSpec, paths: list[Path]) -> list[np.ndarray]:
    """For each chunk, why each document is removed, copies of earlier documents included: [documents]."""
    seen: set[bytes] = set()
    verdicts, places, signatures = [], [], []
    for path in paths:
        chunk = Chunk.load(path)
        reasons = np.array(chunk.reasons, object)
        for i in np.flatnonzero(reasons == KEEP):
            key = chunk.digests[i].tobytes()
            if spec.dedup.exact and key in seen:
                reasons[i] = "exact duplicate"
            seen.add(key)
        verdicts.append(reasons)
        comparable = (chunk.signatures != NO_SHINGLES).any(axis=1)
        places.append(np.flatnonzero((reasons == KEEP) & comparable))
        signatures.append(chunk.signatures[places[-1]])
    if spec.dedup.near and signatures:
        near = near_duplicates(np.concatenate(signatures), spec.dedup.near.threshold) >= 0
        ends = np.cumsum([len(at) for at in places])
        for reasons, at, copies in zip(verdicts, places, np.split(near, ends[:-1]), strict=True):
            reasons[at[copies]] = "near duplicate"
    return verdicts


def _heading(source: Source) -> dict[str, Any]:
    return {"name": source.name, "licence": source.licence, "kind": source.kind}


class _Tally:
    """Counts of one source by verdict, for the manifest."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.worst: dict[str, list[tuple[float, str]]] = {}

    def add(self, chunk: Chunk, reasons: np.ndarray) -> None:
        units = {"chars": chunk.chars, "bytes": chunk.bytes, "tokens": chunk.lengths}
        for reason in set(reasons):
            at = np.flatnonzero(reasons == reason)
            counts = self.counts.setdefault(reason, Counter())
            counts.update(
                documents=len(at), **{unit: int(values[at].sum()) for unit, values in units.items()}
            )
            worst = self.worst.get(reason, []) + [(chunk.severity[i], chunk.texts[i][:EXCERPT]) for i in at]
            self.worst[reason] = sorted(worst, key=lambda pair: -pair[0])[:EXAMPLES]

    def summary(self) -> dict[str, Any]:
        def table(counts: Counter[str]) -> dict[str, int]:
            return {unit: counts[unit] for unit in ("documents", "chars", "bytes", "tokens")}

        removed = {
            reason: {**table(counts), "examples": [text for _, text in self.worst[reason]]}
            for reason, counts in sorted(self.counts.items())
            if reason != KEEP
        }
        read = sum(self.counts.values(), Counter[str]())
        return {"read": table(read), "kept": table(self.counts.get(KEEP, Counter())), "removed": removed}


def _dry_run(spec: DataSpec, files: list[list[Path]], report: Progress) -> Manifest:
    """Count what would be read; tokens by the ratio in the first million characters of each source."""
    worker, sources, count = Worker(spec, NgramIndex(())), [], _Counting("count", files, report)
    for source, paths in zip(spec.sources, files, strict=True):
        sample: list[Document] = []
        counts, sampled = Counter[str](), 0
        for document in _documents(spec, source, paths, count):
            text = plain_text(document)
            counts.update(documents=1, chars=len(text), bytes=len(text.encode()))
            if sampled < SAMPLE_CHARS:
                sample.append(document)
                sampled += len(text)
        tokens = sum(len(ids) for ids, _ in worker.encode(source, sample))
        counts["tokens"] = round(tokens * counts["chars"] / max(1, sampled))
        sources.append({**_heading(source), "read": dict(counts)})
    dtype, recipe = np.dtype(worker.dtype).name, json.loads(spec.named().to_json())
    return Manifest("", dtype, recipe, worker.tokenizer.fingerprint, "", [], sources, {}, {})
