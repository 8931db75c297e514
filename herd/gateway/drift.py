"""Whether a provider's model still is what it was: a few frozen prompts now and then, and what has changed since.

The probes go through the gateway as a route "drift" of their own: booked to "experiment:drift", never kept as generations.
"""

import asyncio
import json
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from herd.errors import HerdError
from herd.gateway.changes import BASE, CONFIRM, JUDGES, LONG, suspicious
from herd.gateway.config import LOCAL
from herd.gateway.keys import Principal
from herd.gateway.prices import own_price
from herd.gateway.reply import Reply
from herd.gateway.route import Route, Weighted
from herd.protocol import Format, Message, Request, Sampling, Tool
from herd.store import Store

if TYPE_CHECKING:
    from herd.gateway.gateway import Gateway

log = logging.getLogger("herd.drift")

DAY = 86_400
TICK = 60.0  # seconds between two looks at what is due
JITTER = 0.1  # of the time between two rounds
AT_ONCE = 2  # targets
PAUSE = 5.0  # seconds before a round is made again
KEPT = 4 * (BASE + CONFIRM)  # rounds that are read
MAX_TOKENS = 120
SHOWN = 500  # characters of an answer
GONE_STATUS = (404, 410)
GONE = set("model_not_found not_found_error model_decommissioned model_not_active model_deprecated".split())

_CAPITAL = {"type": "object", "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
            "required": ["country", "capital"], "additionalProperties": False}  # fmt: skip
_WEATHER = Tool("weather", "The weather of a town.", {"type": "object", "properties": {"town": {"type": "string"}},
                                                      "required": ["town"]})  # fmt: skip


Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Probe:
    """`good`: whether a reply is as the prompt asks; what it says is not judged, but compared."""

    prompt: str
    good: Callable[[Reply], bool] = lambda reply: True
    asks: Mapping[str, Any] | None = None  # fields of the request
    stop: tuple[str, ...] = ()


def _text(reply: Reply) -> str:
    return "".join(reply.texts.get(0, ()))


def _lines(reply: Reply) -> bool:
    lines = _text(reply).strip().splitlines()
    return len(lines) == 3 and all(line.strip().isalpha() and line == line.lower() for line in lines)


def _capital(reply: Reply) -> bool:
    value = json.loads(_text(reply))
    return set(value) == {"country", "capital"} and all(isinstance(v, str) for v in value.values())


def _weather(reply: Reply) -> bool:
    (call,) = reply.calls[0]
    return call.name == "weather" and isinstance(json.loads(call.arguments)["town"], str)


# Frozen: whoever changes one begins a new history, so give it a new name.
PROBES: Mapping[str, Probe] = {
    "arithmetic": Probe("What is 17 * 23? Answer with the number only.", lambda reply: "391" in _text(reply)),
    "lines": Probe("Name the three primary colours of paint in lower case, one a line, and nothing else.", _lines),
    "schema": Probe("Give the capital of Kenya as JSON.", _capital, {"format": Format("json_schema", _CAPITAL)}),
    "tool": Probe("What is the weather in Lyon?", _weather, {"tools": (_WEATHER,), "tool_choice": "required"}),
    "fact": Probe("In one sentence: what did Johannes Gutenberg introduce to Europe, and about when?"),
    "stop": Probe("Count from 1 to 20 with single spaces between.", lambda reply: "12" not in _text(reply),
                  stop=("12",)),
}  # fmt: skip


class Drift:
    """Probes `targets` and keeps what it finds: in the store, where the page looks, and in the log "herd.drift".

    A change is told once; from then on it is what is usual. A provider that cannot be reached is no change.
    """

    def __init__(
        self, gateway: "Gateway", store: Store, *, clock: Clock = time.time, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._gateway, self._store, self._clock, self._sleep = gateway, store, clock, sleep
        self._running: dict[str, asyncio.Task[None]] = {}

    def targets(self) -> list[str]:
        """Those of [drift], or all that are remote: of [targets] and of the routes."""
        now = self._gateway.now
        if now.config.drift.targets:
            return [name for name in now.config.drift.targets if self._provider(name)]
        named = dict.fromkeys(now.config.targets)
        for route in now.routes.values():
            shadow = [route.shadow.target] if route.shadow else []
            named |= dict.fromkeys((*route.names, *shadow))
        return [name for name in named if self._provider(name) not in (None, LOCAL)]

    async def loop(self) -> None:
        """Probe each target every [drift] every_hours, also across restarts; until it is cancelled."""
        places = asyncio.Semaphore(AT_ONCE)
        try:
            while True:
                for name in await asyncio.to_thread(self._due):
                    if name not in self._running or self._running[name].done():
                        self._running[name] = asyncio.create_task(self._probed(name, places))
                await self._sleep(TICK)
        finally:
            for task in self._running.values():
                task.cancel()

    async def run_once(self, target: str) -> list[dict[str, Any]]:
        """A round of probes, and what it finds. What looks changed is asked again before it is called so."""
        found: list[dict[str, Any]] = []
        for again in range(CONFIRM):
            if again:
                await self._sleep(PAUSE)
            results = await self._round(target) | ({"again": True} if again else {})
            await asyncio.to_thread(self._store.add_probe, target, results)
            found += await asyncio.to_thread(self._judge, target)
            if found or not await asyncio.to_thread(self._doubtful, target, again + 1):
                break
        for finding in found:
            log.warning("%s: %s", target, finding["said"])
        return found

    def _provider(self, name: str) -> str | None:
        try:
            return self._gateway.now.target(name).provider
        except HerdError:
            return None

    def _due(self) -> list[str]:
        """The targets whose time has come."""
        hours, due = self._gateway.now.config.drift.every_hours, []
        try:
            for target in self.targets() if hours else ():
                last = self._store.probes(target, limit=1)
                # The jitter is the same after a restart.
                apart = 1 + (random.Random(last[0]["id"]).uniform(-JITTER, JITTER) if last else 0)
                if not last or self._clock() >= last[0]["created"] + 3600 * (hours or 0) * apart:
                    due.append(target)
        except HerdError as error:
            log.info("nothing is probed now: %s", error)
        return due

    async def _probed(self, target: str, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                await self.run_once(target)
            except HerdError as error:  # of the store, or of a target that is not there any more
                log.info("%s was not probed: %s", target, error)

    async def _round(self, name: str) -> dict[str, Any]:
        now = self._gateway.now
        target, spec = now.target(name), now.config.targets.get(name)
        # A price by the hour of the day is no change: that of midnight counts.
        price = now.prices.price(target.provider, target.model, self._clock() // DAY * DAY)
        if spec and spec.price is not None:
            price = own_price(spec.price)
        replies = {probe_name: await self._ask(name, probe) for probe_name, probe in PROBES.items()}
        failed = {probe_name: reply.failed for probe_name, reply in replies.items() if reply.failed}
        gone = [name for name, f in failed.items() if f.status in GONE_STATUS or f.code in GONE]
        return {
            "digest": target.digest,
            "price": json.loads(json.dumps(price, default=float)),
            "probes": {n: _result(reply, PROBES[n]) for n, reply in replies.items() if n not in failed},
            "failed": {n: failure.code for n, failure in failed.items()},
            "gone": len(gone) == len(PROBES),
        }

    async def _ask(self, target: str, probe: Probe) -> Reply:
        request = Request(
            target, "chat", (Message("user", probe.prompt),), stream=True, include_usage=True,
            sampling=Sampling(temperature=0.0, max_tokens=MAX_TOKENS, stop=probe.stop),
            explicit=frozenset({"temperature", "max_tokens", "stop"}), **(probe.asks or {}),
        )  # fmt: skip
        route = Route("drift", (Weighted(target),), retries=0, total=120.0, drop=frozenset("*"), keep="none")
        payer = Principal(application="drift", keep="none", use=frozenset())
        id, now = f"drift-{uuid.uuid4().hex}", self._gateway.now
        reply = Reply(id, request, route, payer, None, now, shadow_of="drift")
        try:
            self._gateway.aim(reply, first=True)
        except HerdError as error:
            reply.fail(error)
        else:
            await self._gateway.finish(reply)
        return reply

    def _rounds(self, target: str, kind: str) -> list[dict[str, Any]]:
        """The oldest first: of this target as it is now, and since the last finding of this kind."""
        digest = self._gateway.now.target(target).digest
        told = [f for f in self._store.findings(limit=1000) if (f["target"], f["kind"]) == (target, kind)]
        # Each price is compared with the one before it; the others with all that was usual since they were told.
        since = 0.0 if kind == "price" else max((f["created"] for f in told), default=0.0)
        rows = [row for row in self._store.probes(target, limit=KEPT) if row["created"] > since][::-1]
        rounds = [row["results"] for row in rows if row["results"]["digest"] == digest]
        return [one for one in rounds if one["probes"] or one["gone"] and kind == "retired"]

    def _doubtful(self, target: str, newest: int) -> bool:
        rounds = self._rounds(target, "retired")
        if not rounds or rounds[-1]["gone"]:
            return any(one["probes"] for one in rounds)
        return suspicious(self._rounds(target, "answers"), newest)

    def _judge(self, target: str) -> list[dict[str, Any]]:
        found = []
        for kind, judge in JUDGES.items():
            rounds = self._rounds(target, kind)
            if len(rounds) > 1 and (finding := judge(rounds)):
                found.append(self._store.add_finding(target, kind, *finding))
        return found


def _result(reply: Reply, probe: Probe) -> dict[str, Any]:
    try:
        ok: bool | None = probe.good(reply)
    except (ValueError, KeyError, TypeError):
        ok = False
    if reply.dropped:  # it was not asked for
        ok = None
    said = _text(reply) + "".join(f" {call.name}({call.arguments})" for call in reply.calls.get(0, ()))
    tokens, seconds = reply.completion_tokens, (reply.last or 0.0) - (reply.first or 0.0)
    return {
        "text": said[:SHOWN],
        "ok": ok,
        "first_ms": None if reply.first is None else round((reply.first - reply.began) * 1000, 1),
        "per_s": round(tokens / seconds, 2) if tokens >= LONG and seconds > 0.05 else None,
    }
