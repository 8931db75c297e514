"""What an attempt costs: a bundled, dated table of prices, and prices of one's own in their place.

Money is an integer of 10⁻¹² dollars. A price of $1 for a million tokens is 10⁶ of them for each token.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Self

from herd.gateway.route import ProviderSpec
from herd.protocol import Usage

PER_TOKEN, PER_REQUEST = 10**6, 10**9  # of what costs a dollar for a million tokens, for a thousand requests
OWN = ("input", "output", "cached", "written")
MAX_OWN = 10**4  # dollars for a million tokens: as many as a reply can have cost what a ledger can keep
_DAY = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=[-:]|$)")

Price = Sequence[Any]
Own = Mapping[str, float]  # a price of one's own, by words of OWN


class Prices:
    """`dated`: the day on which the bundled table was made.

    A provider is known by its address, else by its name; a private address has no price of the table. Models are found
    by the names that their vendors give them, with dates or without.
    """

    def __init__(self, table: Mapping[str, Any], providers: Mapping[str, ProviderSpec]) -> None:
        self.dated = str(table["dated"])
        self._vendors: Mapping[str, Any] = table["providers"]
        self._names = {name: self._vendor(spec) for name, spec in providers.items()}
        self._read, self._find = lru_cache(None)(self._index), lru_cache(4096)(self._look_up)

    @classmethod
    def load(cls, providers: Mapping[str, ProviderSpec] = MappingProxyType({})) -> Self:
        """The bundled table, with the providers of the configuration."""
        text = files("herd.bundled").joinpath("prices.json").read_text(encoding="utf-8")
        return cls(json.loads(text, parse_float=Decimal), providers)

    def known(self, provider: str, model: str) -> bool:
        return self.price(provider, model) is not None

    def cost(
        self, provider: str, model: str, usage: Usage, override: Own | None = None, at: float | None = None
    ) -> int:
        """10⁻¹² dollars, rounded up; 0 where there is no price (`known` tells that from what is free).

        override: a target's own price, in dollars for a million tokens. at: unix seconds; now by default.
        """
        price = own_price(override) if override is not None else self.price(provider, model, at)
        return 0 if price is None else _cost(price, usage)

    def price(self, provider: str, model: str, at: float | None = None) -> Price | None:
        """Dollars for a million tokens of input, output, cached, written and reasoning, then for a thousand requests.

        None is charged as what it is a part of; [base, above, price, …] says what all tokens cost once the prompt has
        more than `above`. Shorter ones end with what is None.
        """
        found = self._find(self._names.get(provider, provider), model.lower())
        if isinstance(found, Mapping):
            moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
            active = [price for when, price in found.items() if _active(when, moment)]
            found = active[-1] if active else next(iter(found.values()))
        return found if isinstance(found, Sequence) else None

    def provider_of(self, model: str) -> str | None:
        """Whose model this is: "openai" for "gpt-4o" and "openai/gpt-4o"; None if the table does not know it."""
        vendor, _, name = model.lower().partition("/")
        if name and vendor in self._vendors and self._find(vendor, name) is not None:
            return vendor
        for vendor, entry in self._vendors.items():
            if "of" in entry and _is(entry["of"], model.lower()):
                return vendor if self._find(vendor, model.lower()) is not None else None
        return None

    def _vendor(self, spec: ProviderSpec) -> str:
        for vendor, entry in self._vendors.items():
            if any(re.match(entry["url"], url) for url in spec.urls):
                return vendor
        return "" if spec.private else spec.vendor or spec.name

    def _look_up(self, provider: str, model: str) -> Any:
        """A price, prices by when they hold, or None."""
        if provider not in self._vendors:
            named = (v for v, entry in self._vendors.items() if _is(entry.get("named", []), provider.lower()))
            provider = next(named, "")
        vendors = [provider, *self._vendors[provider].get("also", ())] if provider else []
        # Routers may write a date as 20251211 where the vendor writes 2025-12-11.
        for name in dict.fromkeys((model, _DAY.sub(r"-\1-\2-\3", model))):
            for vendor in vendors:
                models, (exact, others) = self._vendors[vendor]["models"], self._read(vendor)
                places = [exact[name]] if name in exact else []
                places += next(([place] for place in others if _is(models[place][0], name)), [])
                if places:
                    return models[min(places)][1]
        return None

    def _index(self, vendor: str) -> tuple[dict[str, int], list[int]]:
        """Where each plain name is, and where there are others than plain ones."""
        exact: dict[str, int] = {}
        others: list[int] = []
        for place, (names, _) in enumerate(self._vendors[vendor]["models"]):
            names = names if isinstance(names, list) else [names]
            for name in names:
                if isinstance(name, str) and name[0] not in "^$*/":
                    exact.setdefault(name, place)
                elif place not in others[-1:]:
                    others.append(place)
        return exact, others


def own_price(price: Own) -> Price:
    return [Decimal(str(price[key])) if key in price else None for key in OWN]


def _cost(price: Price, usage: Usage) -> int:
    each = [_rate(value, usage.prompt_tokens) for value in price] + [None] * (6 - len(price))
    # Parts without a price of their own cost what the whole does.
    cached = min(usage.cached_tokens, usage.prompt_tokens) if each[2] is not None else 0
    written = min(usage.written_tokens, usage.prompt_tokens - cached) if each[3] is not None else 0
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens) if each[4] is not None else 0
    prompt, completion = usage.prompt_tokens - cached - written, usage.completion_tokens - reasoning
    counts = zip((prompt, completion, cached, written, reasoning), each, strict=False)
    tokens = sum(count * rate for count, rate in counts if rate is not None)
    return math.ceil(tokens + (each[5] or 0) * (PER_REQUEST // PER_TOKEN))


def _rate(value: Any, prompt_tokens: int) -> int | Fraction | None:
    if isinstance(value, list):
        steps = zip((-1, *value[1::2]), value[::2], strict=True)
        value = [price for above, price in steps if prompt_tokens > above][-1]
    if value is None:
        return None
    rate = value * PER_TOKEN  # a Decimal has room for all digits of a price
    return int(rate) if rate == int(rate) else Fraction(rate)


def _active(when: str, moment: datetime) -> bool:
    """`when`: "" (always), a first day, or hours of the day such as 01:00-04:00, in UTC."""
    start, _, end = when.partition("-")
    if ":" not in start:
        return moment.date().isoformat() >= when
    clock = f"{moment:%H:%M}"
    return start <= clock < end if start <= end else clock >= start or clock < end


def _is(rule: Any, name: str) -> bool:
    """Whether a rule of the table (`recipes/prices.py`) holds for a name in lower case."""
    if isinstance(rule, list):
        return any(_is(part, name) for part in rule)
    if isinstance(rule, dict):
        return all(_is(part, name) for part in rule["all"])
    sign, text = rule[0], rule[1:]
    if sign == "/":
        return re.search(text, name) is not None
    if sign == "^":
        return name.startswith(text)
    return name.endswith(text) if sign == "$" else text in name if sign == "*" else name == rule
