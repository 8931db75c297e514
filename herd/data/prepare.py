"""From corpora to token shards: read, clean, deduplicate, tokenise, write, and say what was done.

Two stages. Chunks of documents are tokenised and examined in parallel, one result file each, under
`out/.work`; a chunk whose file exists is not done again. Then one pass in the order of the sources removes
duplicates and writes the shards. The outcome depends only on the recipe and the files, never on the number
of workers or on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from herd.data.dedup import NgramIndex, near_duplicates
from herd.data.shards import ShardWriter, write_json
from herd.data.sources import SEPARATOR, Document, OnBytes, expand, numbered_records, read
from herd.data.spec import DataSpec, Source
from herd.data.work import EXCERPT, FACTS, KEEP, Job, Worker, run_jobs, split
from herd.errors import HerdError
from herd.registry.files import sha256_file

CHUNK_CHARS = 1_000_000  # a second or so of work: what Ctrl-C waits for
EXAMPLES = 3  # of removed documents, for each reason

Files = list[list[Path]]  # of each source, in order
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
    worker = Worker(spec, NgramIndex(()))
    if dry_run:
        return _dry_run(worker, files, report)
    inputs = _inputs(worker, files)
    work, done = out / ".work", out / "manifest.json"
    if done.is_file():
        manifest = Manifest(**json.loads(done.read_text(encoding="utf-8")))
        found = {**vars(manifest), "files": [source["files"] for source in manifest.sources]}
        if inputs != {name: found[name] for name in inputs}:
            raise HerdError(f"{out}: holds data of another recipe; name another directory or remove it")
    else:
        _begin(out, work, inputs)
        chunks = _make_chunks(worker, files, work, workers, report)
        facts = _all_facts(spec, [path for paths in chunks for path in paths])
        manifest = _write(worker, inputs, chunks, facts, out, report)
        write_json(done, asdict(manifest))
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _inputs(worker: Worker, files: Files) -> dict[str, Any]:
    """All that decides the outcome: the recipe and the digest of every file it reads, wherever they lie."""

    def digest(path: str | Path) -> dict[str, str]:
        return {"name": Path(path).name, "sha256": sha256_file(Path(path))}

    return {
        "spec": _named(worker.spec),
        "tokenizer": worker.tokenizer.fingerprint,
        "template": worker.template.source if worker.template else "",
        "evals": [digest(path) for pattern in worker.spec.decontaminate for path in expand(pattern)],
        "files": [[digest(path) for path in paths] for paths in files],
    }


def _named(spec: DataSpec) -> dict[str, Any]:
    """What the recipe says, as JSON has it, with the names of files in place of paths."""
    table: dict[str, Any] = json.loads(json.dumps(asdict(spec.with_paths(lambda path: Path(path).name))))
    return table


def _begin(out: Path, work: Path, inputs: dict[str, Any]) -> None:
    """Start, or go on with the chunks of an interrupted run of the same recipe over the same files."""
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise HerdError(f"{out}: not empty; name another directory or remove it")
    journal = work / "journal.json"
    if not journal.is_file() or json.loads(journal.read_text(encoding="utf-8")) != inputs:
        shutil.rmtree(work, ignore_errors=True)
        write_json(journal, inputs)
    for unfinished in (work / "train", work / "heldout", out / "train", out / "heldout"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _documents(spec: DataSpec, source: Source, files: list[Path], on_bytes: OnBytes) -> Iterator[Document]:
    found = ((path, document) for path in files for document in read(path, source.text_field, on_bytes))
    for count, (path, document) in enumerate(islice(found, source.limit), 1):
        if (source.kind == "chat") != ("messages" in document):
            wanted = '"messages"' if source.kind == "chat" else f"text in field {source.text_field!r}"
            raise HerdError(f"{path}: document {count} has no {wanted}, but {source.name!r} is {source.kind}")
        yield from split(spec, source, document)


def _batches(
    spec: DataSpec, files: Files, stage: str, report: Progress
) -> Iterator[tuple[int, list[Document]]]:
    """The documents of all sources, a chunk at a time, each with the number of its source."""
    total, done = sum(path.stat().st_size for paths in files for path in paths), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    for number, (source, paths) in enumerate(zip(spec.sources, files, strict=True)):
        batch: list[Document] = []
        chars = 0
        for document in _documents(spec, source, paths, on_bytes):
            batch.append(document)
            chars += len(document["text"])
            if chars >= CHUNK_CHARS:
                yield number, batch
                batch, chars = [], 0
        if batch:
            yield number, batch


def _make_chunks(worker: Worker, files: Files, work: Path, workers: int, report: Progress) -> Files:
    """Stage one. Returns the chunk files of each source, in order."""
    spec = worker.spec
    evals = [path for pattern in spec.decontaminate for path in expand(pattern)]
    worker.evals = NgramIndex(record for path in evals for _, record in numbered_records(path))
    chunks: Files = [[] for _ in files]

    def jobs() -> Iterator[Job]:
        for number, batch in _batches(spec, files, "tokenise", report):
            path = work / f"{number:03d}.{len(chunks[number]):06d}.npz"
            chunks[number].append(path)
            if not path.exists():
                yield spec.sources[number], batch, path

    run_jobs(worker, jobs(), workers)
    return chunks


def _all_facts(spec: DataSpec, chunks: list[Path]) -> np.ndarray:
    """What is known of every document, [documents] FACTS, copies of earlier documents marked."""
    near = spec.dedup.near
    all_facts, signatures = [np.zeros(0, FACTS)], [np.zeros((0, near.permutations if near else 0), np.uint32)]
    for path in chunks:
        with np.load(path, allow_pickle=False) as chunk:
            all_facts.append(chunk["facts"])
            signatures.append(chunk["signatures"])
    facts = np.concatenate(all_facts)
    kept = np.flatnonzero(facts["reason"] == KEEP)
    if spec.dedup.exact:
        first = np.unique(facts["digest"][kept], return_index=True)[1]
        facts["reason"][np.delete(kept, first)] = "exact duplicate"
        kept = kept[np.sort(first)]
    if near:
        copies = near_duplicates(np.concatenate(signatures)[kept], near.threshold) >= 0
        facts["reason"][kept[copies]] = "near duplicate"
    return facts


def _write(
    worker: Worker, inputs: dict[str, Any], chunks: Files, facts: np.ndarray, out: Path, report: Progress
) -> Manifest:
    """Stage two: the shards of what is kept, and everything counted."""
    work, spec = out / ".work", worker.spec
    masked, header = worker.template is not None, {"tokenizer": inputs["tokenizer"]}
    writers = {
        name: ShardWriter(work / name, worker.dtype.name, masked=masked, header=header)
        for name in ("train", "heldout")
    }
    sources, stop = [], 0
    with open(work / "heldout.txt", "w", encoding="utf-8", errors="replace", newline="\n") as raw:
        for source, paths, digests in zip(spec.sources, chunks, inputs["files"], strict=True):
            first, excerpts = stop, []
            for number, path in enumerate(paths, 1):
                with np.load(path, allow_pickle=False) as chunk:
                    ids, mask, texts = chunk["ids"], chunk["mask"], json.loads(chunk["texts"].tobytes())
                here = facts[stop : stop + len(texts)]
                stop += len(texts)
                for name, writer in writers.items():
                    keep = (here["reason"] == KEEP) & (here["heldout"] == (name == "heldout"))
                    if keep.any():
                        spread = np.repeat(keep, here["tokens"])
                        flags = mask[spread] if source.kind == "chat" else None
                        writer.add(source.name, ids[spread], here["tokens"][keep], flags)
                raw.writelines(texts[i].strip("\n") + f"\n{SEPARATOR}\n" for i in np.flatnonzero(keep))
                excerpts += [
                    t[:EXCERPT] if reason else "" for t, reason in zip(texts, here["reason"], strict=True)
                ]
                report(f"write {source.name}", number, len(paths))
            sources.append({**_heading(source), "files": digests, **_counts(facts[first:stop], excerpts)})
    sets: dict[str, Any] = {}
    for name, writer in writers.items():
        written = writer.close()
        sets[name] = {key: written[key] for key in ("documents", "tokens", "fingerprint")}
        (work / name).rename(out / name)
    (work / "heldout.txt").rename(out / "heldout.txt")
    both = hashlib.sha256("".join(s["fingerprint"] for s in sets.values()).encode()).hexdigest()
    given = {name: value for name, value in inputs.items() if name != "files"}
    return Manifest(fingerprint=both, dtype=worker.dtype.name, sources=sources, **given, **sets)


def _heading(source: Source) -> dict[str, Any]:
    return {"name": source.name, "licence": source.licence, "kind": source.kind}


def _counts(facts: np.ndarray, excerpts: list[str]) -> dict[str, Any]:
    """Counts of one source by verdict, with the documents farthest beyond each rule."""

    def count(part: np.ndarray) -> dict[str, Any]:
        return {"documents": len(part), **{u: int(part[u].sum()) for u in ("chars", "bytes", "tokens")}}

    removed = {}
    for reason in sorted(set(facts["reason"].tolist()) - {KEEP}):
        at = np.flatnonzero(facts["reason"] == reason)
        worst = at[np.argsort(-facts["severity"][at], kind="stable")][:EXAMPLES]
        removed[reason] = {**count(facts[at]), "examples": [excerpts[i] for i in worst]}
    return {"read": count(facts), "kept": count(facts[facts["reason"] == KEEP]), "removed": removed}


def _dry_run(worker: Worker, files: Files, report: Progress) -> Manifest:
    """Count what would be read; tokens by the ratio in the first chunk of each source."""
    units, ratios = ("documents", "chars", "bytes", "tokens"), dict[int, float]()
    sources = [{**_heading(source), "read": dict.fromkeys(units, 0)} for source in worker.spec.sources]
    for number, batch in _batches(worker.spec, files, "count", report):
        read, texts = sources[number]["read"], [document["text"] for document in batch]
        chars = sum(map(len, texts))
        if number not in ratios:
            tokens = sum(len(ids) for ids, _ in worker.encode(worker.spec.sources[number], batch))
            ratios[number] = tokens / max(1, chars)
        read["documents"] += len(texts)
        read["chars"] += chars
        read["bytes"] += sum(len(text.encode()) for text in texts)
        read["tokens"] = round(ratios[number] * read["chars"])
    dtype, tokenizer = worker.dtype.name, worker.tokenizer.fingerprint
    return Manifest("", dtype, _named(worker.spec), tokenizer, "", [], sources, {}, {})
