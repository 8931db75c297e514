"""What a check is, what it may find, and how all of them are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from herd.cli.probe.wire import Answer, Broken, NoAnswer, Streamed, Wire, quote

State = Literal["honoured", "ignored", "refused", "broken", "untested"]
Dialect = Literal["openai", "anthropic"]
T = TypeVar("T")
STORY = "Tell me a story about a dog and a cat."
GIVE_UP = 3  # checks in a row without any answer
ROUTE = "route"
# What a reply that is not of its dialect's form raises in a check.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Verdict:
    """`evidence` is one line."""

    state: State
    evidence: str


def honoured(evidence: str) -> Verdict:
    return Verdict("honoured", evidence)


def ignored(evidence: str) -> Verdict:
    return Verdict("ignored", evidence)


def broken(evidence: str) -> Verdict:
    return Verdict("broken", evidence)


def untested(evidence: str) -> Verdict:
    return Verdict("untested", evidence)


class Refused(Exception):
    """The server said clearly that it does not do this; the message holds its words."""


@dataclass(frozen=True)
class Check:
    """`tokens`: the most that it asks for, prompts and replies together, roughly counted."""

    group: str
    name: str
    tokens: int
    run: Callable[[Server], Verdict]

    @property
    def full_name(self) -> str:
        return f"{self.group}.{self.name}"


@dataclass(frozen=True)
class Group:
    """`route`: where a POST shows whether the server has the group at all."""

    name: str
    dialect: Dialect
    route: str | None
    checks: list[Check] = field(default_factory=list)

    def check(
        self, name: str, tokens: int
    ) -> Callable[[Callable[[Server], Verdict]], Callable[[Server], Verdict]]:
        """Adds a function to the group's checks."""

        def add(run: Callable[[Server], Verdict]) -> Callable[[Server], Verdict]:
            self.checks.append(Check(self.name, name, tokens, run))
            return run

        return add


@dataclass(frozen=True)
class Result:
    group: str
    name: str
    state: State
    evidence: str
    seconds: float


class Server:
    """The server as checks see it: requests with a model and a limit filled in, replies taken apart."""

    def __init__(
        self, wire: Wire, model: str, key: str | None, listing: Mapping[str, Any] | None = None
    ) -> None:
        self.wire, self.model, self.key = wire, model, key
        self.listing = listing or {}  # the model's entry in /v1/models
        self.limit = "max_tokens"  # as the server spells the limit of a chat's reply

    def headers(self, path: str, key: str | None = None) -> dict[str, str]:
        key = key or self.key
        if path.startswith("/v1/messages"):
            return {"anthropic-version": "2023-06-01", **({"x-api-key": key} if key else {})}
        return {"Authorization": f"Bearer {key}"} if key else {}

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        return self.wire.call(method, path, body, self.headers(path))

    def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a POST. Raises Refused or Broken."""
        return accepted(self.call("POST", path, {"model": self.model, **body}))

    def stream(self, path: str, body: Mapping[str, Any], **how: Any) -> Streamed:
        """Raises Refused or Broken, also for an answer that is no stream of events."""
        body = {"model": self.model, "stream": True, **body}
        streamed = self.wire.stream(path, body, self.headers(path), **how)
        if streamed.status != 200:
            accepted(Answer(streamed.status, streamed.headers, streamed.data))
        kind = streamed.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise Broken(f"{kind or 'no content type'} instead of a stream: {quote(streamed.data)}")
        return streamed

    def chat_body(self, said: str | list[dict[str, Any]], limit: int, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        return {"messages": messages, self.limit: limit, "temperature": 0, **fields}

    def chat(
        self, said: str | list[dict[str, Any]] = STORY, limit: int = 24, **fields: Any
    ) -> dict[str, Any]:
        """A chat completion, greedy unless `fields` says otherwise. Raises Refused or Broken."""
        reply = self.ask("/v1/chat/completions", self.chat_body(said, limit, **fields))
        if not at(reply, "choices", kind=list):
            raise Broken("choices is empty")
        return reply


def accepted(answer: Answer) -> dict[str, Any]:
    """The object of a 200. Raises Refused for a 4xx that says why in the dialect's form, else Broken."""
    if answer.status == 200:
        value = answer.json()
        if not isinstance(value, dict):
            raise Broken(f"200 with {quote(answer.data)}, which is no object")
        return value
    message, _ = error_of(answer)
    if answer.status >= 500 and answer.status != 501:
        raise Broken(f"{answer.status}: {quote(message)}")
    raise Refused(f"{answer.status}: {quote(message, 140)}")


def error_of(answer: Answer) -> tuple[str, str]:
    """The message and the field of an error body. Raises Broken if it is not the dialect's."""
    value = answer.json()
    error = value.get("error", value) if isinstance(value, dict) else None
    error = error if isinstance(error, dict) else {}
    message = error.get("message")
    if not isinstance(message, str) or not message:
        raise Broken(f"{answer.status} without an error message: {quote(answer.data)}")
    return message, str(error.get("param") or "")


def must_refuse(ask: Callable[[], object], *words: str, taken: str) -> Verdict:
    """A refusal whose message has one of `words`; `taken` says what it means that there is none."""
    try:
        ask()
    except Refused as error:
        if not any(word in str(error) for word in words):
            raise
        return honoured(str(error))
    return ignored(taken)


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


def text_of(reply: Mapping[str, Any], index: int = 0) -> str:
    return at(reply, "choices", index, "message", "content", kind=str)


def finish_of(reply: Mapping[str, Any]) -> str:
    return at(reply, "choices", 0, "finish_reason", kind=str)


def counted(reply: Mapping[str, Any], name: str = "prompt_tokens") -> int:
    return at(reply, "usage", name, kind=int)


def run(server: Server, groups: Sequence[Group], only: Callable[[Check], bool]) -> Iterator[Result]:
    """The results of the wanted checks, one by one. A server that no longer answers is left alone."""
    silent = 0
    for group in groups:
        wanted = [check for check in group.checks if only(check)]
        if not wanted:
            continue
        if group.route:
            wanted = [Check(group.name, ROUTE, 0, partial(_route, group=group)), *wanted]
        for check in wanted:
            if silent >= GIVE_UP:
                yield Result(group.name, "the rest", "untested", "the server no longer answers", 0)
                break
            began = time.monotonic()
            verdict, answered = judge(check, server)
            silent = 0 if answered else silent + 1
            if check.name != ROUTE or verdict.state != "honoured":
                seconds = time.monotonic() - began
                yield Result(check.group, check.name, verdict.state, verdict.evidence, seconds)
            if check.name == ROUTE and verdict.state == "refused":
                break


def judge(check: Check, server: Server) -> tuple[Verdict, bool]:
    """The verdict of one check, and whether the server answered at all."""
    try:
        return check.run(server), True
    except Refused as error:
        return Verdict("refused", str(error)), True
    except Broken as error:
        return Verdict("broken", str(error)), not isinstance(error, NoAnswer)
    except MALFORMED as error:
        evidence = f"not of the dialect's form: {type(error).__name__} {quote(error)}"
        return Verdict("broken", evidence), True


def _route(server: Server, group: Group) -> Verdict:
    """One refusal for the whole group if its route is not there."""
    answer = server.call("POST", str(group.route), {})
    if answer.status in (404, 405, 501):
        return Verdict("refused", f"{answer.status}: no {group.route}")
    return honoured(f"there is {group.route}")
