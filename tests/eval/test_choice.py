"""Multiple choice and BLiMP: right answers by an independent count, formats of the real files."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from herd.errors import HerdError
from herd.eval.choice import Accuracy, blimp, cloze, multiple_choice, read_items
from herd.model.llama import Llama
from herd.model.tokenizer import Tokenizer


def item(query: str, choices: list[str], gold: int) -> dict[str, Any]:
    return {"doc": {"query": query, "choices": choices, "gold": gold}}


ITEMS = [
    item("The fox was", ["kind", "a small brown river near the river"], 0),
    item("It had", ["friends", "12", "a time upon the river"], 2),
    item("Once upon a time a small brown fox lived near the river and " * 8, ["it was", "near the"], 1),
    item("A", ["kind", "time"], 0),
    item("B", ["kind", "times"], 1),
]


@torch.inference_mode()
def likelihood(peer: Any, tokenizer: Tokenizer, query: str, choice: str) -> float:
    head, tail = tokenizer.encode(query), tokenizer.encode(" " + choice)
    head = [tokenizer.bos_id, *head[max(0, len(head) + len(tail) - 48) :]]
    logprobs = peer(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return sum(logprobs[len(head) + i - 1, token].item() for i, token in enumerate(tail))


def test_choices_against_transformers(model: Llama, peer: Any, tokenizer: Tokenizer) -> None:
    result = multiple_choice(model, tokenizer, ITEMS)
    plain = normalised = 0
    for doc in (it["doc"] for it in ITEMS):
        scores = [likelihood(peer, tokenizer, doc["query"], c) for c in doc["choices"]]
        each = [s / len(c) for s, c in zip(scores, doc["choices"], strict=True)]
        plain += scores.index(max(scores)) == doc["gold"]
        normalised += each.index(max(each)) == doc["gold"]
    assert result.plain.value == plain / 5
    assert result.normalised.value == normalised / 5
    assert result.chance == pytest.approx((4 / 2 + 1 / 3) / 5)


def test_standard_error_is_that_of_a_proportion() -> None:
    accuracy = Accuracy.of([True] * 30 + [False] * 10)
    assert (accuracy.value, accuracy.n) == (0.75, 40)
    assert accuracy.error == pytest.approx(math.sqrt(0.75 * 0.25 / 39))


def test_cloze_takes_the_list_out() -> None:
    letters = ["A", "B"]
    assert cloze("Question: Who?\n A. me\n B. you\nAnswer:", letters) == (
        "Question: Who?\nAnswer:",
        ["me", "you"],
    )
    assert cloze("A cat has\n A. four legs\n B. two legs \nAnswer:", letters) == (
        "A cat has",
        ["four legs", "two legs"],
    )
    assert cloze("Cook: He\nChoose the best continuation:\n A. eats.\n B. is.\nAnswer:", letters) == (
        "Cook: He",
        ["eats.", "is."],
    )
    assert cloze("The sky is", ["blue", "red"]) == ("The sky is", ["blue", "red"])


def test_blimp_counts_the_likelier_sentence(model: Llama, peer: Any, tokenizer: Tokenizer) -> None:
    sentences = [
        "The fox was kind.",
        "The fox kind was.",
        "It had friends.",
        "It friends had.",
        "near a",
        "a",
    ]
    pairs = [
        {"good": good, "bad": bad, "phenomenon": "order" if i % 2 else "other"}
        for i, (good, bad) in enumerate((a, b) for a in sentences for b in sentences if a != b)
    ]
    result = blimp(model, tokenizer, pairs)

    @torch.inference_mode()
    def total(text: str) -> float:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        return -peer(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item() * (len(ids) - 1)

    right = [total(p["good"]) > total(p["bad"]) for p in pairs]
    assert sum(right) == len(pairs) // 2  # each pair comes both ways round
    assert result.overall == Accuracy.of(right)
    assert result.phenomena == {"order": Accuracy.of(right[1::2]), "other": Accuracy.of(right[::2])}


@pytest.mark.parametrize(
    "bad",
    [{}, {"doc": {}}, item("q", ["a"], 0), item("q", ["a", "b"], 2), item("q", ["a", ""], 0), [], 3],
)
def test_malformed_items_are_refused(model: Llama, tokenizer: Tokenizer, bad: Any) -> None:
    with pytest.raises(HerdError, match="one of these is not"):
        multiple_choice(model, tokenizer, [bad])
    with pytest.raises(HerdError, match="minimal pair"):
        blimp(model, tokenizer, [bad])


def test_read_items_spreads_its_sample(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f'{{"n": {i}}}\n' for i in range(10)))
    assert [it["n"] for it in read_items(file, 4)] == [0, 2, 5, 7]
    assert len(read_items(file)) == 10


def test_the_real_files(shared_data: Path, model: Llama, tokenizer: Tokenizer) -> None:
    for path in sorted((shared_data / "evals").glob("*.jsonl.zst")):
        items = read_items(path, 8)
        if path.name.startswith("blimp"):
            assert len(blimp(model, tokenizer, items).phenomena) > 2
        elif path.name.startswith("lambada"):  # one word to say, nothing to choose from
            with pytest.raises(HerdError, match="two or more"):
                multiple_choice(model, tokenizer, items)
        else:
            assert multiple_choice(model, tokenizer, items, letters=True).plain.n == 8
            for doc in (it["doc"] for it in items):
                query, choices = cloze(doc.get("query") or doc["question"], doc["choices"])
                assert "A. " not in query and len(choices) == len(doc["choices"])
                assert all(len(choice) > 0 and choice not in "ABCDE" for choice in choices)
