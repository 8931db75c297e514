"""Replies that give away who wrote them: a vote that may have known the names says nothing, so it is void.

The rule looks at the reply's text only; what a person writes in the prompt voids nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

SHOWN = 100  # characters of a leak
# Families of models with the words that go with them: vendors, products.
FAMILIES = {
    "gpt": ("openai", "chatgpt"), "claude": ("anthropic",), "gemini": ("google", "bard"), "gemma": ("google",),
    "llama": ("meta", "meta ai", "vicuna", "alpaca"), "mistral": ("mistral ai", "mixtral"), "command": ("cohere",),
    "qwen": ("alibaba", "tongyi"), "deepseek": (), "grok": ("xai",), "phi": ("microsoft",), "kimi": ("moonshot",),
    "nova": ("amazon",), "olmo": ("allen institute",), "chatglm": ("zhipu",), "yi": ("01.ai",),
}  # fmt: skip
# Words that mean nothing else. The others are also beasts, winds, signs, orders and tales.
UNMISTAKABLE = frozenset(
    "gpt openai chatgpt anthropic mixtral qwen deepseek chatglm xai tongyi olmo zhipu".split()
)

_QUOTES = re.compile(r"[*_`\"“”«»]")
_GAP = r"[-_.@:/ ]?"
_KIND = r"(?:(?:large|language|ai|chat|virtual) ){0,4}(?:model|assistant|ai|bot|chatbot)"
_I_AM = (
    r"(?:i am|i'm|my name is|my name's|je suis|je m'appelle|ich bin|ich heiße|mein name ist|me llamo|mi nombre es|"
    r"yo soy|mi chiamo|eu sou|meu nome é|you(?:'re| are) (?:talking|speaking|chatting) (?:to|with))"
)
_MADE = r"(?:made|created|developed|trained|built|designed|provided|powered) by"


def leak(replies: Iterable[str], words: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """What gives a side away in its replies, as a reader would quote it; None if nothing does.

    `words`: those of `words_of`; `others`: the other side's. A word of its own that means nothing else counts wherever it
    stands; the rest, and all families of models, where the reply says of itself that it is, or is made by, them.
    """
    own, other = _rules(tuple(words)), _rules(tuple(others))
    for text in replies:
        plain = _plain(text)
        found = own.anywhere.search(plain) if own.anywhere else None
        for rules in (own, other):
            if not found and rules.names.search(plain):  # which is soon told, and is seldom so
                found = rules.claimed.search(plain)
        if found:
            return found[0].strip()[:SHOWN]
    return None


def words_of(*names: str, identities: Iterable[str] = ()) -> list[str]:
    """What gives a target away that has these names (its own, its model's, its provider's): the parts of the names,
    each with the numbers that follow it, their families' words, and `identities`, which count wherever they stand
    (marked by "!")."""
    found: list[str] = []
    for name in map(_plain, names):
        for part in name.split("/"):
            pieces = re.findall(r"[^\W\d_]+|\d+[^\W_]*", part)
            found += [" ".join(pieces[:end]) for end in range(1, len(pieces) + 1)]
    for family, others in FAMILIES.items():
        if any(family in word.split() or word.split()[0] in others for word in found if word):
            found += [family, *others]
    found = [word for word in dict.fromkeys(found) if len(word) > 1 and not word.isdigit()]
    return found + [f"!{_plain(word)}" for word in identities]


class _Rules(NamedTuple):
    """What counts anywhere, what counts where it is claimed, and the names that are in each claim."""

    anywhere: re.Pattern[str] | None
    claimed: re.Pattern[str]
    names: re.Pattern[str]


@lru_cache(maxsize=256)
def _rules(words: tuple[str, ...]) -> _Rules:
    telling = [word.lstrip("!") for word in words if _tells(word)]
    known = {w for family, others in FAMILIES.items() for w in (family, *others)}
    names = _any({*known, *(word.lstrip("!") for word in words)})
    claims = (
        rf"{_I_AM},? (?:(?:an? |the )?{_KIND},? )?(?:called |named |known as )?{names}",
        rf"{_I_AM} an? {names},? {_KIND}",
        rf"\bas {names}, (?:i\b|an? (?:ai|large|language)\b|my\b)",
        rf"(?:我是|我叫) ?{names}",
        rf"\b(?:i am|i'm|i was|(?:{_KIND}))\b[^.!?\n]{{0,60}}\b{_MADE} (?:the )?{names}",
    )
    anywhere = re.compile(_any(telling)) if telling else None
    return _Rules(anywhere, re.compile("|".join(claims)), re.compile(names))


def _tells(word: str) -> bool:
    """Whether a word gives a target away wherever it stands: one that means nothing else, or a name and its number."""
    first, *rest = word.split() or [""]
    numbered = len(first) > 1 and any(c.isdigit() for c in "".join(rest))
    return word[0] == "!" or first in UNMISTAKABLE or numbered


def _any(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first, with or without a mark or space between their parts."""
    longest = sorted(set(words), key=lambda word: (-len(word), word))
    forms = "|".join(_GAP.join(map(re.escape, word.split())) for word in longest)
    return rf"(?<![a-zß-ÿ0-9])(?:{forms})(?![a-zß-ÿ0-9])"  # Chinese has no spaces before and after a name


def _plain(text: str) -> str:
    """Small letters, without what is not seen and the marks of emphasis."""
    seen = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    if not seen.isascii():
        seen = "".join(one for one in seen if unicodedata.category(one) != "Cf")
    return re.sub(r"[ \t\xa0]+", " ", _QUOTES.sub("", seen))
