"""Stop strings and half characters, against the plain definition on the whole text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.text import StopText
from herd.model.tokenizer import Tokenizer


class Pieces:
    """A decoder whose tokens are given pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token: int) -> str:
        return self.pieces[token]

    def finish(self) -> str:
        return ""


@settings(deadline=None)
@given(
    st.lists(st.text("ab", max_size=3), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=20),
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    text = StopText(Pieces(pieces), stops)
    shown = ""
    for i in range(len(pieces)):
        if text.stopped:
            break
        shown += text.push(i)
        so_far = "".join(pieces[: i + 1])
        assert so_far.startswith(shown)
        assert text.stopped == any(s in so_far for s in stops)
        # What is held back is only what may yet become a stop string.
        held = so_far[len(shown) :]
        assert text.stopped or not held or any(s.startswith(held) for s in stops)
    shown += text.finish()
    whole = "".join(pieces)
    if not text.stopped:
        assert shown == whole
    else:
        assert not any(s in shown for s in stops)
        assert any(whole[len(shown) :].startswith(s) for s in stops)


def test_characters_come_whole(tokenizer: Tokenizer) -> None:
    text = "Grüße 🦙 日本語 и"
    ids = tokenizer.encode(text)
    streamed = StopText(tokenizer.stream(), ())
    pieces = [streamed.push(i) for i in ids]
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces) and streamed.finish() == ""

    emoji = tokenizer.encode("🦙")
    if len(emoji) > 1:
        half = StopText(tokenizer.stream(), ())
        assert "".join(half.push(i) for i in emoji[:-1]) == ""
        assert set(half.finish()) == {"\ufffd"}
