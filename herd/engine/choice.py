"""One request, and each of its choices, on the way through the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from herd.engine import sampler
from herd.engine.cache import Table
from herd.engine.prompt import Prompt
from herd.engine.speculate import Drafter
from herd.engine.step import Adapter
from herd.engine.text import StopText
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Called, Delta, Event, Failed, FinishReason, Request, TokenLogprob, Usage

FIRST_LOGPROB = -9999.0  # of a prompt's first token, which nothing predicts: the dialects' lowest value

TOO_COMPLEX = Failed(
    "the grammar needs more work for a token than is allowed; make it simpler", "invalid_grammar", 400
)


@dataclass
class Job:
    """A request with its prompt read. `salt`: only requests of one salt share cached prefixes."""

    id: str
    request: Request
    prompt: Prompt
    salt: str = ""
    adapter: Adapter | None = None
    arrived: float = field(default_factory=time.monotonic)
    cached: int = 0
    generated: int = 0
    unfinished: set[int] = field(default_factory=set)
    scores: list[TokenLogprob] = field(default_factory=list)  # of the prompt, if it is echoed with logprobs
    states: Any = 0.0  # sum of the prompt's final states, if they are what is wanted

    @property
    def scored(self) -> bool:
        return self.request.echo and self.request.sampling.logprobs is not None

    @property
    def embedded(self) -> bool:
        return self.request.kind == "embedding"

    def usage(self) -> Usage:
        return Usage(len(self.prompt.ids), self.generated, self.cached)


class Choice:
    """One reply: its tokens, its place in the cache, its own randomness and the text it may show."""

    def __init__(self, job: Job, index: int, tokenizer: Tokenizer, context: int) -> None:
        wanted = 0 if job.embedded else job.request.sampling.max_tokens
        room = context - len(job.prompt.ids)
        self.job, self.index, self.tokenizer = job, index, tokenizer
        self.tokens = list(job.prompt.ids)
        self.table: Table | None = None  # its place in the cache, while it runs
        self.done = 0  # tokens whose keys and values are in the cache
        self.read = False  # whether the whole prompt has been
        self.resumed = False  # whether it had to give its place away before
        self.drafter = Drafter()
        self.left = room if wanted is None else min(wanted, room)
        s = job.request.sampling
        # Of equals, top_p 0 takes the one that greedy does.
        self.sampling = s = replace(s, temperature=0.0) if s.top_p == 0 else s
        self.rng = sampler.generator(s, index)
        grammar, calls = job.prompt.grammar, job.prompt.calls
        self.matcher = grammar.matcher() if grammar else None
        # Whether tokens are drawn from the model's logits as they are.
        self.plain = not (self.matcher or s.frequency_penalty or s.presence_penalty or s.logit_bias)
        self.calls = calls.reader(tokenizer.stream()) if calls else None
        self.text = StopText(self.calls or tokenizer.stream(), job.request.sampling.stop)
        self._called = False
        self._shown = 0  # characters
        self._pending: list[tuple[int, int, int, TokenLogprob | None]] = []  # (start, end, token, logprob)

    @property
    def undone(self) -> int:
        return len(self.tokens) - self.done

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the reply."""
        return self.text.stop

    def constrain(self, logits: Tensor) -> Tensor:
        """Logits [V] of the next token with minus infinity for what the reply's grammar refuses."""
        return logits if self.matcher is None else self.matcher.mask(logits)

    def echo(self) -> Delta:
        """The prompt, as the first part of a completion that asked for it."""
        ids = self.job.prompt.ids[self.job.prompt.lead :]
        return Delta(self.index, self.tokenizer.decode(ids), tuple(ids), tuple(self.job.scores))

    def add(
        self, token: int, logits: Tensor | None, stop: frozenset[int]
    ) -> tuple[list[Event], FinishReason | None]:
        """Take the next token; what of it may be shown now, and why the reply ends, if it does.

        logits [V]: the model's, where log-probabilities are wanted. Only this moves the reply on. After reason "error", which is the grammar's, the job fails as TOO_COMPLEX says.
        """
        self.tokens.append(token)
        self.left -= 1
        self.job.generated += 1
        text = ""
        reason: FinishReason | None = None
        if token in stop:
            reason = "error" if self.matcher and self.matcher.broken else "stop"
        else:
            start = self._decoded
            text = self.text.push(token)
            if not (self.calls and self.calls.calling):
                k = self.sampling.logprobs or 0
                scored = None if logits is None else token_logprob(self.tokenizer, logits, token, k)
                self._pending.append((start, self._decoded, token, scored))
            if self.matcher:
                self.matcher.accept(token)
            reason = self._end()
        if reason and not self.text.stopped:
            text += self.text.finish()
            reason = "stop" if self.text.stopped else reason
        if self.calls is None:
            delta = self._delta(text, last=reason is not None and not self.text.stopped)
            return [delta] if delta else [], reason
        return self._with_calls(text, reason)

    @property
    def _decoded(self) -> int:
        """Characters that the tokens so far make, calls left out."""
        return self.text.decoded + (self.calls.held if self.calls else 0)

    def _end(self) -> FinishReason | None:
        """Why the reply ends behind its last token, if it does."""
        if self.text.stopped:
            return "stop"
        if self.matcher:
            if self.matcher.broken:
                return "error"
            if self.matcher.stopped:
                return "stop"
        return "length" if self.left <= 0 else None

    def _with_calls(self, text: str, reason: FinishReason | None) -> tuple[list[Event], FinishReason | None]:
        """The text, then the calls behind it that are whole now; a reply that ends after some ends for them."""
        assert self.calls
        called, self.calls.calls = self.calls.calls, []
        if called:
            text += self.text.flush()
            self._called = True
        last = bool(called) or (reason is not None and not self.text.stopped)
        delta = self._delta(text, last=last)
        events: list[Event] = [delta] if delta else []
        events += [Called(self.index, call) for call in called]
        if reason in ("stop", "length") and self._called and not self.calls.cut:
            reason = "tool_calls"
        return events, reason

    def _delta(self, text: str, last: bool) -> Delta | None:
        """`text` with the tokens that are wholly shown by it; at a natural end, with all that are left, and at a stop
        string with those of which something was shown before it."""
        stopped = self.text.stopped
        if not (text or last or stopped):
            return None
        self._shown += len(text)
        told = [p for p in self._pending if last or (p[0] < self._shown if stopped else p[1] <= self._shown)]
        self._pending = self._pending[len(told) :]
        if not text and not told:
            return None
        tokens = tuple([token for _, _, token, _ in told])
        return Delta(self.index, text, tokens, tuple([p for *_, p in told if p is not None]))


def token_logprob(tokenizer: Tokenizer, logits: Tensor, token: int, k: int) -> TokenLogprob:
    """The token's log-probability under logits [V], with the k best."""
    value, best = sampler.logprobs(logits, token, k)

    def entry(id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = tokenizer.token_bytes(id)
        return TokenLogprob(raw.decode("utf-8", errors="replace"), id, raw, logprob, top)

    return entry(token, value, tuple(entry(i, p) for i, p in best))
