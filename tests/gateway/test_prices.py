"""The bundled table says what the table that it was made from says, for every model, and to the unit."""

import json
import math
import random
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ClauseEquals, ClauseRegex, Provider

from herd.errors import HerdError
from herd.gateway.config import load
from herd.gateway.prices import Prices
from herd.gateway.route import ProviderSpec
from herd.protocol import Usage

MOMENTS = [datetime(*day, *clock, tzinfo=UTC) for day in ((2024, 5, 1), (2025, 9, 1), (2026, 9, 20), (2026, 11, 25))
           for clock in ((0, 10), (2, 0), (8, 30), (17, 0))]  # fmt: skip


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices.load()


def names(clause: Any) -> list[str]:
    """Names for which a clause holds, as far as they can be read off it."""
    for part in ("or_", "and_"):
        if hasattr(clause, part):
            return [name for inner in getattr(clause, part) for name in names(inner)]
    text = next(iter(vars(clause).values()))
    if isinstance(clause, ClauseRegex):
        text = text.strip("^$").replace(r"\d{4}-\d{2}-\d{2}", "2026-01-31").replace(r"\d{8}", "20260131")
        return [text.replace("\\", "")]
    return [text] if isinstance(clause, ClauseEquals) else [text, f"{text}-2025-03-04", f"{text}-20250304"]


def usage(rng: random.Random) -> tuple[Usage, genai_prices.Usage]:
    prompt, completion = rng.choice([0, 7, 99_999, 128_000, 200_000, 200_001, 900_001]), rng.randrange(5000)
    cached = rng.randrange(prompt // 2 + 1)
    written = rng.randrange(prompt // 2 + 1)
    reasoning = rng.randrange(completion + 1)
    ours = Usage(prompt, completion, cached, written, reasoning)
    theirs = genai_prices.Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_reasoning_tokens=reasoning,
    )
    return ours, theirs


def expected(provider: Provider, name: str, theirs: genai_prices.Usage, moment: datetime) -> int | None:
    """What genai-prices says, in 10⁻¹² dollars; None where it has no price for tokens."""
    model = provider.find_model(name.lower(), all_providers=providers)
    if model is None:
        return None
    price = model.get_prices(moment)
    if price.input_mtok is None and price.output_mtok is None:
        return 0 if model.id.endswith(":free") else None
    with localcontext() as context:
        context.prec = 60
        total = price.calc_price(theirs)["total_price"]
        return math.ceil(total * 10**12)


@pytest.mark.slow
@pytest.mark.parametrize("provider", providers, ids=lambda p: p.id)
def test_every_model_costs_what_the_source_says(prices: Prices, provider: Provider) -> None:
    rng = random.Random(provider.id)
    checked = 0
    for model in provider.models:
        for name in [*names(model.match), model.id]:
            for moment in rng.sample(MOMENTS, 4):
                ours, theirs = usage(rng)
                want = expected(provider, name, theirs, moment)
                at = moment.timestamp()
                assert (prices.price(provider.id, name, at) is not None) == (want is not None), name
                assert prices.cost(provider.id, name, ours, at=at) == (want or 0), (name, moment, ours)
                checked += 1
    assert checked >= 4 * len(provider.models)


def test_the_table_is_small_dated_and_says_where_it_is_from(prices: Prices) -> None:
    text = files("herd.bundled").joinpath("prices.json").read_text(encoding="utf-8")
    table = json.loads(text)
    assert len(text.encode()) <= 150 * 1024
    assert prices.dated == table["dated"] >= "2026-11-25"
    assert "genai-prices" in table["source"] and table["licence"].startswith("MIT, Copyright")
    assert table["models"] == sum(len(p.models) for p in providers)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o-mini", "openai"),
        ("gpt-4o-mini-2024-07-18", "openai"),
        ("openai/gpt-4o", "openai"),
        ("claude-haiku-4-5-20251001", "anthropic"),
        ("mistral-small-latest", "mistral"),
        ("gemini-2.5-flash", "google"),
        ("command-r", "cohere"),
        ("groq/llama-3.3-70b-versatile", "groq"),
        ("cria", None),
        ("gpt-of-our-own", None),
        ("", None),
        ("/", None),
    ],
)
def test_whose_model_a_name_is(prices: Prices, model: str, provider: str | None) -> None:
    assert prices.provider_of(model) == provider


def test_an_unknown_model_costs_nothing_and_is_called_unknown(prices: Prices) -> None:
    assert not prices.known("openai", "gpt-of-our-own") and not prices.known("vllm", "gpt-4o")
    assert prices.cost("openai", "gpt-of-our-own", Usage(10**6, 10**6)) == 0
    assert prices.known("openai", "gpt-4o") and prices.cost("openai", "gpt-4o", Usage(0, 0)) == 0


def test_a_provider_is_known_by_its_address(prices: Prices) -> None:
    specs = [
        ProviderSpec("work", "openai", ("https://api.openai.com/v1",)),
        ProviderSpec("openai", "openai", ("http://127.0.0.1:9/v1",), private=True),
        ProviderSpec("gem", "any-llm", vendor="gemini"),
    ]
    placed = Prices.load(providers={spec.name: spec for spec in specs})
    million = Usage(10**6, 0)
    assert placed.cost("work", "gpt-4o", million) == prices.cost("openai", "gpt-4o", million) > 0
    assert not placed.known("openai", "gpt-4o")
    assert placed.known("gem", "gemini-2.5-flash")


def test_ones_own_price_comes_first_and_is_exact(prices: Prices) -> None:
    used = Usage(1000, 10, cached_tokens=300, written_tokens=200)
    own = {"input": 0.1, "output": 0.3, "cached": 0.01}
    assert prices.cost("vllm", "mine", used, own) == 700 * 100_000 + 300 * 10_000 + 10 * 300_000
    assert prices.cost("openai", "gpt-4o", used, {"input": 1}) == 1000 * 10**6
    assert prices.cost("openai", "gpt-4o", Usage(3, 0), {"input": 0.0000001}) == 1  # 0.3, rounded up
    assert Decimal(prices.cost("vllm", "mine", Usage(10**6, 0), own)) / 10**12 == Decimal("0.1")


@pytest.mark.parametrize(
    ("price", "word"),
    [("imput = 1", "imput"), ("input = -1", "input"), ("input = nan", "nan"), ("output = true", "output"),
     ('cached = "1"', "cached"), ("written = 1e300", "written")],
)  # fmt: skip
def test_a_price_that_is_none_is_refused(tmp_path: Path, price: str, word: str) -> None:
    file = tmp_path / "herd.toml"
    file.write_text(f'[targets.mine]\nprovider = "local"\nmodel = "m"\nprice = {{ {price} }}\n')
    with pytest.raises(HerdError, match=word) as caught:
        load(file, {})
    assert "targets.mine.price" in str(caught.value)


def test_a_cost_never_falls_when_more_is_used(prices: Prices) -> None:
    rng = random.Random(3)
    for _ in range(200):
        prompt, completion = rng.randrange(300_000), rng.randrange(5000)
        for provider, model in (
            ("anthropic", "claude-sonnet-4-5"),
            ("google", "gemini-2.5-pro"),
            ("openai", "o3"),
        ):
            less = prices.cost(provider, model, Usage(prompt, completion))
            assert less <= prices.cost(provider, model, Usage(prompt + 1, completion + 1))
