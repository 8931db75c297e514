"""What a battle is about, by rule: the style of its replies, and the categories of its prompts."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

LONG = 2000  # characters of a prompt that is a long one
SURE = 0.8  # probability of a language below which none is named
LETTERS = 20  # of a prompt; from fewer nobody can tell its language
READ = 4000  # characters that are looked at for the language
LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian",
    "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1[`~]*\s*$|\Z)", re.M | re.S)
_HEADER = re.compile(r"^ {0,3}#{1,6}[ \t]", re.M)
_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+\S", re.M)
_BOLD = re.compile(r"\*\*(?=\S)[^*\n]{1,500}\*\*|(?<!\w)__(?=\S)[^_\n]{1,500}__(?!\w)")
_CODE = re.compile(
    r"```|\bdef \w+\(|#include\b|\bconsole\.log\b|</\w+>|\bselect\b.{1,200}\bfrom\b|\w\(\);|\b(?:python|javascript|"
    r"typescript|golang|sql|html|css|bash|regex|code|coding|programming|debug|compiler?|refactor|unit tests?|"
    r"traceback|stack trace|pytest|json|api)\b",
    re.I,
)
_MATHS = re.compile(
    r"\\(?:frac|sum|int|sqrt)\b|\d\s*[+*^×÷=]\s*\d|\d\s+[-/]\s+\d|\b(?:equations?|integrals?|derivatives?|theorems?|"
    r"algebra|geometry|probability|matrix|matrices|polynomials?|arithmetic|maths?|mathematics|prove that|"
    r"solve for|square roots?|prime numbers?)\b",
    re.I,
)


def style(text: str) -> list[int]:
    """Of a reply in Markdown: its length in characters, then how many headers, items of lists, and bold passages it
    has outside fenced code."""
    prose = _FENCED.sub("", text)
    return [len(text), *(len(kind.findall(prose)) for kind in (_HEADER, _ITEM, _BOLD))]


def categories(prompts: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """The categories of a battle with these prompts, one a turn; `own`: the application's names. The first call loads
    the languages, which takes half a second."""
    rules = {
        "code": any(_CODE.search(text) for text in prompts),
        "maths": any(_MATHS.search(text) for text in prompts),
        "multi-turn": len(prompts) > 1,
        "long prompt": any(len(text) >= LONG for text in prompts),
    }
    found = [name for name, holds in rules.items() if holds]
    if spoken := language("\n".join(prompts)[:READ]):
        found.append(f"language/{spoken}")
    return found + [f"tag/{name}" for name in own]


def language(text: str) -> str | None:
    """Its English name; None if it is not one of LANGUAGES, or the text does not tell."""
    prose = _FENCED.sub(" ", text)
    # A Chinese character says as much as a word.
    if sum(map(str.isalpha, prose)) + 3 * sum(one > "\u2e80" for one in prose) < LETTERS:
        return None
    code, probability = _identifier().classify(prose)
    return LANGUAGES.get(code) if probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes half a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
