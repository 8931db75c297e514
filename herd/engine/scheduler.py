"""What the next step computes: who begins, who grows, who gives way, and how much of each prompt is read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from herd.engine.cache import BlockCache
from herd.engine.choice import Choice, Job
from herd.engine.pace import Pace
from herd.engine.speculate import draft
from herd.engine.step import BLOCK, Adapter, Runner, Span
from herd.engine.waiting import Waiting

COUNTED = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens",
    "generation_tokens",
    "num_preemptions",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
)


@dataclass
class Piece(Span):
    """What a step computes of one choice: tokens that it has, then guesses of those to come."""

    choice: Choice = field(kw_only=True)
    draft: list[int] = field(kw_only=True)

    @property
    def tokens(self) -> list[int]:
        return self.choice.tokens[self.past : self.past + self.stop - self.start] + self.draft


class Scheduler:
    """Choices that wait and that run, and the cache blocks of those that run. `totals` count under vLLM's names."""

    def __init__(self, runner: Runner, pace: Pace, blocks: int) -> None:
        self.runner, self.pace = runner, pace
        self.cache = BlockCache(blocks)
        runner.allocate(blocks)
        self.waiting = Waiting()
        self.running: list[Choice] = []
        self.totals = dict.fromkeys(COUNTED, 0)
        self._steps = 0  # that read prompts
        self._read: dict[str, int] = {}  # the last of them that read one of a key's
        self._adapters: WeakKeyDictionary[Adapter, int] = WeakKeyDictionary()
        self._adapter_ids = itertools.count(1)

    def admit(self) -> list[Choice]:
        """Let those who wait begin while there is room, or a caller has too much; those that begin for the first time."""
        begun: list[Choice] = []
        places = Counter(c.job.salt for c in self.running) if self.waiting else Counter()
        while choice := self.waiting.first(places):
            salt = choice.job.salt
            if len(self.running) < self.pace.width and self._admit(choice):
                places[salt] += 1
                if not choice.resumed:
                    begun.append(choice)
                    self.totals["prefix_cache_queries"] += len(choice.tokens)
                    self.totals["prefix_cache_hits"] += choice.done
                continue
            most = max(places, key=places.__getitem__, default=salt)
            if places[most] - places[salt] < 2:
                break
            youngest = max((c for c in self.running if c.job.salt == most), key=_age)
            self._preempt(youngest)
            places[most] -= 1
        return begun

    def drop(self, job: Job) -> None:
        """Forget a job, whether it runs or waits."""
        for choice in [c for c in self.running if c.job is job]:
            self.release(choice)
        self.waiting.drop(job)

    def computed(self, choice: Choice, tokens: int) -> None:
        """So many more of the choice's tokens have their keys and values in the cache."""
        assert choice.table
        choice.done += tokens
        self.cache.seal(choice.table, choice.tokens, choice.done)

    def release(self, choice: Choice) -> None:
        assert choice.table
        self.running.remove(choice)
        self.cache.close(choice.table)
        choice.table = None

    def _admit(self, choice: Choice) -> bool:
        """Give the first of those waiting its blocks; False if there are too few, which only others can change."""
        job, tokens = choice.job, choice.tokens
        reuse = choice.read or not (
            choice.index == 0 and (job.scored or job.embedded)
        )  # else all states are wanted
        table = self.cache.open(tokens, self._root(job), reuse=reuse, spare=len(self.running))
        if table is None:
            return False
        self.waiting.pop(job.salt)
        choice.table, choice.done = table, table.sealed * BLOCK
        if reuse and len(tokens) == len(job.prompt.ids):
            self._copy_end(choice)
        self.running.append(choice)
        return True

    def _root(self, job: Job) -> Hashable:
        """Who may share a beginning: requests of one salt and one adapter."""
        if job.adapter and job.adapter not in self._adapters:
            self._adapters[job.adapter] = next(self._adapter_ids)
        return job.salt, self._adapters[job.adapter] if job.adapter else 0

    def _copy_end(self, choice: Choice) -> None:
        """Take the partly filled last block of the prompt from a choice of the same request."""
        assert choice.table
        last = len(choice.tokens) - 1
        for other in self.running:
            if other.job is choice.job and other.table and other.done >= last > choice.done:
                if choice.done == last // BLOCK * BLOCK:
                    source, target = (c.table.blocks[last // BLOCK] for c in (other, choice) if c.table)
                    self.runner.copy_block(source, target)
                    choice.done = last
                return

    def grow(self) -> None:
        """A block more for replies that need one, the oldest first; when there is none, the youngest gives its own."""
        tight = [c for c in self.running if c.table and len(c.table.blocks) * BLOCK < len(c.tokens)]
        for choice in sorted(tight, key=_age):
            while choice.table and not self.cache.grow(choice.table, len(choice.tokens)):
                self._preempt(max(self.running, key=_age))

    def _preempt(self, choice: Choice) -> None:
        """Take a reply's blocks away; once it is next again, it computes them again and goes on where it was."""
        self.release(choice)
        self.totals["num_preemptions"] += 1
        choice.done, choice.resumed = 0, True
        if choice.index == 0 and not choice.read:
            choice.job.scores, choice.job.states = [], 0.0
        self.waiting.again(choice)

    def plan(self) -> list[Piece]:
        """All replies that need one token, then prompts up to the chunk: keys in turn, a key's in order of arrival.

        With only prompts to read, nobody waits for the step's end, and they can be cancelled between its layers.
        """
        undone = [len(c.tokens) - c.done for c in self.running]
        replies = undone.count(1)
        guessing = replies == len(undone) and self.pace.draft(replies, 1.0) > 0
        alone = not replies and not any(c.job.scored for c in self.running)
        if replies < len(undone):
            undone = self._share(undone, self.pace.chunk_alone if alone else self.pace.room(replies))
        batch, row = [], 0
        for choice, n in zip(self.running, undone, strict=True):
            assert choice.table
            guess = self._draft(choice, replies) if guessing else []
            if n:
                stop = row + n + len(guess)
                blocks, adapter = choice.table.blocks, choice.job.adapter
                batch.append(Piece(row, stop, choice.done, blocks, adapter, choice=choice, draft=guess))
                row = stop
        return batch

    def _share(self, undone: list[int], room: int) -> list[int]:
        """Rows of each: one of a reply; of prompts up to `room`, first those of keys that had none for longest."""
        rows = list(undone)
        self._steps += 1
        prompts = [i for i, n in enumerate(undone) if n > 1]
        for i in sorted(prompts, key=lambda i: self._read.get(self.running[i].job.salt, 0)):
            rows[i] = min(undone[i], room)
            room -= rows[i]
            if rows[i]:
                self._read[self.running[i].job.salt] = self._steps
        waiting = {self.running[i].job.salt for i in prompts}
        self._read = {salt: step for salt, step in self._read.items() if salt in waiting}
        return rows

    def _draft(self, choice: Choice, replies: int) -> list[int]:
        """A guess of what the reply goes on with, where one pays and blocks are there."""
        drafter, tokens = choice.drafter, choice.tokens
        count = min(self.pace.draft(replies, drafter.acceptance), choice.left - 1)
        if count <= 0:
            drafter.forgo()
            return []
        start = drafter.find(tokens)
        assert choice.table
        if start is None or not self.cache.grow(choice.table, len(tokens) + count):
            return []
        return draft(tokens, start, count)


def _age(choice: Choice) -> tuple[float, int]:
    return choice.job.arrived, choice.index
