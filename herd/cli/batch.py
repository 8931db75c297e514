"""`herd batch`: many requests from a file in OpenAI's batch form, some at a time, and their answers in another."""

from __future__ import annotations

import fcntl
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
from typing import IO, Any, NamedTuple
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
# A server of our own: it ends when its standard input does, and so with this process, whatever ends that.
OWN = """
import os, signal, sys, threading
from herd.cli import main
threading.Thread(target=lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
main()
"""


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
    with _alone(out):
        done = _resume(out, asked)
        before = len(done)
        with out.open("ab") as stream, _server() as server, bars() as bar:
            total = len(asked)
            _run(server, file, stream, done, total, parallel, lambda n: bar("requests", n, total))
    failed = sum(status != 200 for status in done.values())
    summary = {"requests": len(asked), "failed": failed, "already_done": before, "out": str(out)}
    emit(summary, f"{len(asked)} requests, {failed} failed; answers in {out}")
    return 1 if failed else 0


def _check(file: Path) -> dict[str, int]:
    """The line number of each custom_id. Raises HerdError that names the lines that are wrong."""
    if not file.is_file():
        raise HerdError(f"{file}: not a file that can be read twice; write it to one first")
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


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else answers to `out` meanwhile. Raises HerdError if somebody does, or it cannot be written."""
    if out.exists() and not out.is_file():
        raise HerdError(f"{out}: not a file; choose another --out")
    place = out.resolve()
    try:
        place.open("ab").close()
        held = place.with_name(place.name + ".lock").open("wb")
    except OSError as error:
        raise HerdError(f"{out}: {error.strerror}; choose another --out") from None
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HerdError(f"{out}: another batch is writing it; wait for it, or stop it") from None
        try:
            yield
        finally:
            Path(held.name).unlink(missing_ok=True)


def _resume(out: Path, asked: Mapping[str, int]) -> dict[str, int]:
    """The requests that `out` has an answer to, and its status. Lines to be asked again, or half written, leave the file.

    Raises HerdError if it holds something else, and so belongs to something else.
    """
    done: dict[str, int] = {}
    with out.open("rb") as lines, whole(out) as stream:
        for number, line in enumerate(lines, 1):
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
            if not isinstance(status, int) or status >= 500 or status in BUSY:
                continue
            if line.endswith(b"\n") and id not in done:
                done[id] = status
                stream.write(line)
    return done


@contextmanager
def _server() -> Iterator[Server]:
    """The running server, or one of our own for as long as it takes."""
    if server := Server.running():
        yield server
        return
    # A process group of its own: Ctrl-C is for this process, which then ends it.
    command = [sys.executable, "-c", OWN, "up", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )
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


def _run(
    server: Server, file: Path, out: IO[bytes], done: dict[str, int], total: int, parallel: int, show: Any
) -> None:
    """Ask what is not done, which is noted there. Answers are written as they come, each line whole."""
    before = set(done)
    todo = (line for _, text in _lines(file) if (line := _parse(text)).custom_id not in before)
    next_of_them = threading.Lock()
    answers: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                with next_of_them:
                    line = next(todo, None)
                answers.put(line and _ask(server, line))
                if line is None:
                    return
        except Exception as error:
            answers.put(error)

    # Daemons: when this process ends early they end with it, and the server drops what they asked.
    for _ in range(parallel):
        threading.Thread(target=work, daemon=True).start()
    show(len(done))
    idle = 0
    while len(done) < total:
        answer = answers.get()
        idle += answer is None
        if idle == parallel:
            answer = HerdError(f"{file} was changed meanwhile")
        if isinstance(answer, HerdError):
            left = f"{len(done)} of {total} are done, the same command goes on from there"
            raise HerdError(f"{answer}; {left}")
        if isinstance(answer, Exception):
            raise answer
        if answer:
            # Half of a surrogate pair stays what it is in JSON, an escape.
            out.write(json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
            out.flush()
            done[answer["custom_id"]] = answer["response"]["status_code"]
            show(len(done))
    os.fsync(out.fileno())


def _ask(server: Server, line: Line) -> dict[str, Any]:
    """The answer's line of the output. Raises HerdError if there is no server any more."""
    status, headers, body = server.post(line.url, line.body)
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": headers.get("X-Request-Id", ""), "body": body},
        "error": None,
    }
