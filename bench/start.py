"""Cold start: from the command `herd up` to the first token of a reply, in seconds.

Each run waits for nothing but HTTP: the request is sent again until the port answers, and the server holds it until the
model is loaded. Files are in the system's cache after the first run, as they are on a machine that has just installed
Herd. cria is served from an empty HERD_HOME; a --shape is random weights, added to a home in --cache once, and loaded
after cria, which `herd up` loads first.

    python bench/start.py [--runs 5] [--shape llama-3.2-1b] [--weights int8] [--json]
"""

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from shapes import SHAPES, checkpoint

from herd.registry.registry import Registry

PACKAGES = ("openherd", "torch", "fastapi", "uvicorn")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def home_of(shape: str, cache: Path) -> Path:
    """A home that has the shape as a model of its name, a second copy of its files."""
    home, name = cache / shape / "home", shape.replace(".", "-")
    if name not in {m.name for m in Registry(home).models()}:
        Registry(home).add(checkpoint(shape, cache), name, kind="model", licence="Apache-2.0")
    return home


def first_token(port: int, model: str, server: subprocess.Popen[str]) -> None:
    """Ask for a streamed reply until the server takes the request; return at the first text."""
    body = {"model": model, "stream": True, "prompt": "Once upon a time", "max_tokens": 8}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
        except ConnectionRefusedError:
            if server.poll() is not None:
                sys.exit("the server ended")
            time.sleep(0.01)
            continue
        reply = connection.getresponse()
        if reply.status != 200:
            sys.exit(f"the server answered {reply.status}: {reply.read().decode()}")
        for line in reply:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["text"]:
                    connection.close()
                    return


def measure(shape: str, home: Path | None, weights: str | None) -> dict[str, float]:
    """Seconds from the start of the process to HTTP, and to the first token. home: None takes an empty one."""
    port = free_port()
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"HERD_HOME": str(home or empty)}
        if weights:
            environment["HERD_WEIGHTS"] = weights
        command = [sys.executable, "-m", "herd", "up", "--port", str(port)]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            listening = time.perf_counter() - began
            first_token(port, shape.replace(".", "-"), process)
            token = time.perf_counter() - began
        finally:
            process.terminate()
            process.wait(30)
    return {"http": listening, "first_token": token}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shape", default="cria", choices=list(SHAPES))
    parser.add_argument("--weights", help="HERD_WEIGHTS: bf16, int8 or int4")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "herd-bench")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    home = home_of(args.shape, args.cache) if args.shape != "cria" else None
    runs = [measure(args.shape, home, args.weights) for _ in range(args.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if args.json:
        print(
            json.dumps(
                {"median": medians, "runs": runs, "versions": versions, "cores": os.cpu_count()}, indent=2
            )
        )
        return
    print(
        f"{args.shape}: herd up to the first token: {medians['first_token']:.2f} s (HTTP answers after {medians['http']:.2f} s)"
    )
    print("runs: " + ", ".join(f"{run['first_token']:.2f}" for run in runs))
    print(f"{os.cpu_count()} cores; " + ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
