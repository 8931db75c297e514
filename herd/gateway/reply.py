"""One request on its way, and the row that the store keeps of it."""

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from herd.errors import HerdError
from herd.gateway.keys import Principal
from herd.gateway.provider import Call, Chunk, Target
from herd.gateway.route import Keep, Route
from herd.gateway.table import Table
from herd.protocol import (
    Called,
    Delta,
    Dialect,
    Event,
    Failed,
    Finished,
    Message,
    Reasoned,
    Request,
    Started,
    TokenLogprob,
    ToolCall,
    Usage,
)
from herd.protocol.openai_reply import chat_logprob
from herd.protocol.upstream import input_tokens

if TYPE_CHECKING:
    from herd.gateway.attempts import Alarm

Item = Event | Chunk
KEEPS: tuple[Keep, ...] = ("none", "metadata", "text")  # the least first
TURNED_AWAY = (429, 503)  # before it started: counted, not kept, so that an overload costs no writes
CHARACTERS = 4  # of a token, where nobody has counted
IMAGE_TOKENS = 1000
DAY = 86_400.0
_DEFAULTS, _PLAIN = Request("", "chat").to_json(), Message("user", "").to_json()


class Watch(Protocol):
    """What is told of one reply as it comes, in seconds."""

    def started(self, after: float) -> None: ...
    def first(self, after: float) -> None: ...
    def next(self, gap: float) -> None: ...
    def ended(self, reply: "Reply", seconds: float, counts: bool) -> None:
        """`counts`: it was a reply, not turned away before it started, and not only a count of tokens."""


@dataclass(eq=False)
class Reply:
    """What is known of a request so far. `asked` is as the caller sent it; `request` has the target's defaults too."""

    id: str
    asked: Request
    route: Route
    principal: Principal
    conversation: str | None
    table: Table  # the configuration with which it began
    dialect: Dialect | None = None
    body: dict[str, Any] | None = None
    shadow_of: str | None = None
    created: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    response: dict[str, Any] | None = None  # what the Responses API keeps beside the request
    background: bool = False  # nobody waits for it: it is kept however it ends
    # The attempt that runs, or was the last:
    call: Call = field(init=False)
    dropped: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)  # of targets whose turn is still to come
    attempts: int = 0
    cost: int = 0  # of all attempts, in 10⁻¹² dollars
    watch: Watch = field(init=False)
    alarm: "Alarm" = field(init=False)
    committed: bool = False  # something of it may have been sent
    kept: int = 0  # of its choices
    took: float | None = None  # milliseconds until it was complete
    failed: Failed | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what an attempt brought."""
        self.started: float | None = None  # perf_counter() at the first event, the first and the last token
        self.first: float | None = None
        self.last: float | None = None
        self.texts: dict[int, list[str]] = {}
        self.reasoning: dict[int, list[str]] = {}
        self.scores: list[TokenLogprob] = []  # of the tokens of a response
        self.calls: dict[int, list[ToolCall]] = {}
        self.finish: dict[int, str] = {}
        self.usage: Usage | None = None
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.reply_id: str | None = None  # the provider's own

    def fail(self, error: HerdError) -> None:
        """Let it end with this error, unless it has failed already."""
        param = getattr(error, "param", None)
        self.failed = self.failed or Failed(str(error), error.code, error.status, error.retry_after, param)

    @property
    def target(self) -> Target:
        return self.call.target

    @property
    def request(self) -> Request:
        return self.call.request

    @property
    def key(self) -> str | None:
        return self.principal.name or None

    @property
    def ended(self) -> bool:
        """Whether all choices are finished; usage may still come."""
        return len(self.finish) == self.asked.n

    @property
    def complete(self) -> bool:
        wordless = self.asked.kind == "embedding" or self.asked.count
        return self.usage is not None and (wordless or self.ended)

    @property
    def keep(self) -> Keep:
        """How much is kept: the least that the route, the key and the request allow."""
        kind: Keep = "metadata" if not self.asked.store or self.asked.kind == "embedding" else "text"
        # What is embedded may be a whole library: it is not text that a person wrote to a model.
        return min(self.route.keep, self.principal.keep or "text", kind, key=KEEPS.index)

    def was_turned_away(self, status: int) -> bool:
        """Whether an error of this status came before the reply began."""
        return self.started is None and status in TURNED_AWAY

    def see(self, event: Event) -> bool:
        """Note an event; whether it is content, after which no other attempt can take over."""
        now = time.perf_counter()
        if self.started is None:
            self.started = now
            self.watch.started(now - self.began)
        match event:
            case Delta(index, text, tokens, logprobs):
                self._said(now, len(tokens) or 1)
                self.texts.setdefault(index, []).append(text)
                if self.response is not None:
                    self.scores += logprobs
                self.completion_tokens += len(tokens)
                return bool(text or tokens)
            case Reasoned(index, text):
                self._said(now)
                self.reasoning.setdefault(index, []).append(text)
            case Called(index, call):
                self._said(now)
                self.calls.setdefault(index, []).append(call)
            case Finished(index, reason):
                self.finish[index] = reason
            case Started(prompt, cached):
                self.prompt_tokens, self.cached_tokens = prompt, cached
                return False
            case Usage():
                self.usage = event
                self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
                self.completion_tokens = event.completion_tokens
                return False
        return True

    def _said(self, now: float, tokens: int = 1) -> None:
        if self.first is None:
            self.first = now
            self.watch.first(now - self.began)
        elif self.last is not None:
            self.watch.next((now - self.last) / tokens)
        self.last = now

    @property
    def ended_at(self) -> float:
        """Unix seconds: when it was complete, or now."""
        return self.created + (self.took or self.ms(time.perf_counter()) or 0.0) / 1000

    def ms(self, until: float | None) -> float | None:
        """Milliseconds since it began."""
        return None if until is None else round((until - self.began) * 1000, 3)

    def used(self, sent: bool) -> Usage | None:
        """What the attempt used, guessed where nobody said it; None if it did not start, and was not `sent` either."""
        if self.usage is not None or (self.started is None and not sent):
            return self.usage
        parts = (*self.texts.values(), *self.reasoning.values())
        written = sum(len(text) for part in parts for text in part)
        written += sum(len(call.arguments) for calls in self.calls.values() for call in calls)
        completion = self.completion_tokens or -(-written // CHARACTERS)
        prompt = self.prompt_tokens or tokens_of(self.asked)
        return Usage(prompt, completion, self.cached_tokens, estimated=True)


def tokens_of(request: Request) -> int:
    """About how many tokens a prompt has, rather too many than too few."""
    if request.kind == "embedding" or not isinstance(request.prompt, str):
        return input_tokens(request, CHARACTERS)
    said = len(request.prompt) + sum(len(m.content) + len(m.reasoning) + 16 for m in request.messages)
    said += sum(len(call.arguments) for m in request.messages for call in m.tool_calls)
    said += sum(len(t.description) + len(json.dumps(t.parameters)) for t in request.tools)
    return -(-said // CHARACTERS) + IMAGE_TOKENS * sum(len(m.images) for m in request.messages)


def recorded(request: Request) -> dict[str, Any]:
    """The request as the store has it: what is at its default is left out, except of the sampling."""
    whole = request.to_json()
    slim = {k: v for k, v in whole.items() if v != _DEFAULTS[k] or k in ("route", "kind", "sampling")}
    if request.messages:
        slim["messages"] = [
            {k: v for k, v in message.items() if v != _PLAIN[k] or k in ("role", "content")}
            for message in whole["messages"]
        ]
    return slim


def generation(reply: Reply, index: int = 0) -> dict[str, Any]:
    """The store's row of one choice: the first has the reply's id, choice 1 the id + "-1"."""
    request, days = reply.request, reply.route.retain_days
    uses = reply.route.use if reply.principal.use is None else reply.route.use & reply.principal.use
    whole = reply.complete and not reply.failed
    unfinished = "error" if reply.failed else "stop" if whole else "cancelled"
    told = {} if reply.ended and not whole else reply.finish  # the end is held back until all is well
    return {
        "id": reply.id if index == 0 else f"{reply.id}-{index}",
        "conversation": reply.conversation,
        "route": reply.route.name,
        "target": reply.target.name,
        "target_digest": reply.target.digest,
        "model_ref": reply.target.model,
        "provider": reply.target.provider,
        "request": recorded(request),
        "reply": "".join(reply.texts.get(index, [])),
        "reasoning": "".join(reply.reasoning.get(index, [])) or None,
        "calls": [call.to_json() for call in reply.calls.get(index, ())] or None,
        "response": reply.response
        and {
            **reply.response,
            "logprobs": [chat_logprob(one) for one in reply.scores],
            **({"failed": reply.failed.status} if reply.failed else {}),
        },
        "reply_id": reply.reply_id if index == 0 else None,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens if request.n == 1 else None,
        "cached_tokens": reply.cached_tokens,
        "cost": reply.cost if index == 0 else 0,
        "queue_ms": reply.ms(reply.started),
        "first_token_ms": reply.ms(reply.first),
        "total_ms": reply.took or reply.ms(time.perf_counter()),
        "finish": told.get(index, unfinished),
        "error": reply.failed.message if reply.failed else None,
        "key": reply.key,
        "created": reply.created,
        "labels": dict(request.labels),
        "use": sorted(uses),
        "expires": None if days is None else reply.created + days * DAY,
        "dropped": list(reply.dropped) or None,
        "attempts": reply.attempts,
        "shadow_of": reply.shadow_of,
    }
