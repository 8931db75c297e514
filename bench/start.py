"""Cold start: from the command `herd up` to the first token of a reply, in seconds.

Each of the runs has a HERD_HOME of its own, and waits for nothing but HTTP: the request is sent again until the port
answers, and the server holds it until the model is loaded. Files are in the system's cache after the first run, as they
are on a machine that has just installed Herd.

    python bench/start.py [--runs 5] [--model cria] [--json]
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

PACKAGES = ("openherd", "torch", "fastapi", "uvicorn")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def first_token(port: int, model: str) -> None:
    """Ask for a streamed reply until the server takes the request; return at the first text."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
        except ConnectionRefusedError:
            time.sleep(0.01)
            continue
        reply = connection.getresponse()
        if reply.status != 200:
            sys.exit(f"the server answered {reply.status}: {reply.read().decode()}")
        for line in reply:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    connection.close()
                    return


def measure(model: str) -> dict[str, float]:
    """Seconds from the start of the process to HTTP, and to the first token."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"HERD_HOME": home}
        command = [sys.executable, "-m", "herd", "up", "--port", str(port)]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            listening = time.perf_counter() - began
            first_token(port, model)
            token = time.perf_counter() - began
        finally:
            process.terminate()
            process.wait(30)
    return {"http": listening, "first_token": token}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="cria")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs = [measure(args.model) for _ in range(args.runs)]
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
        f"herd up to the first token: {medians['first_token']:.2f} s (HTTP answers after {medians['http']:.2f} s)"
    )
    print("runs: " + ", ".join(f"{run['first_token']:.2f}" for run in runs))
    print(f"{os.cpu_count()} cores; " + ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
