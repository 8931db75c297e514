"""`herd probe` against a server that does right, and against one server a fault: it says what is wrong, and never hangs."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.cli.probe import GROUPS, load, probe
from herd.cli.probe.check import Check, Result, Server, judge, run
from herd.cli.probe.finding import Broken, quote
from herd.cli.probe.schema import EASY, HARD, NESTED, violation
from herd.cli.probe.wire import Answer, Wire
from herd.errors import HerdError

from .probe_server import Handler, Script

CHECKS = {check.full_name: check for group in GROUPS for check in group.checks}
Start = Callable[..., tuple[str, Script]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with these faults; its address and its script."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread, Script]] = []

    def begin(*faults: str, key: str | None = None) -> tuple[str, Script]:
        script = Script(set(faults), key)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"script": script}))
        server.daemon_threads = True
        server.block_on_close = False
        server.handle_error = lambda *_: script.wrong.append(repr(sys.exception()))  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread, script))
        return f"http://127.0.0.1:{server.server_address[1]}", script

    yield begin
    for server, thread, script in running:
        script.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str, check: str, *, key: str | None = None, timeout: float = 60, **listing: object) -> Result:
    server = Server(Wire(url, {}, timeout), "forty-words", key, listing)
    (result,) = [
        r for r in run(server, GROUPS, lambda c: c.full_name == check) if f"{r.group}.{r.name}" == check
    ]
    assert "\n" not in result.evidence and result.evidence.isprintable()
    return result


# What a right server gives where it is not "honoured".
RIGHT = {
    "errors.unknown field": "refused",
    "messages.unknown field": "refused",
    "format.impossible schema": "refused",
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_right_server(check: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE", 60.0)
    url, script = start("slow" if check.startswith("load.client") else "", key="right")
    began = time.monotonic()
    result = ask(url, check, key="right", timeout=60, max_model_len=2000)
    assert result.state == RIGHT.get(check, "honoured"), (result.evidence, script.wrong)
    assert script.asked <= CHECKS[check].tokens, "it asks for more than it says"
    assert time.monotonic() - began < 30


# A fault, and what the probe must say of each check that it concerns.
FAULTS: dict[str, dict[str, str]] = {
    "no models": {"models.list": "broken"},
    "another model": {"models.one": "broken"},
    "any model": {"models.unknown": "ignored", "errors.unknown model": "ignored", "messages.errors": "ignored"},
    "wrong object": {
        "chat.reply": "broken", "completions.reply": "broken", "responses.reply": "broken", "messages.reply": "broken",
    },
    "no system": {"chat.system prompt": "ignored", "messages.system": "ignored"},
    "last turn only": {"chat.multi-turn": "ignored", "messages.multi-turn": "ignored"},
    "no parts": {"chat.text parts": "ignored"},
    "long": {
        "chat.max tokens": "ignored", "completions.reply": "ignored", "responses.limit": "ignored",
        "messages.max_tokens": "ignored",
    },
    "cut is called stop": {
        "chat.max tokens": "broken", "format.cut is not whole": "broken", "responses.limit": "broken",
        "messages.max_tokens": "broken",
    },
    "random": {"chat.temperature 0": "ignored", "chat.temperature, seed": "ignored", "chat.top_p": "ignored"},
    "always greedy": {"chat.temperature, seed": "ignored"},
    "no top_p": {"chat.top_p": "ignored"},
    "no stop": {"chat.stop": "ignored", "stream.stop": "ignored", "completions.stop": "ignored"},
    "refuses top_k": {"messages.stop_sequences": "untested", "messages.streamed text": "untested"},
    "no stop_sequences": {"messages.stop_sequences": "ignored"},
    "another stop": {"messages.stop_sequences": "broken"},
    "shows a part of stop": {"chat.stop": "broken", "stream.stop": "broken", "messages.stop_sequences": "broken"},
    "loses text before stop": {"chat.stop": "broken"},
    "no n": {"chat.n": "ignored", "completions.n": "ignored"},
    "wrong index": {"chat.n": "broken"},
    "no logprobs": {"chat.logprobs": "ignored", "completions.logprobs": "ignored"},
    "sums over 1": {"chat.logprobs": "broken", "completions.logprobs": "broken"},
    "other tokens": {"chat.logprobs": "broken"},
    "no logit_bias": {"chat.logit_bias": "ignored"},
    "no frequency_penalty": {"chat.frequency_penalty": "ignored"},
    "no presence_penalty": {"chat.presence_penalty": "ignored"},
    "refuses presence_penalty": {"chat.presence_penalty": "refused"},
    "loses unicode": {"chat.unicode": "broken"},
    "usage is invented": {"chat.usage": "broken"},
    "usage does not add up": {"chat.usage": "broken", "responses.reply": "broken"},
    "no role": {"stream.form": "broken"},
    "finishes twice": {"stream.form": "broken"},
    "no DONE": {"stream.form": "broken"},
    "error in stream": {"stream.form": "broken"},
    "no stream": {"stream.form": "broken", "responses.stream": "broken", "messages.stream": "broken"},
    "stream is no stream": {"stream.form": "broken"},
    "all at once": {"stream.bit by bit": "ignored"},
    "loses a token": {"stream.same text": "broken", "completions.stream": "broken", "messages.streamed text": "broken"},
    "no stream_options": {"stream.usage": "ignored"},
    "another usage in streams": {"stream.usage": "broken"},
    "any type": {"stream.errors": "ignored", "errors.wrong types": "ignored", "responses.wrong type": "ignored"},
    "any value": {"errors.out of range": "ignored"},
    "no schema": {
        "format.json_object": "ignored", "format.json_schema": "ignored", "format.json_schema, hard": "ignored",
        "format.json_schema, nested": "ignored", "responses.json_schema": "ignored",
    },
    "wrong schema": {
        "format.json_schema": "ignored", "format.json_schema, hard": "ignored", "format.json_schema, nested": "ignored",
        "responses.json_schema": "ignored",
    },
    "unfinished JSON": {"format.json_object": "ignored", "format.json_schema": "ignored"},
    "any schema": {"format.impossible schema": "ignored"},
    "calls on none": {"tools.none": "ignored", "messages.tools: none": "ignored"},
    "never calls": {
        "tools.required": "ignored", "tools.named": "ignored", "tools.streamed": "ignored", "responses.tool": "ignored",
        "messages.tools: any": "ignored",
    },
    "another tool": {"tools.named": "ignored", "messages.tools: named": "ignored"},
    "any tool": {"tools.unknown name": "ignored"},
    "always two": {"tools.one at a time": "ignored"},
    "wrong arguments": {"tools.required": "broken", "responses.tool": "broken", "messages.tools: any": "broken"},
    "cut calls": {"tools.required": "broken", "tools.streamed": "broken", "responses.tool": "broken"},
    "loses a half call": {"tools.streamed": "broken", "messages.tools: streamed": "broken"},
    "invents tools": {"tools.required": "broken", "messages.tools: any": "broken"},
    "calls are called stop": {"tools.required": "broken", "messages.tools: any": "broken"},
    "no results": {"tools.results": "ignored", "messages.tools: results": "ignored"},
    "any key": {"errors.wrong key": "ignored"},
    "unknown fields": {"errors.unknown field": "ignored", "messages.unknown field": "ignored"},
    "nameless errors": {"errors.wrong types": "refused", "errors.out of range": "refused", "responses.wrong type": "refused"},
    "errors are 500": {
        "errors.wrong types": "broken", "errors.unknown model": "broken", "errors.broken JSON": "broken",
        "errors.wrong key": "broken", "messages.errors": "broken", "responses.wrong type": "broken",
    },
    "errors without a body": {"errors.wrong types": "broken", "errors.unknown model": "broken"},
    "any JSON": {"errors.broken JSON": "ignored"},
    "truncates": {"errors.over-long prompt": "ignored"},
    "no counts": {"errors.over-long prompt": "refused"},
    "depends on load": {"load.same answer under load": "ignored"},
    "never frees": {"load.client leaves a stream": "ignored", "load.client leaves": "ignored"},
    "no metrics": {"load.client leaves a stream": "untested", "load.client leaves": "untested"},
    "no echo": {"completions.echo": "ignored"},
    "mangles echo": {"completions.echo": "broken"},
    "tokens as text": {"completions.tokens as a prompt": "broken"},
    "not normal": {"embeddings.vector": "ignored"},
    "depends on place": {"embeddings.batch": "broken"},
    "no encoding_format": {"embeddings.base64": "ignored"},
    "big end first": {"embeddings.base64": "broken"},
    "no dimensions": {"embeddings.dimensions": "ignored"},
    "no instructions": {"responses.instructions": "ignored"},
    "no delete": {"responses.stored": "ignored"},
    "stores all": {"responses.not stored": "ignored"},
    "no store": {"responses.not stored": "ignored"},
    "no previous_response_id": {
        "responses.previous_response_id": "ignored", "responses.unknown previous_response_id": "ignored",
    },
    "out of order": {"responses.stream": "broken"},
    "stream breaks off": {"responses.stream": "broken"},
    "numbers stand still": {"responses.stream": "broken"},
    "wrong event names": {"responses.stream": "broken", "messages.stream": "broken"},
    "no cancel": {"responses.cancel": "ignored"},
    "no limit needed": {"messages.max_tokens is required": "ignored"},
    "counts wrong": {"messages.count_tokens": "broken"},
    "block stays open": {"messages.stream": "broken"},
    "calls on auto, wrong arguments": {"tools.auto": "broken", "messages.tools: auto": "broken"},
}  # fmt: skip


def test_every_check_has_a_server_that_fails_it() -> None:
    told = {check for checks in FAULTS.values() for check in checks}
    assert told == set(CHECKS)


@pytest.mark.parametrize(("fault", "check"), [(f, check) for f, checks in FAULTS.items() for check in checks])
def test_a_fault_is_told(fault: str, check: str, start: Start) -> None:
    faults = fault.split(", ") + ["slow"] * check.startswith("load.client")
    url, script = start(*faults, key="right")
    result = ask(url, check, key="right")
    assert result.state == FAULTS[fault][check], result.evidence
    assert not script.wrong


# Faults of the whole server, and words that the evidence must have.
HOSTILE = {
    "hang": "within 0.5 s", "drip": "within 0.5 s", "drip body": "within 0.5 s", "drop": "dropped", "garbage": "broke", "huge": "over 16 MiB",
    "redirect": "redirect", "html": "not JSON", "500": "out of memory", "nameless 500": "not JSON", "list": "no object",
    "deep": "not JSON", "odd": "", "endless stream": "",
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_server_is_broken_and_nothing_else(fault: str, start: Start) -> None:
    """Every check ends soon with a verdict that blames the server."""
    url, _ = start(fault)
    server = Server(Wire(url, {}, 0.5 if "0.5" in HOSTILE[fault] else 60), "forty-words", None)
    evidence = []
    alone = ("hang", "drip", "drip body", "huge", "endless stream")
    some = [check for check in CHECKS.values() if fault not in alone]
    for check in some or [CHECKS[f"{g.name}.{g.checks[0].name}"] for g in GROUPS]:
        began = time.monotonic()
        verdict, _ = judge(check, server)
        assert time.monotonic() - began < 15, check.full_name
        assert verdict.state in ("broken", "ignored", "untested"), (check.full_name, verdict)
        assert verdict.evidence.isprintable()
        evidence += [verdict.evidence] * (verdict.state == "broken")
    assert evidence and any(HOSTILE[fault] in line for line in evidence), evidence


def test_a_server_that_hangs_is_left_alone(start: Start) -> None:
    url, _ = start("hang")
    server = Server(Wire(url, {}, 0.2), "forty-words", None)
    began = time.monotonic()
    results = list(run(server, GROUPS, lambda check: True))
    assert time.monotonic() - began < 15
    assert [r.state for r in results[:3]] == ["broken"] * 3
    assert {r.state for r in results[3:]} == {"untested"}


def test_a_missing_route_is_one_refusal(start: Start) -> None:
    url, _ = start("no /v1/messages")
    server = Server(Wire(url, {}, 60), "forty-words", None)
    results = list(run(server, GROUPS, lambda check: check.group == "messages"))
    assert [(r.name, r.state) for r in results] == [("route", "refused")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "delta",
                    "usage",
                    "logprobs",
                    "text",
                    "data",
                    "id",
                    "output",
                    "error",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES)
def test_no_reply_crashes_a_check(value: object) -> None:
    """Whatever JSON comes back from whatever route."""

    class Echo(Wire):
        def call(self, *_: object, **__: object) -> object:  # type: ignore[override]
            return Answer(200, {}, json.dumps(value).encode())

        def stream(self, *_: object, **__: object) -> object:  # type: ignore[override]
            events = [("", json.dumps(value)), ("", "[DONE]")]
            return Answer(200, {"content-type": "text/event-stream"}, b"", events)

    server = Server(Echo("http://127.0.0.1:1", {}, 1), "m", None)
    for check in CHECKS.values():
        if check.group != "load":
            verdict, _ = judge(check, server)
            assert verdict.evidence.isprintable()


def test_the_command(start: Start) -> None:
    url, _ = start()
    done = CliRunner().invoke(
        probe, [f"{url}/v1/", "--only", "models,chat.n", "--json"], standalone_mode=False
    )
    told = json.loads(done.stdout)
    assert done.return_value == 0
    assert told["model"] == "forty-words" and told["totals"]["honoured"] == 4
    assert [r["name"] for r in told["results"]] == ["list", "one", "unknown", "n"]
    assert "at most about 180 tokens" in done.stderr


def test_exit_status(start: Start) -> None:
    url, _ = start("no n", "no role")

    def status(*args: str) -> int:
        return CliRunner().invoke(probe, [url, *args], standalone_mode=False).return_value  # type: ignore[no-any-return]

    assert status("--only", "chat.n") == 0
    assert status("--only", "chat.n", "--strict") == 1
    assert status("--only", "stream.form") == 1


def test_mistakes_are_said(start: Start) -> None:
    url, _ = start("no models")
    for args, words in (
        ([url], "--model"),
        (["ftp://x"], "not an address"),
        (["http://127.0.0.1:1", "--model", "m"], "no server"),
        ([url, "--only", "chta"], "'chat'"),
    ):
        done = CliRunner().invoke(probe, args, standalone_mode=False)
        assert isinstance(done.exception, HerdError) and words in str(done.exception), done.exception


def test_a_key_goes_nowhere_else(start: Start) -> None:
    """A redirect is not followed, and what a server sends cannot move the cursor."""
    url, _ = start("redirect")
    with pytest.raises(Broken, match="redirect") as raised:
        Wire(url, {"Authorization": "Bearer secret"}, 60).call("GET", "/v1/models/x")
    assert str(raised.value).isprintable()
    assert quote("\x1b[2Jred\n\x07 " + "x" * 200).isprintable() and len(quote("x" * 200)) == 101


def test_schemas() -> None:
    right = {"kind": "żółw 🐢", "sizes": [10, 11, 12], "either": None, "code": "AB-123"}
    assert violation(right, HARD) is None
    wrong = (
        {"kind": "x"},
        {"sizes": [10, 11]},
        {"sizes": [10, 11, 13]},
        {"either": {}},
        {"code": "AB-12"},
        {"more": 1},
    )
    for change in wrong:
        assert violation(right | change, HARD), change
    assert violation({"name": "Ann"}, EASY) == "age is missing"
    assert violation({"name": "Ann", "age": True}, EASY)
    leaf = {"leaf": True}
    assert violation({"tree": {**leaf, "children": [leaf]}}, NESTED) is None
    assert violation({"tree": {**leaf, "children": [leaf] * 3}}, NESTED)


def test_the_checks_have_names_of_their_own() -> None:
    assert len(CHECKS) == sum(len(group.checks) for group in GROUPS)
    assert all(isinstance(check, Check) and check.tokens >= 0 for check in CHECKS.values())
