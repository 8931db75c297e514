"""Votes become preferences; what prefers nothing is left out and counted; the split never changes."""

from pathlib import Path
from typing import Any

from herd.data.prefs import read_pairs
from herd.flywheel.votes import from_file, from_votes, split, to_file, votes_digest

ASK = [{"role": "user", "content": "A story?"}]


def row(number: int, outcome: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"vote-{number}",
        "prompt": ASK,
        "a": "Once.",
        "b": "No.",
        "a_id": f"a{number}",
        "b_id": f"b{number}",
        "conversation": f"c{number}",
        "outcome": outcome,
        **changes,
    }


def test_outcomes() -> None:
    kept, left_out = from_votes(
        [
            row(1, "a"),
            row(2, "b"),
            row(3, "tie"),
            row(4, "both_bad"),
            row(5, "tie"),
            row(6, "a", b=" \n"),
            row(7, "a", b="Once."),
            row(8, "a", prompt=[]),
        ]
    )
    assert [(p.pair.chosen[0]["content"], p.pair.rejected[0]["content"]) for p in kept] == [
        ("Once.", "No."),
        ("No.", "Once."),
    ]
    assert [(p.conversation, p.vote) for p in kept] == [("c1", "vote-1"), ("c2", "vote-2")]
    assert left_out == {"tie": 2, "both_bad": 1, "empty_or_same": 3}


def test_the_last_vote_on_two_replies_counts() -> None:
    kept, left_out = from_votes([row(1, "a"), row(2, "a", a_id="b1", b_id="a1", a="No.", b="Once.")])
    assert [(p.vote, p.pair.chosen[0]["content"]) for p in kept] == [("vote-2", "No.")]
    assert left_out == {"voted_again": 1}


def test_a_file_keeps_everything_and_is_trl(tmp_path: Path) -> None:
    kept, _ = from_votes(
        [row(1, "a", voter="v"), row(2, "b", conversation=None), row(3, "b", conversation=None)]
    )
    assert [p.voter for p in kept] == ["v", None, None]
    file = tmp_path / "preferences.jsonl"
    to_file(file, kept)
    assert from_file(file) == kept
    assert read_pairs(file) == [p.pair for p in kept]
    assert kept[1].conversation == kept[2].conversation != kept[0].conversation  # the same prompt


def test_split_is_by_conversation_stable_and_about_a_quarter() -> None:
    kept, _ = from_votes(row(i, "a", conversation=f"c{i // 2}") for i in range(2000))
    train, held = split(kept)
    assert not {p.conversation for p in train} & {p.conversation for p in held}
    assert 0.21 < len(held) / 2000 < 0.29
    again = split(reversed(kept[:700]))
    assert {p.vote for p in again[1]} <= {p.vote for p in held}


def test_digest_is_of_the_votes_not_of_their_order() -> None:
    kept, _ = from_votes(row(i, "a") for i in range(5))
    assert votes_digest(kept) == votes_digest(kept[::-1]) != votes_digest(kept[1:])
