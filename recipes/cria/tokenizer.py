"""Train cria's tokenizer: python recipes/cria/tokenizer.py OUT TEXT.jsonl[.zst]… (each read to 6 million characters)."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from herd.data.sources import read
from herd.model.chat import LLAMA3_TEMPLATE
from herd.model.tokenizer import train_bpe

VOCABULARY = 8192
CHARS_PER_FILE = 6_000_000


def text_of(document: dict) -> str:
    if "text" in document:
        return str(document["text"])
    return "\n".join(m["content"] for m in document["messages"])


def texts(paths: list[str]) -> Iterator[str]:
    for path in paths:
        left = CHARS_PER_FILE
        for document in itertools.takewhile(lambda _: left > 0, read(Path(path))):
            text = text_of(document)[:left]
            left -= len(text)
            yield text


def main(out: str, *paths: str) -> None:
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_bpe(texts(list(paths)), VOCABULARY)
    tokenizer.save(directory)
    config = {"chat_template": LLAMA3_TEMPLATE, "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint[:12]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
