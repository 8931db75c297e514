"""Generations as files: JSON Lines, which can be imported again, and Parquet."""

import io
import json
from collections.abc import Iterator
from typing import Any, Literal

from herd.errors import HerdError
from herd.store import Store
from herd.store.tables import generations

Format = Literal["jsonl", "parquet"]
TYPES = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}

PAGE = 200  # rows read at a time
GROUP = 2000  # rows of a row group in Parquet


def export(store: Store, format: Format, **wanted: Any) -> Iterator[bytes]:
    """The file, piece by piece, the newest generation first. `wanted`: as `Store.search_generations` has it.

    Each row has the columns of the generations table. Raises HerdError before the first piece: for another format, and
    for Parquet where pyarrow is not installed.
    """
    if format not in TYPES:
        raise HerdError(f"format must be one of {', '.join(TYPES)}, not {format!r:.60}")
    return _jsonl(store, wanted) if format == "jsonl" else _parquet(store, wanted, the_pyarrow())


def pages(store: Store, wanted: dict[str, Any], size: int = PAGE) -> Iterator[list[dict[str, Any]]]:
    """Rows by column, a page at a time: each that was there at the start and stays, once."""
    before = wanted.pop("before", None)
    while rows := store.search_generations(**wanted, limit=size, before=before):
        before = rows[-1]["created"], rows[-1]["id"]
        for row in rows:
            row |= {f"{part}_tokens": count for part, count in row.pop("tokens").items()}
            row |= {f"{part}_ms": took for part, took in row.pop("latency").items()}
        yield [{column.name: row[column.name] for column in generations.c} for row in rows]


def _jsonl(store: Store, wanted: dict[str, Any]) -> Iterator[bytes]:
    """What is null is left out."""
    for rows in pages(store, wanted):
        lines = ({name: value for name, value in row.items() if value is not None} for row in rows)
        yield "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _parquet(store: Store, wanted: dict[str, Any], pa: Any) -> Iterator[bytes]:
    """JSON is text here."""
    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(c.name, kinds.get(c.type.python_type, pa.string())) for c in generations.c])
    texts = [column.name for column in generations.c if column.type.python_type not in kinds]
    sink = _Sink()
    with pa.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in pages(store, wanted, GROUP):
            for row in rows:
                told = [name for name in texts if row[name] is not None]
                row |= {name: json.dumps(row[name], ensure_ascii=False) for name in told}
            writer.write_table(pa.Table.from_pylist(rows, schema))
            yield sink.taken()
    yield sink.taken()


class _Sink(io.BytesIO):
    """A file that only grows, of which what is written can be taken away."""

    gone = 0

    def tell(self) -> int:
        return self.gone + super().tell()

    def taken(self) -> bytes:
        piece = self.getvalue()
        self.gone += len(piece)
        self.seek(0)
        self.truncate(0)
        return piece


def the_pyarrow() -> Any:
    """The package, with its part for Parquet. Raises HerdError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise HerdError("Parquet needs pyarrow: pip install 'openherd[parquet]', or take jsonl") from None
    return pyarrow
