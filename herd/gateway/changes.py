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
STEP = 0.02  # in similarity
CHANCE = 0.002  # of failing CONFIRM times in a row, at which a target does not fail by accident
LONG = 8  # tokens of a reply from which its speed can be told

Round = Mapping[str, Any]  # {"probes": {name: {"text", "ok", "first_ms", "per_s"}}, "price", "again"}
Finding = tuple[str, Any, Any]  # what to say, before, after


def answers(rounds: Sequence[Round], confirm: int = CONFIRM) -> Finding | None:
    """rounds: the oldest first, the newest `confirm` of them to be judged."""
    base, new = rounds[:-confirm][-BASE:], rounds[-confirm:]
    if len(base) < LEAST:
        return None
    usual = [likeness(one, [*base[:i], *base[i + 1 :]]) for i, one in enumerate(base)]
    now = [likeness(one, base) for one in new]
    if max(now) > min(usual) - STEP:
        return None
    apart = {name: likeness(new[-1], base, [name]) for name in new[-1]["probes"]}
    name = min(apart, key=lambda name: apart[name])
    said = f"answers differ: {median(now):.2f} like those before, which are {min(usual):.2f} or more like each other"
    texts = [one["probes"].get(name, {}).get("text") for one in (base[-1], new[-1])]
    before = {"likeness": round(min(usual), 3), "probe": name, "answer": texts[0]}
    return (
        f"{said}; most so to the probe {name!r}",
        before,
        {"likeness": round(median(now), 3), "probe": name, "answer": texts[1]},
    )


def speed(rounds: Sequence[Round]) -> Finding | None:
    """Of the rounds that came at their time: those that confirm another are too close together to tell."""
    rounds = [one for one in rounds if not one.get("again")]
    base, new = rounds[:-CONFIRM][-BASE:], rounds[-CONFIRM:]
    for figure, words in (("first_ms", "ms to the first token"), ("per_s", "tokens a second")):
        usual, now = _figures(base, figure), _figures(new, figure)
        if len(usual) < LEAST or len(now) < CONFIRM:
            continue
        before, after = median(usual), median(now)
        apart = min(now) > max(usual) or max(now) < min(usual)
        if figure == "first_ms" and abs(after - before) < NOTICED:
            continue
        if apart and max(before, after) >= FACTOR * min(before, after):
            return (
                f"{after:.4g} {words}, before {before:.4g}",
                {figure: round(before, 2)},
                {figure: round(after, 2)},
            )
    return None


def conformance(rounds: Sequence[Round], confirm: int = CONFIRM) -> Finding | None:
    """A probe whose reply was as asked for, and is not any more."""
    base, new = rounds[:-confirm][-BASE:], rounds[-confirm:]
    for name in new[-1]["probes"]:
        was, now = ([r["probes"][name]["ok"] for r in some if name in r["probes"]] for some in (base, new))
        was = [ok for ok in was if ok is not None]
        failing = len(now) == confirm and all(ok is False for ok in now)
        if failing and len(was) >= LEAST and ((was.count(False) + 1) / (len(was) + 2)) ** CONFIRM < CHANCE:
            counted = {"good": was.count(True), "of": len(was)}
            return (
                f"the probe {name!r} is not answered as it asks any more",
                counted,
                {"good": 0, "of": confirm},
            )
    return None


def price(rounds: Sequence[Round]) -> Finding | None:
    """Dollars for a million tokens, as `Prices.price` has them."""
    before, after = (one.get("price") for one in rounds[-2:]) if len(rounds) > 1 else (None, None)
    if before is None or after is None or before == after:
        return None
    return f"the price is {_dollars(after)}, before {_dollars(before)}", before, after


JUDGES: Mapping[str, Callable[[Sequence[Round]], Finding | None]] = {
    "answers": answers, "speed": speed, "conformance": conformance, "price": price
}  # fmt: skip


def suspicious(rounds: Sequence[Round], newest: int) -> bool:
    """Whether the newest rounds alone look so that another should be made."""
    return (answers(rounds, newest) or conformance(rounds, newest)) is not None


def likeness(one: Round, others: Sequence[Round], names: Sequence[str] | None = None) -> float:
    """How like the answers of a round are to those of others, from 0 to 1."""
    found = [
        _alike(*sorted((one["probes"][name]["text"], other["probes"][name]["text"])))
        for name in names or one["probes"]
        for other in others
        if name in other["probes"]
    ]
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
