"""Bits per byte of a model in each kind of weights, as the engine computes it.

    python bench/weights.py [MODEL] [HELDOUT.txt]

Every document is scored as the prompt of a completion with `echo` and `logprobs`, so by the kernels that serve; "torch,
as stored" is the model in PyTorch, without them. Documents in HELDOUT end with a line `<|endoftext|>`; the default is
the text that is bundled with cria and in none of its training files.
"""

import math
import sys
from pathlib import Path

import herd
from herd.cli.eval import load
from herd.data.sources import read
from herd.engine import kernels
from herd.engine.engine import Engine, drain
from herd.eval.text import END, bits_per_byte
from herd.protocol.types import Delta, Failed, Request, Sampling

KINDS = ("bf16", "int8", "int4")


def bits(engine: Engine, documents: list[str]) -> float:
    """−Σ log2 p of the documents' tokens, their ends included. SystemExit if one does not fit the context."""
    tokenizer = engine.tokenizer
    end = [tokenizer.special[END]] if END in tokenizer.special else []
    for i, text in enumerate(documents):
        prompt = (tokenizer.bos_id or 0, *tokenizer.encode(text), *end)
        sampling = Sampling(max_tokens=0, logprobs=0)
        engine.submit(str(i), Request("", "completion", prompt=prompt, echo=True, sampling=sampling))
    total = 0.0
    for _, event in drain(engine):
        if isinstance(event, Failed):
            raise SystemExit(event.message)
        if isinstance(event, Delta):
            total -= math.fsum(p.logprob for p in event.logprobs[1:])  # nothing predicts the first
    return total / math.log(2)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "cria"
    text = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(herd.__file__).parent / "bundled" / "heldout.txt"
    documents = [d["text"].strip() for d in read(text) if d["text"].strip()]
    size = sum(len(d.encode()) for d in documents)
    print(f"{kernels.describe()}; {name}, {len(documents)} documents, {size:,} bytes\n")
    print("| weights | bits per byte | rise |\n|---|---|---|")
    base = bits_per_byte(*load(name), documents).value
    print(f"| torch, as stored | {base:.5f} | |", flush=True)
    for kind in KINDS:
        value = bits(herd.load(name, weights=kind).engine, documents) / size
        print(f"| {kind} | {value:.5f} | {value / base - 1:+.3%} |", flush=True)


if __name__ == "__main__":
    main()
