"""Continuous batching: every step, one forward pass for all running replies and a piece of the prompts that wait."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from herd.engine import sampler
from herd.engine.cache import needed
from herd.engine.choice import FIRST_LOGPROB, TOO_COMPLEX, Choice, Job, token_logprob
from herd.engine.grammar import Grammars
from herd.engine.pace import Pace
from herd.engine.prompt import encode
from herd.engine.scheduler import Piece, Scheduler
from herd.engine.step import Adapter, Runner, Span
from herd.errors import HerdError
from herd.model.chat import ChatTemplate
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import (
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    Sampling,
    Started,
    TokenLogprob,
    Usage,
)

MAX_WAITING = 256  # requests
MAX_WAITING_TOKENS = 1 << 20
SCORED_ROWS = 64  # prompt positions whose logits are held at a time
Draw = Callable[[Tensor, Sequence[int], Sequence[Sampling], Sequence[float]], list[int | None]]
DAMAGED = "the model computed something that is not a number; its weights may be damaged"


class Engine:
    """One model's replies, with any number of adapters. Not thread-safe, but for `prepare`, which any thread may call.

    max_len: positions a sequence may fill (prompt and reply), at most the model's own.
    slots: sequences that run at once. blocks: of the cache, at least one sequence's. budget: tokens of a step at most.
    `between` is called between the layers of a step and may `enqueue` and `cancel`, so that neither waits for its end.

    Where the runner is invariant, greedy tokens, sampled tokens of a seed and logprobs do not depend on what else
    runs, on chunks, prefix hits, preemption or speculation.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        max_len: int | None = None,
        slots: int = 32,
        blocks: int | None = None,
        budget: int = 512,
        draw: Draw = sampler.draw,
    ) -> None:
        self.draw = draw
        self.runner, self.tokenizer, self.template = runner, tokenizer, template
        config = runner.config
        self.context = min(max_len or config.max_positions, config.max_positions)
        self.stop_ids = tokenizer.stop_ids | frozenset(config.eos_ids)
        self.grammars = Grammars(tokenizer, self.stop_ids)
        self.pace = Pace(slots, budget, config.n_layers)
        least = needed(self.context)
        self.scheduler = Scheduler(runner, self.pace, max(blocks or slots * least, least))
        self.waiting, self.running = self.scheduler.waiting, self.scheduler.running
        self.between: Callable[[], None] = lambda: None
        self._began = 0.0
        self._jobs: dict[str, Job] = {}
        self._events: list[tuple[str, Event]] = []

    # --- what goes in

    def submit(self, id: str, request: Request, *, salt: str = "", adapter: Adapter | None = None) -> None:
        """Queue a request; whatever is wrong with it comes out of `step` as a Failed event."""
        self.enqueue(id, self.prepare(id, request, salt=salt, adapter=adapter))

    def prepare(
        self, id: str, request: Request, *, salt: str = "", adapter: Adapter | None = None, wait: bool = True
    ) -> Job | list[Event]:
        """Render and tokenise, which takes long for long prompts and touches nothing of the engine's state.

        Events are the whole answer to what needs no engine: a count, or a mistake. Raises NotCompiled rather than
        `wait` for a grammar.
        """
        try:
            prompt = encode(request, self.tokenizer, self.template, self.context, self.grammars, wait=wait)
            vocab = self.runner.config.vocab_size
            if wrong := [i for i in request.sampling.logit_bias if int(i) >= vocab]:
                raise HerdError(f"logit_bias: token id {wrong[0]} is not below {vocab}")
        except HerdError as error:
            return [Failed(str(error), error.code, error.status)]
        if request.count:
            return [Started(len(prompt.ids)), Usage(len(prompt.ids), 0)]
        return Job(id, request, prompt, salt, adapter)

    def enqueue(self, id: str, job: Job | list[Event]) -> None:
        """Put a job in its caller's line; a full queue says so (429) instead of growing."""
        if isinstance(job, list):
            self._events += [(id, event) for event in job]
        elif self.waiting.full(job.salt, len(job.prompt.ids), MAX_WAITING, MAX_WAITING_TOKENS):
            self._events.append((id, Failed("the queue is full; try again later", "queue_full", 429)))
        else:
            self._jobs[id] = job
            job.unfinished = set(range(job.request.n))
            self.waiting.add(self._choice(job, 0))

    def cancel(self, id: str) -> None:
        """End a request now: its blocks are free at once. An unknown id is one that has ended already."""
        if job := self._jobs.get(id):
            for index in sorted(job.unfinished):
                self._events.append((id, Finished(index, "cancelled")))
            self._events.append((id, job.usage()))
            self._drop(job)

    def abort(self, message: str) -> None:
        """Fail everything that is queued or running; the engine stays usable."""
        for job in list(self._jobs.values()):
            self._fail(job, message)

    @property
    def idle(self) -> bool:
        return not (self._jobs or self._events)

    def rest(self) -> bool:
        """For moments when the engine is idle: see `Runner.rest`."""
        return self.runner.rest()

    @property
    def cache_bytes(self) -> int:
        """What the cache takes once it is full."""
        return self.scheduler.cache.count * self.runner.block_bytes

    def metrics(self) -> dict[str, float]:
        """Numbers under vLLM's names (without its prefix)."""
        return {
            "num_requests_running": len(self.running),
            "num_requests_waiting": len(self.waiting),
            "kv_cache_usage_perc": self.scheduler.cache.usage,
            **self.scheduler.totals,
        }

    # --- a step

    def step(self) -> list[tuple[str, Event]]:
        """Admit, run one forward pass, and return what happened since the last step."""
        for choice in self.scheduler.admit():
            if choice.index == 0:
                self._started(choice)
        self.scheduler.grow()
        if batch := self.scheduler.plan():
            self._began = time.monotonic()
            try:
                hidden = self.runner.hidden(
                    [token for piece in batch for token in piece.tokens],
                    batch,
                    self._between_layers(batch),
                )
            except _Abandoned:
                pass
            else:
                self._advance(batch, hidden)
                self._learn(batch, time.monotonic() - self._began)
        return self.take()

    def take(self) -> list[tuple[str, Event]]:
        """What happened since the last look."""
        events, self._events = self._events, []
        return events

    def _choice(self, job: Job, index: int) -> Choice:
        return Choice(job, index, self.tokenizer, self.context)

    def _started(self, choice: Choice) -> None:
        job = choice.job
        job.cached = choice.done
        self.scheduler.totals["prompt_tokens"] += len(choice.tokens)
        self._events.append((job.id, Started(len(choice.tokens), choice.done)))

    def _between_layers(self, batch: list[Piece]) -> Callable[[], None]:
        def between() -> None:
            before = time.monotonic()
            self.between()
            self._began += time.monotonic() - before  # not this step's time
            if not any(self._wanted(piece.choice) for piece in batch):
                raise _Abandoned

        return between

    def _wanted(self, choice: Choice) -> bool:
        return self._jobs.get(choice.job.id) is choice.job

    # --- what comes of it

    def _advance(self, batch: list[Piece], hidden: Tensor) -> None:
        drawing: list[Piece] = []
        for piece in batch:
            choice = piece.choice
            if not self._wanted(choice):
                continue  # cancelled between layers, or a sibling failed a moment ago
            if not choice.read and choice.index == 0 and (choice.job.scored or choice.job.embedded):
                self._observe(choice, piece, hidden[piece.start : piece.stop])
                if not self._wanted(choice):
                    continue
            self.scheduler.computed(choice, piece.stop - piece.start - len(piece.draft))
            if choice.undone:
                continue
            if not choice.read:
                self._prompt_read(choice)
                if not self._wanted(choice):
                    continue
            if choice.left <= 0:
                self._finish(choice, "length")
            else:
                drawing.append(piece)
        if drawing:
            self._draw(drawing, hidden)

    def _draw(self, drawing: list[Piece], hidden: Tensor) -> None:
        """A token for each piece from its last row; while it is the one that was guessed, another from the next."""
        rows = [r for p in drawing for r in range(p.stop - 1 - len(p.draft), p.stop)]
        if len(rows) < len(hidden):
            hidden = torch.from_numpy(hidden.numpy()[rows])  # PyTorch would wake its threads for it
        logits = self.runner.logits(hidden)
        starts = itertools.accumulate((1 + len(p.draft) for p in drawing), initial=0)
        turn = list(zip(drawing, starts, strict=False))  # pieces, and the rows of `logits` to draw from
        depth = 0
        while turn:
            tokens = self._tokens([p.choice for p, _ in turn], [row for _, row in turn], logits)
            ahead = []
            for (piece, row), token in zip(turn, tokens, strict=True):
                if not self._wanted(piece.choice):
                    continue  # a sibling failed a moment ago
                if token is None:
                    self._fail(piece.choice.job, DAMAGED)
                elif self._add(piece, depth, token, logits, row):
                    ahead.append((piece, row + 1))
            turn, depth = ahead, depth + 1

    def _add(self, piece: Piece, depth: int, token: int, logits: Tensor, row: int) -> bool:
        """Give a choice its next token; whether it was the guess at this depth, and another may follow."""
        choice, totals = piece.choice, self.scheduler.totals
        scored = choice.sampling.logprobs is not None
        events, reason = choice.add(token, logits[row] if scored else None, self.stop_ids)
        totals["generation_tokens"] += 1
        self._events += [(choice.job.id, event) for event in events]
        guessed = depth < len(piece.draft) and token == piece.draft[depth]
        if reason == "error":
            self._events.append((choice.job.id, TOO_COMPLEX))
            self._drop(choice.job)
        elif reason:
            self._finish(choice, reason)
        elif guessed:
            self.scheduler.computed(choice, 1)
            return True
        if piece.draft:
            totals["spec_decode_num_drafts"] += 1
            totals["spec_decode_num_draft_tokens"] += len(piece.draft)
            totals["spec_decode_num_accepted_tokens"] += depth + guessed
            choice.drafter.learn(len(piece.draft), depth + guessed)
        return False

    def _tokens(self, choices: list[Choice], rows: list[int], logits: Tensor) -> list[int | None]:
        """What each choice draws from its row, its penalties and grammar applied; `logits` stay the model's."""
        own: dict[int, Tensor] = {}
        for c, row in zip(choices, rows, strict=True):
            if not c.plain:
                own[row] = logits[row].clone()
                shaped = sampler.penalise(own[row], c.tokens, len(c.job.prompt.ids), c.sampling)
                logits[row] = c.constrain(shaped)
        samplings = [c.sampling for c in choices]
        uniform = [c.rng.random() if c.sampling.temperature > 0 else 0.0 for c in choices]
        drawn = self.draw(logits, rows, samplings, uniform)
        for row, values in own.items():
            logits[row] = values
        return drawn

    def _prompt_read(self, choice: Choice) -> None:
        """Echo if asked; let the other choices begin, which find the prompt in the cache; an embedding is done."""
        job = choice.job
        choice.read = True
        if choice.index == 0:
            for i in range(job.request.n - 1, 0, -1):
                self.waiting.again(self._choice(job, i))
        if job.request.echo:
            self._events.append((job.id, choice.echo()))
        if job.embedded:
            vector = job.states / len(job.prompt.ids)
            vector /= max(np.linalg.norm(vector), 1e-12)
            if not np.isfinite(vector).all():
                self._fail(job, DAMAGED)
                return
            self._events.append((job.id, Embedded(0, tuple(vector.tolist()))))
            self._end(choice)

    def _observe(self, choice: Choice, span: Span, hidden: Tensor) -> None:
        """Sum the prompt's states, or note the log-probabilities of the tokens that these rows predict."""
        job, k = choice.job, choice.job.request.sampling.logprobs or 0
        ids, lead = job.prompt.ids, job.prompt.lead
        if job.embedded:
            for state in hidden.double().numpy():  # one by one: the same sum wherever a prompt is cut
                job.states = job.states + state
            return
        if span.past == 0 and not lead:
            raw = self.tokenizer.token_bytes(ids[0])
            job.scores.append(TokenLogprob(raw.decode("utf-8", errors="replace"), ids[0], raw, FIRST_LOGPROB))
        count = min(len(hidden), len(ids) - 1 - span.past)
        for first in range(0, count, SCORED_ROWS):
            rows = self.runner.logits(hidden[first : min(first + SCORED_ROWS, count)])
            for j, row in enumerate(rows):
                score = token_logprob(self.tokenizer, row, ids[span.past + first + j + 1], k)
                if not math.isfinite(score.logprob):
                    self._fail(job, DAMAGED)
                    return
                job.scores.append(score)

    def _finish(self, choice: Choice, reason: FinishReason) -> None:
        self._events.append((choice.job.id, Finished(choice.index, reason, choice.stopped_by)))
        self._end(choice)

    def _end(self, choice: Choice) -> None:
        job = choice.job
        self.scheduler.release(choice)
        job.unfinished.discard(choice.index)
        if not job.unfinished:
            self._events.append((job.id, job.usage()))
            del self._jobs[job.id]

    def _fail(self, job: Job, message: str) -> None:
        self._events.append((job.id, Failed(message)))
        self._drop(job)

    def _drop(self, job: Job) -> None:
        self.scheduler.drop(job)
        del self._jobs[job.id]

    def _learn(self, batch: list[Piece], seconds: float) -> None:
        sizes = [p.stop - p.start - len(p.draft) for p in batch]
        prompts = sum(n for n in sizes if n > 1)
        self.pace.learn(sizes.count(1), sum(len(p.draft) for p in batch), prompts, seconds)


class _Abandoned(Exception):
    """Nobody is left who wants what the step computes."""


def drain(engine: Engine) -> Iterable[tuple[str, Event]]:
    """Step until nothing is left to do."""
    while not engine.idle:
        yield from engine.step()
