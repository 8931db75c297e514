"""What gives a side away, and what only looks like it."""

from __future__ import annotations

import time

import pytest

from herd.arena.leaks import leak, words_of

MINI = words_of("openai/gpt-4o-mini")
CLAUDE = words_of("anthropic/claude-3-5-sonnet")
COMMAND = words_of("cohere/command-r-plus")
TALE, CRIA = words_of("tale"), words_of("cria@2")
HELPER = words_of("helper", "openai", "gpt-4o-mini", identities=["Acme Corp"])

GIVEN_AWAY = [
    (MINI, "I'm ChatGPT, how can I help?"),
    (MINI, "As a model, GPT-4o mini is small."),
    (MINI, "gpt4o"),
    (MINI, "That is a question for OpenAI."),
    (MINI, "I am **GPT\u20114o**."),  # a hyphen that does not break
    (MINI, "I was made by Open\u200bAI."),  # a space that is not seen
    (MINI, "Ｉ ａｍ ＣｈａｔＧＰＴ"),
    (HELPER, "I am GPT-4."),
    (HELPER, "Welcome to ACME Corp!"),
    (CLAUDE, "Claude 3.5 would say so."),
    (CLAUDE, "My name is Claude."),
    (CLAUDE, "I’m *Claude*, an assistant made by Anthropic."),
    (CLAUDE, "Ich bin Claude."),
    (CLAUDE, "Je m'appelle Claude."),
    (CLAUDE, "我是Claude"),
    (COMMAND, "I am Command R+."),
    (COMMAND, "I'm an AI assistant trained by Cohere."),
    (TALE, "I am Tale, and I tell stories."),
    (TALE, "My name is Tale."),
    (TALE, "As Tale, I tell stories."),
    (TALE, "I am a large language model, trained by Google."),  # whether or not it is so
    (TALE, "I am a language model called Llama."),
    (CRIA, "I'm Cria."),
    (CRIA, "You are talking to cria 2."),
    (words_of("llama3.1:8b"), "llama-3.1"),
    (words_of("Qwen/Qwen2.5-7B"), "通义千问 Qwen"),
]
HARMLESS = [
    (TALE, "This is a tale of two llamas, as a tale should be."),
    (TALE, "Once upon a time there was a cria called Dot. I am a tale teller, she said."),
    (CRIA, "A cria is a baby llama; isto cria problemas."),
    (CRIA, "OpenAI was founded in 2015."),  # not this side's
    (CLAUDE, "Claude Monet painted water lilies; Claude Shannon wrote of information."),
    (COMMAND, "I am a command line tool. Run the command in a shell, and the parts cohere."),
    (MINI, "A minimal answer: 4."),
    (MINI, "The gptx file is in 4o/mini."),
    (words_of("gemini/gemini-2.5-pro"), "I am a Gemini, born in June; the pro said so."),
    (words_of("mistral/mistral-large"), "The mistral is a large wind."),
    (HELPER, "A helper helps. The acme of a mountain."),
    (words_of("a"), "I am a person. A is a letter."),
    (words_of("2"), "I am 2 metres tall."),
]


@pytest.mark.parametrize(("words", "reply"), GIVEN_AWAY)
def test_given_away(words: list[str], reply: str) -> None:
    found = leak(["Hello.", reply], words)
    assert found and len(found) <= 100


@pytest.mark.parametrize(("words", "reply"), HARMLESS)
def test_harmless(words: list[str], reply: str) -> None:
    assert leak([reply], words) is None


def test_the_other_sides_name_counts_where_it_is_claimed() -> None:
    assert leak(["I am Cria."], TALE) is None
    assert leak(["I am Cria."], TALE, CRIA) == "i am cria"
    assert leak(["OpenAI was founded in 2015."], CRIA, MINI) is None


def test_any_name_can_stand_in_the_configuration() -> None:
    for name in ("", "/", "(((", "[a-z", "<script>alert(1)</script>", "a" * 200, "\0", "🦙", "x/y/z@3:4_5"):
        words = words_of(name)
        assert leak(["Nothing of this kind. 1 2 3"], words) is None
        if any(letter.isalpha() for letter in name):
            assert all(words)


def test_long_replies_take_no_longer_than_they_must() -> None:
    began = time.perf_counter()
    for piece in ("ai ", "I am ", "model assistant ", "I am an ai made by ", "* _ ` ", "I'm a model "):
        assert leak([piece * (100_000 // len(piece))], MINI) is None
    assert time.perf_counter() - began < 10
