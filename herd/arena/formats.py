"""Files of votes as records: FastChat's and LMArena's JSON Lines, CSV, Parquet, pair counts.

Each reader yields (place, record), the place as people find it ("line 7"). All raise `Wrong` for what the form does not
allow, in bounded time and memory, whatever the file holds.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, BinaryIO, Literal, cast

from herd.errors import HerdError
from herd.gateway.exports import the_pyarrow
from herd.gateway.imports import entries, parsed

Format = Literal["fastchat", "csv", "parquet", "counts"]
Record = Mapping[str, Any]
Records = Iterator[tuple[str, Record]]

MAX_VOTES = 10_000_000
MAX_COLUMNS = 200
MAX_UNPACKED = 16 << 30  # bytes of a file with gzip
MAX_LINE = 1 << 20  # characters of a line of CSV
MAX_COUNTS = 64 << 20  # bytes of a file of pair counts
MAX_GROUP = 1 << 30  # bytes of a row group of Parquet, unpacked
MAX_VALUES = 1 << 26  # values in a column of a row group
IN_MEMORY = 256 << 20  # bytes of Parquet at a time, if each row were as large as its dictionary allows
ROWS = 4096  # rows at a time

# A column of votes, by the names that others have for it; the first that a record has counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "a": ("model_a", "left"),
    "b": ("model_b", "right"),
    "winner": ("winner",),
    "voter": ("judge", "judge_hash", "worker", "user", "voter"),
    "created": ("tstamp", "timestamp", "created"),
    "conversation": ("evaluation_session_id", "conversation_id"),
    **{name: (name,) for name in (
        "question_id", "id", "turn", "anony", "language", "is_code", "category_tag", "conv_metadata", "prompt", "herd",
        "conversation_a", "conversation_b",
    )},
}  # fmt: skip
COLUMN_OF = {name: column for column, names in COLUMNS.items() for name in names}


class Wrong(HerdError):
    """What is wrong with a file, and where. Status 400."""

    def __init__(self, place: str, reason: str, column: str | None = None) -> None:
        where = f"{place}, column {column}" if column else place
        super().__init__(f"{where}: {reason}", code="invalid_file")


def read(file: BinaryIO, form: Format) -> Records:
    """All records of a file. Raises HerdError for another form, Wrong for what is not of the form."""
    if form not in _READERS:
        raise HerdError(f"format must be one of {', '.join(_READERS)}, not {form!r:.60}")
    return _READERS[form](file)


def guess(name: str) -> Format:
    """The form of a file of this name. Raises HerdError if the name does not say."""
    stem = name.lower().removesuffix(".gz")
    ends: dict[str, Format] = {"jsonl": "fastchat", "ndjson": "fastchat", "csv": "csv", "tsv": "csv", "parquet": "parquet"}  # fmt: skip
    if form := ends.get(stem.rpartition(".")[2]):
        return form
    raise HerdError(f"{name}: say its form with --format {'|'.join(_READERS)}")


class _Unpacked(io.RawIOBase):
    """A file with gzip, as far as it may go."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = gzip.GzipFile(fileobj=file), 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        count = self._file.readinto(into)
        self._size += count
        if self._size > MAX_UNPACKED:
            raise Wrong("the file", f"over {MAX_UNPACKED >> 30} GiB unpacked")
        return count


def _json_lines(file: BinaryIO) -> Records:
    stream = cast(io.BufferedReader, file)
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = io.BufferedReader(_Unpacked(file))
    try:
        for number, line in enumerate(entries(stream), 1):
            if number > 2 * MAX_VOTES:
                raise Wrong(f"line {number}", "too many lines")
            if line.strip():
                yield f"line {number}", _object(f"line {number}", line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Wrong("the file", f"not gzip that can be read: {error}") from None


def _object(place: str, line: str | bytes) -> Record:
    try:
        found = parsed(line)
    except RecursionError:
        raise Wrong(place, "nested too deep") from None
    except ValueError as error:
        raise Wrong(place, str(error)) from None
    if not isinstance(found, dict):
        raise Wrong(place, "not a JSON object")
    return found


def _csv(file: BinaryIO) -> Records:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    number = 1
    try:
        first = text.readline(MAX_LINE)
        rows = csv.reader(_lines(first, text), delimiter=max(",;\t", key=first.count), strict=True)
        header = [name.strip() for name in next(rows, [])]
        _check_columns(header, "line 1")
        for row in rows:
            number = rows.line_num
            if row and len(row) != len(header):
                raise Wrong(f"line {number}", f"{len(row)} columns, where the header has {len(header)}")
            if row:
                # `id` is of the row in one file, of its question in another.
                given = {k: v for k, v in zip(header, row, strict=True) if v != "" and k != "id"}
                yield f"line {number}", given
            number += 1
    except UnicodeDecodeError:
        raise Wrong(f"near line {number}", "not UTF-8") from None
    except csv.Error as error:
        raise Wrong(f"line {rows.line_num}", str(error)) from None
    finally:
        text.detach()


def _lines(line: str, text: io.TextIOWrapper) -> Iterator[str]:
    number = 1
    while line:
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise Wrong(f"line {number}", f"longer than {MAX_LINE:,} characters")
        yield line
        line, number = text.readline(MAX_LINE), number + 1


def _check_columns(names: list[str], place: str) -> None:
    """Raises Wrong unless these are distinct and among them are both models and the winner."""
    if len(names) > MAX_COLUMNS:
        raise Wrong(place, f"{len(names):,} columns; at most {MAX_COLUMNS}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Wrong(place, "twice in the header", f"{twice!r:.60}")
    for needed in ("a", "b", "winner"):
        if not set(COLUMNS[needed]) & set(names):
            there = ", ".join(names)
            raise Wrong(place, f"no column {' or '.join(COLUMNS[needed])}; there are {there[:200] or 'none'}")


def _parquet(file: BinaryIO) -> Records:
    pa = the_pyarrow()
    try:
        whole = pa.parquet.ParquetFile(file)
        names = whole.schema_arrow.names
        _check_columns(names, "the schema")
        wanted = [name for name in names if name in COLUMN_OF]
        if whole.metadata.num_rows > MAX_VOTES:
            raise Wrong("the file", f"over {MAX_VOTES:,} rows")
        row = 0
        for group in range(whole.num_row_groups):
            size = _size(whole.metadata.row_group(group), set(wanted))
            # One word of a dictionary, a few bytes in the file, may be the value of every row.
            rows = max(1, min(ROWS, IN_MEMORY // max(size, 1)))
            for batch in whole.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False):
                for record in batch.to_pylist():
                    row += 1
                    yield f"row {row}", {k: v for k, v in record.items() if v is not None}
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise Wrong("the file", f"not Parquet that can be read: {reason:.200}") from None


def _size(group: Any, wanted: set[str]) -> int:
    """Bytes of the wanted columns of a row group, unpacked. Raises Wrong if they are too many to be read."""
    size = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.split(".")[0] in wanted:
            size += column.total_uncompressed_size
            if column.num_values > MAX_VALUES or size > MAX_GROUP:
                raise Wrong("the file", "its row groups are too large; write it with smaller ones")
    return size


def _counts(file: BinaryIO) -> Records:
    """{"A": {"B": [win, loss, tie, both bad]}}, A at the left, or a list of [A, B, win, loss, tie, both bad]."""
    data = file.read(MAX_COUNTS + 1)
    if len(data) > MAX_COUNTS:
        raise Wrong("the file", f"over {MAX_COUNTS >> 20} MiB")
    try:
        found = json.loads(data, object_pairs_hook=_distinct)
    except RecursionError:
        raise Wrong("the file", "nested too deep") from None
    except ValueError as error:
        raise Wrong("the file", f"not JSON: {error}") from None
    total = 0
    for place, a, b, counts in _pairs(found):
        if not isinstance(counts, list) or len(counts) != 4:
            raise Wrong(place, "must be [win, loss, tie, both bad]")
        for name, count in zip(("win", "loss", "tie", "both bad"), counts, strict=True):
            whole = type(count) is int or (type(count) is float and count.is_integer())
            if not whole or count < 0:
                raise Wrong(place, f"{name} must be a whole number, not {count!r:.60}")
        total += int(sum(counts))
        if total > MAX_VOTES:
            raise Wrong(place, f"over {MAX_VOTES:,} votes")
        for winner, count in zip(("model_a", "model_b", "tie", "both_bad"), counts, strict=True):
            yield from repeat((place, {"model_a": a, "model_b": b, "winner": winner}), int(count))


def _pairs(found: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    if isinstance(found, dict):
        for a, others in found.items():
            if not isinstance(others, dict):
                raise Wrong(f"{a!r:.60}", "must be an object of counts by name")
            for b, counts in others.items():
                yield f"{a!r:.60} against {b!r:.60}", a, b, counts
    elif isinstance(found, list):
        for number, row in enumerate(found, 1):
            if not isinstance(row, list) or len(row) != 6:
                raise Wrong(f"row {number}", "must be [a, b, win, loss, tie, both bad]")
            yield f"row {number}", row[0], row[1], row[2:]
    else:
        raise Wrong("the file", "must be an object of counts, or a list of rows")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


_READERS: dict[str, Callable[[BinaryIO], Records]] = {
    "fastchat": _json_lines, "csv": _csv, "parquet": _parquet, "counts": _counts
}  # fmt: skip
