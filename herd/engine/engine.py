"""Continuous batching: every step, one forward pass for all running replies and a piece of the prompts that wait."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.engine.cache import ROWS, SlotCache, Span
from herd.engine.choice import FIRST_LOGPROB, TOO_COMPLEX, Choice, Job, token_logprob
from herd.engine.grammar import Grammars
from herd.engine.prompt import encode
from herd.engine.sampler import draw
from herd.errors import HerdError
from herd.model.chat import ChatTemplate
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer
from herd.protocol.types import Event, Failed, Finished, FinishReason, Request, Started, TokenLogprob

STEP = 0.1  # seconds that a step with prompt tokens aims at; DESIGN allows 0.2
LONGEST = 0.2  # seconds that a step of replies may take where fewer of them at once can prevent more
MIN_CHUNK = 16
MAX_WAITING = 256  # requests
MAX_WAITING_TOKENS = 1 << 20
SCORED_ROWS = 64  # prompt positions whose logits are held at a time


class Engine:
    """One model's replies. Not thread-safe, but for `prepare`, which may run in any thread.

    max_len: positions a sequence may fill (prompt and reply), at most the model's own.
    slots: sequences that run at once. budget: tokens of a step at most.
    `between` is called between the layers of a step and may `enqueue` and `cancel`, so that neither waits for its end.

    Greedy tokens, sampled tokens of a seed and logprobs do not depend on what else runs, on chunks or on prefix
    hits wherever torch's CPU products give a row the same bits in any number of fours (see `cache`; measured
    for bf16 and fp32 on AVX-512, tested); elsewhere they may differ in the last bits.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        max_len: int | None = None,
        slots: int = 16,
        budget: int = 512,
    ) -> None:
        self.model, self.tokenizer, self.template = model.eval().requires_grad_(False), tokenizer, template
        self.context = min(max_len or model.config.max_positions, model.config.max_positions)
        self.dtype = model.dtype or model.embed.weight.dtype
        self.cache = SlotCache(model.config, slots, self.context, self.dtype)
        self.stop_ids = tokenizer.stop_ids | frozenset(model.config.eos_ids)
        self.grammars = Grammars(tokenizer, self.stop_ids)
        self.budget = max(budget, MIN_CHUNK)
        self.between: Callable[[], None] = lambda: None
        self.chunk = MIN_CHUNK  # rows of a step that others wait for
        self.chunk_alone = min(64, self.budget)
        self.width = slots  # sequences that may run at once, as far as time goes
        self._least = 0.0  # seconds of the last step that could not have been smaller
        self._began = 0.0
        self.waiting: deque[Choice] = deque()
        self.running: list[Choice] = []
        self._jobs: dict[str, Job] = {}
        self._events: list[tuple[str, Event]] = []
        self._totals = dict.fromkeys(
            ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens"), 0
        )

    # --- what goes in

    def submit(self, id: str, request: Request, *, salt: str = "") -> None:
        """Queue a request; whatever is wrong with it comes out of `step` as a Failed event."""
        self.enqueue(id, self.prepare(id, request, salt=salt))

    def prepare(self, id: str, request: Request, *, salt: str = "") -> Job | Failed:
        """Render and tokenise, which takes long for long prompts and touches nothing of the engine's state."""
        try:
            prompt = encode(request, self.tokenizer, self.template, self.context, self.grammars)
            return Job(id, request, prompt, salt)
        except HerdError as error:
            return Failed(str(error), error.code, error.status)

    def enqueue(self, id: str, job: Job | Failed) -> None:
        """First come, first served; a full queue says so (429) instead of growing."""
        if isinstance(job, Failed):
            self._events.append((id, job))
            return
        queued = sum(len(c.tokens) for c in self.waiting)
        if self.waiting and (
            len(self.waiting) >= MAX_WAITING or queued + len(job.prompt.ids) > MAX_WAITING_TOKENS
        ):
            self._events.append((id, Failed("the queue is full; try again later", "queue_full", 429)))
            return
        self._jobs[id] = job
        job.unfinished = set(range(job.request.n))
        self.waiting.append(self._choice(job, 0))

    def cancel(self, id: str) -> None:
        """End a request now: its slots are free at once. An unknown id is one that has ended already."""
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

    def metrics(self) -> dict[str, float]:
        """Numbers under vLLM's names (without its prefix)."""
        return {
            "num_requests_running": len(self.running),
            "num_requests_waiting": len(self.waiting),
            "kv_cache_usage_perc": self.cache.usage,
            **self._totals,
        }

    # --- a step

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Event]]:
        """Admit, run one forward pass, and return what happened since the last step."""
        while self.waiting and self.cache.free and len(self.running) < self.width:
            self._admit(self.waiting.popleft())
        # With only prompts to read, nobody waits for the step's end, and they can be cancelled between its layers.
        alone = not any(c.undone == 1 or c.job.scored for c in self.running)
        if batch := self._plan(self.chunk_alone if alone else self.chunk):
            self._began = time.monotonic()
            try:
                logits, hidden = self._forward(batch)
            except _Abandoned:
                pass
            else:
                self._advance(batch, logits, hidden)
                self._adapt(alone, [s.stop - s.start for _, s in batch], time.monotonic() - self._began)
        events, self._events = self._events, []
        return events

    def _choice(self, job: Job, index: int) -> Choice:
        return Choice(job, index, self.tokenizer, self.context)

    def _admit(self, choice: Choice) -> None:
        job = choice.job
        reuse = not (job.scored and choice.index == 0)  # a scored prompt needs every position's logits
        choice.slot, choice.done = self.cache.acquire(choice.tokens, job.salt, reuse)
        self.running.append(choice)
        self._totals["prefix_cache_queries"] += len(choice.tokens)
        self._totals["prefix_cache_hits"] += choice.done
        if choice.index == 0:
            job.cached = choice.done
            self._totals["prompt_tokens"] += len(choice.tokens)
            self._events.append((job.id, Started(len(choice.tokens), choice.done)))

    def _plan(self, chunk: int) -> list[tuple[Choice, Span]]:
        """All replies that need one token, then prompts in order of arrival up to the chunk."""
        batch, row = [], 0
        room = max(chunk - sum(c.undone == 1 for c in self.running), MIN_CHUNK)
        for choice in self.running:
            n = min(choice.undone, room) if choice.undone > 1 else 1
            if n > 0:
                batch.append((choice, Span(choice.slot, row, row + n, choice.done)))
                row += n
                room -= n if choice.undone > 1 else 0
        return batch

    def _forward(self, batch: list[tuple[Choice, Span]]) -> tuple[Tensor, Tensor]:
        """Logits [choices, V] of each span's last row, and all final states [rows, C]."""
        ids: list[int] = []
        positions: list[int] = []
        for choice, s in batch:
            n = s.stop - s.start
            ids += choice.tokens[s.past : s.past + n]
            positions += range(s.past, s.past + n)
        pad = [0] * (-len(ids) % ROWS)
        attention = self.cache.attention([s for _, s in batch], self.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            before = time.monotonic()
            self.between()
            self._began += time.monotonic() - before  # not this step's time
            if not any(choice.job.id in self._jobs for choice, _ in batch):
                raise _Abandoned
            return attention(layer, q, k, v)

        h = self.model.hidden(torch.tensor([ids + pad]), torch.tensor([positions + pad]), attend)[0]
        return self._logits(h[[s.stop - 1 for _, s in batch]]), h

    def _logits(self, h: Tensor) -> Tensor:
        """fp32 logits [n,V] of states [n,C], computed in a multiple of ROWS."""
        return self.model.head(F.pad(h, (0, 0, 0, -len(h) % ROWS)))[: len(h)].float()

    def _advance(self, batch: list[tuple[Choice, Span]], logits: Tensor, hidden: Tensor) -> None:
        highest, greedy = logits.max(dim=-1)
        finite, best = highest.isfinite().tolist(), greedy.tolist()
        for i, (choice, s) in enumerate(batch):
            job = choice.job
            if job.id not in self._jobs:
                continue  # cancelled between layers, or a sibling failed a moment ago
            n = s.stop - s.start
            self.cache.wrote(s, choice.tokens[s.past : s.past + n])
            prompt_ends = choice.done < len(job.prompt.ids) <= choice.done + n
            choice.done += n
            if not finite[i]:
                self._fail(
                    job, "the model computed something that is not a number; its weights may be damaged"
                )
                continue
            if job.scored and choice.index == 0 and s.past < len(job.prompt.ids):
                self._score(choice, s, hidden[s.start : s.stop])
            if choice.undone:
                continue
            if prompt_ends:
                self._prompt_read(choice)
            if choice.left <= 0:
                self._finish(choice, "length")
                continue
            sampling = job.request.sampling
            token = best[i]
            if choice.matcher or sampling.temperature > 0:
                token = draw(choice.constrain(logits[i]), sampling, choice.rng)
            events, reason = choice.add(token, logits[i], self.stop_ids)
            self._totals["generation_tokens"] += 1
            self._events += [(job.id, event) for event in events]
            if reason == "error":
                self._events.append((job.id, TOO_COMPLEX))
                self._drop(job)
            elif reason:
                self._finish(choice, reason)

    def _prompt_read(self, choice: Choice) -> None:
        """Echo if asked; and let the other choices begin, which find the prompt in the cache."""
        job = choice.job
        if choice.index == 0:
            self.waiting.extendleft(self._choice(job, i) for i in range(job.request.n - 1, 0, -1))
        if job.request.echo:
            self._events.append((job.id, choice.echo()))

    def _score(self, choice: Choice, span: Span, hidden: Tensor) -> None:
        """Log-probabilities of the prompt tokens that these rows predict."""
        job, k = choice.job, choice.job.request.sampling.logprobs or 0
        ids, lead = job.prompt.ids, job.prompt.lead
        if span.past == 0 and not lead:
            raw = self.tokenizer.token_bytes(ids[0])
            job.scores.append(TokenLogprob(raw.decode("utf-8", errors="replace"), ids[0], raw, FIRST_LOGPROB))
        count = min(len(hidden), len(ids) - 1 - span.past)
        for first in range(0, count, SCORED_ROWS):
            rows = self._logits(hidden[first : min(first + SCORED_ROWS, count)])
            for j, row in enumerate(rows):
                job.scores.append(token_logprob(self.tokenizer, row, ids[span.past + first + j + 1], k))

    def _finish(self, choice: Choice, reason: FinishReason) -> None:
        job = choice.job
        self._release(choice)
        self._events.append((job.id, Finished(choice.index, reason, choice.stopped_by)))
        job.unfinished.discard(choice.index)
        if not job.unfinished:
            self._events.append((job.id, job.usage()))
            del self._jobs[job.id]

    def _fail(self, job: Job, message: str) -> None:
        self._events.append((job.id, Failed(message)))
        self._drop(job)

    def _drop(self, job: Job) -> None:
        for choice in [c for c in self.running if c.job is job]:
            self._release(choice)
        self.waiting = deque(c for c in self.waiting if c.job is not job)
        del self._jobs[job.id]

    def _release(self, choice: Choice) -> None:
        self.running.remove(choice)
        self.cache.release(choice.slot)

    def _adapt(self, alone: bool, rows: list[int], seconds: float) -> None:
        """Learn, from a step whose spans had so many rows, how much work a step can do in its time."""
        prompts = sum(n for n in rows if n > 1)
        if prompts and alone:
            goal = STEP * self.model.config.n_layers
            self.chunk_alone = self._scaled(self.chunk_alone, prompts, goal / max(seconds, 1e-6))
        elif prompts:
            self.chunk = self._scaled(self.chunk, prompts, STEP / max(seconds, 1e-6))
        else:
            self._limit(len(rows), seconds)

    def _scaled(self, chunk: int, used: int, scale: float) -> int:
        """The chunk, nearer to the size that takes its time; one that was not half used cannot tell that it may grow."""
        if scale < 1 or used >= chunk // 2:
            chunk = math.floor(chunk * min(max(scale, 0.5), 2.0))
        return min(max(chunk, MIN_CHUNK), self.budget)

    def _limit(self, replies: int, seconds: float) -> None:
        """Let fewer sequences run at once when a step of replies takes too long, and one more when it does not."""
        if replies <= ROWS:
            self._least = seconds
        if self._least > LONGEST:  # a large model: no step is short enough, and more replies cost little more
            self.width = len(self.cache.length)
        elif seconds > LONGEST:
            self.width = max(math.floor(replies * LONGEST / seconds), ROWS)
        elif replies >= self.width:
            self.width = min(self.width + 1, len(self.cache.length))


class _Abandoned(Exception):
    """Nobody is left who wants what the step computes."""


def drain(engine: Engine) -> Iterable[tuple[str, Event]]:
    """Step until nothing is left to do."""
    while not engine.idle:
        yield from engine.step()
