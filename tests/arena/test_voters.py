"""Voters are hashes, and vote so often an hour."""

from __future__ import annotations

import pytest

from herd.arena import voters
from herd.arena.voters import HOUR, Hourly, voter_hash
from herd.gateway.limits import LimitError


def test_the_hash_depends_on_the_salt_and_on_every_part() -> None:
    one = voter_hash("salt", "user", "key_1", "ann")
    assert one == voter_hash("salt", "user", "key_1", "ann")
    others = [
        ("other", "user", "key_1", "ann"),
        ("salt", "user", "key_1a", "nn"),
        ("salt", "browser", "key_1", "ann"),
    ]
    assert len({one, *(voter_hash(*other) for other in others)}) == 4
    assert len(one) == 32 and int(one, 16) >= 0 and "ann" not in one


def test_a_limit_is_one_voters_and_of_any_hour() -> None:
    now = [0.0]
    hourly = Hourly("votes", lambda: now[0])
    for at in (0, 600, 1200):
        now[0] = at
        hourly.take("ann", 3)
    hourly.take("bob", 3)
    with pytest.raises(LimitError, match="3 votes an hour") as caught:
        hourly.take("ann", 3)
    assert caught.value.status == 429 and caught.value.retry_after == HOUR - 1200
    now[0] = HOUR
    hourly.take("ann", 3)  # that of the start is an hour ago
    with pytest.raises(LimitError):
        hourly.take("ann", 3)
    hourly.give_back("ann")
    hourly.take("ann", 3)
    with pytest.raises(LimitError) as caught:  # the limit was lowered meanwhile
        hourly.take("ann", 1)
    assert caught.value.retry_after == HOUR


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voters, "MOST", 10)
    hourly = Hourly("votes")
    for i in range(1000):
        hourly.take(str(i), 1)
    assert len(hourly._seen) == 10
