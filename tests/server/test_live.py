"""`herd up` as a person starts it, with the bundled cria, by OpenAI's own client."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

import herd

CRIA = Path(herd.__file__).parent / "bundled" / "models" / "cria"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CRIA.is_dir(), reason="cria is not bundled yet")]
MIB = 1024 * 1024


class Live:
    """A running `herd up`."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
        self.errors = home / "errors"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "herd", "up", "--home", str(home / "herd"), "--port", str(port)],
            env=clean, stdout=subprocess.DEVNULL, stderr=self.errors.open("w"),
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def until_ready(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/ready", timeout=60).status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.1)
        pytest.fail("not ready in two minutes")

    def running(self) -> int:
        status: int = httpx.get(f"{self.url}/api/status", timeout=60).json()["engine"]["running"]
        return status

    def stop(self, sent: int) -> None:
        self.process.send_signal(sent)
        assert self.process.wait(30) in (0, 130)
        assert "Traceback" not in self.errors.read_text()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    made = Live(tmp_path_factory.mktemp("live"))
    try:
        made.until_ready()
        yield made
        made.stop(signal.SIGINT)
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def test_streams_a_reply(live: Live) -> None:
    stream = live.client.chat.completions.create(
        model="cria", messages=[{"role": "user", "content": "Tell me a story about a dog."}], max_tokens=60, stream=True,
        stream_options={"include_usage": True}, seed=1,
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert len(text.split()) > 5 and usage is not None and 0 < usage.completion_tokens <= 60
    record = httpx.get(f"{live.url}/api/generations/{chunks[0].id}", timeout=60).json()
    assert record["reply"] == text and record["tokens"]["completion"] == usage.completion_tokens
    whole = live.client.chat.completions.create(
        model="cria",
        messages=[{"role": "user", "content": "Tell me a story about a dog."}],
        max_tokens=60,
        seed=1,
    )
    assert whole.choices[0].message.content == text  # the same seed, the same words


def test_ten_megabytes_and_four_of_spaces(live: Live) -> None:
    for size, statuses in ((10 * MIB, {413}), (4 * MIB - 200, {400})):
        with pytest.raises(openai.APIStatusError) as caught:
            live.client.chat.completions.create(
                model="cria", messages=[{"role": "user", "content": " " * size}]
            )
        assert caught.value.status_code in statuses
    reply = live.client.completions.create(model="cria", prompt="Once upon a time", max_tokens=5)
    assert reply.choices[0].text


def test_a_client_killed_in_the_middle_frees_its_place(live: Live) -> None:
    body = json.dumps({"model": "cria", "prompt": "Once upon a time", "max_tokens": 2000, "stream": True})
    code = "import sys, urllib.request as u; r = u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), " \
           "{'Content-Type': 'application/json'})); r.readline(); print('reading', flush=True); r.read()"  # fmt: skip
    client = subprocess.Popen(
        [sys.executable, "-c", code, f"{live.url}/v1/completions", body], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None and client.stdout.readline() == "reading\n"
    client.kill()
    client.wait()
    end = time.monotonic() + 2
    while live.running() and time.monotonic() < end:
        time.sleep(0.05)
    assert live.running() == 0


def test_the_models_page_has_its_numbers(live: Live) -> None:
    (cria,) = [
        m for m in httpx.get(f"{live.url}/api/models", timeout=60).json()["data"] if m["ref"] == "cria@1"
    ]
    assert cria["bundled"] and cria["current"] and cria["card"] and cria["parameters"] > 1_000_000
    assert cria["memory"]["kv_per_token"] > 0 and cria["memory"]["fits_tokens"] > 0
    for plot in cria["plots"]:
        assert httpx.get(live.url + plot, timeout=60).headers["content-type"].startswith("image/")
