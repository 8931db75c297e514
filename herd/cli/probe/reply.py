"""The APIs that are probed: how a request is put in each, and where its reply has what all of them have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from herd.cli.probe.finding import Broken, quote

T = TypeVar("T")


def at(value: Any, *path: str | int, kind: type[T] = object) -> T:  # type: ignore[assignment]
    """What lies at a path of names and positions. Raises Broken if it is not there, or of another type."""
    where = ""
    for step in path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else step
        try:
            value = value[step]
        except (LookupError, TypeError):
            raise Broken(f"{where} is missing") from None
    if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
        raise Broken(f"{where} is {quote(repr(value), 40)}, not of type {kind.__name__}")
    return value


class Call(NamedTuple):
    """A tool's call; `arguments` are JSON, no `id`: it is not of the API's form."""

    id: str
    name: str
    arguments: str


def function_call(call: Any) -> Call:
    """A call as chat completions write it."""
    id = at(call, "id", kind=str) if call.get("type") == "function" else ""
    return Call(id, *(at(call, "function", name, kind=str) for name in ("name", "arguments")))


class Reply:
    """The class is an API, an object a reply of it. What a reply has not got raises Broken when it is asked for.

    What is said here is as in chat completions.
    """

    path: ClassVar[str]
    said: ClassVar[str]  # the field of the prompt
    limit: ClassVar[str]  # the field of the most tokens
    always: ClassVar[Mapping[str, Any]] = {"temperature": 0}
    kind: ClassVar[tuple[str, str]]  # a field, and what it must hold
    text_at: ClassVar[tuple[str | int, ...]] = ("choices", 0, "message", "content")
    finish_at: ClassVar[tuple[str | int, ...]] = ("choices", 0, "finish_reason")
    counts: ClassVar[tuple[str, str]] = ("prompt_tokens", "completion_tokens")
    why: ClassVar[str] = "finish_reason"
    cut: ClassVar[str] = "length"  # what `finish` is if the limit ended it,
    calling: ClassVar[str] = "tool_calls"  # and if calls did

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __str__(self) -> str:
        return f"{quote(self.text, 50)!r}, {self.finish}"

    def at(self, *path: str | int, kind: type[T] = object) -> T:  # type: ignore[assignment]
        return at(self.data, *path, kind=kind)

    def must_be_of_its_kind(self) -> None:
        name, wanted = self.kind
        Broken.when((found := self.at(name, kind=str)) != wanted, f"{name} is {quote(found)}, not {wanted}")

    @property
    def text(self) -> str:
        return self.at(*self.text_at, kind=str)

    @property
    def finish(self) -> str:
        return self.at(*self.finish_at, kind=str)

    @property
    def read(self) -> int:
        """The prompt's tokens."""
        return self.at("usage", self.counts[0], kind=int)

    @property
    def written(self) -> int:
        return self.at("usage", self.counts[1], kind=int)

    @property
    def calls(self) -> list[Call]:
        found = self.at("choices", 0, "message", kind=dict).get("tool_calls")
        return [function_call(call) for call in found or []]


class Chat(Reply):
    path, said, limit = "/v1/chat/completions", "messages", "max_tokens"
    kind = ("object", "chat.completion")

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        Broken.when(not self.at("choices", kind=list), "choices is empty")


class Completion(Reply):
    path, said, limit = "/v1/completions", "prompt", "max_tokens"
    kind, text_at = ("object", "text_completion"), ("choices", 0, "text")


class Response(Reply):
    path, said, limit = "/v1/responses", "input", "max_output_tokens"
    always = {"temperature": 0, "store": False}
    kind, finish_at = ("object", "response"), ("status",)
    counts = ("input_tokens", "output_tokens")
    why, cut, calling = "the status", "incomplete", "completed"

    @property
    def text(self) -> str:
        parts = (at(item, "content", kind=list) for item in self._items("message"))
        return "".join(
            at(part, "text", kind=str) for each in parts for part in each if part.get("type") == "output_text"
        )

    @property
    def calls(self) -> list[Call]:
        names = ("call_id", "name", "arguments")
        return [Call(*(at(i, name, kind=str) for name in names)) for i in self._items("function_call")]

    def _items(self, kind: str) -> list[Any]:
        return [item for item in self.at("output", kind=list) if item.get("type") == kind]


class Message(Reply):
    path, said, limit = "/v1/messages", "messages", "max_tokens"
    always = {}
    kind, finish_at = ("type", "message"), ("stop_reason",)
    counts = ("input_tokens", "output_tokens")
    why, cut, calling = "stop_reason", "max_tokens", "tool_use"

    @property
    def text(self) -> str:
        return "".join(at(block, "text", kind=str) for block in self._blocks("text"))

    @property
    def read(self) -> int:
        """The prompt's tokens: those of a cache are counted apart."""
        usage = self.at("usage", kind=dict)
        cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
        return super().read + int(cached)

    @property
    def calls(self) -> list[Call]:
        return [
            Call(at(use, "id", kind=str), at(use, "name", kind=str), json.dumps(at(use, "input", kind=dict)))
            for use in self._blocks("tool_use")
        ]

    def _blocks(self, kind: str) -> list[Any]:
        return [block for block in self.at("content", kind=list) if block.get("type") == kind]
