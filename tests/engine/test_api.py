"""A model in this process, as `herd.load` gives it."""

import json
from pathlib import Path

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
