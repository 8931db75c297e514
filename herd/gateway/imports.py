"""`herd import logs`: what other systems have logged becomes generations, so that evidence exists on the first day."""

import codecs
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import islice
from typing import Any, Literal, get_args

from herd.errors import HerdError
from herd.gateway.prices import Prices
from herd.gateway.records import Row, rows_of
from herd.gateway.redact import redact_row
from herd.protocol import Usage
from herd.store import Store
from herd.store.tables import generations

MAX_LINE = 64 * 2**20  # bytes
BATCH = 200  # rows on their way to the store
SHOWN = 100  # problems that are named; all are counted

_KINDS = {c.name: c.type.python_type for c in generations.c if c.type.python_type in (int, float, str)}
_GAP = re.compile(r"[\s,\[]*")
Words = Sequence[str]
Source = Literal["auto", "openai", "litellm", "langfuse", "herd"]


@dataclass
class Report:
    """`skipped`: records that are no generations, by kind. `problems`: line and reason of the first bad ones."""

    lines: int = 0
    kept: int = 0
    known: int = 0  # those that the store had already
    bad: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        named = [{"line": line, "reason": reason} for line, reason in self.problems]
        return {**vars(self), "skipped": dict(self.skipped), "problems": named}


def import_lines(
    lines: Iterable[str | bytes | Mapping[str, Any]],
    source: Source,
    store: Store,
    *,
    route: str | None = None,
    prices: Prices | None = None,
    use: Words = ("evaluate",),
    redact: Words = (),
) -> Report:
    """Keep what the lines hold as generations; `lines` may also be parsed records already.

    A record has the same id whenever it is imported, so that the same file again adds nothing, and one that was
    interrupted goes on. A bad line is counted and named, and the next one read. source: "auto" asks each line. route: in
    place of the names that the records have. prices: for what has tokens but no cost.
    """
    if source not in get_args(Source):
        raise HerdError(f"no format {source!r:.60}; there are {', '.join(get_args(Source))}")
    report = Report()

    def read() -> Iterator[Row]:
        for line in lines:
            report.lines += 1
            try:
                if isinstance(line, (str, bytes)):
                    if not line.strip():
                        continue
                    line = parsed(line)
                if not isinstance(line, Mapping):
                    raise ValueError("not an object")
                if not (made := rows_of(line, source)):
                    report.skipped[str(line.get("type") or "TRACE").lower()] += 1
                yield from (_finished(row, route, prices, use, redact) for row in made)
            except _WRONG as error:
                report.bad += 1
                if len(report.problems) < SHOWN:
                    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                    report.problems.append((report.lines, reason[:300]))

    rows = read()
    while batch := list(islice(rows, BATCH)):
        new = store.add_generations(batch)
        report.kept, report.known = report.kept + new, report.known + len(batch) - new
    return report


def entries(stream: BufferedReader | gzip.GzipFile) -> Iterator[str | bytes]:
    """The lines of a file, perhaps with gzip; of one that is a JSON array, or objects of several lines, each one's text.

    None is read beyond MAX_LINE. Where an array breaks, the rest of it is the last record.
    """
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=stream)
    start = stream.peek(2**16)[: 2**16].lstrip()
    if not (start.startswith(b"[") or re.match(rb"\{\s*\n", start)):
        while line := stream.readline(MAX_LINE):
            yield line
            while len(line) == MAX_LINE and not line.endswith(b"\n"):  # the rest of what is too long
                line = stream.readline(MAX_LINE)
        return
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    array, text, at, step = start.startswith(b"["), "", 0, 2**18
    while more := stream.read(step):
        text, at = text[at:] + decode(more), 0
        while (gap := _GAP.match(text, at)) and (at := gap.end()) < len(text) and text[at] != "]":
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                break
            yield text[at:end]
            at, step = end, 2**18
        else:
            if text[at : at + 1] == "]":
                return
            continue
        if len(text) - at > MAX_LINE:
            break
        step *= 2  # so that a long record is tried anew only a few times
    if array or text[at:].strip():
        yield text[at:] or "["


_WRONG = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, HerdError)


def parsed(line: str | bytes) -> Any:
    """The JSON of a line. Raises ValueError for what is none, or too long; RecursionError for what is too deep."""
    if len(line) >= MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE // 2**20} MiB")
    try:
        text = line if isinstance(line, str) else line.decode()
        return json.loads(text, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finished(row: Row, route: str | None, prices: Prices | None, use: Words, redact: Words) -> Row:
    """The row as the store can take it. Raises ValueError for what no column holds."""
    if "use" not in row:  # not Herd's own, which is as it was
        model, tokens = row["model_ref"] or "", (row["prompt_tokens"], row["completion_tokens"])
        if prices and not row["provider"] and (provider := prices.provider_of(model)):
            row |= {"provider": provider, "target": f"{provider}/{model.removeprefix(provider + '/')}"}
            row["model_ref"] = row["target"].removeprefix(f"{provider}/")
        if prices and row["cost"] is None and row["provider"] and None not in tokens:
            used = Usage(*tokens, cached_tokens=row["cached_tokens"] or 0)
            row["cost"] = prices.cost(row["provider"], row["model_ref"], used, at=row["created"])
        row["use"] = list(use)
        row["created"] = time.time() if row["created"] is None else row["created"]
    if route:
        row |= {"route": route, "request": {**row["request"], "route": route}}
    for name, kind in _KINDS.items():
        value = row.get(name)
        good = isinstance(value, (int, float) if kind is float else kind)
        if kind is int and good:
            good = 0 <= value < (2**63 if name == "cost" else 2**31)  # type: ignore[operator]
        if value is not None and not good:
            raise ValueError(f"{name} is {value!r:.60}")
    row = redact_row(row, redact)
    json.dumps(row, allow_nan=False, ensure_ascii=False).encode()  # what a database could not keep either
    return row
