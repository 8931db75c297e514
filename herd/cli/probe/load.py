"""Several requests at once, and clients that leave."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

from herd.cli.probe.check import (
    STORY,
    Group,
    Server,
    Verdict,
    honoured,
    ignored,
    text_of,
    untested,
)
from herd.cli.probe.wire import Broken, quote

LOAD = Group("load", "openai", "/v1/chat/completions")
AT_ONCE = 6
LONG = "Tell me a very long story about a dog, a cat, a mouse, a boat and the sea."
PATIENCE = 5.0  # seconds until a place counts as not freed
# vLLM, Herd, SGLang; llama.cpp.
RUNNING = re.compile(
    r"^\w+:(?:num_requests_running|num_running_reqs|requests_processing)(?:\{.*?\})? (\S+)", re.M
)


@LOAD.check("same answer under load", 700)
def same_under_load(server: Server) -> Verdict:
    prompts = [STORY, *(f"Tell me about the number {number}." for number in range(AT_ONCE - 1))]
    alone = text_of(server.chat())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(lambda said: text_of(server.chat(said)), prompts))
    if replies[0] != alone:
        return ignored(f"alone {quote(alone, 40)!r}, among {AT_ONCE} {quote(replies[0], 40)!r}")
    return honoured(f"the same alone and among {AT_ONCE}")


@LOAD.check("client leaves a stream", 500)
def leave_stream(server: Server) -> Verdict:
    before, seen = _running(server), False
    if before is None:
        return untested("/metrics does not tell how many requests run")

    def look() -> None:
        nonlocal seen
        seen = _seen(server, before)

    server.stream("/v1/chat/completions", server.chat_body(LONG, 400), stop_after=3, then=look)
    return _freed(server, before) if seen else untested("the request was never seen running")


@LOAD.check("client leaves", 500)
def leave(server: Server) -> Verdict:
    before = _running(server)
    if before is None:
        return untested("/metrics does not tell how many requests run")
    path = "/v1/chat/completions"
    body = {"model": server.model, **server.chat_body(LONG, 400)}
    with server.wire.sent(path, body, server.headers(path)):
        seen = _seen(server, before)
    return _freed(server, before) if seen else untested("the request was never seen running")


def _seen(server: Server, before: float) -> bool:
    """Whether one request more than `before` is soon seen running."""
    end = time.monotonic() + 1
    while (_running(server) or 0) <= before:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def _freed(server: Server, before: float) -> Verdict:
    left = time.monotonic()
    while (_running(server) or 0) > before:
        if time.monotonic() > left + PATIENCE:
            return ignored(f"still running {PATIENCE:g} s after the client left")
        time.sleep(0.01)
    return honoured(f"the place is free {(time.monotonic() - left) * 1000:.0f} ms after the client left")


def _running(server: Server) -> float | None:
    """How many requests run, if /metrics tells."""
    try:
        answer = server.wire.call("GET", "/metrics", None, server.headers("/metrics"))
        found = RUNNING.findall(answer.data.decode("utf-8", "replace")) if answer.status == 200 else []
        return sum(map(float, found)) if found else None
    except (Broken, ValueError):
        return None
