"""What a step computes, and who computes it: PyTorch (`eager`) or the kernels (`native`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from herd.model.config import Config

BLOCK = 32  # positions of a cache block


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter, applied to some rows of a step: y += scale · B (A x).

    a: [rank, inputs], b: [outputs, rank] (fp32) by the layer's name, as "layers.3.attn.q".
    """

    scale: float
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in (*self.a.values(), *self.b.values()))


@dataclass
class Span:
    """Rows [start, stop) of a step: one sequence's tokens from position `past` on.

    blocks: cache blocks of the positions from 0 on, enough for all that the sequence has after the step.
    """

    start: int
    stop: int
    past: int
    blocks: Sequence[int]
    adapter: Adapter | None = None


class Runner(Protocol):
    """A model with its keys and values in blocks of BLOCK positions.

    Where `invariant`, a row's numbers depend on its own sequence only, bit for bit: not on the other rows, on where
    a prompt is cut into steps, or on which blocks hold it.
    """

    config: Config
    invariant: bool

    def allocate(self, blocks: int) -> None:
        """Make room for keys and values of so many blocks, in memory that is only taken when it is written."""
        ...

    def rest(self) -> bool:
        """Do ahead, for a fraction of a millisecond, what steps would else have to wait for; False where nothing is left."""
        ...

    @property
    def block_bytes(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

    def copy_block(self, source: int, target: int) -> None: ...

    def hidden(self, tokens: Sequence[int], spans: Sequence[Span], between: Callable[[], None]) -> Tensor:
        """Final normalised states [T,C] (fp32) of the rows; keys and values go to the cache.

        `between` is called before the first layer, and before others as soon as some 10 ms have passed; what it raises
        ends the step, whose blocks may then hold anything at the step's positions.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [n,V] of states [n,C]."""
        ...
