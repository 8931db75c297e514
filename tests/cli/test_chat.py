"""The terminal conversation, against scripted replies."""

from collections.abc import Iterator

import pytest

from herd.cli.chat import Message, talk
from herd.errors import HerdError


class Model:
    """Remembers what it was sent; says what it is told to."""

    def __init__(self, *script: list[object]) -> None:
        self.script = list(script)
        self.seen: list[list[Message]] = []

    def __call__(self, messages: list[Message]) -> Iterator[str]:
        self.seen.append(messages)
        for part in self.script.pop(0):
            if isinstance(part, BaseException):
                raise part
            yield str(part)


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    pending = list(lines)

    def read(_: str = "") -> str:
        if not pending:
            raise EOFError
        return pending.pop(0)

    monkeypatch.setattr("builtins.input", read)


def test_history_grows_and_the_system_prompt_leads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(["Hel", "lo"], ["Fine"], ["New"])
    type_lines(monkeypatch, "Hi", "/system Be kind", "How are you?", "", "/new", "Who?", "/quit", "unread")
    talk(model, None, person=False)
    assert model.seen == [
        [{"role": "user", "content": "Hi"}],
        [
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "How are you?"},
        ],
        [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Who?"}],
    ]
    assert capsys.readouterr().out == "Hello\nFine\nNew\n"


def test_ctrl_c_stops_the_reply_and_keeps_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(["Once", KeyboardInterrupt()], ["The end"])
    type_lines(monkeypatch, "A story", "Go on")
    talk(model, None, person=False)
    assert model.seen[1][1] == {"role": "assistant", "content": "Once"}
    assert capsys.readouterr().out == "Once … stopped\nThe end\n"


def test_a_failed_reply_is_said_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [HerdError("the queue is full; try again")], ["Yes"]
    model = Model(*script)
    type_lines(monkeypatch, "One", "Two")
    talk(model, None, person=True)
    assert model.seen[1] == [{"role": "user", "content": "Two"}]
    assert capsys.readouterr().err.endswith("the queue is full; try again\n")
    type_lines(monkeypatch, "One", "Two")
    with pytest.raises(HerdError, match="full"):  # nobody is there to try again
        talk(Model(*script), None, person=False)


def test_unknown_slash_command_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()
    type_lines(monkeypatch, "/sytem x")
    talk(model, None, person=False)
    assert not model.seen and "/system" in capsys.readouterr().err
