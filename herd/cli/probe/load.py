"""Several requests at once, and clients that leave."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

from herd.cli.probe.check import STORY, Group, Server
from herd.cli.probe.finding import Broken, Ignored, Untested, quote
from herd.cli.probe.reply import Chat

LOAD = Group("load", "openai", Chat.path)
AT_ONCE = 6
LONG = "Tell me a very long story about a dog, a cat, a mouse, a boat and the sea."
PATIENCE = 5.0  # seconds until a request counts as never seen, or a place as not freed
# vLLM, Herd, SGLang; llama.cpp.
RUNNING = re.compile(
    r"^\w+:(?:num_requests_running|num_running_reqs|requests_processing)(?:\{.*?\})? (\S+)", re.M
)


@LOAD.check("same answer under load", 700)
def same_under_load(server: Server) -> str:
    prompts = [STORY, *(f"Tell me about the number {number}." for number in range(AT_ONCE - 1))]
    alone = server.chat().text
    with ThreadPoolExecutor(AT_ONCE) as pool:
        among, *_ = pool.map(lambda said: server.chat(said).text, prompts)
    other = f"alone {quote(alone, 40)!r}, among {AT_ONCE} {quote(among, 40)!r}"
    Ignored.when(among != alone, other)
    return f"the same alone and among {AT_ONCE}"


@LOAD.check("client leaves a stream", 500)
def leave_stream(server: Server) -> str:
    before, seen = _running(server), False

    def look() -> None:
        nonlocal seen
        seen = _seen(server, before)

    server.stream(Chat, LONG, 400, leave={"stop_after": 3, "then": look})
    return _freed(server, before, seen)


@LOAD.check("client leaves", 500)
def leave(server: Server) -> str:
    before = _running(server)
    with server.wire.sent("POST", Chat.path, server.body(Chat, LONG, 400), server.headers(Chat.path)):
        seen = _seen(server, before)
    return _freed(server, before, seen)


def _seen(server: Server, before: float) -> bool:
    """Whether one request more than `before` is soon seen running."""
    end = time.monotonic() + PATIENCE
    while _count(server) <= before:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def _freed(server: Server, before: float, seen: bool) -> str:
    Untested.when(not seen, "the request was never seen running")
    left = time.monotonic()
    while _count(server) > before:
        late = time.monotonic() > left + PATIENCE
        Ignored.when(late, f"still running {PATIENCE:g} s after the client left")
        time.sleep(0.01)
    return f"the place is free {(time.monotonic() - left) * 1000:.0f} ms after the client left"


def _running(server: Server) -> float:
    """How many requests run. Raises Untested if /metrics does not tell."""
    try:
        answer = server.call("GET", "/metrics")
        found = RUNNING.findall(answer.data.decode("utf-8", "replace")) if answer.status == 200 else []
        if found:
            return sum(map(float, found))
    except (Broken, ValueError):
        pass
    raise Untested("/metrics does not tell how many requests run")


def _count(server: Server) -> float:
    try:
        return _running(server)
    except Untested:
        return 0
