"""A configuration that changes while replies run: all of it at once, or nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from herd.errors import HerdError
from herd.gateway.config import Config, ConfigError
from herd.gateway.gateway import Gateway
from herd.gateway.reload import Reloader
from herd.gateway.route import ProviderSpec

from .fakes import Fake, Made, config, hangs, route, run, says, text, until

FILE = """
[providers.a]
dialect = "openai"
[providers.b]
dialect = "openai"
[routes.r]
targets = ["{0}/m"]
"""


def _write(path: Path, text: str) -> None:
    """In one step, and with another time than before."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_a_reply_goes_on_with_what_it_began_with() -> None:
    old, new = Fake("a", says("one ", "two ", delay=5)), Fake("b", says("new"))
    made = Made(old, routes=(route("r", "a/m"),))

    async def work() -> list[str]:
        running = asyncio.create_task(made.ask("r"))
        await until(lambda: old.running)
        made.providers["b"] = new
        await made.gateway.apply(config(new, routes=(route("r", "b/m"),)))
        assert not old.closed
        said = [text((await made.ask("r"))[1])]
        assert made.begin("a/m").target.name == "b/a/m"  # the only provider may have it
        made.gateway._heard("b", ["m"])  # it has not
        with pytest.raises(HerdError, match="no model"):
            made.begin("a/m")
        said.append(text((await running)[1]))
        assert old.closed and not new.closed
        return said

    assert run(work()) == ["new", "one two "]


def test_what_has_begun_and_waits_keeps_its_provider() -> None:
    old, new = Fake("a", says("other"), says("mine")), Fake("a")
    made = Made(old)

    async def work() -> str:
        begun = made.begin("a/m")
        made.providers["a"] = new
        changed = {"a": ProviderSpec("a", "openai", ("https://elsewhere.example",))}
        await made.gateway.apply(Config(changed, {}, {}))
        other = made.begin("a/m")
        other.table = begun.table
        await made.gateway.finish(other)  # the end of another looks for who is not needed any more
        assert not old.closed
        await made.gateway.finish(begun)
        assert old.closed
        return "".join(begun.texts[0])

    assert run(work()) == "mine"


def test_a_second_cancel_waits_for_what_the_first_does() -> None:
    a = Fake("a", hangs("one "))
    made = Made(a)

    async def work() -> None:
        reply, written = made.begin("a/m"), asyncio.Event()
        await made.gateway.background.run(reply)
        await until(lambda: reply.first)

        async def keep(kept: Any) -> None:
            await asyncio.sleep(1)
            written.set()

        made.gateway.keep = keep  # type: ignore[method-assign]
        first = asyncio.create_task(made.gateway.background.cancel(reply.id))
        await asyncio.sleep(0.1)
        await made.gateway.background.cancel(reply.id)
        assert written.is_set()
        await first

    run(work())


def test_a_background_reply_that_is_cancelled_before_it_begins_ends() -> None:
    made = Made(Fake("a", hangs("one ")))

    async def work() -> None:
        reply, background = made.begin("a/m"), made.gateway.background
        background._start(reply)
        await background.cancel(reply.id)
        assert background.get(reply.id) is None

    run(work())


def test_what_did_not_change_stays_connected() -> None:
    a = Fake("a")
    made = Made(a, routes=(route("r", "a/m"),))

    async def work() -> None:
        before = made.gateway.now.providers["a"]
        made.gateway.replicas.of("a", a.urls)[0].failed("x")
        made.providers["a"] = Fake("a")
        await made.gateway.apply(config(a, routes=(route("s", "a/m"),)))
        assert made.gateway.now.providers["a"] is before and not a.closed
        assert made.gateway.health()[1]["error"] == "x"
        assert [one.name for one in made.gateway.routes()] == ["s"]

    run(work())


def test_a_file_that_changes_is_read_again_and_a_wrong_one_is_not_taken(tmp_path: Path) -> None:
    made, path = Made(Fake("a", *[says("a")] * 99), Fake("b", *[says("b")] * 99)), tmp_path / "herd.toml"

    async def work() -> None:
        reloader = Reloader(made.gateway, path, {})

        async def said(text_: str | None) -> str:
            if text_ is None:
                path.unlink()
            else:
                _write(path, text_)
            await reloader.poll()
            reply, items = await made.ask("r")
            assert reply.failed is None
            return text(items)

        assert await said(FILE.format("a")) == "a" and reloader.problem is None
        assert await said(FILE.format("b")) == "b"
        assert await said(FILE.format("c")) == "b"
        assert reloader.problem and "line 7:" in reloader.problem and "'c'" in reloader.problem
        assert await said("[routes") == "b" and "not TOML" in (reloader.problem or "")
        assert await said(FILE.format("a")) == "a" and reloader.problem is None
        seen = made.gateway.now
        await reloader.poll()
        assert made.gateway.now is seen  # nothing has changed
        with pytest.raises(HerdError, match="no model"):
            await said(None)

    run(work())


def test_a_provider_that_cannot_be_made_leaves_all_as_it_was(tmp_path: Path) -> None:
    a, path = Fake("a"), tmp_path / "herd.toml"
    made = Made(a, routes=(route("r", "a/m"),))

    def build(spec: Any) -> Any:
        raise HerdError("env:NAME is not set", code="bad_provider")

    async def work() -> None:
        made.gateway._build = build
        seen, reloader = made.gateway.now, Reloader(made.gateway, path, {})
        _write(path, '[routes.x]\ntargets = ["cria"]\n\n[providers.new]\ndialect = "openai"\n')
        await reloader.poll()
        assert (
            reloader.problem is not None and "line 4: providers.new: env:NAME is not set" in reloader.problem
        )
        assert made.gateway.now is seen and text((await made.ask("r"))[1]) == "ok"

    run(work())


def test_routes_of_the_store_count_and_change() -> None:
    made = Made(Fake("a", says("a")), Fake("b", says("b")))

    async def work() -> None:
        made.store.stored["s"] = (3, {"targets": ["a/m"]})
        made.store.stored["broken"] = (1, {"targets": ["gone/m"]})
        await made.gateway.refresh()
        (found,) = made.gateway.routes()
        assert (found.name, found.source, found.version) == ("s", "store", 3)
        assert text((await made.ask("s"))[1]) == "a"
        made.store.stored["s"] = (4, {"targets": ["b/m"]})
        await made.gateway.refresh()
        assert text((await made.ask("s"))[1]) == "b"
        del made.store.stored["s"]
        await made.gateway.refresh()
        with pytest.raises(HerdError, match="no model"):
            made.begin("s")

    run(work())


def test_a_name_in_the_file_and_in_the_store_is_an_error() -> None:
    a = Fake("a")
    made = Made(a)
    made.store.stored["r"] = (1, {"targets": ["a/m"]})
    both = config(a, routes=(route("r", "a/m"),))
    with pytest.raises(ConfigError, match="the store has a route of this name too") as caught:
        run(made.gateway.apply(both))
    assert caught.value.place == ("routes", "r") and made.gateway.routes() == []
    with pytest.raises(ConfigError, match="the store has a route"):
        Gateway(
            both, local=made.local, store=made.store, ledger=made.ledger, observe=made.seen,  # type: ignore[arg-type]
            build=lambda spec: a, price=lambda config: None,  # type: ignore[arg-type,return-value]
        )  # fmt: skip


def test_reloads_under_load_fail_no_request() -> None:
    a, b = Fake("a"), Fake("b")
    a.by_url = b.by_url = {"https://a.example": says("Hi ", "there", delay=0.3)}
    made = Made(a, b, routes=(route("r", "a/m"),))

    async def work() -> int:
        stop, done = False, 0

        async def ask() -> None:
            nonlocal done
            while not stop:
                assert text((await made.ask("r"))[1]) == "Hi there"
                done += 1

        tasks = [asyncio.create_task(ask()) for _ in range(20)]
        for step in range(20):
            await asyncio.sleep(0.25)
            one = b if step % 2 else a
            await made.gateway.apply(config(one, routes=(route("r", f"{one.name}/m"),)))
        stop = True
        await asyncio.gather(*tasks)
        return done

    assert run(work()) > 100 and {state for _, state in made.ledger.states} == {"done"}
    assert a.calls and b.calls and not made.ledger.open_


def test_a_stop_turns_new_requests_away_and_ends_what_runs_behind() -> None:
    a = Fake("a", hangs("one "))
    made = Made(a, routes=(route("r", "a/m"),))

    async def work() -> None:
        reply = made.begin("r")
        await made.gateway.background.run(reply)
        await until(lambda: reply.first)
        assert made.gateway.background.get(reply.id) is reply
        made.gateway.closing = True
        with pytest.raises(HerdError, match="stopping"):
            made.begin("r")
        await made.gateway.background.cancel(reply.id)
        assert made.gateway.background.get(reply.id) is None
        await made.gateway.close()

    run(work())
    ((row, keep),) = made.store.kept
    assert (row["finish"], row["reply"], keep) == ("cancelled", "one ", "text") and a.closed


def test_of_two_changes_of_the_store_the_later_counts() -> None:
    """The first reading may take longer than the second, which must not be undone by it."""
    made = Made(Fake("a", says("a")), Fake("b", says("b")))
    read, slow = made.store.routes, threading.Event()

    def routes() -> Any:
        found = read()
        if found and found["s"][0] == 1:
            slow.wait(5)
        return found

    async def work() -> None:
        made.store.routes = routes  # type: ignore[method-assign]
        made.store.stored["s"] = (1, {"targets": ["a/m"]})
        first = asyncio.create_task(made.gateway.apply(made.config))
        await asyncio.sleep(0.2)
        made.store.stored["s"] = (2, {"targets": ["b/m"]})
        second = asyncio.create_task(made.gateway.refresh())
        await asyncio.sleep(0.2)
        slow.set()
        await asyncio.gather(first, second)
        assert [found.version for found in made.gateway.routes()] == [2]

    asyncio.run(work())


def test_what_the_store_says_beside_a_wrong_file_counts_with_the_old_one() -> None:
    a = Fake("a")
    made = Made(a)

    async def work() -> None:
        made.store.stored["r"] = (1, {"targets": ["a/m"]})
        with pytest.raises(ConfigError):
            await made.gateway.apply(config(a, routes=(route("r", "a/m"),)))
        await made.gateway.refresh()
        assert [(found.name, found.source) for found in made.gateway.routes()] == [("r", "store")]

    run(work())
