"""`herd batch`: a file in, a file out, stopped and gone on with."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from herd.cli import run


class Api(BaseHTTPRequestHandler):
    """Says what it was asked. A body's "status" is the status; "busy" is refused that many times; "slow" waits."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, Any]]]
    lock = threading.Lock()
    now = most = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Api.lock:
            self.asked.append((self.path, body))
            again = sum(other == body for _, other in self.asked)
            Api.now += 1
            Api.most = max(Api.now, Api.most)
        time.sleep(body.get("slow", 0))
        with Api.lock:
            Api.now -= 1
        if again <= body.get("busy", 0):
            self.answer(429, {"error": {"message": "busy"}})
        else:
            self.answer(body.get("status", 200), {"echo": body, "url": self.path})

    def answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Length": str(len(data)),
            "X-Request-Id": "req_1",
            "Retry-After": "0.05",
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What a server at HERD_PORT was asked."""
    Api.asked, Api.now, Api.most = [], 0, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HERD_PORT", str(server.server_address[1]))
        monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
        yield Api.asked
        server.shutdown()


def line(id: str, url: str = "/v1/chat/completions", **body: Any) -> str:
    return json.dumps({"custom_id": id, "method": "POST", "url": url, "body": {"model": "cria", **body}})


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(text + "\n" for text in lines))
    return path


def answers(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert len({one["custom_id"] for one in lines}) == len(lines)
    assert all(one["id"].startswith("batch_req_") and one["error"] is None for one in lines)
    return {one["custom_id"]: one["response"] for one in lines}


def test_every_request_has_its_answer(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
    lines = [line(f"r{i}", urls[i % 4], n=i, slow=0.02) for i in range(40)]
    file, out = write(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    assert run(["batch", str(file), "--out", str(out), "--parallel", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "requests": 40, "failed": 0, "already_done": 0, "out": str(out),
    }  # fmt: skip
    found = answers(out)
    assert set(found) == {f"r{i}" for i in range(40)}
    for i in range(40):
        response = found[f"r{i}"]
        assert (response["status_code"], response["request_id"]) == (200, "req_1")
        assert response["body"]["url"] == urls[i % 4] and response["body"]["echo"]["n"] == i
    assert 1 < Api.most <= 5


def test_what_fails_is_written_and_what_is_busy_is_asked_again(asked: list[Any], tmp_path: Path) -> None:
    file = write(
        tmp_path / "in.jsonl", line("good", busy=3), line("bad", status=400), line("broken", status=500)
    )
    out = tmp_path / "out.jsonl"
    assert run(["batch", str(file), "--out", str(out)]) == 1
    assert {id: one["status_code"] for id, one in answers(out).items()} == {
        "good": 200,
        "bad": 400,
        "broken": 500,
    }
    asked.clear()
    assert run(["batch", str(file), "--out", str(out)]) == 1  # only what may go better is asked again
    assert [body["status"] for _, body in asked] == [500]
    assert len(answers(out)) == 3


def test_goes_on_where_it_was_killed(asked: list[Any], tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", *[line(f"r{i}", n=i) for i in range(10)])
    out = tmp_path / "out.jsonl"
    assert run(["batch", str(file), "--out", str(out)]) == 0
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:6]) + whole[6][:30])  # the seventh was being written
    asked.clear()
    assert run(["batch", str(file), "--out", str(out)]) == 0
    assert len(asked) == 4 and len(answers(out)) == 10
    asked.clear()
    assert run(["batch", str(file), "--out", str(out)]) == 0 and not asked


def test_failures_of_a_run_before_count(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "in.jsonl", line("good"), line("bad", status=400)), tmp_path / "out.jsonl"
    for done in (0, 2):
        assert run(["batch", str(file), "--out", str(out), "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert (said["failed"], said["already_done"]) == (1, done)


def test_answers_of_any_size_are_kept(asked: list[Any], tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", line("a"), line("b")), tmp_path / "out.jsonl"
    assert run(["batch", str(file), "--out", str(out)]) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    first["response"]["body"] = "x" * (9 << 20)
    out.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    asked.clear()
    assert run(["batch", str(file), "--out", str(out)]) == 0 and not asked


def test_half_a_surrogate_pair_stays_what_it_is(asked: list[Any], tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", line("\ud800", text="\udfff é")), tmp_path / "out.jsonl"
    assert run(["batch", str(file), "--out", str(out)]) == 0
    assert answers(out)["\ud800"]["body"]["echo"]["text"] == "\udfff é" and "é" in out.read_text()
    asked.clear()
    assert run(["batch", str(file), "--out", str(out)]) == 0 and not asked


def test_places_that_will_not_do(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "in.jsonl", line("a")), tmp_path / "out.jsonl"
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "out.jsonl.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        cases = [(file, out, "another batch is writing it"), (file, tmp_path / "no" / "out", "choose another --out"),
                 (file, tmp_path / "pipe", "not a file"), (tmp_path / "pipe", out, "cannot be read twice")]  # fmt: skip
        for source, target, reason in cases:
            assert run(["batch", str(source), "--out", str(target)]) == 1
            assert reason.replace("cannot be", "not a file that can be") in capsys.readouterr().err
    assert not asked and (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(asked: list[Any], tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", line("a")), tmp_path / "out.jsonl"
    (tmp_path / "link").symlink_to(out)
    for _ in range(2):
        assert run(["batch", str(file), "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and set(answers(out)) == {"a"}


def test_ctrl_c(asked: list[Any], tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", *[line(f"r{i}", n=i, slow=0.05 if i < 8 else 120) for i in range(16)])
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "herd", "batch", str(file), "--out", str(out), "--parallel", "4"]
    # A test run in the background hands on that Ctrl-C is ignored.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ, preexec_fn=heed)
    end = time.monotonic() + 60
    while len(asked) < 12 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # does not wait for what is slow
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert set(answers(out)) == {f"r{i}" for i in range(8)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"), ("[]", "not a JSON object"), ('"' + "[" * 10, "not JSON"), ("[" * 100_000, "not JSON"),
        (line("a"), "custom_id 'a' is that of line 1"), (line(""), "custom_id"), (line("b", "/v1/models"), "url must"),
        (line("b").replace("POST", "GET"), "method must"), (line("b", stream=True), "body.stream"),
        (line("b").replace('"body"', '"boy"'), "body is missing"), (line("b")[:-1] + ', "x": 1}', "unknown field 'x'"),
    ],
)  # fmt: skip
def test_lines_that_are_wrong_are_named_and_nothing_is_sent(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    file = write(tmp_path / "in.jsonl", line("a"), "", text)
    assert run(["batch", str(file), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "line 3: " in err and reason in err and "Traceback" not in err
    assert not asked and not (tmp_path / "out").exists()


def test_an_output_of_something_else_is_left_alone(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", line("a"))
    for text in ("my diary\n", '{"custom_id": "other", "response": {"status_code": 200}}\n'):
        out = tmp_path / "out"
        out.write_text(text)
        assert run(["batch", str(file), "--out", str(out)]) == 1
        assert out.read_text() == text and "choose another --out" in capsys.readouterr().err
        assert not asked and {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out"}


def test_a_server_that_goes_away(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying(Api):
        def do_POST(self) -> None:
            if len(self.asked) == 2:
                self.connection.close()
                self.close_connection = True
            else:
                super().do_POST()

    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HERD_PORT", str(server.server_address[1]))
            file, out = write(tmp_path / "in.jsonl", *[line(f"r{i}") for i in range(5)]), tmp_path / "out"
            assert run(["batch", str(file), "--out", str(out), "--parallel", "1"]) == 1
        server.shutdown()
    assert "2 of 5 are done" in capsys.readouterr().err and len(answers(out)) == 2


@pytest.mark.slow
def test_without_a_server_one_is_started_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    from herd.registry import Registry

    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HERD_PORT", "1")  # nobody is there
    Registry(tmp_path / "home").add(tiny, "tiny", kind="model")
    body = {"model": "tiny", "prompt": "the quick", "max_tokens": 3}
    file = write(
        tmp_path / "in",
        line("a", "/v1/completions", **body),
        line("b", "/v1/completions", model="nobody", prompt=""),
    )
    assert run(["batch", str(file), "--out", str(tmp_path / "out")]) == 1
    found = answers(tmp_path / "out")
    assert found["a"]["body"]["usage"]["completion_tokens"] <= 3 and found["a"]["request_id"].startswith(
        "req_"
    )
    assert (found["b"]["status_code"], found["b"]["body"]["error"]["code"]) == (404, "model_not_found")
    with (tmp_path / "home" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its server has ended


@pytest.mark.slow
def test_a_server_of_its_own_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    from herd.registry import Registry

    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HERD_PORT", "1")
    Registry(tmp_path / "home").add(tiny, "tiny", kind="model")
    body = {"model": "tiny", "prompt": "the quick", "max_tokens": 20}
    file, out = (
        write(tmp_path / "in", *[line(f"r{i}", "/v1/completions", **body) for i in range(3000)]),
        tmp_path / "out",
    )
    command = [sys.executable, "-m", "herd", "batch", str(file), "--out", str(out), "--parallel", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    with (tmp_path / "home" / "lock").open() as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
    assert 0 < len(out.read_bytes().splitlines()) < 3000
