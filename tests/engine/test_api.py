"""A model in this process, as `herd.load` gives it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import herd
from herd.engine.api import Model
from herd.engine.loading import open_engine
from herd.errors import HerdError


@pytest.fixture(scope="module")
def tiny(model_dir: Path) -> Model:
    return Model(open_engine(model_dir), "Be kind.", {"temperature": 0.0, "max_tokens": 10})


def test_streams_say_what_calls_return(tiny: Model) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = tiny.chat(messages)
    assert whole and whole == tiny.chat("hello") == "".join(tiny.chat(messages, stream=True))
    assert tiny.generate("The little") == "".join(tiny.generate("The little", stream=True))


def test_streams_may_be_read_in_turns_and_left(tiny: Model) -> None:
    one, two = tiny.generate("The little", stream=True), tiny.generate("She saw", stream=True)
    first = [next(one), next(two)]
    left = tiny.generate("a tree", stream=True)
    next(left)
    left.close()
    assert first[0] + "".join(one) == tiny.generate("The little")
    assert first[1] + "".join(two) == tiny.generate("She saw")
    assert tiny.engine.idle or not tiny.engine.running


def test_the_targets_defaults_hold_until_something_else_is_said(tiny: Model) -> None:
    with_system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    assert tiny.chat("hello") == tiny.chat(with_system)
    assert len(tiny.chat("hello", max_tokens=2)) < len(tiny.chat("hello"))
    assert tiny.generate("The", temperature=1.5, seed=1) == tiny.generate("The", temperature=1.5, seed=1)
    word = tiny.generate("The little")[2:5]
    assert word not in tiny.generate("The little", stop=word)


def test_a_schema_binds_the_reply(tiny: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    assert json.loads(tiny.chat("hello", schema=schema, max_tokens=60))["n"] in (1, 2)
    with pytest.raises(HerdError, match="type"):
        tiny.chat("hello", schema={"type": "nonsense"})


PET = {
    "type": "function",
    "function": {
        "name": "pet",
        "parameters": {
            "type": "object",
            "properties": {"kind": {"enum": ["cat", "dog"]}},
            "required": ["kind"],
        },
    },
}


def test_tools_are_called_and_answered(tiny: Model) -> None:
    asked: dict[str, Any] = {"tools": [PET], "tool_choice": "required", "parallel_tool_calls": False}
    reply = tiny.chat("hello", **asked, max_tokens=200)
    (call,) = reply.tool_calls
    assert reply == "" and call.name == "pet" and json.loads(call.arguments)["kind"] in ("cat", "dog")
    function = {"name": call.name, "arguments": call.arguments}
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "content": "its name is Fluff"},
    ]
    assert tiny.chat(history, tools=[PET], tool_choice="none").tool_calls == ()
    stream = tiny.chat("hello", stream=True, **asked, max_tokens=200)
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert [c.arguments for c in end.value.value] == [call.arguments]


def test_a_format_binds_the_reply(tiny: Model) -> None:
    assert re.fullmatch("[ab]{3}", tiny.chat("hello", structured_outputs={"regex": "[ab]{3}"}))
    lark = {"grammar": 'start: ("x" | "y") "."'}
    assert tiny.chat("hello", structured_outputs=lark) in ("x.", "y.")
    wanted = {"name": "one", "schema": {"enum": [1, 2]}}
    form = {"type": "json_schema", "json_schema": wanted}
    assert json.loads(tiny.chat("hello", response_format=form)) in (1, 2)
    for wrong, told in (
        ({"tools": [{}]}, r"tools\[0\]"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"tool_choise": "none"}, "did you mean tool_choice"),
        ({"structured_outputs": {"regex": "a\\b"}}, "lookarounds"),
    ):
        with pytest.raises(HerdError, match=told):
            tiny.chat("hello", **wrong)


def test_mistakes_are_one_line(tiny: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(HerdError, match="did you mean temperature"):
        tiny.generate("The", temprature=1)
    with pytest.raises(HerdError, match="seed|sampling"):
        tiny.generate("The", seed="x")
    with pytest.raises(HerdError, match="role"):
        tiny.chat([{"text": "hello"}])
    with pytest.raises(HerdError, match="context"):
        tiny.generate(" " * 1_000_000)
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    with pytest.raises(HerdError) as error:
        herd.load("no-such-model")
    assert error.value.status == 404
