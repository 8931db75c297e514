"""What a name means, which target a conversation gets, and what of a request reaches it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway.config import Config
from herd.gateway.keys import Principal
from herd.gateway.provider import Chunk
from herd.gateway.reply import Reply, generation
from herd.gateway.route import Route, TargetSpec, Weighted
from herd.gateway.table import sticky
from herd.protocol import Delta, Embedded, Finished, Message, ProtocolError, Usage

from .fakes import ANYBODY, Fake, FakeLocal, Made, ask, config, route, run, says

WEIGHTS = {"a": 9.0, "b": 3.0, "c": 1.0, "none": 0.0}
SPLIT = Route("r", tuple(Weighted(name, weight) for name, weight in WEIGHTS.items()))


def test_weights_are_kept_exactly_enough() -> None:
    """A chi-squared statistic of two degrees of freedom: over 18.4 once in ten thousand."""
    n = 20_000
    counts = Counter(sticky(SPLIT, f"conversation {i}") for i in range(n))
    expected = {name: n * weight / 13 for name, weight in WEIGHTS.items() if weight}
    assert counts.keys() == expected.keys()
    assert sum((counts[name] - e) ** 2 / e for name, e in expected.items()) < 18.4


def test_a_conversation_keeps_its_target_and_a_change_of_weights_moves_no_more_than_it_must() -> None:
    before = [sticky(SPLIT, str(i)) for i in range(10_000)]
    assert before == [sticky(SPLIT, str(i)) for i in range(10_000)]
    assert before != [sticky(replace(SPLIT, name="s"), str(i)) for i in range(10_000)]
    heavier = replace(SPLIT, targets=(Weighted("a", 9), Weighted("b", 6), Weighted("c", 1)))
    moved = [
        (x, y)
        for x, y in zip(before, (sticky(heavier, str(i)) for i in range(10_000)), strict=True)
        if x != y
    ]
    assert {y for _, y in moved} == {"b"}  # only towards what has become heavier
    share = 6 / 16 - 3 / 13
    assert math.isclose(len(moved) / 10_000, share, abs_tol=4 * math.sqrt(share / 10_000))


def _made() -> Made:
    made = Made(Fake("a"), Fake("b"), routes=(route("assistant", "a/gpt-4o"),))
    targets = {
        "brief": TargetSpec("brief", "a", "gpt-4o", "Be brief.", {"temperature": 0.5}),
        "shy": TargetSpec("shy", "local", "cria", "Be shy."),
    }
    run(made.gateway.apply(Config(made.config.providers, targets, made.config.routes)))
    return made


@pytest.mark.parametrize(
    ("name", "target", "provider", "model"),
    [
        ("assistant", "a/gpt-4o", "a", "gpt-4o"),
        ("brief", "brief", "a", "gpt-4o"),
        ("shy", "shy", "local", "cria"),
        ("cria", "cria", "local", "cria"),
        ("cria@2", "cria@2", "local", "cria@2"),
        ("local/cria", "cria", "local", "cria"),
        ("b/some/deep:name", "b/some/deep:name", "b", "some/deep:name"),
        ("gpt-4o-mini", "a/gpt-4o-mini", "a", "gpt-4o-mini"),  # by the table of prices
    ],
)
def test_what_a_name_means(name: str, target: str, provider: str, model: str) -> None:
    made = _made()
    reply = made.begin(name)
    assert (reply.target.name, reply.target.provider, reply.target.model) == (target, provider, model)
    assert reply.route.name == name and reply.id.startswith("chatcmpl-")


def test_a_listed_model_needs_no_prefix() -> None:
    made = _made()
    with pytest.raises(HerdError, match="no model"):
        made.begin("listed")
    made.gateway._listed["b"] = ["listed"]
    assert made.begin("listed").target.name == "b/listed"
    assert {"assistant", "brief", "shy", "cria", "tale", "b/listed"} == made.gateway.models().keys()


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("asistant", 404, "did you mean 'assistant'"),
        ("x" * 300, 404, "so long a name"),
        ("c/gpt", 404, "no model"),
    ],
)
def test_names_that_mean_nothing(name: str, status: int, words: str) -> None:
    with pytest.raises(HerdError, match=words) as caught:
        _made().begin(name)
    assert caught.value.status == status


def test_a_key_uses_its_routes_only() -> None:
    made = _made()
    who = Principal("k", scopes=frozenset({"use:assistant", "vote"}))
    assert made.begin("assistant", who=who).call.salt == "k"
    for name in ("cria", "a/gpt-4o", "no-such-name"):
        with pytest.raises(HerdError, match="may not use") as caught:
            made.begin(name, who=who)
        assert caught.value.status == 403


def test_a_targets_defaults_are_added_and_the_callers_own_win() -> None:
    made = _made()
    reply = made.begin("brief")
    assert reply.request.messages[0] == Message("system", "Be brief.")
    assert reply.request.sampling.temperature == 0.5 and reply.asked.sampling.temperature == 1
    assert reply.target.digest != made.begin("a/gpt-4o").target.digest
    assert made.begin("shy").target.digest != made.begin("cria").target.digest


def test_the_body_passes_only_where_nothing_is_changed() -> None:
    made = _made()
    body: dict[str, Any] = {"model": "x"}

    def passed(name: str, dialect: Any = "chat") -> bool:
        reply = made.gateway.begin(ask(name), principal=ANYBODY, dialect=dialect, body=body)
        return reply.call.body is not None

    assert not passed("assistant")  # the provider speaks no dialect yet
    for provider in made.providers.values():
        provider.passes = frozenset({"chat"})
    assert passed("assistant") and not passed("assistant", "messages") and not passed("brief")
    made.providers["a"].refuses = {"seed": "is not known"}
    dropping = route("assistant", "a/gpt", drop=frozenset("*"))
    run(made.gateway.apply(config(*made.providers.values(), routes=(dropping,))))
    assert not passed("assistant")


def test_what_the_target_cannot_honour_is_refused_by_name_or_dropped_and_said() -> None:
    a, b = Fake("a"), Fake("b")
    a.refuses, b.refuses = {}, {"seed": "is not known", "tools[0].strict": "is not known"}
    made = Made(a, b, routes=(
        route("strict", "b/m"), route("some", "b/m", drop=frozenset({"seed"})), route("all", "b/m", drop=frozenset("*")),
    ))  # fmt: skip
    asked = ask("all", extra={"tools[0].strict": True, "kept": 1}, explicit=frozenset({"seed"}))
    asked = replace(asked, sampling=replace(asked.sampling, seed=7))
    for name in ("strict", "some"):
        with pytest.raises(ProtocolError, match="is not known") as caught:
            made.gateway.begin(replace(asked, route=name), principal=ANYBODY)
        assert caught.value.status == 400 and caught.value.code == "unsupported_field"
        assert caught.value.param == ("seed" if name == "strict" else "tools[0].strict")
    reply = made.gateway.begin(asked, principal=ANYBODY)
    assert set(reply.dropped) == {"seed", "tools[0].strict"}
    assert reply.request.sampling.seed is None and reply.request.extra == {"kept": 1}
    assert generation(_ended(made, reply))["dropped"] == list(reply.dropped)


def test_a_fallback_that_cannot_honour_it_is_passed_over() -> None:
    a, b, c = Fake("a", says(ends=False)), Fake("b"), Fake("c")
    b.refuses = {"seed": "is not known"}
    made = Made(a, b, c, routes=(route("r", "a/m", fallbacks=("b/m", "c/m"), retries=0),))
    reply, _ = run(made.ask("r"))
    assert reply.target.name == "c/m" and not b.calls and reply.dropped == ()


def test_a_target_that_is_gone_leaves_its_place_to_the_next() -> None:
    made = Made(Fake("a"), routes=(route("r", "gone", fallbacks=("a/m",)), route("s", "gone")))
    assert made.begin("r").target.name == "a/m"
    with pytest.raises(HerdError, match="no model 'gone'"):
        made.begin("s")


def _ended(made: Made, reply: Reply) -> Reply:
    async def work() -> None:
        async for _ in made.gateway.events(reply):
            pass

    run(work())
    return reply


@pytest.mark.parametrize(
    ("route_keep", "key_keep", "store", "kind", "kept"),
    [
        ("text", None, True, "chat", "text"),
        ("text", "metadata", True, "chat", "metadata"),
        ("metadata", "text", True, "chat", "metadata"),
        ("none", "text", True, "chat", "none"),
        ("text", "none", True, "chat", "none"),
        ("text", None, False, "chat", "metadata"),
        ("none", None, False, "chat", "none"),
        ("text", None, True, "embedding", "metadata"),
    ],
)
def test_the_least_is_kept(route_keep: Any, key_keep: Any, store: bool, kind: str, kept: str) -> None:
    made = Made(Fake("a"), routes=(route("r", "a/m", keep=route_keep),))
    who = Principal("k", keep=key_keep)
    assert made.gateway.begin(replace(ask("r", kind=kind), store=store), principal=who).keep == kept


def test_the_row_of_a_reply() -> None:
    a = Fake("a", says("My mail is ", "ann@example.org", prompt=7))
    uses = frozenset({"evaluate", "train"})
    made = Made(a, routes=(route("r", "a/m", use=uses, retain_days=2.0, redact=("email",)),))
    who = Principal("k", "app", use=frozenset({"train"}))
    reply, _ = run(made.ask("r", who=who))
    (settled,) = made.ledger.rows
    row = settled["generation_row"]
    assert row["reply"].startswith("My mail is ") and "ann@" not in row["reply"]
    assert row["use"] == ["train"] and row["expires"] == row["created"] + 2 * 86400
    assert (
        row["provider"] == "a" and row["model_ref"] == "m" and row["key"] == "k" and row["finish"] == "stop"
    )
    assert row["cost"] == settled["cost"] == 9 * 10**6 and row["attempts"] == 1 and row["shadow_of"] is None
    assert (
        settled["usage"] == Usage(7, 2) and settled["attempt"].owner == "key:k" and settled["keep"] == "text"
    )


def test_chunks_pass_as_they_are_and_their_id_is_known() -> None:
    async def act(call: Any) -> Any:
        yield Chunk((), b'data: {"id":"chatcmpl-theirs","choices":[]}\n\n')
        yield Chunk((Delta(0, "Hi"),), b'data: {"id":"chatcmpl-theirs"}\n\n')
        yield Chunk((Finished(0, "stop"),), b'data: {"id":"chatcmpl-theirs","x":1}\n\n')
        yield Usage(3, 1)

    made = Made(Fake("a", act), routes=(route("r", "a/m"),))
    reply, items = run(made.ask("r"))
    assert b"".join(i.data for i in items if isinstance(i, Chunk)).count(b"theirs") == 3 and items[
        -1
    ] == Usage(3, 1)
    assert made.ledger.rows[0]["generation_row"]["reply_id"] == "chatcmpl-theirs"


def test_nothing_of_the_end_is_said_before_it_is_kept() -> None:
    made = Made(Fake("a", says("Hi ", "there")), routes=(route("r", "a/m"),))

    async def work() -> None:
        reply = made.begin("r")
        async for item in made.gateway.events(reply):
            assert bool(made.ledger.rows) == isinstance(item, (Finished, Usage))

    run(work())


def test_an_embedding_and_a_count() -> None:
    async def vector(call: Any) -> Any:
        yield Embedded(0, (1.0,))
        yield Usage(4, 0)

    async def count(call: Any) -> Any:
        yield Usage(4, 0)

    made = Made(Fake("a", vector, count), local=FakeLocal(), routes=(route("r", "a/m"),))
    _, embedded = run(made.ask("r", kind="embedding", stream=False))
    _, counted = run(made.ask("r", count=True, stream=False))
    assert embedded == [Embedded(0, (1.0,)), Usage(4, 0)] and counted == [Usage(4, 0)]
    assert [row["generation_row"] is None for row in made.ledger.rows] == [False, True]  # a count is not kept


def test_a_field_in_a_list_is_dropped_and_a_choice_never() -> None:
    """`drop` names fields in lists as "messages[].name"; who asks for two choices is not given one."""
    b = Fake("b")
    made = Made(b, routes=(route("r", "b/m", drop=frozenset({"messages[].name", "n"})),))
    b.refuses = {"messages[0].name": "is unknown"}
    assert made.begin("r").dropped == ("messages[0].name",)
    b.refuses = {"n": "must be 1"}
    with pytest.raises(ProtocolError, match="n must be 1"):
        made.begin("r", n=2)


def test_a_provider_may_not_list_without_end() -> None:
    made = Made(Fake("a"))
    made.gateway._heard("a", ["x" * 10**6, *(f"m{number}" for number in range(10**5))])
    names = made.gateway.models()
    assert "a/m0" in names and len(names) < 10**4 and max(map(len, names)) < 300
