"""Server-sent events, however their bytes are cut and their lines end."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocol.sse import Parser, ServerSent

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"]), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[str | None, str]]]:
    """Bytes of a stream, and its events."""
    wire, events = draw(st.sampled_from(["", "\ufeff"])), []
    for name, lines, comment in draw(
        st.lists(
            st.tuples(st.none() | st.just("ping"), st.lists(TEXT, max_size=3), st.booleans()), max_size=5
        )
    ):
        end = draw(ENDS)
        said = [": hello"] if comment else []
        said += [] if name is None else [f"event: {name}"]
        said += [f"data: {line}" for line in lines] + ["id: 7", "retry", "odd: x"]
        wire += "".join(line + end for line in said) + end
        if lines:
            events.append((name, "\n".join(lines)))
    return wire.encode(), events


@given(streams(), st.lists(st.integers(0, 300), max_size=8))
def test_any_cut_gives_the_same_events(
    stream: tuple[bytes, list[tuple[str | None, str]]], cuts: list[int]
) -> None:
    wire, events = stream
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    parser = Parser()
    pieces = [wire[a:b] for a, b in zip(places, places[1:], strict=False)]
    whole = [event for piece in pieces for event in parser.feed(piece)]
    found = [*whole, *parser.end()]
    assert [(event.event, event.data) for event in found] == events
    assert all(event.raw in wire for event in whole) and len(found) - len(whole) <= wire.endswith(b"\r")


def test_the_bytes_of_an_event_are_whole() -> None:
    parser = Parser()
    first, second = b'event: a\ndata: {"x": "\xf0\x9f\xa6\x99"}\n\n', b"data: [DONE]\r\n\r\n"
    assert parser.feed(first[:25]) == []
    assert parser.feed(first[25:] + b": wait\n\n" + second) == [
        ServerSent("a", '{"x": "🦙"}', first),
        ServerSent(None, "[DONE]", second),
    ]
    assert parser.feed(b"data: cut o") == [] and [e.data for e in parser.end()] == ["cut o"]
    assert parser.end() == []


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        Parser().feed(b"data: \xff\n\n")
    parser = Parser(100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        for _ in range(20):
            parser.feed(b"data: endless ")


def test_thousands_of_chunks_a_second() -> None:
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
    small, large, began = Parser(), Parser(), time.process_time()
    assert sum(len(small.feed(event)) for _ in range(20_000)) == 20_000
    assert len(large.feed(event * 20_000)) == 20_000
    for at in range(0, 1_000_000, 1_000):  # a long event in short pieces
        large.feed(b"data: " if at == 0 else b"x" * 1_000)
    assert len(large.feed(b"\n\n")) == 1
    assert time.process_time() - began < 3
