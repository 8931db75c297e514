"""Make herd/bundled/prices.json out of an installed genai-prices: python recipes/prices.py

What is kept of it: dollars per million tokens (input, output, read from a cache, written to one, reasoning), dollars per
thousand requests, from which date or in which hours they hold, and which names mean which model. What is priced by the
hour, page or picture stays without a price, and so do the discounts for batches. `herd.gateway.prices` reads it.
"""

import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices.data import providers
from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

KEYS = ("input", "output", "cache_read", "cache_write", "output_reasoning")
OUT = Path(__file__).parent.parent / "herd/bundled/prices.json"
SIGNS = {"equals": "", "starts_with": "^", "ends_with": "$", "contains": "*", "regex": "/"}


def match(clause: Any) -> Any:
    """A name; ^beginning, $end, *part, /regular expression; a list: any of them; {"all": […]}: every one."""
    if parts := getattr(clause, "or_", None):
        found = [match(part) for part in parts]
        starts = tuple(x[1:] for x in found if isinstance(x, str) and x[:1] == "^")
        found = [x for x in found if not isinstance(x, str) or not x.startswith(starts)]
        return found[0] if len(found) == 1 else found
    if parts := getattr(clause, "and_", None):
        return {"all": [match(part) for part in parts]}
    kind = next(kind for kind in SIGNS if hasattr(clause, kind))
    text = getattr(clause, kind) if kind == "regex" else getattr(clause, kind).lower()
    assert kind != "equals" or text[:1] not in ("^", "$", "*", "/"), text
    return SIGNS[kind] + text


def number(value: Any) -> Any:
    """A price: a number, or [base, above so many tokens of the prompt, price, …]."""
    if isinstance(value, TieredPrices):
        return [number(value.base), *(x for t in value.tiers for x in (t.start, number(t.price)))]
    return None if value is None else int(value) if value == int(value) else float(value)


def prices(model: str, price: Any) -> list[Any] | None:
    """In the order of KEYS, then a request's; None where tokens have no price."""
    row = [number(getattr(price, f"{key}_mtok")) for key in KEYS] + [number(price.requests_kcount)]
    if row[0] is None and row[1] is None:
        return [0, 0] if model.endswith(":free") else None
    while row[-1] is None:
        row.pop()
    return row


def when(constraint: Any) -> str:
    if isinstance(constraint, TimeOfDateConstraint):
        return f"{constraint.start_time:%H:%M}-{constraint.end_time:%H:%M}"
    return constraint.start_date.isoformat() if isinstance(constraint, StartDateConstraint) else ""


def entry(model: Any) -> list[Any]:
    if isinstance(model.prices, list):
        rows = {when(one.constraint): prices(model.id, one.prices) for one in model.prices}
        assert len(rows) == len(model.prices), model.id
        return [match(model.match), rows]
    return [match(model.match), prices(model.id, model.prices)]


def provider(one: Any) -> dict[str, Any]:
    found = {
        "url": one.api_pattern,
        "named": match(one.provider_match) if one.provider_match else None,
        "of": match(one.model_match) if one.model_match else None,
        "also": one.fallback_model_providers,
    }
    return {k: v for k, v in found.items() if v} | {"models": merged(one)}


def merged(one: Any) -> list[list[Any]]:
    """Models of one price as one entry, where no name changes its meaning by that: the first entry that matches counts."""
    kept: list[list[Any]] = []
    plain: dict[str, list[Any]] = {}  # by price, the entry that is names alone
    for model in one.models:
        names, price = entry(model)
        names = names if isinstance(names, list) else [names]
        if all(isinstance(name, str) and name[:1] not in SIGNS.values() for name in names):
            names = [name for name in names if one.find_model(name) is model]  # else an earlier one has it
            if (same := plain.setdefault(json.dumps(price), names)) is not names:
                same += names
                continue
        kept.append([names, price])
    return [[names[0] if len(names) == 1 else names, price] for names, price in kept if names]


def main() -> None:
    table = {
        "source": f"genai-prices {version('genai-prices')} (github.com/pydantic/genai-prices)",
        "licence": "MIT, Copyright (c) Pydantic Services Inc. 2025 to present",
        "dated": date.today().isoformat(),
        "models": sum(len(one.models) for one in providers),
        "providers": {one.id: provider(one) for one in providers},
    }
    lines = json.dumps(table, separators=(",", ":"), ensure_ascii=False).replace("],[", "],\n[")
    OUT.write_text(lines + "\n", encoding="utf-8")
    print(
        f"{OUT.name}: {len(table['providers'])} providers, {table['models']} models, {OUT.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
