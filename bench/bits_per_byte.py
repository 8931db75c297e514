"""Bits per byte of a model beside gzip, xz and an n-gram model, on the same held-out text.

    python bench/bits_per_byte.py MODEL HELDOUT.txt [--ngram TRAINING.txt|.jsonl] [--json]

gzip and xz see the held-out text as one file, at their best level, and have no training text: what they take is the
price of knowing no English. The n-gram model is over bytes, of order 6 with Witten-Bell smoothing (Witten and Bell
1991), counted on the training text given (its first 8 MB). Documents in HELDOUT end with a line `<|endoftext|>`.
"""

import argparse
import gzip
import json
import lzma
import math
import sys
import time
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

from herd.cli.eval import load
from herd.data.sources import read
from herd.eval.text import bits_per_byte

ORDER = 6
COUNTED = 8_000_000


class NGram:
    """p(byte | the ORDER - 1 bytes before), each order backing off to the shorter one."""

    def __init__(self, text: bytes) -> None:
        self.follow: list[dict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(ORDER)]
        for n in range(ORDER):
            table = self.follow[n]
            for i in range(n, len(text)):
                table[text[i - n : i]][text[i]] += 1

    def bits(self, text: bytes) -> float:
        total = 0.0
        for i, byte in enumerate(text):
            p = 1 / 256
            for n in range(min(ORDER, i + 1)):
                seen = self.follow[n].get(text[i - n : i])
                if seen is None:
                    break
                count = seen.total()
                p = (seen[byte] + len(seen) * p) / (count + len(seen))
            total -= math.log2(p)
        return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--ngram", type=Path, help="training text of the n-gram model")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    documents = [d["text"].strip() for d in read(args.heldout) if d["text"].strip()]
    whole = "\n\n".join(documents).encode()
    model, tokenizer = load(args.model)
    began = time.perf_counter()
    result = bits_per_byte(model, tokenizer, documents)
    rows = {
        f"{args.model} ({model.config.parameters / 1e6:.1f} M weights)": result.value,
        "gzip -9": 8 * len(gzip.compress(whole, 9)) / len(whole),
        "xz -9e": 8 * len(lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME)) / len(whole),
    }
    if args.ngram:
        training = "\n\n".join(d["text"] for d in read(args.ngram)).encode()[:COUNTED]
        rows[f"{ORDER}-gram of bytes, counted on {len(training) / 1e6:.1f} MB"] = NGram(training).bits(
            whole
        ) / len(whole)
    if args.json:
        print(
            json.dumps(
                {"documents": result.documents, "bytes": result.bytes, "bits_per_byte": rows}, indent=2
            )
        )
        return
    print(
        f"{args.heldout.name}: {result.documents} documents, {result.bytes:,} bytes; torch {version('torch')}, fp32"
    )
    for name, value in rows.items():
        print(f"  {value:6.3f}  {name}")
    print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
