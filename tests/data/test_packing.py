"""Packing: every token exactly once, every row full."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.data.packing import pack


@given(st.lists(st.integers(0, 70), max_size=60), st.integers(1, 40))
def test_covers_every_token_once_and_fills_rows(lengths: list[int], seq_len: int) -> None:
    rows = pack(np.array(lengths, np.int64), seq_len)
    tokens = [(doc, start + i) for row in rows for doc, start, length in row for i in range(length)]
    assert sorted(tokens) == [(doc, i) for doc, length in enumerate(lengths) for i in range(length)]
    sizes = [sum(length for _, _, length in row) for row in rows]
    assert all(size == seq_len for size in sizes[:-1])
    assert all(0 < size <= seq_len for size in sizes)
    assert all(length > 0 for row in rows for _, _, length in row)


def test_a_document_that_fits_is_seldom_cut() -> None:
    """Concatenate-and-chop cuts about one document per row; best fit should cut far fewer."""
    lengths = np.random.default_rng(0).integers(20, 400, 20_000)
    rows = pack(lengths, 1024)
    pieces = sum(len(row) for row in rows)
    assert pieces - len(lengths) < 0.1 * len(rows)


@pytest.mark.timeout(60)
def test_speed() -> None:
    lengths = np.random.default_rng(0).integers(1, 3000, 200_000)
    begin = time.process_time()
    pack(lengths, 2048)
    assert time.process_time() - begin < 10
