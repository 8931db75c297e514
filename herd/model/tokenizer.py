"""Byte-level BPE tokenizers: Hugging Face's `tokenizer.json`, Llama 3's tiktoken `tokenizer.model`, and training one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from herd.errors import HerdError

# Llama 3's split: contractions, words with one leading mark, digits in groups of at most three, punctuation, space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Meta's 256 reserved names in order (Llama 3.1 and later); the ids follow the 128,000 ranks.
_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    2: "<|reserved_special_token_0|>",
    3: "<|reserved_special_token_1|>",
    4: "<|finetune_right_pad_id|>",
    5: "<|reserved_special_token_2|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
LLAMA3_SPECIAL = tuple(_NAMED.get(i, f"<|reserved_special_token_{i - 8}|>") for i in range(256))
# What a small model of ours carries: the names that text and chat use.
CHAT_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
STOP = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
MAX_FILE = 64 << 20


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, inverted: character → byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


CHAR_TO_BYTE = _byte_alphabet()
BYTE_TO_CHAR = {b: c for c, b in CHAR_TO_BYTE.items()}


def _chars(token: bytes) -> str:
    return "".join(BYTE_TO_CHAR[b] for b in token)


def _byte_level(model: models.BPE, special: Iterable[tuple[str, int]]) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name, _ in special])
    return backend


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Recover merge pairs from tiktoken ranks: a token is the merge of the pair that BPE with lower ranks ends in."""
    pairs = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                raise HerdError(f"tokenizer.model: token {token!r} cannot be built from lower ranks")
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        pairs.append((_chars(parts[0]), _chars(parts[1])))
    return pairs


def _from_tiktoken(path: Path) -> Backend:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise HerdError(f"{path}: line {number} is not 'base64 rank'; is this a tiktoken file?") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise HerdError(f"{path}: ranks are not 0…{len(ranks) - 1}, each once; the file is damaged")
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    vocab = {_chars(token): rank for token, rank in ranks.items()}
    special = [(name, len(vocab) + i) for i, name in enumerate(LLAMA3_SPECIAL)]
    return _byte_level(models.BPE(vocab=vocab, merges=_merges(ranks), ignore_merges=True), special)


class Tokenizer:
    """Text ↔ token ids, byte-exact both ways.

    `special` maps special-token names to ids; `bos_id` may be None; `stop_ids` are the ids that end a reply.
    """

    def __init__(self, backend: Backend) -> None:
        # No template, truncation or padding of the file's may add or drop tokens here: the caller says what it wants.
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        whole = backend.to_str()
        self._parsing = Backend.from_str(whole)
        self._parsing.encode_special_tokens = False
        added = backend.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if token.special}
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.bos_id = self.special.get("<|begin_of_text|>")
        self.stop_ids = frozenset(self.special[name] for name in STOP if name in self.special)
        self._bytes = [b""] * self.vocab_size
        for token, i in vocab.items():
            if i in added:
                self._bytes[i] = added[i].content.encode()
            else:
                self._bytes[i] = bytes([CHAR_TO_BYTE[c] for c in token if c in CHAR_TO_BYTE])
        self.longest_token = max(map(len, self._bytes), default=1)
        self.fingerprint = hashlib.sha256(whole.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read `tokenizer.json` or a tiktoken `tokenizer.model`, or a directory that has one of them.

        Raises HerdError for a missing, oversized, malformed or not byte-level file.
        """
        path = Path(path)
        if path.is_dir():
            path = next((p for n in ("tokenizer.json", "tokenizer.model") if (p := path / n).exists()), path)
        if not path.is_file():
            raise HerdError(f"{path}: no tokenizer.json or tokenizer.model here", status=404)
        if path.stat().st_size > MAX_FILE:
            raise HerdError(f"{path}: larger than {MAX_FILE >> 20} MiB; not a tokenizer")
        if path.suffix == ".model":
            return cls(_from_tiktoken(path))
        try:
            text = path.read_text(encoding="utf-8")
            kind = json.loads(text)["model"]["type"]
            if kind != "BPE" or '"ByteLevel"' not in text:
                raise HerdError(f"{path}: a {kind} tokenizer; Herd reads byte-level BPE, as Llama 3 uses")
            return cls(Backend.from_str(text))
        except HerdError:
            raise
        except Exception as error:  # the backend raises bare Exception for a bad file
            raise HerdError(f"{path}: not a readable tokenizer.json ({str(error)[:80]})") from None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` into `directory`."""
        (Path(directory) / "tokenizer.json").write_text(self._backend.to_str(pretty=False), encoding="utf-8")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`; with `special`, names such as `<|eot_id|>` in it become their one id.

        Without it they are plain text, so that what people type cannot forge a turn.
        """
        ids: list[int] = (
            (self._parsing if special else self._backend).encode(text, add_special_tokens=False).ids
        )
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, in the backend's threads."""
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for (a special token: its name); none for what only pads a model's vocabulary."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.token_bytes(i) for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        return StreamDecoder(self)


class StreamDecoder:
    """Incremental decoding: text comes out as soon as, and only when, its characters are complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import codecs

        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes; may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left when no token follows: U+FFFD for a half character, else nothing."""
        return self._decoder.decode(b"", final=True)


def train_bpe(texts: Iterable[str], vocab_size: int, *, special: Sequence[str] = CHAT_SPECIAL) -> Tokenizer:
    """Train a byte-level BPE with Llama 3's split pattern.

    `vocab_size` counts the 256 bytes, the merges and the special tokens, which get the last ids as in Llama 3.
    """
    backend = _byte_level(models.BPE(), [])
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(special),
            initial_alphabet=list(CHAR_TO_BYTE),
            show_progress=False,
        ),
    )
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return Tokenizer(backend)
