"""Which blocks hold whose keys and values: allotted as sequences grow, shared by equal beginnings, kept until needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from herd.engine.step import BLOCK


@dataclass
class Table:
    """One sequence's blocks, of the positions from 0 on; the first `sealed` of them are full and may be shared.

    chain: stands for all that the sealed blocks hold, and for who may share it.
    """

    chain: Hashable
    blocks: list[int] = field(default_factory=list)
    sealed: int = 0


class BlockCache:
    """Reference counts of blocks, and full blocks by what they hold.

    A full block's key is (chain before it, its tokens), and its own chain is a number that is never used again. A
    dictionary compares keys whole, so a hit means the same tokens all the way to the root, not only equal hashes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.references = [0] * count
        self.empty = list(range(count - 1, -1, -1))  # memory that was never written comes last
        self.idle: OrderedDict[int, None] = (
            OrderedDict()
        )  # hold something that nobody uses; longest unused first
        self._found: dict[tuple[Hashable, tuple[int, ...]], int] = {}
        self._keys: dict[int, tuple[Hashable, tuple[int, ...]]] = {}
        self._chains: dict[int, int] = {}
        self._next_chain = 0

    @property
    def free(self) -> int:
        return len(self.empty) + len(self.idle)

    @property
    def usage(self) -> float:
        """Share of all blocks that sequences use now."""
        return 1 - self.free / self.count

    def open(self, tokens: Sequence[int], root: Hashable, *, reuse: bool, spare: int) -> Table | None:
        """A table with room for `tokens`, its beginning shared where the cache has it; None if blocks are short.

        The last token is never shared, since its logits are wanted. `spare` blocks must stay free.
        """
        table = Table(root)
        for end in range(BLOCK, len(tokens) if reuse else 0, BLOCK):
            block = self._found.get((table.chain, tuple(tokens[end - BLOCK : end])))
            if block is None:
                break
            self._use(block)
            table.blocks.append(block)
            table.chain = self._chains[block]
            table.sealed += 1
        if self.free - spare < needed(len(tokens)) - table.sealed:
            self.close(table)
            return None
        self.grow(table, len(tokens))
        return table

    def grow(self, table: Table, positions: int) -> bool:
        """Give the table blocks for so many positions; False, and nothing given, if there are too few."""
        missing = needed(positions) - len(table.blocks)
        if missing > self.free:
            return False
        table.blocks += [self._take() for _ in range(missing)]
        return True

    def seal(self, table: Table, tokens: Sequence[int], done: int) -> None:
        """Let blocks that are full now be found. Of two that hold the same, the first stays."""
        for i in range(table.sealed, done // BLOCK):
            key = (table.chain, tuple(tokens[i * BLOCK : (i + 1) * BLOCK]))
            block, mine = self._found.get(key), table.blocks[i]
            if block is None:
                block = self._found[key] = mine
                self._keys[mine] = key
                self._next_chain += 1
                self._chains[mine] = self._next_chain
            elif block != mine:
                self._use(block)
                table.blocks[i] = block
                self._release(mine)
            table.chain = self._chains[block]
            table.sealed = i + 1

    def close(self, table: Table) -> None:
        """Give all blocks back, the last first: so a beginning outlives what goes on from it."""
        for block in reversed(table.blocks):
            self._release(block)
        table.blocks.clear()

    def _use(self, block: int) -> None:
        self.references[block] += 1
        self.idle.pop(block, None)

    def _release(self, block: int) -> None:
        self.references[block] -= 1
        if self.references[block] == 0:
            if block in self._keys:
                self.idle[block] = None
            else:
                self.empty.append(block)

    def _take(self) -> int:
        if self.empty:
            block = self.empty.pop()
        else:
            block, _ = self.idle.popitem(last=False)
            del self._found[self._keys.pop(block)], self._chains[block]
        self.references[block] = 1
        return block


def needed(positions: int) -> int:
    """Blocks that so many positions take."""
    return -(-positions // BLOCK)
