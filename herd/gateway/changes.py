"""What of a target has changed between rounds of probes, told from what it does of itself anyhow.

A round is compared with the earlier ones, the base: at most BASE of them, and never fewer than LEAST. Answers and speed
count as changed when the newest CONFIRM rounds all lie beyond every round of the base. If nothing has changed, all orders of
n + 3 rounds are equally likely, so that this happens by chance at most once in (n + 1)(n + 2)(n + 3) / 6 rounds, however
much a target varies: once in 1,771 for n = 20. Speed, which may go either way in two figures, has four such chances, and
must change by a factor of FACTOR as well.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from statistics import median
from typing import Any

BASE, LEAST, CONFIRM = 20, 10, 3
FACTOR = 1.5  # in speed
NOTICED = 50.0  # milliseconds to the first token that count at all
FIGURES = (("first_ms", "ms to the first token", NOTICED), ("per_s", "tokens a second", 0.0))
STEP = 0.02  # in similarity
CHANCE = 0.002  # of failing CONFIRM times in a row, at which a target does not fail by accident
LONG = 8  # tokens of a reply from which its speed can be told

# As `Drift` makes it: {"digest", "price", "probes": {name: {"text", "ok", "first_ms", "per_s"}}, "failed": {name: code},
# "gone", "again"}.
Round = Mapping[str, Any]
Finding = tuple[str, Any, Any]  # what to say, before, after


def answers(rounds: Sequence[Round], confirm: int = CONFIRM) -> Finding | None:
    """rounds: the oldest first, the newest `confirm` of them to be judged."""
    base, new = _split(rounds, confirm)
    if len(base) < LEAST:
        return None
    usual = [likeness(one, [*base[:i], *base[i + 1 :]]) for i, one in enumerate(base)]
    now = [likeness(one, base) for one in new]
    if max(now) > min(usual) - STEP:
        return None
    apart = {name: likeness(new[-1], base, [name]) for name in new[-1]["probes"]}
    name = min(apart, key=lambda name: apart[name])
    said = f"answers differ: {median(now):.2f} like those before, which are {min(usual):.2f} or more like each other"
    before, after = (
        {"likeness": round(like, 3), "probe": name, "answer": one["probes"].get(name, {}).get("text")}
        for like, one in ((min(usual), base[-1]), (median(now), new[-1]))
    )
    return f"{said}; most so to the probe {name!r}", before, after


def speed(rounds: Sequence[Round]) -> Finding | None:
    """Of the rounds that came at their time: those that confirm another are too close together to tell."""
    base, new = _split([one for one in rounds if not one.get("again")])
    for figure, words, noticed in FIGURES:
        usual, now = _figures(base, figure), _figures(new, figure)
        if len(usual) < LEAST or len(now) < CONFIRM:
            continue
        before, after = median(usual), median(now)
        apart = min(now) > max(usual) or max(now) < min(usual)
        if apart and abs(after - before) >= noticed and max(before, after) >= FACTOR * min(before, after):
            said = f"{after:.4g} {words}, before {before:.4g}"
            return said, {figure: round(before, 2)}, {figure: round(after, 2)}
    return None


def conformance(rounds: Sequence[Round], confirm: int = CONFIRM) -> Finding | None:
    """A probe whose reply was as asked for, and is not any more."""
    base, new = _split(rounds, confirm)
    for name in new[-1]["probes"]:
        was, now = ([r["probes"][name]["ok"] for r in some if name in r["probes"]] for some in (base, new))
        good, bad = was.count(True), was.count(False)
        failing = now == [False] * confirm and good + bad >= LEAST
        if failing and ((bad + 1) / (good + bad + 2)) ** CONFIRM < CHANCE:
            said = f"the probe {name!r} is not answered as it asks any more"
            return said, {"good": good, "of": good + bad}, {"good": 0, "of": confirm}
    return None


def price(rounds: Sequence[Round]) -> Finding | None:
    """Dollars for a million tokens, as `Prices.price` has them."""
    before, after = (one.get("price") for one in rounds[-2:]) if len(rounds) > 1 else (None, None)
    if before is None or after is None or before == after:
        return None
    return f"the price is {_dollars(after)}, before {_dollars(before)}", before, after


def retired(rounds: Sequence[Round]) -> Finding | None:
    """What two rounds in a row did not find, and an earlier one did."""
    if not all(one["gone"] for one in rounds[-2:]) or not any(one["probes"] for one in rounds):
        return None
    failed = sorted(set(rounds[-1]["failed"].values()))
    return "the provider does not have this model any more", None, {"failed": failed}


JUDGES: Mapping[str, Callable[[Sequence[Round]], Finding | None]] = {
    judge.__name__: judge for judge in (answers, speed, conformance, price, retired)
}


def suspicious(rounds: Sequence[Round], newest: int) -> bool:
    """Whether the newest rounds alone look so that another should be made."""
    return (answers(rounds, newest) or conformance(rounds, newest)) is not None


def _split(rounds: Sequence[Round], confirm: int = CONFIRM) -> tuple[Sequence[Round], Sequence[Round]]:
    return rounds[:-confirm][-BASE:], rounds[-confirm:]


def likeness(one: Round, others: Sequence[Round], names: Sequence[str] | None = None) -> float:
    """How like the answers of a round are to those of others, from 0 to 1."""
    asked = [(name, other) for name in names or one["probes"] for other in others if name in other["probes"]]
    pairs = [(one["probes"][name]["text"], other["probes"][name]["text"]) for name, other in asked]
    found = [_alike(*sorted(pair)) for pair in pairs]
    return sum(found) / len(found) if found else 1.0


@lru_cache(20_000)
def _alike(a: str, b: str) -> float:
    """The share of words that two texts have in the same order, whatever their case and spaces."""
    if a == b:
        return 1.0
    one, other = (re.findall(r"\w+|[^\w\s]", text.casefold()) for text in (a, b))
    return float(SequenceMatcher(None, one, other, autojunk=False).ratio())


def _figures(rounds: Sequence[Round], figure: str) -> list[float]:
    found = ([p[figure] for p in one["probes"].values() if p.get(figure)] for one in rounds)
    return [median(values) for values in found if values]


def _dollars(price: Sequence[Any]) -> str:
    shown = [str(p[0]) if isinstance(p, list) else str(p) for p in price[:2]]
    return " / ".join(f"${p}" for p in shown) + " for a million tokens"
