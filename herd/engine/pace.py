"""How much a step may do: learnt from the time that steps take."""

from __future__ import annotations

import math

STEP = 0.1  # seconds a layer of a step that nobody waits for; DESIGN allows 0.2 a step that can be cancelled
LONGEST = 0.2  # seconds that a step of replies may take where fewer of them at once can prevent more
SLOWER = 1.7  # a step that also reads prompts may take so many times what the replies alone take
FEW = 4  # rows that any machine computes in about the time of one
LOOK = 8  # of so many steps one reads no prompt: what the replies alone take changes meanwhile
RARE = 25  # steps: where prompts are read in one of so many, 19 of 20 take what the replies alone take
BRIEF = 0.02  # seconds of a step of replies, of which RARE may pass without a prompt's being read
MAX_DRAFT = 8  # tokens
FORGET = 0.97  # of what is known of a step's time, kept at each step


class Pace:
    """room: rows of prompts in a step that replies wait for; chunk_alone: in one that only reads prompts.

    Each such step reads a `chunk`, which adds to its time as SLOWER says. Where only a few rows could be read so
    (a small model, or a long context behind each row), one step in RARE reads what the steps since the last might
    have, so that replies are no slower on the whole, and all but one of RARE tokens come as without the prompt.

    width: sequences that may run at once. A step of replies takes base + each · rows seconds: least squares over
    recent steps (Gauss), which is what decides whether drafts pay.
    """

    def __init__(self, slots: int, budget: int, layers: int) -> None:
        self.slots, self.width, self.layers = slots, slots, layers
        self.budget = max(budget, FEW)
        self.chunk, self.chunk_alone = min(16, self.budget), min(64, self.budget)
        self._rarely = False
        self._row = 0.0  # seconds of a prompt's row, where they are read rarely
        self._reading, self._since = 0, 4 * RARE  # steps of replies in a row with prompts, or without
        self._least = 0.0  # seconds of the last step that could not have been smaller
        self._sums = (0.0,) * 5  # of 1, rows, rows², seconds, rows · seconds, the latest weighing most
        self._base = self._each = 0.0

    def learn(self, replies: int, drafted: int, prompts: int, seconds: float) -> None:
        """A step took so long; it had a row for each reply, and rows of drafts and prompts besides."""
        if prompts and replies:
            self._weigh(replies, prompts, seconds)
            self._reading, self._since = self._reading + 1, 0
        elif prompts:
            goal = STEP * self.layers
            self.chunk_alone = self._scaled(self.chunk_alone, prompts, goal / max(seconds, 1e-6))
        else:
            self._reading, self._since = 0, self._since + 1
            self._remember(replies + drafted, seconds)
            if not drafted:
                self._limit(replies, seconds)

    def room(self, replies: int) -> int:
        """Rows of prompts that the next step may read beside so many replies."""
        if not replies:
            return self.chunk
        if not self._rarely:
            return 0 if self._reading >= LOOK - 1 else self.chunk
        if self._since < RARE - 1:
            return 0
        usual, spare = self._spare(replies)
        seconds = min(min(self._since + 1, 4 * RARE) * spare, 0.9 * LONGEST - usual)
        return min(max(int(seconds / self._row), FEW), self.budget)

    def time(self, rows: int) -> tuple[float, float]:
        """Seconds of a step of replies, and of each row more; zeros while nothing is known."""
        return max(self._base + self._each * rows, 0.0), self._each

    def draft(self, replies: int, acceptance: float) -> int:
        """Tokens worth drafting: while the chance that one is accepted, in time of a reply's token, pays its row."""
        usual, each = self.time(replies)
        worth, k, chance = usual / max(replies, 1), 0, acceptance
        longest = max(LONGEST, 1.25 * usual)
        while k < MAX_DRAFT and chance * worth > each and usual + (k + 1) * replies * each <= longest:
            k, chance = k + 1, chance * acceptance
        return k

    def _spare(self, replies: int) -> tuple[float, float]:
        """Seconds of a step of replies, and those that prompts may add to it."""
        usual, _ = self.time(replies)
        return usual, (min(SLOWER * usual, 0.9 * LONGEST) if usual else STEP) - usual

    def _weigh(self, replies: int, prompts: int, seconds: float) -> None:
        """What a step that also read prompts says about the next chunk, and whether to read rarely."""
        usual, spare = self._spare(replies)
        extra = max(seconds - usual, 1e-6)
        row = extra / prompts
        if self._rarely:
            self._row = min(max(row, self._row / 2), 2 * self._row)
            if spare > 3 * FEW * self._row or usual > BRIEF:
                self._rarely, self.chunk = False, min(2 * FEW, self.budget)
        elif 0 < usual <= BRIEF and spare < FEW * row and prompts >= FEW:
            self._rarely, self._row = True, row
        else:
            self.chunk = self._scaled(self.chunk, prompts, spare / extra)

    def _remember(self, rows: int, seconds: float) -> None:
        usual, _ = self.time(rows)
        seconds = min(seconds, 3 * usual) if usual else seconds  # something else had the machine
        new = (1, rows, rows * rows, seconds, rows * seconds)
        self._sums = tuple(FORGET * old + x for old, x in zip(self._sums, new, strict=True))  # type: ignore[assignment]
        n, r, rr, t, rt = self._sums
        spread = n * rr - r * r
        self._each = max((n * rt - r * t) / spread, 0.0) if spread > 0.01 * n * n else 0.0
        self._base = (t - self._each * r) / n

    def _scaled(self, chunk: int, used: int, scale: float) -> int:
        """The chunk, nearer to the size that takes its time; one that was not half used cannot tell that it may grow."""
        if scale < 1 or used >= chunk // 2:
            chunk = math.floor(chunk * min(max(scale, 0.5), 2.0))
        return min(max(chunk, FEW), self.budget)

    def _limit(self, replies: int, seconds: float) -> None:
        """Let fewer sequences run at once when a step of replies takes too long, and one more when it does not."""
        if replies <= FEW:
            self._least = seconds
        if self._least > LONGEST:  # a large model: no step is short enough, and more replies cost little more
            self.width = self.slots
        elif seconds > LONGEST:
            self.width = max(math.floor(replies * LONGEST / seconds), FEW)
        elif replies >= self.width:
            self.width = min(self.width + 1, self.slots)
