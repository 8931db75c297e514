"""Preference pairs: TRL's two forms in, the conversational form out."""

import json
from pathlib import Path

import pytest

from herd.data.prefs import read_pairs, write_pairs
from herd.errors import HerdError

USER, GOOD, BAD = (
    {"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello ☃"), ("assistant", "No"))
)


def test_both_forms_and_round_trip(tmp_path: Path) -> None:
    lines = [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Hi", "chosen": "Hello ☃", "rejected": "No"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    pairs = read_pairs(path)
    assert pairs[0] == pairs[1]
    write_pairs(tmp_path / "again.jsonl", pairs)
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == [
        lines[0]
    ] * 2
    assert read_pairs(tmp_path / "again.jsonl") == pairs


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"prompt": 1, "chosen": "a", "rejected": "b"}',
        "{",
        '{"prompt": [], "chosen": "a", "rejected": "b"}',
    ],
)
def test_malformed_pairs_name_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + line)
    with pytest.raises(HerdError, match=r"pairs\.jsonl:2"):
        read_pairs(path)
