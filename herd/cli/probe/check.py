"""What a check is, and how all of them are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from herd.cli.probe.finding import Broken, Finding, Ignored, NoAnswer, Refused, State, quote
from herd.cli.probe.reply import Chat, Message, Reply
from herd.cli.probe.wire import Answer, Wire

STORY = "Tell me a story about a dog and a cat."
GIVE_UP = 3  # checks in a row without any answer
ROUTE = "route"
# What a reply that is not of its dialect's form raises in a check.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
R = TypeVar("R", bound=Reply)


class Server:
    """The server as checks see it: requests with a model and a limit filled in."""

    def __init__(
        self, wire: Wire, model: str, key: str | None, listing: Mapping[str, Any] | None = None
    ) -> None:
        self.wire, self.model, self.key = wire, model, key
        self.listing = listing or {}  # the model's entry in /v1/models
        self.limits: dict[type[Reply], str] = {}  # where the server spells the limit otherwise

    def headers(self, path: str, key: str | None = None) -> dict[str, str]:
        key = key or self.key
        if path.startswith(Message.path):
            return {"anthropic-version": "2023-06-01", **({"x-api-key": key} if key else {})}
        return {"Authorization": f"Bearer {key}"} if key else {}

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
        return self.wire.call(method, path, body, self.headers(path, key))

    def body(self, api: type[Reply], said: Any = STORY, limit: int = 24, **fields: Any) -> dict[str, Any]:
        """A request, greedy where the API has a temperature, unless `fields` say otherwise."""
        if api.said == "messages" and isinstance(said, str):
            said = [{"role": "user", "content": said}]
        limits = {self.limits.get(api, api.limit): limit}
        return {"model": self.model, api.said: said, **limits, **api.always, **fields}

    def post(self, api: type[Reply], said: Any = STORY, limit: int = 24, **fields: Any) -> Answer:
        return self.call("POST", api.path, self.body(api, said, limit, **fields))

    def ask(self, api: type[R], said: Any = STORY, limit: int = 24, **fields: Any) -> R:
        """Raises Refused or Broken."""
        return api(accepted(self.post(api, said, limit, **fields)))

    def chat(self, said: Any = STORY, limit: int = 24, **fields: Any) -> Chat:
        return self.ask(Chat, said, limit, **fields)

    def stream(
        self, api: type[Reply], said: Any = STORY, limit: int = 24, *, leave: Any = None, **fields: Any
    ) -> Answer:
        """`leave`: how the caller leaves. Raises Refused or Broken, also for an answer that is no stream."""
        body = self.body(api, said, limit, stream=True, **fields)
        answer = self.wire.stream(api.path, body, self.headers(api.path), **(leave or {}))
        if answer.status != 200:
            accepted(answer)
        kind = answer.headers.get("content-type", "") or "no content type"
        Broken.when(not answer.streams, f"{kind} instead of a stream: {quote(answer.data)}")
        return answer


Run = Callable[[Server], str]


@dataclass(frozen=True)
class Check:
    """`run` returns the evidence that what is checked is honoured, or raises what it finds instead.

    `tokens`: the most that it asks for, prompts and replies together, roughly counted.
    """

    group: str
    name: str
    tokens: int
    run: Run

    @property
    def full_name(self) -> str:
        return f"{self.group}.{self.name}"


@dataclass(frozen=True)
class Group:
    """`route`: where a POST shows whether the server has the group at all."""

    name: str
    dialect: Literal["openai", "anthropic"]
    route: str | None
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, tokens: int) -> Callable[[Run], Run]:
        """Adds a function to the group's checks."""

        def add(run: Run) -> Run:
            self.checks.append(Check(self.name, name, tokens, run))
            return run

        return add


@dataclass(frozen=True)
class Result:
    """`evidence` is one line."""

    group: str
    name: str
    state: State
    evidence: str
    seconds: float


def accepted(answer: Answer) -> dict[str, Any]:
    """The object of a 200. Raises Refused for a 4xx that says why in the dialect's form, else Broken."""
    if answer.status == 200:
        value = answer.json()
        if not isinstance(value, dict):
            raise Broken(f"200 with {quote(answer.data)}, which is no object")
        return value
    message, _ = error_of(answer)
    Broken.when(answer.status >= 500 and answer.status != 501, f"{answer.status}: {quote(message)}")
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


def refusal(answer: Answer, taken: str, what: str = "") -> tuple[str, str]:
    """Message and field of what must be refused. Raises Ignored(`taken`) if it is not, Broken if the server fails."""
    if answer.status == 200:
        if not answer.streams:
            accepted(answer)
        raise Ignored(taken)
    message, field = error_of(answer)
    Broken.when(answer.status >= 500, f"{what}{answer.status}: {quote(message)}")
    return message, field


def must_refuse(ask: Callable[[], object], *words: str, taken: str) -> str:
    """A refusal whose message has one of `words`; `taken` says what it means that there is none."""
    try:
        ask()
    except Refused as error:
        if not any(word in str(error) for word in words):
            raise
        return str(error)
    raise Ignored(taken)


def run(server: Server, groups: Sequence[Group], only: Callable[[Check], bool]) -> Iterator[Result]:
    """The results of the wanted checks, one by one. A server that no longer answers is left alone."""
    silent = 0
    for group in groups:
        wanted = [check for check in group.checks if only(check)]
        if not wanted:
            continue
        if group.route:
            wanted = [Check(group.name, ROUTE, 0, partial(_route, path=group.route)), *wanted]
        for check in wanted:
            if silent >= GIVE_UP:
                yield Result(group.name, "the rest", "untested", "the server no longer answers", 0)
                break
            result, answered = judge(check, server)
            silent = 0 if answered else silent + 1
            if check.name != ROUTE or result.state != "honoured":
                yield result
            if check.name == ROUTE and result.state == "refused":
                break


def judge(check: Check, server: Server) -> tuple[Result, bool]:
    """The result of one check, and whether the server answered at all."""
    began, answered = time.monotonic(), True
    state: State = "honoured"
    try:
        evidence = check.run(server)
    except Finding as found:
        state, evidence, answered = found.state, str(found), not isinstance(found, NoAnswer)
    except MALFORMED as error:
        state, evidence = "broken", f"not of the dialect's form: {type(error).__name__} {quote(error)}"
    return Result(check.group, check.name, state, evidence, time.monotonic() - began), answered


def _route(server: Server, path: str) -> str:
    """One refusal for the whole group if its route is not there."""
    status = server.call("POST", path, {}).status
    Refused.when(status in (404, 405, 501), f"{status}: no {path}")
    return f"there is {path}"
