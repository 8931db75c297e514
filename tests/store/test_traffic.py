"""Traffic: sums and percentiles against a plain count of the same attempts."""

import math
import random
import time
from collections import defaultdict
from typing import Any

import pytest
from sqlalchemy import insert

from herd.store import Store
from herd.store.tables import attempts

BASE = 1_800_000_000.0


def made(count: int, seed: int = 1) -> list[dict[str, Any]]:
    dice, found = random.Random(seed), []
    for n in range(count):
        request, number = f"g{n // 3}", n % 3
        found.append(
            {
                "id": f"a{n}", "generation": request, "number": number, "route": "xy"[n // 3 % 2],
                "target": dice.choice(["t1", "t2"]), "provider": "p", "url": "u", "key": dice.choice(["k", None]),
                "application": "app", "shadow": n % 17 == 0, "created": BASE + dice.randrange(-100, 3700) + dice.random(),
                "state": dice.choice(["done", "done", "failed", "lost", "cancelled", "open"]), "status": 200,
                "prompt_tokens": dice.choice([None, 7]), "completion_tokens": dice.randrange(10), "estimated": False,
                "cost": dice.randrange(2**52), "reserved": [], "gateway": "here",
                "first_token_ms": dice.choice([None, float(dice.randrange(20))]), "total_ms": float(dice.randrange(50)),
            }
        )  # fmt: skip
    return found


def counted(rows: list[dict[str, Any]], step: float, by: str | None, since: float, until: float) -> Any:
    groups = defaultdict(list)
    for row in rows:
        if since <= row["created"] < until and row["state"] != "open" and not row["shadow"]:
            groups[math.floor((row["created"] - since) / step), row[by] if by else None].append(row)
    found = {}
    for (number, group), own in groups.items():
        bad = [row for row in own if row["state"] in ("failed", "lost")]
        if by not in ("target", "provider"):
            last = {row["generation"]: row["number"] for row in rows}  # they come in order
            bad = [row for row in bad if row["number"] == last[row["generation"]]]
        first = own if by in ("target", "provider") else [row for row in own if row["number"] == 0]
        line: dict[str, Any] = {"start": since + number * step, "group": group}
        line |= {"requests": len(first), "errors": len(bad)}
        line |= {
            name: sum(row[name] or 0 for row in own)
            for name in ("prompt_tokens", "completion_tokens", "cost")
        }
        for name in ("total_ms", "first_token_ms"):
            times = sorted(row[name] for row in own if row[name] is not None)
            rank = {p: times[-(-len(times) * p // 100) - 1] if times else None for p in (50, 95, 99)}
            line[name] = {f"p{p}": value for p, value in rank.items()}
        found[line["start"], group or ""] = line
    return found


@pytest.mark.parametrize("by", [None, "route", "target", "provider", "key"])
@pytest.mark.parametrize("step", [3600.0, 60, 7.5])
def test_the_numbers_are_those_of_the_rows(store: Store, by: Any, step: float) -> None:
    rows = made(3000)
    store._write(lambda connection: connection.execute(insert(attempts), rows).rowcount)
    since, until = BASE + 0.5, BASE + 3600.5
    found = store.traffic(since, until, step, by)
    assert {(row["start"], row["group"] or ""): row for row in found} == counted(rows, step, by, since, until)
    assert [row["start"] for row in found] == sorted(row["start"] for row in found)


def test_only_what_is_asked_for(store: Store) -> None:
    rows = made(300)
    store._write(lambda connection: connection.execute(insert(attempts), rows).rowcount)
    some = [row for row in rows if (row["route"], row["target"], row["key"]) == ("x", "t1", "k")]
    found = store.traffic(BASE - 200, BASE + 9000, 9200, "target", route="x", target="t1", key="k")
    counts = counted(some, 9200, "target", BASE - 200, BASE + 9000)
    assert [row["requests"] for row in found] == [row["requests"] for row in counts.values()]
    shadows = store.traffic(BASE - 200, BASE + 9000, 9200, "provider", shadow=True)
    assert shadows[0]["requests"] == sum(row["shadow"] and row["state"] != "open" for row in rows)
    assert store.traffic(0, 1, 1) == []


@pytest.mark.slow
def test_a_hundred_thousand_attempts(store: Store) -> None:
    """Within seconds on a busy machine; it takes half a second on a free one."""
    rows = made(100_000)
    store._write(lambda connection: connection.execute(insert(attempts), rows).rowcount)
    began = time.process_time()
    found = store.traffic(BASE, BASE + 3600, 60, "target")
    assert len(found) == 120 and sum(row["requests"] for row in found) > 70_000
    assert time.process_time() - began < 3
