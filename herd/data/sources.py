"""Documents from files: text, JSON Lines and Parquet, plain or compressed, one at a time."""

from __future__ import annotations

import glob
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from herd.errors import HerdError

SEPARATOR = "<|endoftext|>"  # a line of its own between the documents of a .txt file
_BLOCK = 1 << 17
_CODECS = {".zst": "zstd", ".gz": "gzip"}

Document = dict[str, Any]
OnBytes = Callable[[int], None]


def read(path: str | Path, text_field: str = "text", on_bytes: OnBytes | None = None) -> Iterator[Document]:
    """Stream the documents of one file, each with "text" (a string) or "messages" (a list), in file order.

    The suffix decides: .txt, .jsonl or .parquet, each also .zst or .gz. The text is taken from `text_field`;
    other fields are kept. Memory is bounded by the largest document. `on_bytes` is told how many bytes of the
    file were consumed since the last call. Raises HerdError naming file and line for anything malformed.
    """
    path, seen = Path(path), 0
    kind = path.with_suffix("").suffix if path.suffix in _CODECS else path.suffix
    readers = {".txt": _texts, ".jsonl": _records, ".parquet": _rows}
    if kind not in readers:
        raise HerdError(f"{path}: not a data file; use .txt, .jsonl or .parquet, plain, .zst or .gz")
    with _opened(path) as (file, stream):
        for number, record in readers[kind](path, stream):
            yield _document(record, "text" if kind == ".txt" else text_field, f"{path}:{number}")
            if on_bytes and (done := file.tell()) - seen >= _BLOCK:
                on_bytes(done - seen)
                seen = done
        if on_bytes:
            on_bytes(path.stat().st_size - seen)


def expand(pattern: str) -> list[str]:
    """The files that a path or glob names, sorted."""
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise HerdError(f"{pattern}: no such file")
    return paths


def numbered_records(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Stream whatever JSON values a .jsonl file holds (plain, .zst or .gz), each with its line's number."""
    path = Path(path)
    with _opened(path) as (_, stream):
        yield from _records(path, stream)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file and the stream of its decompressed bytes; data that ends early is an error, not a short file."""
    codec = _CODECS.get(path.suffix, "")
    try:
        with open(path, "rb") as file:
            if codec:
                import pyarrow as pa  # type: ignore[import-untyped]

                yield file, io.BufferedReader(pa.CompressedInputStream(file, codec))
            else:
                yield file, file
    except FileNotFoundError:
        raise HerdError(f"{path}: no such file") from None
    except OSError as error:
        cause = f"not valid {codec}, or truncated: {error}" if codec else error
        raise HerdError(f"{path}: cannot be read ({cause})") from None


def _lines(path: Path, stream: Any) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line end, from 1."""
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise HerdError(f"{path}:{number}: not UTF-8 (byte {error.start} of the line)") from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def _texts(path: Path, stream: Any) -> Iterator[tuple[int, Document]]:
    lines: list[str] = []
    for number, line in chain(_lines(path, stream), [(0, SEPARATOR)]):
        if line.strip() != SEPARATOR:
            lines.append(line)
            continue
        if text := "\n".join(lines).strip("\n"):
            yield number, {"text": text}
        lines = []


def _records(path: Path, stream: Any) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path, stream):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise HerdError(f"{path}:{number}: not valid JSON ({error})") from None
            yield number, record


def _rows(path: Path, stream: Any) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    with tempfile.TemporaryFile() as plain:
        if path.suffix in _CODECS:  # Parquet needs to seek
            shutil.copyfileobj(stream, plain)
            stream = plain
        try:
            batches = pq.ParquetFile(stream).iter_batches(batch_size=64)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise HerdError(f"{path}: not a valid Parquet file ({reason})") from None


def _document(record: Any, text_field: str, where: str) -> Document:
    if not isinstance(record, dict):
        raise HerdError(f"{where}: expected an object, found {type(record).__name__}")
    text, messages = record.get(text_field), record.get("messages")
    if messages is not None:
        check_messages(messages, f"{where}: messages")
    elif not isinstance(text, str):
        fields = ", ".join(map(str, record)) or "none"
        raise HerdError(f'{where}: no text in field {text_field!r} and no "messages" (fields: {fields})')
    if not isinstance(text, str):
        return record
    _check_unicode(text, where)
    return {**record, "text": text}


def check_messages(messages: Any, where: str) -> None:
    """HerdError unless the value is a conversation: a list of {"role", "content"} objects with text."""
    if not isinstance(messages, list) or not messages:
        raise HerdError(f"{where} must be a list of messages with role and content")
    for message in messages:
        for key in ("role", "content"):
            if not (isinstance(message, dict) and isinstance(message.get(key), str)):
                raise HerdError(f"{where}: a message needs {key} that is text")
        _check_unicode(message["content"], where)


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HerdError(f"{where}: half a surrogate pair at character {error.start}, not Unicode") from None
