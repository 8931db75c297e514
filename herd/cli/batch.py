"""`herd batch`: many requests from a file in OpenAI's batch form, some at a time, and their answers in another."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from herd.cli.client import BUSY, Server
from herd.cli.output import FILE, OUT, bars, emit, json_option, whole
from herd.errors import HerdError
from herd.server.settings import Settings

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
FIELDS = {"custom_id": str, "method": str, "url": str, "body": dict}
MAX_LINE = 8 * 1024 * 1024  # bytes; the server takes bodies of half as many
MAX_SHOWN = 20  # problems of a file that are named


class Line(NamedTuple):
    custom_id: str
    url: str
    body: dict[str, Any]


@click.command()
@click.argument("file", type=FILE)
@click.option("--out", required=True, type=OUT, help="Where answers go.")
@click.option("--parallel", default=16, type=click.IntRange(1, 256), help="Requests at a time (16).")
@json_option
def batch(file: Path, out: Path, parallel: int) -> int:
    """Answer all requests of FILE (OpenAI's batch form, one JSON object a line).

    What OUT has already is not asked again, so that a batch that was stopped goes on. The status is 1 if a request failed.
    """
    asked = _check(file)
    done = _resume(out, asked)
    with _server() as server, bars() as bar:
        total = len(asked)
        failed = _run(server, file, out, done, total, parallel, lambda n: bar("requests", n, total))
    summary = {"requests": len(asked), "failed": failed, "already_done": len(done), "out": str(out)}
    emit(summary, f"{len(asked)} requests, {failed} failed; answers in {out}")
    return 1 if failed else 0


def _check(file: Path) -> dict[str, int]:
    """The line number of each custom_id. Raises HerdError that names the lines that are wrong."""
    asked: dict[str, int] = {}
    problems: list[str] = []
    for number, line in _lines(file):
        try:
            found = _parse(line)
            if found.custom_id in asked:
                first = asked[found.custom_id]
                raise HerdError(f"custom_id {found.custom_id!r:.80} is that of line {first}, too")
            asked[found.custom_id] = number
        except HerdError as error:
            problems.append(f"line {number}: {error}")
            if len(problems) == MAX_SHOWN:
                problems.append("…")
                break
    if problems:
        raise HerdError(f"{file}: nothing was sent\n  " + "\n  ".join(problems))
    if not asked:
        raise HerdError(f"{file}: no requests in it")
    return asked


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not empty, read no further than MAX_LINE."""
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if line.strip():
                yield number, line
            if len(line) > MAX_LINE:
                return


def _parse(line: bytes) -> Line:
    if len(line) > MAX_LINE:
        raise HerdError(f"longer than {MAX_LINE >> 20} MiB")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HerdError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise HerdError("not a JSON object")
    for name, kind in FIELDS.items():
        if not isinstance(value.get(name), kind) or not value[name]:
            raise HerdError(f"{name} is missing or not {'an object' if kind is dict else 'a text'}")
    if unknown := sorted(value.keys() - FIELDS.keys()):
        raise HerdError(f"unknown field {unknown[0]!r:.80}")
    if value["method"] != "POST":
        raise HerdError("method must be POST")
    if value["url"] not in URLS:
        raise HerdError(f"url must be one of {', '.join(URLS)}")
    for name in ("stream", "background"):
        if value["body"].get(name):
            raise HerdError(f"body.{name} is not for batches: leave it out")
    return Line(value["custom_id"], value["url"], value["body"])


def _resume(out: Path, asked: Mapping[str, int]) -> set[str]:
    """The requests that `out` has an answer to. Lines to be asked again, or half written, leave the file.

    Raises HerdError if it holds something else, and so belongs to something else.
    """
    if not out.exists():
        return set()
    done: set[str] = set()
    with whole(out) as stream:
        for number, line in _lines(out):
            try:
                value = json.loads(line)
                id, status = value["custom_id"], (value["response"] or {}).get("status_code")
            except (ValueError, KeyError, TypeError, AttributeError):
                if not line.endswith(b"\n"):
                    continue  # the last line of a run that was killed
                wrong = f"{out}: line {number} is no answer of a batch; choose another --out"
                raise HerdError(wrong) from None
            if id not in asked:
                wrong = f"{out}: line {number} answers {id!r:.80}, which is not asked; choose another --out"
                raise HerdError(wrong)
            final = status is not None and status < 500 and status not in BUSY
            if final and line.endswith(b"\n") and id not in done:
                done.add(id)
                stream.write(line)
    return done


@contextmanager
def _server() -> Iterator[Server]:
    """The running server, or one of our own for as long as it takes."""
    if server := Server.running():
        yield server
        return
    command = [sys.executable, "-m", "herd", "up", "--host", "127.0.0.1", "--port", "0"]
    # A process group of its own: Ctrl-C is for this process, which then ends it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if not words:
            raise HerdError("the server did not start")  # it has said why
        port = urlsplit(words[-1]).port
        yield Server(replace(Settings.from_environment(), host="127.0.0.1", port=port or 0))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _run(server: Server, file: Path, out: Path, done: set[str], total: int, parallel: int, show: Any) -> int:
    """Ask what is not done; how many failed. Answers are written as they come, each line whole."""
    todo = (line for _, text in _lines(file) if (line := _parse(text)).custom_id not in done)
    next_of_them = threading.Lock()
    answers: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                with next_of_them:
                    line = next(todo, None)
                if line is None:
                    return
                answers.put(_ask(server, line))
        except Exception as error:
            answers.put(error)

    # Daemons: when this process ends early they end with it, and the server drops what they asked.
    for _ in range(parallel):
        threading.Thread(target=work, daemon=True).start()
    finished, failed = len(done), 0
    show(finished)
    with out.open("ab") as stream:
        while finished < total:
            answer = answers.get()
            if isinstance(answer, HerdError):
                left = f"{finished} of {total} are done, the same command goes on from there"
                raise HerdError(f"{answer}; {left}")
            if isinstance(answer, Exception):
                raise answer
            stream.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            finished += 1
            failed += answer["response"]["status_code"] != 200
            show(finished)
        os.fsync(stream.fileno())
    return failed


def _ask(server: Server, line: Line) -> dict[str, Any]:
    """The answer's line of the output. Raises HerdError if there is no server any more."""
    status, headers, body = server.post(line.url, line.body)
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": headers.get("X-Request-Id", ""), "body": body},
        "error": None,
    }
