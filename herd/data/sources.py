"""Documents from files: text, JSON Lines and Parquet, plain or compressed, one at a time."""

from __future__ import annotations

import glob
import gzip
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from herd.errors import HerdError

SEPARATOR = "<|endoftext|>"  # a line of its own between the documents of a .txt file
_BLOCK = 1 << 17

Document = dict[str, Any]
OnBytes = Callable[[int], None]


def read(path: str | Path, text_field: str = "text", on_bytes: OnBytes | None = None) -> Iterator[Document]:
    """Stream the documents of one file, each with "text" (a string) or "messages" (a list), in file order.

    The suffix decides: .txt, .jsonl or .parquet, each also .zst or .gz. The text is taken from `text_field`;
    other fields are kept. Memory is bounded by the largest document. `on_bytes` is told how many bytes of the
    file were consumed since the last call. Raises HerdError naming file and line for anything malformed.
    """
    path = Path(path)
    kind = path.with_suffix("").suffix if path.suffix in (".zst", ".gz") else path.suffix
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if kind not in readers:
        raise HerdError(f"{path}: not a data file; use .txt, .jsonl or .parquet, plain, .zst or .gz")
    if not path.is_file():
        raise HerdError(f"{path}: no such file")
    yield from readers[kind](path, text_field, on_bytes or (lambda _: None))


def expand(pattern: str) -> list[str]:
    """The files that a path or glob names, sorted."""
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise HerdError(f"{pattern}: no such file")
    return paths


def numbered_records(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Stream whatever JSON values a .jsonl file holds (plain, .zst or .gz), each with its line's number."""
    path = Path(path)
    if not path.is_file():
        raise HerdError(f"{path}: no such file")
    yield from _records(path, lambda _: None)


def _blocks(path: Path, on_bytes: OnBytes) -> Iterator[bytes]:
    """The decompressed bytes of a file; a compressed file that ends early is an error, not a short file."""
    try:
        with open(path, "rb") as file:
            if path.suffix == ".zst":
                yield from _unzstd(path, file, on_bytes)
                return
            stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            seen = 0
            while block := stream.read(_BLOCK):
                on_bytes(file.tell() - seen)
                seen = file.tell()
                yield block
    except (OSError, EOFError, zlib.error) as error:
        raise HerdError(f"{path}: cannot be read ({error})") from None


def _unzstd(path: Path, file: Any, on_bytes: OnBytes) -> Iterator[bytes]:
    import zstandard

    frame, pending = None, b""
    try:
        while block := pending or file.read(_BLOCK):
            if not pending:
                on_bytes(len(block))
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            pending = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise HerdError(f"{path}: not valid zstd ({error})") from None
    if frame is not None:
        raise HerdError(f"{path}: the compressed file is truncated; copy it again")


def _lines(path: Path, on_bytes: OnBytes) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line end, from 1."""
    number = 0

    def decode(line: bytes) -> str:
        try:
            return line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise HerdError(f"{path}:{number}: not UTF-8 (byte {error.start} of the line)") from None

    parts: list[bytes] = []  # of one line that spans blocks
    for block in _blocks(path, on_bytes):
        head, *tail = block.split(b"\n")
        parts.append(head)
        for piece in tail:
            number += 1
            yield number, decode(b"".join(parts))
            parts = [piece]
    if rest := b"".join(parts):
        number += 1
        yield number, decode(rest)


def _read_text(path: Path, text_field: str, on_bytes: OnBytes) -> Iterator[Document]:
    lines: list[str] = []
    for _, line in _lines(path, on_bytes):
        if line.strip() == SEPARATOR:
            if text := "\n".join(lines).strip("\n"):
                yield {"text": text}
            lines = []
        else:
            lines.append(line)
    if text := "\n".join(lines).strip("\n"):
        yield {"text": text}


def _read_jsonl(path: Path, text_field: str, on_bytes: OnBytes) -> Iterator[Document]:
    for number, record in _records(path, on_bytes):
        yield _document(record, text_field, f"{path}:{number}")


def _records(path: Path, on_bytes: OnBytes) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path, on_bytes):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HerdError(f"{path}:{number}: not valid JSON ({error})") from None


def _read_parquet(path: Path, text_field: str, on_bytes: OnBytes) -> Iterator[Document]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        plain = path
        if path.suffix != ".parquet":  # Parquet needs to seek
            plain = Path(folder, "plain.parquet")
            with open(plain, "wb") as file:
                file.writelines(_blocks(path, lambda _: None))
        try:
            with pq.ParquetFile(plain) as table:
                step = path.stat().st_size // max(1, table.metadata.num_rows)
                number = 0
                for batch in table.iter_batches(batch_size=64):
                    for record in batch.to_pylist():
                        number += 1
                        on_bytes(step)
                        yield _document(record, text_field, f"{path}: row {number}")
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise HerdError(f"{path}: not a valid Parquet file ({reason})") from None


def _document(record: Any, text_field: str, where: str) -> Document:
    if not isinstance(record, dict):
        raise HerdError(f"{where}: expected an object, found {type(record).__name__}")
    text, messages = record.get(text_field), record.get("messages")
    if isinstance(text, str):
        _check_unicode(text, where)
        return {**record, "text": text}
    if messages is None:
        fields = ", ".join(map(str, record)) or "none"
        raise HerdError(f'{where}: no text in field {text_field!r} and no "messages" (fields: {fields})')
    check_messages(messages, f"{where}: messages")
    return record


def check_messages(messages: Any, where: str) -> None:
    """HerdError unless the value is a conversation: a list of {"role", "content"} objects with text."""
    if not isinstance(messages, list) or not messages:
        raise HerdError(f"{where} must be a list of messages with role and content")
    for message in messages:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            raise HerdError(f"{where}: a message needs a role")
        if not isinstance(message.get("content"), str):
            raise HerdError(f"{where}: a message needs content that is text")
        _check_unicode(message["content"], where)


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HerdError(f"{where}: half a surrogate pair at character {error.start}, not Unicode") from None
