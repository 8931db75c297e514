"""Multiple choice and minimal pairs, by the likelihood a model gives to the texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from herd.data.sources import numbered_records
from herd.errors import HerdError
from herd.eval.score import Progress, begin, silent, token_logprobs
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer

Item = Mapping[str, Any]
_OPTION = re.compile(r"^ ?([A-Z])\. (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Accuracy:
    """The share of n items answered right, and its standard error √(p(1−p)/(n−1))."""

    value: float
    error: float
    n: int

    @classmethod
    def of(cls, right: Sequence[bool]) -> Accuracy:
        n, value = len(right), sum(right) / len(right)
        return cls(value, math.sqrt(value * (1 - value) / max(1, n - 1)), n)


@dataclass(frozen=True)
class MultipleChoice:
    """`normalised`: the choice with the highest log-likelihood per UTF-8 byte; `plain`: of the highest in total;
    `chance`: what guessing would give."""

    normalised: Accuracy
    plain: Accuracy
    chance: float


@dataclass(frozen=True)
class Blimp:
    """Accuracy over all pairs and for each phenomenon."""

    overall: Accuracy
    phenomena: dict[str, Accuracy]


def read_items(path: str | Path, limit: int | None = None) -> list[Item]:
    """The records of a .jsonl file (plain, .zst or .gz); with `limit`, that many spread evenly over the file."""
    items = [item for _, item in numbered_records(path)]
    if limit and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
    return items


def multiple_choice(
    model: Llama,
    tokenizer: Tokenizer,
    items: Iterable[Item],
    *,
    letters: bool = False,
    progress: Progress = silent,
) -> MultipleChoice:
    """Score each choice as the continuation, after a space, of the question.

    An item is {"doc": {"query" or "question", "choices", "gold"}}. Where the question lists its choices by letter,
    the list is taken out and the choices' texts are scored (the cloze form: only models far larger than ours
    understand letters; Gu et al. 2024, arXiv:2406.08446); `letters` leaves such an item as it is. A question too
    long for the model loses its beginning.
    """
    questions, sequences, starts = [], [], []
    first, limit = begin(tokenizer), model.config.max_positions
    for item in items:
        query, choices, gold = _question(item, letters)
        questions.append(([len(choice.encode()) for choice in choices], gold))
        head = tokenizer.encode(query)
        for choice in choices:
            tail = tokenizer.encode(" " + choice)
            room = limit - len(tail)  # of limit + 1 tokens in and out, one begins
            if room < 0:
                raise HerdError(f"a choice of {len(tail)} tokens does not fit into {limit} positions")
            kept = head[len(head) - min(room, len(head)) :]
            sequences.append([first, *kept, *tail])
            starts.append(len(kept))
    if not questions:
        raise HerdError("no questions to answer")
    logprobs = token_logprobs(model, sequences, progress=progress)
    totals = iter([float(p[start:].sum()) for p, start in zip(logprobs, starts, strict=True)])
    plain, normalised = [], []
    for sizes, gold in questions:
        total = np.array([next(totals) for _ in sizes])
        plain.append(int(total.argmax()) == gold)
        normalised.append(int((total / sizes).argmax()) == gold)
    chance = sum(1 / len(sizes) for sizes, _ in questions) / len(questions)
    return MultipleChoice(Accuracy.of(normalised), Accuracy.of(plain), chance)


def blimp(model: Llama, tokenizer: Tokenizer, pairs: Iterable[Item], *, progress: Progress = silent) -> Blimp:
    """How often the acceptable sentence is the likelier one (BLiMP, Warstadt et al. 2020, arXiv:1912.00582).

    A pair is {"good", "bad", "phenomenon"}; sentences are scored whole after the begin token, without an end token.
    """
    pairs = list(pairs)
    try:
        texts = [pair[side] for pair in pairs for side in ("good", "bad")]
        names = [str(pair["phenomenon"]) for pair in pairs]
    except (KeyError, TypeError):
        raise HerdError('a minimal pair is an object with "good", "bad" and "phenomenon"') from None
    if not pairs:
        raise HerdError("no minimal pairs to judge")
    first = begin(tokenizer)
    sequences = [[first, *ids] for ids in tokenizer.encode_batch(texts)]
    total = [float(p.sum()) for p in token_logprobs(model, sequences, progress=progress)]
    right = [good > bad for good, bad in zip(total[::2], total[1::2], strict=True)]
    phenomena = {
        name: Accuracy.of([ok for ok, other in zip(right, names, strict=True) if other == name])
        for name in sorted(set(names))
    }
    return Blimp(Accuracy.of(right), phenomena)


def _question(item: Item, letters: bool) -> tuple[str, list[str], int]:
    try:
        doc = item["doc"]
        query = doc["query"] if "query" in doc else doc["question"]
        choices, gold = list(doc["choices"]), doc["gold"]
        if not (isinstance(query, str) and len(choices) > 1 and 0 <= gold < len(choices)):
            raise ValueError
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise HerdError(
            'a multiple-choice item is {"doc": {"query" or "question", "choices" (two or more), "gold"}}; '
            "one of these is not"
        ) from None
    return (query, choices, gold) if letters else (*cloze(query, choices), gold)


def cloze(query: str, choices: list[str]) -> tuple[str, list[str]]:
    """The question without its lettered list, and the texts that the letters stand for; unchanged where the
    question lists none. A beginning to be continued loses its trailing "Answer:" too."""
    options = dict(_OPTION.findall(query))
    if not all(options.get(choice, "").strip() for choice in choices):
        return query, choices
    stem = _OPTION.split(query)[0].rstrip("\n").removesuffix("\nChoose the best continuation:")
    asked = stem.endswith("?") or re.search(r"(^|\n)(Question|Goal): ", stem)
    return (stem + "\nAnswer:" if asked else stem), [options[choice].strip() for choice in choices]
