"""One engine under measurement, in a process and an environment of its own: a line of JSON in, a line of JSON out.

    python child.py SYSTEM PRECISION FOLDER

SYSTEM names a module run_SYSTEM.py beside this file, whose `Engine(folder, precision, threads)` has `versions`, a text;
`prepare(streams, length)`, called before anything is timed; `add(id, prompt, new)`; `step()`, which gives the id of each
token that was made; and `stop()`, which ends all that runs. What the engine prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

SETTLED = 24  # steps


def fixed(engine: Any, prompts: list[list[int]], steps: int) -> dict[str, float]:
    """Seconds to the last prompt's first token; then the tokens of so many steps with all streams, and their seconds.

    An engine that runs fewer at once than are asked for is not waited for: its tokens are those of the streams that run.
    """
    longest = max(map(len, prompts))
    room = 1 if not steps else len(prompts) * longest // 16 + steps + 64
    engine.prepare(len(prompts), longest + room)
    began = time.perf_counter()
    for i, prompt in enumerate(prompts):
        engine.add(i, prompt, room)
    begun: set[int] = set()
    same = 0  # steps in a row in which streams went on and none began
    while len(begun) < len(prompts) and same < SETTLED:
        made = engine.step()
        same = same + 1 if made and begun.issuperset(made) else 0
        begun.update(made)
    read = time.perf_counter()
    tokens = sum(len(engine.step()) for _ in range(steps))
    end = time.perf_counter()
    engine.stop()
    return {"read": read - began, "tokens": tokens, "rest": end - read}


def mixed(engine: Any, requests: list[tuple[float, list[int], int]]) -> list[list[float]]:
    """The times of each request's tokens, since the start. A request: when it arrives, its prompt, its new tokens."""
    engine.prepare(min(len(requests), 32), max(len(prompt) + new for _, prompt, new in requests))
    times: list[list[float]] = [[] for _ in requests]
    began, arrived = time.perf_counter(), 0
    while any(len(t) < new for t, (_, _, new) in zip(times, requests, strict=True)):
        while arrived < len(requests) and requests[arrived][0] <= time.perf_counter() - began:
            engine.add(arrived, *requests[arrived][1:])
            arrived += 1
        if all(len(times[i]) >= requests[i][2] for i in range(arrived)):
            time.sleep(max(requests[arrived][0] - (time.perf_counter() - began), 0))
            continue
        made = engine.step()
        now = time.perf_counter() - began
        for i in made:
            times[i].append(now)
    engine.stop()
    return times


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    system, precision, folder = sys.argv[1:]

    def answer(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    engine = importlib.import_module(f"run_{system}").Engine(folder, precision, len(os.sched_getaffinity(0)))
    answer({"versions": engine.versions})
    for line in sys.stdin:
        job = json.loads(line)
        if job["job"] == "fixed":
            answer(fixed(engine, job["prompts"], job["steps"]))
        else:
            answer(mixed(engine, job["requests"]))


if __name__ == "__main__":
    main()
