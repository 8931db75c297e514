"""Logs of others become generations: nothing is lost, nothing is there twice, and a bad line is named."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herd.errors import HerdError
from herd.gateway.imports import Report, entries, import_lines
from herd.gateway.prices import Prices
from herd.protocol import Request, Usage
from herd.store import Store

LOGS = Path(__file__).parent / "logs"


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store.open(database)
    yield store
    store.close()


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices.load()


def import_file(path: Path, source: Any, store: Store, **options: Any) -> Report:
    with path.open("rb") as file:
        return import_lines(entries(file), source, store, **options)


def rows(store: Store) -> dict[str, dict[str, Any]]:
    """By the other system's id."""
    found = store.generations(limit=10_000)
    for row in found:
        Request.from_json(row["request"])  # whatever is kept can be asked again
        assert row["use"] == ["evaluate"] and row["id"].startswith("import-")
    return {f"{r['labels']['import']['id']}#{len(r['id']) > 40}": r for r in found}


def said(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in row["request"]["messages"]]


def test_openai(store: Store, prices: Prices) -> None:
    report = import_file(LOGS / "openai.jsonl", "auto", store, prices=prices)
    assert (report.lines, report.kept, report.bad) == (8, 9, 0), report.problems
    found = rows(store)
    pair = found["chatcmpl-A1#False"]
    assert said(pair) == [("system", "Be brief."), ("user", "What is this? ")]
    (image,) = pair["request"]["messages"][1]["images"]
    assert (image["url"], image["at"], image["detail"]) == ("https://example.com/cat.png", 14, "low")
    assert (
        pair["request"]["sampling"]["temperature"] == 0.2 and pair["request"]["sampling"]["max_tokens"] == 50
    )
    assert set(pair["request"]["explicit"]) == {"temperature", "max_tokens"}
    assert pair["request"]["labels"] == {"user": "u-1"}
    assert pair["request"]["extra"] == {"prediction": {"type": "content", "content": "A"}}
    assert (pair["reply"], pair["finish"], pair["created"]) == ("A cat.", "stop", 1764000000)
    assert (pair["provider"], pair["target"]) == ("openai", "openai/gpt-4o-mini-2024-07-18")
    assert pair["tokens"] == {"prompt": 1000, "completion": 10, "cached": 400}
    assert pair["cost"] == prices.cost("openai", "gpt-4o-mini", Usage(1000, 10, 400), at=1764000000) > 0
    assert pair["latency"]["total"] == 812.5 and pair["conversation"] == "openai:s-1"
    batch = found["batch_req_1#False"]
    assert batch["calls"] == [{"id": "call_1", "name": "weather", "arguments": '{"town":"Lyon"}'}]
    assert batch["finish"] == "tool_calls" and batch["labels"]["custom_id"] == "row-7"
    failed = found["batch_req_2#False"]
    assert (failed["finish"], failed["error"], failed["reply"]) == ("error", "Invalid image.", "")
    one, two = found["chatcmpl-C1#False"], found["chatcmpl-C1#True"]
    assert (one["reply"], two["reply"], one["finish"], two["finish"]) == ("One", "Two", "stop", "length")
    assert one["cost"] is None and two["cost"] == 0 and two["id"] == f"{one['id']}-1"
    thought = found["resp_1#False"]
    assert (thought["reply"], thought["reasoning"], thought["finish"]) == ("Hi!", "A greeting.", "stop")
    assert thought["calls"] == [{"id": "c9", "name": "wave", "arguments": "{}"}]
    assert (
        said(thought) == [("system", "Be kind"), ("user", "Say hi")] and thought["request"]["effort"] == "low"
    )
    native = found["msg_1#False"]
    assert said(native) == [
        ("system", "Be brief."),
        ("user", "Weather?"),
        ("assistant", ""),
        ("tool", "sunny"),
        ("user", "Well?"),
    ]
    assert native["request"]["messages"][2]["reasoning"] == "I must look."
    assert native["tokens"] == {"prompt": 130, "completion": 4, "cached": 100}
    assert native["request"]["sampling"]["stop"] == ["END"] and native["provider"] == "anthropic"
    examples = [row for row in found.values() if row["target"] is None]
    chat = next(row for row in examples if row["request"]["kind"] == "chat" and "tools" in row["request"])
    assert chat["reply"] == "Sunny." and [role for role, _ in said(chat)] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert chat["request"]["tools"][0]["name"] == "weather" and chat["finish"] is None
    plain = next(row for row in examples if row["request"]["kind"] == "completion")
    assert (plain["request"]["prompt"], plain["reply"]) == ("Once upon", " a time")


def test_litellm(store: Store, prices: Prices) -> None:
    report = import_file(LOGS / "litellm.jsonl", "auto", store, prices=prices)
    assert (report.lines, report.kept, report.bad) == (4, 4, 0), report.problems
    found = rows(store)
    good = found["chatcmpl-L1#False"]
    assert (good["route"], good["target"], good["cost"]) == ("helper", "openai/gpt-4o-mini", 123_450_000)
    assert said(good) == [("user", "Hello")] and good["reply"] == "Hi there" and good["finish"] == "stop"
    assert good["tokens"] == {"prompt": 100, "completion": 10, "cached": 64}
    assert (good["latency"]["first_token"], good["latency"]["total"]) == (250, 1500)
    assert (
        good["labels"]["user"] == "u-9"
        and good["labels"]["tags"] == ["prod"]
        and good["labels"]["key"] == "shop"
    )
    assert good["conversation"] == "litellm:sess-1"
    failed = found["L2#False"]
    assert (failed["finish"], failed["error"], failed["cost"]) == ("error", "rate limited", 0)
    assert said(failed) == [("user", "Are you there?")] and failed["route"] == "anthropic/claude-haiku-4-5"
    assert failed["created"] == 1793527260 and failed["latency"] == {
        "queue": None,
        "first_token": None,
        "total": 2000,
    }
    payload = found["L3#False"]
    assert payload["target"] == "mistral/mistral-small-latest" and payload["cost"] == 15_000_000
    assert payload["request"]["sampling"]["max_tokens"] == 10 and payload["finish"] == "length"
    assert payload["labels"]["metadata"] == {"page": "home"} and payload["latency"]["total"] == 1000
    vector = found["L4#False"]
    assert (
        vector["request"]["kind"] == "embedding"
        and vector["tokens"]["prompt"] == 5
        and vector["cost"] == 20_000
    )


def test_langfuse(store: Store, prices: Prices) -> None:
    report = import_file(LOGS / "langfuse.jsonl", "auto", store, prices=prices)
    assert (report.lines, report.kept, report.bad) == (5, 3, 0), report.problems
    assert report.skipped == {"span": 1, "trace": 1}
    found = rows(store)
    good = found["o1#False"]
    assert said(good) == [("system", "Be kind."), ("user", "Hello")] and good["reply"] == "Hi!"
    assert good["tokens"] == {"prompt": 40, "completion": 7, "cached": 10} and good["cost"] == 300_000_000
    assert (good["latency"]["first_token"], good["latency"]["total"]) == (500, 2000)
    assert good["target"] == "openai/gpt-4o" and good["conversation"] == "langfuse:se1"
    assert (
        good["labels"]["prompt_version"] == 3
        and good["labels"]["tags"] == ["a", "b"]
        and good["labels"]["user"] == "u1"
    )
    failed = found["o3#False"]
    assert said(failed) == [("user", "Grüße")] and (failed["finish"], failed["error"]) == ("error", "timeout")
    assert (
        failed["target"] == "anthropic/claude-haiku-4-5"
        and failed["request"]["sampling"]["temperature"] == 0.1
    )
    inner = found["o4#False"]
    assert said(inner) == [("user", "plain question")] and inner["reply"] == "plain answer"
    assert (
        inner["conversation"] == "langfuse:se3"
        and inner["labels"]["user"] == "u3"
        and inner["cost"] == 10_000_000
    )


def test_again_adds_nothing_and_what_was_interrupted_goes_on(store: Store) -> None:
    lines = [
        line for name in ("openai", "litellm", "langfuse") for line in (LOGS / f"{name}.jsonl").open("rb")
    ]
    first = import_lines(lines[:9], "auto", store)
    second = import_lines(lines, "auto", store)
    third = import_lines(lines, "auto", store)
    assert first.kept + second.kept == 16 and second.known == first.kept
    assert (third.kept, third.known) == (0, 16)


def test_bad_lines_are_counted_and_named_and_the_others_kept(store: Store) -> None:
    good = (LOGS / "openai.jsonl").read_bytes().splitlines()[0]
    bad = {
        b"{": "not JSON", b"\xff\xfe{}": "not UTF-8", b"[1]": "not an object", b"{}": "neither a request",
        b'{"messages": [{"role": "user", "content": "x"}]}': "the assistant's",
        b'{"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}': "'wizard'",
        b'{"prompt": "a", "completion": "b", "id": NaN}': "NaN",
        b'{"prompt": "a", "completion": "\\ud800"}': "surrogates",
        b'{"request": {}, "response": {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e30}}}': "prompt_tokens",
        b'{"startTime": "yesterday", "call_type": "x", "model": "m"}': "yesterday",
        b'{"startTime": 1, "call_type": "x"}': "'model'",
        b'{"prompt": "a", "completion": "b", "cost": "free", "request": {}, "response": "x"}': "cost",
        b"[" * 100_000: "",
    }  # fmt: skip
    report = import_lines([*bad, b"", b"  ", good], "auto", store)
    assert (report.bad, report.kept, report.lines) == (len(bad), 1, len(bad) + 3), report.problems
    for (line, reason), (number, want) in zip(report.problems, enumerate(bad.values(), 1), strict=True):
        assert line == number and want in reason, (line, reason)
    assert json.loads(json.dumps(report.to_json()))["problems"][0]["line"] == 1


def test_a_format_can_be_asked_for(store: Store) -> None:
    with pytest.raises(HerdError, match="helicone"):
        import_lines([], "helicone", store)  # type: ignore[arg-type]
    report = import_lines((LOGS / "openai.jsonl").open(), "litellm", store)
    assert (report.bad, report.kept) == (8, 0)


def test_a_route_and_redaction_of_ones_own(store: Store) -> None:
    line = json.dumps({"prompt": "I am ann@example.com", "completion": "Hello ann@example.com"})
    import_lines([line], "auto", store, route="shop", redact=["email"])
    (row,) = store.generations(route="shop")
    assert row["request"]["route"] == "shop"
    assert (row["request"]["prompt"], row["reply"]) == ("I am [email]", "Hello [email]")


@pytest.mark.parametrize("form", ["array", "pretty array", "pretty objects", "gzip", "one line"])
def test_files_come_in_several_forms(store: Store, tmp_path: Path, form: str) -> None:
    records = [json.loads(line) for line in (LOGS / "langfuse.jsonl").open()]
    whole = {
        "array": json.dumps(records, ensure_ascii=False),
        "pretty array": json.dumps(records, indent=2),
        "pretty objects": "\n".join(json.dumps(r, indent=1) for r in records),
        "gzip": "\n".join(json.dumps(r) for r in records),
        "one line": "".join(json.dumps([r])[1:-1] + "\n" for r in records).rstrip(),
    }[form].encode()
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(whole) if form == "gzip" else whole)
    assert import_file(path, "auto", store).kept == 3


def test_what_is_cut_off_is_said(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = json.dumps([json.loads(line) for line in (LOGS / "langfuse.jsonl").open()]).encode()
    path.write_bytes(whole[:-30])
    report = import_file(path, "auto", store)
    assert (report.kept, report.bad) == (3, 1)
    path.write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(EOFError):
        import_file(path, "auto", store)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "messages", "request", "response", "choices", "message", "type", "text", "usage",
                         "input", "output", "observations", "id", "startTime", "call_type", "model", "metadata", "tool_calls",
                         "function", "name", "arguments", "prompt", "completion", "error", "body", "route", "reply", "created",
                         "session_id", "traceId"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(["messages", "request", "response", "type", "input", "output", "observations",
                                                 "startTime", "call_type", "model", "traceId", "choices", "prompt", "route"]),
                                JSON | st.sampled_from(["GENERATION", "assistant"])), max_size=4))  # fmt: skip
def test_any_json_is_kept_or_named(store: Store, items: list[Any]) -> None:
    report = import_lines(items, "auto", store)
    assert report.lines == len(items)
    assert report.kept + report.known + report.bad + sum(report.skipped.values()) >= len(items) - sum(
        1 for item in items if isinstance(item, dict) and item.get("observations") == []
    )


@pytest.mark.slow
def test_memory_stays_what_it_is(store: Store) -> None:
    line = json.dumps({"prompt": "x" * 2000, "completion": "y" * 2000})

    def lines(count: int, mark: str) -> Iterator[str]:
        return (line.replace("x", f"{mark}{n}", 1) for n in range(count))

    def peak(count: int, mark: str) -> int:
        tracemalloc.start()
        report = import_lines(lines(count, mark), "auto", store)
        assert report.kept == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(300, "a")
    assert peak(3000, "b") < 1.5 * peak(600, "c")


def test_a_line_without_end_is_not_read_whole() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if self.given > 200 * 2**20:
                return 0
            buffer[:] = b"x" * len(buffer)
            self.given += len(buffer)
            return len(buffer)

    assert [len(line) for line in entries(io.BufferedReader(Endless()))] == [64 * 2**20]
