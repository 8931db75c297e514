"""A chat template of unknown origin, rendered in a child process: it is code, and may run or grow without end.

python -m herd.model.renderer     the child: a request and a reply are each one line of JSON, on stdin and stdout
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from herd.errors import HerdError
from herd.model.template import render

START = 30.0  # seconds a child may take to start, on a busy machine
DEADLINE = 1.0  # seconds for a rendering
MEMORY = 256 << 20  # bytes of address space
MAX_REPLY = 16 << 20  # bytes: escaping makes at most three of one, and a request has at most 4 MiB


class Renderer:
    """One template and its child, started when first needed and replaced when it had to be killed. Thread-safe."""

    def __init__(self, source: str) -> None:
        """Compiles the template, too. Raises HerdError when it is not valid."""
        self.source = source
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self.render(None)

    def render(self, variables: Mapping[str, Any] | None) -> str:
        """As `template.render`; also raises HerdError when it takes too long or needs too much memory."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._child = _Child()
            reply = self._child.ask({"source": self.source, "variables": variables})
        if "error" in reply:
            raise _failed(reply["error"])
        return str(reply["text"])


class _Child:
    """A process that renders; not alive any more once it failed to answer."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,  # a terminal's Ctrl-C is its parent's business
            )
        self._end = weakref.finalize(self, _end, self._process, self._socket)
        try:
            self._receive(time.monotonic() + START)  # it is ready
        except (OSError, EOFError):
            self._end()
            raise HerdError("the process that renders chat templates did not start", status=503) from None

    @property
    def alive(self) -> bool:
        return self._end.alive and self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """{"text"} or {"error"}. Raises HerdError when the process was killed instead."""
        until = time.monotonic() + DEADLINE
        try:
            self._socket.settimeout(DEADLINE)
            self._socket.sendall(_line(request))
            return self._receive(until)
        except TimeoutError:
            problem = f"the chat template takes longer than {DEADLINE:g} s"
        except OverflowError:
            problem = f"the chat template writes more than {MAX_REPLY >> 20} MiB"
        except (OSError, EOFError):
            problem = "the chat template broke the process that rendered it"
        self._end()
        raise _failed(problem)

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


def _failed(reason: str) -> HerdError:
    return HerdError(reason, code="chat_template_failed")


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def main() -> None:
    """Answer until stdin closes. An alarm ends a child that renders on after its parent has died."""
    os.nice(5)  # replies that run come first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answer = _line({})  # ready
    while True:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
        signal.alarm(0)
        if not (request := sys.stdin.buffer.readline()):
            return
        signal.alarm(math.ceil(DEADLINE) + 1)
        try:
            answer = _line({"text": render(**json.loads(request))})
        except HerdError as error:
            answer = _line({"error": str(error)})
        except MemoryError:
            answer = _line({"error": f"the chat template needs more than {MEMORY >> 20} MiB of memory"})


if __name__ == "__main__":
    main()
