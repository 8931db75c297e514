"""A child process that answers one question at a time, bounded in time and memory: for code of unknown origin.

A request and a reply are each one line of JSON, on the child's stdin and stdout.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from herd.errors import HerdError

START = 30.0  # seconds a child may take to start, on a busy machine
PATIENCE = 10  # times its deadline a child may take where others compute too
MEMORY = 256 << 20  # bytes of address space
MAX_REPLY = 16 << 20  # bytes: escaping makes at most three of one, and a request has at most 4 MiB


class Child:
    """A process that runs a module's `serve`: started when first needed, and again when it had to be killed.

    It may compute for `deadline` seconds. `subject` names in messages what it works on; `code` is that of the HerdErrors.
    Thread-safe.
    """

    def __init__(self, module: str, deadline: float, subject: str, code: str) -> None:
        self._module, self._deadline, self._subject, self._code = module, deadline, subject, code
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply. Raises HerdError when the child refused, or failed to answer in time and was killed."""
        with self._lock:
            if not (self._process and self._end.alive and self._process.poll() is None):
                self._start()
            wait, slow = PATIENCE * self._deadline, f"takes longer than {self._deadline:g} s"
            until = time.monotonic() + wait
            try:
                self._socket.settimeout(wait)
                self._socket.sendall(_line(request))
                reply = self._receive(until)
            except TimeoutError:
                problem = slow
            except OverflowError:
                problem = f"writes more than {MAX_REPLY >> 20} MiB"
            except (OSError, EOFError):
                problem = "is too large or too complex"  # it broke the child, by its memory or its stack
            else:
                if "error" in reply:
                    raise HerdError(str(reply["error"]), code=self._code)
                return reply
            self._end()
            if self._process and self._process.returncode == -signal.SIGPROF:
                problem = slow
        raise HerdError(f"{self._subject} {problem}", code=self._code)

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,  # a terminal's Ctrl-C is its parent's business
            )
        self._end = weakref.finalize(self, _end, self._process, self._socket)
        try:
            self._receive(time.monotonic() + START)  # it is ready
        except (OSError, EOFError):
            self._end()
            raise HerdError(f"the process for {self._subject} did not start", status=503) from None

    def _receive(self, until: float) -> dict[str, Any]:
        data = bytearray()
        while not data.endswith(b"\n"):
            self._socket.settimeout(max(until - time.monotonic(), 1e-3))  # 0 would not wait at all
            piece = self._socket.recv(1 << 20)
            if not piece:
                raise EOFError
            data += piece
            if len(data) > MAX_REPLY:
                raise OverflowError
        return dict(json.loads(data))


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]], deadline: float, subject: str) -> None:
    """The child: answer until stdin closes. A timer ends one that computes for longer, also without its parent."""
    os.nice(5)  # replies that run come first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    reply = _line({})  # ready
    while True:
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not (request := sys.stdin.buffer.readline()):
            return
        signal.setitimer(signal.ITIMER_PROF, deadline)
        try:
            reply = _line(answer(json.loads(request)))
        except HerdError as error:
            reply = _line({"error": str(error)})
        except MemoryError:
            reply = _line({"error": f"{subject} needs more than {MEMORY >> 20} MiB of memory"})
