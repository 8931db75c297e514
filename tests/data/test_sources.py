"""Reading documents: every format gives back what other libraries wrote; malformed files are named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from herd.data.sources import read
from herd.errors import HerdError

TEXTS = ["Zoë went home.\n\nShe slept.", "snow ☃ and 雪", "x" * 300_000, "line\r\nends\u2028kept in JSON"]
JSONL = "".join(json.dumps({"title": str(i), "body": t}) + "\n" for i, t in enumerate(TEXTS)).encode()


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":  # two frames, as `cat a.zst b.zst` makes
        half = len(data) // 2
        return zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    return gzip.compress(data) if suffix == ".gz" else data


@pytest.mark.parametrize("suffix", ["", ".zst", ".gz"])
@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".txt"])
def test_round_trip(tmp_path: Path, kind: str, suffix: str) -> None:
    texts = TEXTS
    if kind == ".jsonl":
        data = JSONL
    elif kind == ".parquet":
        table = pa.table({"title": [str(i) for i in range(len(TEXTS))], "body": TEXTS})
        pq.write_table(table, tmp_path / "plain.parquet", row_group_size=3)
        data = (tmp_path / "plain.parquet").read_bytes()
    else:
        texts = TEXTS[:3]
        data = "\n<|endoftext|>\n".join(texts).encode()
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(compress(data, suffix))
    assert [d["text"] for d in read(path, "text" if kind == ".txt" else "body")] == texts


def test_whole_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert list(read(tmp_path / "a.txt")) == [{"text": "one\n\ntwo"}]
    (tmp_path / "b.txt").write_bytes(b"")
    assert list(read(tmp_path / "b.txt")) == []
    (tmp_path / "c.txt").write_bytes("\ufeffone\r\ntwo\r\n<|endoftext|>\r\nthree".encode())
    assert [d["text"] for d in read(tmp_path / "c.txt", "body")] == ["one\ntwo", "three"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.parquet.zst"])
def test_bytes_are_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pq.write_table(pa.table({"body": [str(i) * 9 for i in range(100_000)]}), tmp_path / "plain")
    data = JSONL * 20 if ".jsonl" in name else (tmp_path / "plain").read_bytes()
    path.write_bytes(compress(data, path.suffix))
    counts: list[int] = []
    list(read(path, "body", counts.append))
    assert sum(counts) == path.stat().st_size and min(counts) >= 0


GOOD = b'{"text": "x"}\n' * 100_000
BAD = {
    "a.jsonl": (b'{"text": "x"}\n{"text": \n', ":2: not valid JSON"),
    "b.jsonl": (b'{"text": "x"}\n\n[1]\n', ":3: expected an object"),
    "c.jsonl": (b'{"words": "x"}\n', "no text in field 'text'"),
    "d.jsonl": (b'{"text": "x"}\n{"text": "\xff"}\n', ":2: not UTF-8"),
    "e.jsonl": (b'{"messages": [{"role": "user"}]}\n', ":1: messages: a message needs content"),
    "n.jsonl": (b'{"text": "a", "messages": [{"role": "user"}]}\n', ":1: messages: a message needs content"),
    "m.jsonl": (b'{"text": "a"}\n{"text": "a\\ud800"}\n', ":2: half a surrogate"),
    "f.jsonl": (b'{"text": ' + b"[" * 100_000 + b"\n", ":1: not valid JSON"),
    "g.jsonl.zst": (zstandard.compress(GOOD)[:-9], "truncated"),
    "h.jsonl.zst": (JSONL, "not valid zstd"),
    "i.jsonl.gz": (gzip.compress(GOOD)[:-9], "cannot be read"),
    "j.jsonl.gz": (JSONL, "cannot be read"),
    "k.parquet": (b"PAR1 but not really PAR1", "not a valid Parquet file"),
    "l.csv": (b"", "not a data file"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files_are_named(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HerdError) as caught:
        list(read(tmp_path / name))
    assert message in str(caught.value) and name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HerdError, match="no such file"):
        list(read(tmp_path / "a.jsonl"))
