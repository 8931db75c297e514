"""Blocks: counted, shared by equal beginnings only, and never lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from herd.engine.cache import BlockCache, Table, needed
from herd.engine.step import BLOCK


class Sequences(RuleBasedStateMachine):
    """Random sequences over two letters a block, checked against what a dictionary of whole prefixes knows."""

    @initialize(count=st.integers(6, 20))
    def begin(self, count: int) -> None:
        self.cache = BlockCache(count)
        self.open: list[tuple[Table, list[int], str]] = []
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}  # block → all tokens up to its end

    @rule(
        letters=st.lists(st.integers(0, 1), min_size=1, max_size=5),
        extra=st.integers(0, BLOCK - 1),
        salt=st.sampled_from("ab"),
        reuse=st.booleans(),
        spare=st.integers(0, 3),
    )
    def start(self, letters: list[int], extra: int, salt: str, reuse: bool, spare: int) -> None:
        tokens = [t for letter in letters for t in [letter] * BLOCK] + [7] * extra
        free = self.cache.free
        table = self.cache.open(tokens, salt, reuse=reuse, spare=spare)
        if table is None:
            assert self.cache.free == free < needed(len(tokens)) + spare
            return
        assert len(table.blocks) == needed(len(tokens))
        assert table.sealed * BLOCK < len(tokens)
        for i in range(table.sealed):  # a hit holds exactly these tokens, of this salt
            assert self.content[table.blocks[i]] == (salt, tuple(tokens[: (i + 1) * BLOCK]))
        self.open.append((table, tokens, salt))

    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        if self.open:
            table, tokens, salt = data.draw(st.sampled_from(self.open))
            done = data.draw(st.integers(table.sealed * BLOCK, len(tokens)))
            for i in range(table.sealed, done // BLOCK):
                self.content[table.blocks[i]] = (salt, tuple(tokens[: (i + 1) * BLOCK]))
            self.cache.seal(table, tokens, done)

    @rule(data=st.data(), count=st.integers(1, 40))
    def grow(self, data: st.DataObject, count: int) -> None:
        if self.open:
            table, tokens, _ = data.draw(st.sampled_from(self.open))
            free = self.cache.free
            if self.cache.grow(table, len(tokens) + count):
                tokens += [9] * count
            else:
                assert self.cache.free == free

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.open:
            entry = data.draw(st.sampled_from(self.open))
            self.open.remove(entry)
            self.cache.close(entry[0])

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "cache"):
            return
        used = Counter(b for table, _, _ in self.open for b in table.blocks)
        assert self.cache.references == [used[b] for b in range(self.cache.count)]
        assert self.cache.free == self.cache.count - len(used)
        for block, users in used.items():  # what is written is nobody else's
            if users > 1:
                assert all(t.blocks.index(block) < t.sealed for t, _, _ in self.open if block in t.blocks)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_was_used_last_is_kept_longest() -> None:
    cache = BlockCache(4)

    def use(letter: int) -> int:
        tokens = [letter] * (BLOCK + 1)
        table = cache.open(tokens, "", reuse=True, spare=0)
        assert table
        hits = table.sealed
        cache.seal(table, tokens, len(tokens))
        cache.close(table)
        return hits

    assert [use(1), use(2), use(3), use(1), use(4), use(1), use(2)] == [0, 0, 0, 1, 0, 1, 0]


def test_equal_hashes_are_not_equal_tokens() -> None:
    class Liar(int):
        def __hash__(self) -> int:
            return 0

    cache = BlockCache(8)
    one = [Liar(1)] * (BLOCK + 1)
    other = [Liar(2)] * (BLOCK + 1)
    assert hash(tuple(one)) == hash(tuple(other))
    table = cache.open(one, "", reuse=True, spare=0)
    assert table
    cache.seal(table, one, BLOCK)
    again = cache.open(other, "", reuse=True, spare=0)
    assert again and again.sealed == 0
